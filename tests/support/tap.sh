# SPDX-License-Identifier: LGPL-2.1-or-later
# TAP for test scripts in bash. Sourced, after which the script is in the source root with
# $BUILD, $SCRATCH (its own directory, removed at the end) and what scripts/lib/processes.sh has.

set -u
export LC_ALL=C
cd "${SOURCE_ROOT:?the source root; meson sets it}" || exit 99
BUILD=${UFD_BUILD:?the build directory; meson sets it}
. scripts/lib/processes.sh

n_tests=0
n_failed=0
SCRATCH=$(mktemp -d /tmp/ufd-test.XXXXXX) || exit 99

tap_end() {
	trap '' INT TERM HUP
	trap - EXIT
	process_kill_all
	rm -rf "$SCRATCH"
	echo "1..$n_tests"
	[ "$n_failed" -eq 0 ]
	exit
}
trap tap_end EXIT
trap 'exit 99' INT TERM HUP

# tap NAME STATUS: one result. 0 passes, 77 skips with $why, anything else fails; $log is shown then.
tap() {
	n_tests=$((n_tests + 1))
	case $2 in
	0) echo "ok $n_tests - $1" ;;
	77) echo "ok $n_tests - $1 # SKIP ${why:-}" ;;
	*)
		echo "not ok $n_tests - $1"
		n_failed=$((n_failed + 1))
		[ -z "${log:-}" ] || sed 's/^/# /' "$log" | tail -n 30
		;;
	esac
}

# The whole script is skipped.
tap_skip_all() {
	trap - EXIT
	rm -rf "$SCRATCH"
	echo "1..0 # SKIP $1"
	exit 0
}

# start_ufdd: a daemon on a socket of the test's own, which programs find by $UFD_SOCKET.
start_ufdd() {
	export UFD_SOCKET=$SCRATCH/ufdd.socket

	rm -f "$UFD_SOCKET"
	process_start ufdd "$SCRATCH/ufdd.log" "$BUILD/daemon/ufdd" --socket "$UFD_SOCKET" &&
		wait_for_socket ufdd "$UFD_SOCKET" 20 && return
	sed 's/^/# /' "$SCRATCH/ufdd.log"
	return 1
}
