#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# VMMs of our own on the real daemon: every kind of memory, faults of threads and of KVM, each page compared.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"

MIB=64
[ -z "${UFD_TEST_SHORT:-}" ] || MIB=8
TOY=$BUILD/tests/support/toy-vmm
KVM=$BUILD/tests/support/kvm-vmm
log=$SCRATCH/log
n_guests=0

# run PROGRAM OPTION...: under a name of its own; everything it says goes to $log.
run() {
	n_guests=$((n_guests + 1))
	timeout -k 5 60 "$@" --socket "$UFD_SOCKET" --name "guest-$n_guests" --mib "$MIB" \
		>"$log" 2>&1 </dev/null
}

# counted FIELD: a number of the JSON line, which comes last.
counted() {
	tail -n 1 "$log" | sed -n "s/.*\"$1\":\([0-9]*\).*/\1/p"
}

has_huge_pages() {
	local free

	free=$(cat /sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages 2>/dev/null)
	[ "${free:-0}" -ge $((MIB / 2)) ] && return
	why="needs $((MIB / 2)) free huge pages of 2 MiB, there are ${free:-0}"
	return 1
}

# toy NAME OPTION...
toy() {
	local name=$1 status
	shift

	run "$TOY" --image "$SCRATCH/image" "$@"
	status=$?
	[ "$status" -ne 0 ] || [ "$(counted wrong_pages)" = 0 ] || status=1
	tap "$name" "$status"
}

test_toys() {
	local memory source threads

	for memory in shmem anon hugetlb; do
		if [ $memory = hugetlb ] && ! has_huge_pages; then
			tap "$memory" 77
			continue
		fi
		for source in file backing; do
			[ $memory-$source = anon-backing ] && continue
			for threads in 1 2 8; do
				toy "$memory, source $source, $threads threads" --memory $memory \
					--source $source --threads $threads --write
			done
		done
		toy "$memory, sequential, background, discards" --memory $memory --order sequential \
			--background --discard
		toy "$memory, memory added meanwhile" --memory $memory --hot-mib $((MIB / 4)) --write
	done
	toy "user-mode-only userfaultfd" --user-mode --write
}

# The comparison itself must be able to fail.
test_damage() {
	cp "$SCRATCH/image" "$SCRATCH/damaged"
	printf x | dd of="$SCRATCH/damaged" bs=1 seek=$((MIB / 2 * 1024 * 1024 + 77)) conv=notrunc status=none
	run "$TOY" --image "$SCRATCH/damaged"
	[ $? -eq 1 ] && [ "$(counted wrong_pages)" = 2 ] # in each of both rounds
	tap "a damaged image is noticed" $?
}

# next_line PATTERN SECONDS: of the toy that runs in the background.
next_line() {
	local deadline=$(($(now_us) + $2 * 1000000)) line

	while [ "$(now_us)" -lt "$deadline" ]; do
		read_line "$toy_out" || { process_is_alive toy || return 1; continue; }
		echo "$line" >>"$log"
		# shellcheck disable=SC2053 # a pattern
		[[ $line == $1 ]] && return 0
	done
	return 1
}

test_killed_daemon() {
	local result

	: >"$log"
	mkfifo "$SCRATCH/out" && exec {toy_out}<>"$SCRATCH/out"
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start toy "$log" bash -c 'exec "$@" >"$0"' "$SCRATCH/out" "$TOY" --socket "$UFD_SOCKET" \
		--name killed --mib "$MIB" --image "$SCRATCH/image" --write --pause-us $((6400 / MIB)) "$@"
	next_line HALF 60
	process_kill ufdd
	start_ufdd
	next_line '{*' 60 && grep -q '"wrong_pages":0,.*"lost":1,"back":1' "$log"
	result=$?
	process_kill toy
	tap "the daemon is killed and started again ($*)" $result
	unset "line_parts[$toy_out]"
	exec {toy_out}>&-
	rm -f "$SCRATCH/out"
}

# kvm NAME OPTION...: true VM exits; 77 where KVM is missing or refuses.
kvm() {
	local name=$1 status
	shift

	why="/dev/kvm cannot be used"
	run "$KVM" --image "$SCRATCH/kvm-image" --step 64 "$@"
	status=$?
	tap "$name" $status
}

test_kvm() {
	[ -x "$KVM" ] || { why="x86-64 only"; tap "kvm" 77; return; }

	"$KVM" --write-image "$SCRATCH/kvm-image" --mib "$MIB"
	kvm "kvm: missing pages, shmem" --memory shmem
	kvm "kvm: missing pages, anonymous" --memory anon
	kvm "kvm: minor pages" --source backing
	kvm "kvm: two vCPUs" --vcpus 2

	cp "$SCRATCH/kvm-image" "$SCRATCH/kvm-damaged"
	printf x | dd of="$SCRATCH/kvm-damaged" bs=1 seek=$((MIB / 4 * 1024 * 1024)) conv=notrunc status=none
	run "$KVM" --image "$SCRATCH/kvm-damaged" --step 64
	case $? in
	77) tap "kvm: a damaged image is noticed" 77 ;;
	1) [ "$(counted wrong_pages)" = 1 ]; tap "kvm: a damaged image is noticed" $? ;;
	*) tap "kvm: a damaged image is noticed" 1 ;;
	esac
}

"$TOY" --write-image "$SCRATCH/image" --mib "$MIB" || exit 99
start_ufdd || exit 99
test_toys
test_damage
test_killed_daemon
test_killed_daemon --memory anon
test_kvm
