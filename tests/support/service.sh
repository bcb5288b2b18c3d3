# SPDX-License-Identifier: LGPL-2.1-or-later
# The daemon as a service of a test's machine. Sourced by scripts that have sourced
# tests/support/machine.sh; $UNIT is the service.

unset UFD_SOCKET
UNIT=ufdd
SOCKET=/run/ufd/io.ufd.manager
log=$SCRATCH/log

is_active() {
	systemctl --quiet is-active "$1"
}

main_pid() {
	unit_get "$UNIT" MainPID
}

user_of() {
	stat -c %U "/proc/$1"
}

# Is the daemon another process than PID, and ready?
is_another() {
	is_active "$UNIT" && [ "$(main_pid)" -ne "$1" ]
}

# kill_daemon: and wait until its successor is ready.
kill_daemon() {
	local pid

	wait_until 20 is_active "$UNIT" && pid=$(main_pid) && [ "$pid" -gt 1 ] || return
	kill -KILL "$pid" && wait_until 20 is_another "$pid"
}

# Nothing of an earlier case is left.
fresh() {
	systemctl stop ufdd.socket ufdd.service
	systemctl reset-failed
	rm -rf /run/systemd/system/ufdd.service.d/50-case.conf /run/ufd/state/*
	process_kill_all
	: >"$log"
	systemctl daemon-reload
	systemctl start ufdd.socket
}

# journal_has PATTERN [OPTION...]: of journalctl.
journal_has() {
	journalctl -q --sync
	journalctl -q -o cat "${@:2}" | grep -q -- "$1"
}

# verdict NAME STATUS: with what the guests and the journal have, if it failed.
verdict() {
	if [ "$2" -ne 0 ]; then
		tail -n 4 "$SCRATCH"/*.out >>"$log" 2>/dev/null
		journalctl -q -o short-monotonic -n 20 >>"$log"
	fi
	tap "$1" "$2"
	: >"$log"
}
