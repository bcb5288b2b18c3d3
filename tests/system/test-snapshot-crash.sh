#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ufdd is killed in each phase of a save: the guest goes on, nothing looks like a snapshot, and the next
# incremental one has all that the guest wrote. It checks every page itself.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"
. scripts/lib/packages.sh
. scripts/lib/guest.sh

GUEST_MIB=160
GUEST_WORKING_SET_MIB=32
GUEST_BLANK_MIB=4
log=$SCRATCH/log
export UFD_SOCKET=$SCRATCH/ufdd.socket

# The daemon's ledgers outlive it on a tmpfs.
state=$(mktemp -d /dev/shm/ufd-test.XXXXXX) || exit 99
trap 'rm -rf "$state"; tap_end' EXIT

serve() {
	rm -f "$UFD_SOCKET"
	process_start ufdd "$SCRATCH/ufdd.log" "$BUILD/daemon/ufdd" --socket "$UFD_SOCKET" --state-dir "$state" &&
		wait_for_socket ufdd "$UFD_SOCKET" 20
}

ufdctl() {
	"$BUILD/cli/ufdctl" "$@" >>"$log" 2>&1
}

save() {
	ufdctl snapshot save web "$SCRATCH/$1" "${@:2}"
}

# monitor COMMAND FILTER: what QEMU answers, through jq; nobody else may be connected.
monitor() {
	python3 - "$SCRATCH/source.qmp" "$1" <<'END' | jq -e "$2" >/dev/null
import json, socket, sys
with socket.socket(socket.AF_UNIX) as monitor:
    monitor.settimeout(20)
    monitor.connect(sys.argv[1])
    lines = monitor.makefile("rw")
    lines.readline()
    for command in "qmp_capabilities", sys.argv[2]:
        print(json.dumps({"execute": command}), file=lines, flush=True)
        answer = json.loads(lines.readline())
        while "return" not in answer and "error" not in answer:
            answer = json.loads(lines.readline())
    print(json.dumps(answer))
END
}

# within SECONDS COMMAND...: until it succeeds.
within() {
	local deadline=$(($(now_us) + $1 * 1000000))
	shift

	until "$@" 2>>"$log"; do
		[ "$(now_us)" -lt "$deadline" ] || return 1
		sleep 0.01
	done
}

larger() {
	[ "$(stat -c %s "$1" 2>/dev/null || echo 0)" -gt "$2" ]
}

runs_on() {
	guest_expect source 'TICK *' 30 2>>"$log" && guest_expect source 'TICK *' 30 2>>"$log"
}

# killed FILE BYTES OPTION...: a save with these options is under way, FILE of it has more than BYTES, and ufdd is killed.
killed() {
	local file=$1 bytes=$2 status=0
	shift 2

	rm -rf "$SCRATCH/cut"
	process_start save "$log" "$BUILD/cli/ufdctl" snapshot save web "$SCRATCH/cut" "$@"
	within 30 larger "$SCRATCH/cut/$file" "$bytes" || { echo "$file never came" >>"$log"; status=1; }
	process_kill ufdd
	process_wait save && { echo "the save was done before the kill" >>"$log"; status=1; }
	[ ! -e "$SCRATCH/cut/manifest.json" ] || status=1
	serve && runs_on && within 20 monitor query-status '.return.status == "running"' &&
		within 20 monitor query-migrate-capabilities \
			'[.return[] | select(.capability == "x-ignore-shared" and .state)] == []' &&
		within 20 settled || status=1
	return $status
}

# Whatever was started for the save alone is gone.
settled() {
	! "$BUILD/cli/ufdctl" --json dirty list web | grep -q 'snapshot\.live'
}

# What the guest writes is told from the snapshot on: another ufdd does not stop that, and saves what differs.
is_tracked_on() {
	"$BUILD/cli/ufdctl" --json dirty list again 2>>"$log" | grep -q '"kept"' &&
		ufdctl snapshot save again "$SCRATCH/on-$1" --incremental "$SCRATCH/$1"
}

# The next incremental one, and the chain as it is then in another QEMU, while ufdd is killed once more.
is_whole() {
	local status=1

	save "$1" --incremental "$SCRATCH/$2" || return 1
	guest_stop source
	guest_console_close
	guest_console lazy
	guest_start lazy memfd -incoming defer
	wait_for_socket lazy "$SCRATCH/lazy.qmp" 20 &&
		ufdctl restore "$SCRATCH/$1" --qmp "$SCRATCH/lazy.qmp" --name again --clone --consumer kept &&
		process_kill ufdd && serve &&
		guest_verify lazy 60 2>>"$log" && echo "$line" >>"$log" &&
		[[ $line == *" ok pages="*" wrong=0" ]] && is_tracked_on "$1" && status=0
	guest_stop lazy
	guest_console_close
	return $status
}

boot() {
	GUEST_NONCE=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
	guest_console source
	guest_start source memfd &&
		guest_expect source 'TICK 5' 90 2>>"$log" &&
		ufdctl guest attach web --qmp "$SCRATCH/source.qmp" --source zero --populated keep --track "$1"
}

row() {
	local name=$1
	shift

	: >"$log"
	"$@"
	tap "$name" $?
}

based() {
	boot "$1" && save "base-$1" && runs_on
}

[ "$(id -u)" -eq 0 ] || tap_skip_all "attaching to a process needs root"
command -v qemu-system-x86_64 >/dev/null || tap_skip_all "qemu-system-x86_64 is missing"
guest_prepare 2>"$log" || tap_skip_all "no guest kernel: $(tail -n 1 "$log")"
serve || exit 99

slowly="--compress zstd:19"
row "a guest has a base" based scan
# shellcheck disable=SC2086 # words
{
	row "killed before anything is copied" killed memory.ufdi.new -1 --live
	row "killed while a guest that is paused is copied" killed memory.ufdi.new 1000000 $slowly
	row "killed while an incremental one is paused" killed device.state.new 1000 --incremental "$SCRATCH/base-scan" $slowly
	row "killed in the rounds of a live one" killed memory.ufdi.new 1000000 --live $slowly
	row "killed in the rounds of a live incremental one" killed memory.ufdi.new 100000 --live --incremental \
		"$SCRATCH/base-scan" $slowly
}
row "the next incremental one has all that was written since the base" is_whole after-scan base-scan
row "a guest with synchronous write protection has a base" based wp
# shellcheck disable=SC2086
row "killed while pages are copied before they are written" killed memory.ufdi.new 1000000 --live $slowly
row "and its next incremental one is whole" is_whole after-wp base-wp
