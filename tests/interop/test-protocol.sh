#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A guest is handed over by ufd-protocol(7) alone, and outlives ufdd: the example in one language.
# Usage: test-protocol.sh LANGUAGE
. "${SOURCE_ROOT:?}/tests/support/tap.sh"

BYTES=4000000	# not a whole number of pages
WHOLE=3997696
STATES=/dev/shm	# ufdd keeps its guests in memory only

needs() {	# program, package
	command -v "$1" >/dev/null || tap_skip_all "needs $1 (apt-get install $2)"
}

# Without network, modules and crates; what is built beside is the test's own. Debian's compiler, if there is one.
build_client() {
	export GO111MODULE=off GOCACHE=$SCRATCH/cache GOFLAGS=
	case $language in
	c) gcc -std=gnu11 -O2 -Wall -Wextra -Werror -o "$SCRATCH/client" "$source" -pthread ;;
	go) gofmt -l "$source" >"$SCRATCH/unformatted" && [ ! -s "$SCRATCH/unformatted" ] &&
		go build -o "$SCRATCH/client" "$source" ;;
	rust) PATH=/usr/bin:$PATH rustc --edition 2021 -D warnings -o "$SCRATCH/client" "$source" ;;
	python) install -m 755 "$source" "$SCRATCH/client" ;;
	esac
}

# start [OPTION...]: until it answers.
start() {
	rm -f "$UFD_SOCKET"
	process_start ufdd "$SCRATCH/ufdd.log" "$BUILD/daemon/ufdd" --socket "$UFD_SOCKET" "$@" &&
		wait_for_socket ufdd "$UFD_SOCKET" 20
}

# SIGSTOP wakes one thread, and only when that runs the others stop.
hold_ufdd() {
	local task

	kill -STOP "${process_pids[ufdd]}"
	for task in "/proc/${process_pids[ufdd]}/task"/*; do
		until [ ! -e "$task" ] || grep -qs '^State:.T' "$task/status"; do
			process_is_alive ufdd || return 1
			pause_ms 2
		done
	done
}

# Its end, and what it said. A client that waits for a page for ever is killed at the end of the script.
is_as_saved() {
	local deadline=$(($(now_us) + 60 * 1000000))

	while process_is_alive client; do
		[ "$(now_us)" -lt "$deadline" ] || return 1
		pause_ms 5
	done
	process_wait client && grep -q "^$WHOLE bytes are as saved$" "$log"
}

# Until the guest has seen half of its memory.
wait_for_half() {
	until grep -qs half "$log"; do
		process_is_alive client || return 1
		pause_ms 2
	done
}

serves() {
	process_start client "$log" "$SCRATCH/client" web "$SCRATCH/saved"
	is_as_saved
}

# killed [OPTION...]: ufdd dies, and another one is started, while the guest waits for a page.
killed() {
	process_kill ufdd
	start "$@" || return
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start client "$log" bash -c 'exec "$@" <"$0"' "$SCRATCH/in" \
		"$SCRATCH/client" web "$SCRATCH/saved"
	wait_for_half && hold_ufdd && echo >&8
	process_kill ufdd
	start "$@" && is_as_saved && grep -q 'ufdd is gone' "$log"
}

language=${1:?c, go, rust or python}
source=$(echo "docs/examples/protocol/$language"/client.*)
case $language in
c) needs gcc gcc ;;
go) needs go golang-go ;;
rust) needs rustc rustc ;;
python) needs python3 python3 ;;
esac
[ -r /dev/userfaultfd ] || tap_skip_all "needs access to /dev/userfaultfd"
[ "$(stat -f -c %T "$STATES")" = tmpfs ] || tap_skip_all "needs a tmpfs at $STATES"

export UFD_SOCKET=$SCRATCH/ufdd.socket
state=$(mktemp -d "$STATES/ufd-test.XXXXXX") || exit 99
trap 'rm -rf "$state"; tap_end' EXIT
head -c "$BYTES" /dev/urandom >"$SCRATCH/saved"
mkfifo "$SCRATCH/in" && exec 8<>"$SCRATCH/in"

log=$SCRATCH/log
build_client >"$log" 2>&1
status=$?
tap "the client is built" "$status"
[ "$status" -eq 0 ] || exit
[ "$(wc -l <"$source")" -le 150 ]
tap "it has at most 150 lines" $?

start && serves
tap "every byte is as saved" $?
log=$SCRATCH/forgotten
killed
tap "the guest is handed to a ufdd that does not know it" $?
log=$SCRATCH/kept
killed --state-dir "$state"
tap "a ufdd that has kept the guest goes on with it" $?
