#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The harness that boots a systemd of its own: what comes out of it, and that it leaves nothing.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"

HARNESS=tests/support/systemd
OUTPUT=$SCRATCH/machine
log=$OUTPUT/log
TRACE=ufd-test-machine-$$	# a file that only the machine may have

# boot BODY: a machine that runs it, in the background.
boot() {
	printf '#!/bin/bash\n%s\n' "$1" >"$SCRATCH/script" && chmod +x "$SCRATCH/script"
	mkdir -p "$OUTPUT" && : >"$log"
	process_start machine "$SCRATCH/said" timeout -k 2 60 $HARNESS "$SCRATCH/script" "$OUTPUT"
}

# wait_for COMMAND...: 20 seconds at most.
wait_for() {
	local deadline=$(($(now_us) + 20000000))

	until "$@"; do
		[ "$(now_us)" -lt "$deadline" ] || return 1
		pause_ms 20
	done
}

machine_groups() {
	find /sys/fs/cgroup -maxdepth 2 -name 'ufd-test-*' 2>/dev/null
}

# Nothing of the machine that had this control group, and ran this program.
is_clean() {
	[ ! -e "$1" ] && ! pgrep -f "sleep $2" >/dev/null && ! grep -q "$OUTPUT" /proc/mounts
}

# harness_pid: the harness is the only child of timeout.
harness_pid() {
	pgrep -P "${process_pids[machine]}"
}

test_killed() {
	local signal=$1 seconds=$((100000 + $$ % 10000)) group pid

	boot "trap '' TERM; setsid sleep $seconds & echo up; while :; do sleep 1; done"
	wait_for grep -q up "$log"
	pid=$(harness_pid)
	group=$(machine_groups | grep -- "-$pid\$")
	[ -d "$group" ] && kill -"$signal" "$pid" && process_wait machine
	[ $? -ne 0 ] && wait_for is_clean "$group" $seconds
	tap "killed by SIG$signal, it leaves nothing" $?
}

boot "exit 0"
process_wait machine
if [ $? -eq 77 ]; then
	tap_skip_all "$(tail -n 1 "$SCRATCH/said")"
fi

own_group=$(cat /proc/self/cgroup)
boot "touch /usr/$TRACE /etc/$TRACE; echo 1 >/proc/sys/vm/overcommit_memory && exit 4; exit 3"
process_wait machine
status=$?
[ $status -eq 3 ]
tap "the script's exit status comes out, and the kernel's settings are out of its reach" $?

! [ -e /usr/$TRACE ] && ! [ -e /etc/$TRACE ]
tap "what it writes is gone" $?

boot 'ps -A -o comm= | grep -q systemd-journal && [ "$(ps -o comm= -p 1)" = systemd ]'
process_wait machine
tap "its PID 1 is a systemd, and a journal runs" $?

test_killed TERM
test_killed KILL
[ "$(cat /proc/self/cgroup)" = "$own_group" ]
tap "nobody outside was moved" $?
