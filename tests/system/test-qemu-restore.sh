#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Unmodified QEMUs of several kinds, saved and restored page by page; their guest checks its memory.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"
. scripts/lib/packages.sh
. scripts/lib/guest.sh

GUEST_MIB=256
GUEST_WORKING_SET_MIB=96
GUEST_BLANK_MIB=8
log=$SCRATCH/log

ufdctl() {
	"$BUILD/cli/ufdctl" "$@" >>"$log" 2>&1
}

# save DIR [OPTION...]: boot a guest of the settings above, save it, end it.
save() {
	local directory=$1 status=1
	shift

	GUEST_NONCE=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
	guest_console source
	guest_start source memfd "$@"
	guest_expect source 'TICK 20' 90 2>>"$log" &&
		ufdctl snapshot save --qmp "$SCRATCH/source.qmp" "$directory"
	status=$?
	guest_stop source
	guest_console_close
	return $status
}

# restore DIR NAME [OPTION...]: 0 if the guest went on and found every page right.
restore() {
	local directory=$1 name=$2 status=1
	shift 2

	guest_console lazy
	guest_start lazy memfd -incoming defer "$@"
	if wait_for_socket lazy "$SCRATCH/lazy.qmp" 20 &&
		ufdctl restore "$directory" --qmp "$SCRATCH/lazy.qmp" --name "$name" --wait &&
		ufdctl guest show "$name" &&
		guest_expect lazy 'TICK 2[0-9]*' 60 2>>"$log"; then
		guest_verify lazy 60 2>>"$log" && echo "$line" >>"$log"
		[[ $line == *" ok pages="*" wrong=0" ]] && status=0
	fi
	guest_stop lazy
	guest_console_close
	return $status
}

# row NAME DIR [OPTION...]
row() {
	local name=$1 directory=$2
	shift 2

	: >"$log"
	restore "$directory" "row-$n_tests" "$@"
	tap "$name" $?
}

# Without checksums nobody but the guest can notice.
flip() {
	"$BUILD/tests/support/flip-byte" "$1/memory.raw" "$GUEST_NONCE" >>"$log"
}

hugetlb_rows() {
	local free GUEST_MIB=128 GUEST_WORKING_SET_MIB=40 GUEST_BACKEND=,hugetlb=on,hugetlbsize=2M

	free=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 2>/dev/null)
	if [ "${free:-0}" -lt $((GUEST_MIB / 2)) ]; then
		why="needs $((GUEST_MIB / 2)) free huge pages of 2 MiB, there are ${free:-0}"
		tap "memory of 2 MiB pages" 77
		return
	fi
	save "$SCRATCH/huge"
	tap "memory of 2 MiB pages is saved" $?
	row "memory of 2 MiB pages" "$SCRATCH/huge"
}

[ "$(id -u)" -eq 0 ] || tap_skip_all "attaching to a process needs root"
command -v qemu-system-x86_64 >/dev/null || tap_skip_all "qemu-system-x86_64 is missing"
guest_prepare 2>"$log" || tap_skip_all "no guest kernel: $(tail -n 1 "$log")"
start_ufdd || exit 99

save "$SCRATCH/one"
tap "a guest is saved" $?
row "it goes on in another QEMU" "$SCRATCH/one"
row "under -sandbox on" "$SCRATCH/one" \
	-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
if guest_run_preloaded; then
	row "under ufdctl run and -sandbox on" "$SCRATCH/one" \
		-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
	grep -q 'VIA: preload' "$log"
	tap "nobody traced that one" $?
fi
GUEST_RUN=()
row "as an unprivileged user" "$SCRATCH/one" -runas nobody

guest_plain_snapshot "$SCRATCH/one" "$SCRATCH/plain" >>"$log" 2>&1
row "as the first release wrote it" "$SCRATCH/plain"
flip "$SCRATCH/plain"
restore "$SCRATCH/plain" damaged
[ $? -ne 0 ] && grep -Eq 'bad pages=[0-9]+ wrong=1( |$)' "$log"
tap "a damaged snapshot is noticed by the guest" $?

GUEST_VCPUS=2
save "$SCRATCH/two"
tap "a guest of two vCPUs is saved" $?
row "two vCPUs" "$SCRATCH/two"
GUEST_VCPUS=1

hugetlb_rows
