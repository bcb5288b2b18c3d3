#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The shipped units on a machine with a systemd of its own: what it starts, kills, stops and keeps.
. "${SOURCE_ROOT:?}/tests/support/machine.sh"
machine_boot
. tests/support/guests.sh

unset UFD_SOCKET
SOCKET=/run/ufd/io.ufd.manager
log=$SCRATCH/log

# The demand path of these guests is slow, so that something is absent whenever something happens.
SLOW="--socket $SOCKET --write --pause-us 1500"

is_active() {
	systemctl --quiet is-active "$1"
}

main_pid() {
	unit_get ufdd MainPID
}

user_of() {
	stat -c %U "/proc/$1"
}

# Is the daemon another process than PID, and ready?
is_another() {
	is_active ufdd && [ "$(main_pid)" -ne "$1" ]
}

# kill_daemon [SIGNAL]: and wait until its successor is ready.
kill_daemon() {
	local pid

	pid=$(main_pid)
	kill "-${1:-KILL}" "$pid" && wait_until 10 is_another "$pid"
}

# Nothing of an earlier case is left.
fresh() {
	systemctl stop ufdd.socket ufdd.service
	systemctl reset-failed
	rm -rf /run/systemd/system/ufdd.service.d/50-case.conf /run/ufd/state/*
	process_kill_all
	systemctl daemon-reload
	systemctl start ufdd.socket
}

said() {
	journalctl -q --sync
	journalctl -q -o cat "$@"
}

# verdict NAME STATUS: with what the journal has, if it failed.
verdict() {
	[ "$2" -eq 0 ] || journalctl -q -o short-monotonic -n 30 >>"$log"
	tap "$1" "$2"
}

# ---- started ----------------------------------------------------------------------------------------

test_activation() {
	systemctl start ufdd.socket && ! is_active ufdd &&
		[ "$(stat -c '%U %G %a' $SOCKET)" = "ufdd ufd 660" ]
	verdict "the socket is there before the daemon" $?

	guest_start activated --socket $SOCKET --write && guest_finish activated 60
	verdict "a client of root's starts the daemon, and is served" $?

	is_active ufdd && [ "$(user_of "$(main_pid)")" = ufdd ]
	verdict "the daemon runs as user ufdd" $?

	wait_until 10 status_is '^serving 0 guests'
	verdict "the status says what it does" $?
}

status_is() {
	unit_get ufdd StatusText | grep -q "$1"
}

test_reload() {
	local pid

	guest_start reloaded $SLOW && guest_wait_line reloaded ATTACHED 20
	pid=$(main_pid)
	mkdir -p /etc/ufd && printf '[daemon]\nlog-level = debug\n' >/etc/ufd/ufdd.conf
	systemctl reload ufdd && [ "$(main_pid)" = "$pid" ] &&
		wait_until 5 journal_has "configuration read again" && guest_finish reloaded 60
	verdict "reload reads the configuration and touches no guest" $?
	rm -rf /etc/ufd
}

journal_has() {
	said -u ufdd | grep -q "$1"
}

# ---- killed -----------------------------------------------------------------------------------------

test_kills() {
	local n_before n=0

	guest_start killed $SLOW --pause-us 3000 --write && guest_wait_line killed ATTACHED 20
	guest_start killed-anon $SLOW --memory anon --pause-us 3000 && guest_wait_line killed-anon ATTACHED 20
	n_before=$(unit_get ufdd NRestarts)
	while [ $n -lt 30 ] && ! guest_says killed '^{'; do
		kill_daemon || break
		n=$((n + 1))
	done
	echo "$n kills" >>"$log"
	[ $n -eq 30 ] && [ $(($(unit_get ufdd NRestarts) - n_before)) -eq 30 ] &&
		guest_finish killed 60 && guest_finish killed-anon 60
	verdict "30 times SIGKILL, and every page is right" $?
}

test_watchdog() {
	local pid

	unit_drop_in ufdd.service 50-case <<<$'[Service]\nWatchdogSec=1\nTimeoutAbortSec=500ms'
	systemctl daemon-reload && systemctl restart ufdd
	guest_start hung $SLOW && guest_wait_line hung ATTACHED 20
	pid=$(main_pid)
	kill -STOP "$pid"
	wait_until 10 is_another "$pid" && guest_finish hung 60 && journal_has_watchdog
	verdict "a daemon that hangs is killed by the watchdog, and nobody loses a page" $?
}

journal_has_watchdog() {
	said _PID=1 | grep -q "ufdd.service: Watchdog timeout"
}

test_restart() {
	guest_start restarted $SLOW && guest_wait_line restarted ATTACHED 20 &&
		systemctl restart ufdd && ! guest_says restarted '^{' && systemctl restart ufdd &&
		guest_finish restarted 60
	verdict "systemctl restart" $?
}

test_reexec() {
	guest_start reexec $SLOW && guest_wait_line reexec ATTACHED 20 &&
		systemctl daemon-reexec && kill_daemon && ! guest_says reexec '^{' && guest_finish reexec 60
	verdict "daemon-reexec, then SIGKILL" $?
}

# ---- stopped ----------------------------------------------------------------------------------------

test_stop() {
	local began_us

	guest_start stopped $SLOW && guest_wait_line stopped ATTACHED 20
	began_us=$(now_us)
	systemctl stop ufdd.socket ufdd.service && [ $(($(now_us) - began_us)) -lt 2000000 ]
	verdict "with a duplicate in every guest, stop waits for nobody" $?

	! is_active ufdd && ! guest_says stopped '^{' && systemctl start ufdd.socket ufdd.service &&
		guest_finish stopped 60
	verdict "started again, it serves the guest that waited" $?
}

test_stop_without_duplicate() {
	guest_start alone $SLOW --no-duplicate && guest_wait_line alone ATTACHED 20 &&
		systemctl stop ufdd.socket ufdd.service && ! is_active ufdd && ! guest_says alone '^{' &&
		guest_finish alone 60
	verdict "without one, the guest is filled before the daemon stops" $?
}

# ---- odd --------------------------------------------------------------------------------------------

test_damage() {
	guest_start damaged $SLOW && guest_wait_line damaged ATTACHED 20
	guest_start sound $SLOW && guest_wait_line sound ATTACHED 20
	systemctl stop ufdd.socket ufdd.service
	printf x | dd of=/run/ufd/state/damaged.ledger bs=1 seek=16 conv=notrunc status=none
	systemctl start ufdd.socket ufdd.service && guest_finish sound 60 && journal_has damaged
	verdict "a damaged ledger is told, and the other guest is served" $?
}

test_full() {
	unit_drop_in ufdd.service 50-case <<-'END'
		[Service]
		FileDescriptorStoreMax=4
		Environment=UFD_FDSTORE_MAX=4
	END
	systemctl daemon-reload && systemctl restart ufdd
	guest_start first $SLOW && guest_wait_line first ATTACHED 20
	guest_start second $SLOW && guest_wait_line second ATTACHED 20
	guest_start third $SLOW
	! process_wait third && ! guest_says third ATTACHED && guest_says third 'FileDescriptorStoreMax'
	log=$SCRATCH/third.out verdict "the guest one past FileDescriptorStoreMax is refused by name" $?
	kill_daemon && guest_finish first 60 && guest_finish second 60
	verdict "those before it are all kept" $?
}

guest_image || exit 99
test_activation
for case in reload kills watchdog restart reexec stop stop_without_duplicate damage full; do
	fresh
	"test_$case"
done
