#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The demo as people run it, on a small guest: what it prints, how it exits, what it leaves behind.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"

log=$SCRATCH/log
export TMPDIR=$SCRATCH/scratch UFD_BUILD=$BUILD
mkdir "$TMPDIR"

# demo OPTION...
demo() {
	timeout -k 5 200 scripts/demo --no-install --no-build "$@" >"$log" 2>&1 </dev/null
}

# field NAME: of the JSON line, which must be the last of all.
field() {
	tail -n 1 "$log" | jq -r ".$1"
}

# Nothing of it runs or lies around any more.
is_clean() {
	[ -z "$(ls -A "$TMPDIR")" ] && ! ls -d /dev/shm/ufd-demo.* >/dev/null 2>&1 &&
		! pgrep -f "$TMPDIR" >/dev/null
}

test_guest() {
	demo --json --guest-mib 384
	tap "the demo exits with 0" $?
	[ "$(field ok)" = true ] && [ "$(field wrong_pages)" = 0 ] && [ "$(field pages_checked)" -gt 150000 ]
	tap "its last line says that every page was right" $?
	tail -n 1 "$log" | jq -e '[.guest_bytes, .populated_bytes, .spawn_to_first_tick_ms, .eager_copy_ms,
		.faults, .fault_p50_us, .fault_p99_us, .restore_complete_ms] | all(type == "number" and . > 0)' >/dev/null
	tap "its last line has every number" $?
	is_clean
	tap "nothing is left" $?

	demo --json --guest-mib 384 --corrupt
	[ $? -eq 1 ] && [ "$(field ok)" = false ] && [ "$(field wrong_pages)" -ge 1 ]
	tap "--corrupt finds a wrong page and exits with 1" $?
}

test_interrupted() {
	local pid i

	timeout -k 5 100 scripts/demo --json --no-install --no-build --guest-mib 384 >"$log" 2>&1 </dev/null &
	pid=$!
	for ((i = 0; i < 900; i++)); do
		grep -q READY "$log" && break
		pause_ms 100
	done
	# More than one signal, as a terminal or `timeout` sends them: cleaning up must not be cut short.
	for i in 1 2 3 4 5 6; do
		kill -TERM "$pid" 2>/dev/null
		pause_ms $((i * 10))
	done
	wait "$pid"
	grep -q READY "$log" && [ "$(field ok)" = false ] && is_clean
	tap "an interrupted demo cleans up" $?
}

test_rootless() {
	demo --rootless --json
	[ $? -eq 0 ] && [ "$(field wrong_pages)" = 0 ] && grep -q '^	scripts/demo$' "$log"
	tap "--rootless survives the daemon's death and names the full mode" $?
	is_clean
	tap "nothing is left of it" $?
}

test_rootless
scripts/demo --no-such-option >"$log" 2>&1
[ $? -eq 2 ]
tap "an unknown option is refused" $?
if [ "$(id -u)" -eq 0 ] && command -v qemu-system-x86_64 jq >/dev/null; then
	test_guest
	test_interrupted
else
	why="needs root and qemu-system-x86"
	tap "the guest" 77
fi
