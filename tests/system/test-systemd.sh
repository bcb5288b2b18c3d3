#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The shipped units on a machine with a systemd of its own: started, told, killed, hung and restarted.
. "${SOURCE_ROOT:?}/tests/support/machine.sh"
machine_boot
. tests/support/guests.sh
. tests/support/service.sh

# Guests that are slow on their way, so that pages are absent whenever something happens.
SLOW="--socket $SOCKET --write --pause-us 1000"
N_KILLS=30

status_is() {
	unit_get ufdd StatusText | grep -q "$1"
}

test_activation() {
	! is_active ufdd && [ "$(stat -c '%U %G %a' $SOCKET)" = "ufdd ufd 660" ]
	verdict "the socket is there before the daemon" $?

	guest_start activated --socket $SOCKET --write && guest_finish activated 60
	verdict "a client of root's starts the daemon, and is served" $?

	is_active ufdd && [ "$(user_of "$(main_pid)")" = ufdd ]
	verdict "the daemon runs as user ufdd" $?

	wait_until 20 status_is '^serving 0 guests'
	verdict "the status says what it does" $?
}

test_journal() {
	journalctl -q --sync
	[ "$(journalctl -q -o cat -u ufdd MESSAGE_ID=6d1f0c6a9a5b4f3c8e0e5d1b7a2c9f01 GUEST=activated |
		wc -l)" -eq 1 ] && ! journalctl -q -o cat -u ufdd _TRANSPORT=stdout | grep -q .
	verdict "each line is in the journal once, with its fields" $?

	journalctl --update-catalog >>"$log" 2>&1
	journalctl -q -x -u ufdd GUEST=activated | grep -q "Guest activated is paged by ufdd"
	verdict "the catalog explains it" $?
}

test_reload() {
	local pid

	guest_start reloaded $SLOW && guest_wait_line reloaded ATTACHED 20
	pid=$(main_pid)
	mkdir -p /etc/ufd && printf '[daemon]\nlog-level = debug\n' >/etc/ufd/ufdd.conf
	systemctl reload ufdd && [ "$(main_pid)" = "$pid" ] && is_active ufdd &&
		journal_has "configuration read again" -u ufdd && guest_finish reloaded 60
	verdict "reload reads the configuration and touches no guest" $?
	rm -rf /etc/ufd
}

# kill_one NAME: while it has absent pages; the next guest comes when it has finished.
kill_one() {
	if guest_says "$1" '^{'; then
		guest_finish "$1" 60 || return
		guest_start "$1" $SLOW --pause-us 2000 "${@:2}" && guest_wait_line "$1" ATTACHED 20 || return
	fi
	kill_daemon
}

test_kills() {
	local n

	guest_start killed $SLOW --pause-us 2000 && guest_wait_line killed ATTACHED 20
	guest_start killed-anon $SLOW --memory anon && guest_wait_line killed-anon ATTACHED 20
	for ((n = 0; n < N_KILLS; n++)); do
		kill_one killed || break
	done
	echo "$n kills" >>"$log"
	[ $n -eq $N_KILLS ] && [ "$(unit_get ufdd NRestarts)" -eq $N_KILLS ] &&
		guest_finish killed 60 && guest_finish killed-anon 60 &&
		! guest_says killed REATTACHED	# its successors had not forgotten it
	verdict "$N_KILLS times SIGKILL, and every page is right" $?
}

test_watchdog() {
	local pid

	unit_drop_in ufdd.service 50-case <<<$'[Service]\nWatchdogSec=1\nTimeoutAbortSec=500ms'
	systemctl daemon-reload
	guest_start hung $SLOW --pause-us 2000 && guest_wait_line hung ATTACHED 20
	pid=$(main_pid)
	kill -STOP "$pid"
	wait_until 20 is_another "$pid" && journal_has "ufdd.service: Watchdog timeout" _PID=1 &&
		guest_finish hung 60
	verdict "a daemon that hangs is killed by the watchdog, and nobody loses a page" $?

	pause_ms 999; pause_ms 999	# two of its terms
	[ "$(unit_get ufdd NRestarts)" -eq 1 ]
	verdict "one that does not hang is left alone" $?
}

test_restart() {
	guest_start restarted $SLOW && guest_wait_line restarted ATTACHED 20 &&
		systemctl restart ufdd && guest_hold restarted && systemctl restart ufdd &&
		guest_go restarted && guest_finish restarted 60
	verdict "systemctl restart" $?
}

test_reexec() {
	guest_start reexec $SLOW && guest_wait_line reexec ATTACHED 20 && guest_hold reexec &&
		systemctl daemon-reexec && kill_daemon && ! guest_says reexec '^{' && guest_go reexec &&
		guest_finish reexec 60
	verdict "daemon-reexec, then SIGKILL" $?
}

guest_image || exit 99
systemctl start ufdd.socket
test_activation
test_journal
for case in reload kills watchdog restart reexec; do
	fresh
	"test_$case"
done
