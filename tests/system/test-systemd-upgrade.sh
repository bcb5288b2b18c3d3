#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The shipped unit is upgraded and rolled back while guests run: the same main process, and a store that remembers.
. "${SOURCE_ROOT:?}/tests/support/machine.sh"
machine_boot

SOCKET=/run/ufd/io.ufd.manager
NEXT=$BUILD/tests/support/ufdd-next
PROGRAM=$(unit_get ufdd ExecStart | sed -n 's/.*path=\([^ ]*\) .*/\1/p')
UPGRADED=6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f21
ROLLED_BACK=6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f22
log=$SCRATCH/log
unset UFD_SOCKET

ctl() {
	timeout -k 5 60 ufdctl "$@" >"$log" 2>&1
}

status() {
	ufdctl status --json=short --bytes | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

is_next() {
	[[ $(status version) == *-next ]]
}

# Was it started anew?
is_another() {
	[ "$(unit_get ufdd MainPID)" -ne "$1" ] && [ "$(unit_get ufdd ActiveState)" = active ]
}

kill_daemon() {
	local pid

	pid=$(unit_get ufdd MainPID)
	kill -KILL "$pid" && wait_until 10 is_another "$pid"
}

load() {
	timeout -k 5 100 "$BUILD/tests/support/upgrade-load" --guests 4 --guest "$BUILD/tests/support/soak-guest" \
		--image "$SCRATCH/image" --socket $SOCKET --next "$NEXT" "$@" >"$log" 2>&1
	local status=$?
	sed -n 's/^{/# {/p' "$log"
	return $status
}

# verdict NAME STATUS: with what the journal has, if it failed.
verdict() {
	[ "$2" -eq 0 ] || journalctl -q -o short-monotonic -u ufdd -n 30 >>"$log"
	tap "$1" "$2"
}

count_messages() {
	journalctl -q --sync
	journalctl -q -o cat "MESSAGE_ID=$1" | wc -l
}

# The watchdog of a second proves that it is fed on all the way.
test_load() {
	local pid

	unit_drop_in ufdd.service 50-case <<<$'[Service]\nWatchdogSec=1'
	systemctl daemon-reload && systemctl start ufdd.socket ufdd.service || exit 99
	pid=$(unit_get ufdd MainPID)
	load --rounds 20 && [ "$(unit_get ufdd MainPID)" = "$pid" ] && [ "$(unit_get ufdd NRestarts)" = 0 ] &&
		awk -F'"stall_p50_ms":' '/^\{/ { ok = $2 + 0 <= 50 } END { exit !ok }' "$log"
	verdict "20 upgrades and ways back under load, in one process" $?
	[ "$(count_messages $UPGRADED)" = 10 ] && [ "$(count_messages $ROLLED_BACK)" = 10 ]
	verdict "the journal has each of them" $?

	load --rounds 10 --kill && [ "$(unit_get ufdd NRestarts)" = 10 ]
	verdict "each killed as soon as it has taken over" $?
}

test_store() {
	local n

	n=$(unit_get ufdd NFileDescriptorStore)
	ctl upgrade "$NEXT" && is_next && [ "$(unit_get ufdd NFileDescriptorStore)" = $((n + 1)) ]
	verdict "the store has the program before" $?
	kill_daemon && [ "$(status uncommitted)" = true ] && systemctl restart ufdd &&
		[ "$(status uncommitted)" = true ] && systemctl stop ufdd.socket ufdd.service &&
		systemctl start ufdd.socket ufdd.service && [ "$(status uncommitted)" = true ]
	verdict "and keeps it over SIGKILL, restart and stop" $?
	ctl upgrade --rollback && ! is_next && [ "$(status uncommitted)" = false ] &&
		[ "$(unit_get ufdd NFileDescriptorStore)" = "$n" ]
	verdict "until it is gone back to" $?
	ctl upgrade "$NEXT" && ctl upgrade --commit && [ "$(unit_get ufdd NFileDescriptorStore)" = "$n" ]
	verdict "or the upgrade is committed" $?
	ctl upgrade "$PROGRAM" && ctl upgrade --commit
}

# As a package manager does: a new file takes the old one's name.
test_package() {
	cp "$NEXT" "$PROGRAM.new" && mv "$PROGRAM.new" "$PROGRAM" && ! is_next && ctl upgrade && is_next
	verdict "what was installed meanwhile is gone on as" $?
	ctl upgrade --rollback && ! is_next
	verdict "and the program that is no longer on disk is gone back to" $?
	kill_daemon && is_next
	verdict "a crash starts what is on disk" $?
}

test_load
test_store
test_package
