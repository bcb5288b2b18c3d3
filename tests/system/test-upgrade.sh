#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# ufdd goes on as another program while guests run: what is refused, what is kept, and nobody loses a page.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"
. tests/support/guests.sh

UFDD=$BUILD/daemon/ufdd
NEXT=$BUILD/tests/support/ufdd-next
LOAD=$BUILD/tests/support/upgrade-load
log=$SCRATCH/log
STATE=
n_rounds=20	# of upgrades under load; half of them even, too
[ -z "${UFD_TEST_SHORT:-}" ] || n_rounds=8
export UFDD_ATTACH=$BUILD/daemon/attach/ufdd-attach	# a program from elsewhere has none beside it

ctl() {
	timeout -k 5 60 "$BUILD/cli/ufdctl" "$@" >"$log" 2>&1 </dev/null
}

# status FIELD: of the daemon that serves now.
status() {
	"$BUILD/cli/ufdctl" status --json=short --bytes | sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"
}

# daemon [PROGRAM]: one that keeps its guests in $STATE.
daemon() {
	export UFD_SOCKET=$SCRATCH/ufdd.socket

	rm -f "$UFD_SOCKET"
	process_start ufdd "$SCRATCH/ufdd.log" "${1:-$UFDD}" --socket "$UFD_SOCKET" --state-dir "$STATE" &&
		wait_for_socket ufdd "$UFD_SOCKET" 20
}

end_daemon() {
	kill -TERM "${process_pids[ufdd]}" && process_wait ufdd
}

# refused WORDS COMMAND...: ufdctl says no in these words, the daemon says nothing new, and is the one it was.
refused() {
	local words=$1 before
	shift

	before=$(status started_ns)
	ctl "$@"
	[ $? -eq 1 ] && grep -q "$words" "$log" && grep -q UpgradeRefused "$log" &&
		[ "$(status started_ns)" = "$before" ] && [ "$(status uncommitted)" = false ]
}

decoy() {
	mkdir -p "$SCRATCH/decoys" && cp "$BUILD/tests/support/upgrade-decoy" "$SCRATCH/decoys/$1" &&
		echo "$SCRATCH/decoys/$1"
}

# ---- refusals -------------------------------------------------------------------------------------

# One that never answers takes its time, so it is asked beside all else, by a daemon of its own.
begin_hang() {
	local socket=$SCRATCH/hang.socket

	process_start hang-ufdd "$SCRATCH/hang.log" "$UFDD" --socket "$socket"
	wait_for_socket hang-ufdd "$socket" 20
	process_start hang-ctl "$SCRATCH/hang.out" "$BUILD/cli/ufdctl" --socket "$socket" upgrade "$(decoy hang)"
	until is_running "$SCRATCH/decoys/hang"; do
		process_is_alive hang-ctl || return
		pause_ms 5
	done
}

# is_running PROGRAM
is_running() {
	local exe

	for exe in /proc/[0-9]*/exe; do
		[ "$(readlink "$exe")" != "$1" ] || return 0
	done
	return 1
}

end_hang() {
	log=$SCRATCH/hang.out
	process_wait hang-ctl
	[ $? -eq 1 ] && grep -q "did not say within 10 seconds" "$log" && process_is_alive hang-ufdd &&
		! is_running "$SCRATCH/decoys/hang"
	tap "a program that hangs is refused, and ended" $?
	process_kill hang-ufdd
	log=$SCRATCH/log
}

test_refused_programs() {
	local name

	guest_start bystander --socket "$UFD_SOCKET" --write --pause-us 200000 && # until it is hurried
		guest_wait_line bystander ATTACHED 20
	tap "a guest that must not notice" $?

	cp "$UFDD" "$SCRATCH/plain" && chmod a-x "$SCRATCH/plain"
	refused "Permission denied" upgrade "$SCRATCH/plain"
	tap "a file that is not executable is refused" $?
	refused "is no ufdd" upgrade /bin/true
	tap "a program that is no ufdd is refused" $?
	refused "No such file" upgrade "$SCRATCH/nothing"
	tap "a file that is not there is refused" $?
	for name in detach chatter; do
		refused "is no ufdd" upgrade "$(decoy $name)"
		tap "a program that would $name is refused" $?
	done
	refused "did not look at every guest" upgrade "$(decoy overlook)"
	tap "a program that overlooks a guest is refused" $?
	refused "nothing to go back to" upgrade --rollback
	tap "without an upgrade there is no way back" $?
	refused "nothing to commit" upgrade --commit
	tap "and nothing to commit" $?

	ctl upgrade --dry-run "$NEXT" && grep -q "Version: .*-next" "$log" && grep -q "Guests: 1" "$log" &&
		[ "$(status uncommitted)" = false ] && [[ $(status version) != *-next ]]
	tap "a dry run says who could take over, and changes nothing" $?
}

test_failing_execution() {
	local before

	before=$(status started_ns)
	ctl upgrade "$(decoy vanish)"
	[ $? -eq 1 ] && grep -q "could not be executed: Permission denied; every guest is served" "$log" &&
		[ "$(status started_ns)" != "$before" ] && [ "$(status guests)" = 1 ] &&
		[ "$(status uncommitted)" = false ]
	tap "what cannot be executed after all is told, and the program that ran goes on" $?
	guest_hurry bystander
	guest_finish bystander 60
	tap "the guest has noticed nothing" $?
	log=$SCRATCH/log
}

test_unprivileged() {
	chmod 666 "$UFD_SOCKET" && chmod 711 "$SCRATCH"
	why="needs root"
	[ "$(id -u)" -eq 0 ] || { tap "a user may not upgrade" 77; return; }
	setpriv --reuid=65534 --clear-groups "$BUILD/cli/ufdctl" upgrade "$NEXT" >"$log" 2>&1
	[ $? -eq 5 ] && setpriv --reuid=65534 --clear-groups "$BUILD/cli/ufdctl" drain >>"$log" 2>&1
	[ $? -eq 5 ] && [ "$(grep -c PermissionDenied "$log")" = 2 ] && [ "$(status draining)" = false ]
	tap "a user may neither upgrade nor drain" $?
}

# ---- there and back -------------------------------------------------------------------------------

test_there_and_back() {
	local pid=${process_pids[ufdd]}

	ctl upgrade "$NEXT" --json=short && grep -q '"stall_ns":[0-9]' "$log" &&
		[ "$(status pid)" = "$pid" ] && [[ $(status version) == *-next ]] &&
		[ "$(status uncommitted)" = true ] && [ "$(cat "/proc/$pid/comm")" = ufdd ]
	tap "an upgrade is the same process" $?
	ctl upgrade
	[ $? -eq 1 ] && grep -q -e "--commit" "$log"
	tap "a second one waits for the first one's end" $?
	[ -x "$STATE/old1" ] && process_kill ufdd && daemon && [ "$(status uncommitted)" = true ]
	tap "the way back stays open when the daemon is killed" $?
	pid=${process_pids[ufdd]}
	ctl upgrade --rollback && [ "$(status pid)" = "$pid" ] && [[ $(status version) != *-next ]] &&
		[ "$(status uncommitted)" = false ] && [ ! -e "$STATE/old1" ]
	tap "the way back is open once" $?
	cp "$UFDD" "$SCRATCH/gone" && ctl upgrade "$SCRATCH/gone" && ctl upgrade --commit &&
		rm "$SCRATCH/gone" && ctl upgrade "$NEXT" && ctl upgrade --rollback && [ "$(status guests)" = 0 ]
	tap "a program that is gone from disk is gone back to" $?

	timeout -k 2 5 "$UFDD" --socket "$UFD_SOCKET" >"$log" 2>&1
	[ $? -eq 1 ] && grep -q "another ufdd listens" "$log"
	tap "the socket has its lock still" $?
	end_daemon && [ ! -e "$UFD_SOCKET" ]
	tap "and is removed in the end" $?
}

# Not asked of a program that a sanitizer slows down.
is_short_stall() {
	awk -F'"stall_p50_ms":' '/^\{/ { ok = $2 + 0 <= 50 } END { exit !ok }' "$log"
}

# load NAME OPTION...
load() {
	local name=$1 status
	shift

	# a guest that is told to end does not tidy up
	ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0 timeout -k 5 120 "$LOAD" --guests 4 --guest "$BUILD/tests/support/soak-guest" --image "$SCRATCH/load" \
		--socket "$UFD_SOCKET" --next "$NEXT" "$@" >"$log" 2>&1 </dev/null
	status=$?
	sed -n 's/^{/# {/p' "$log"
	[ $status -ne 0 ] || [ -n "${UFD_TEST_SHORT:-}" ] || is_short_stall || status=1
	tap "$name" $status
	rm -f "$SCRATCH/load"
}

# Whoever takes over must not be ended by a signal for which it has no handler yet.
begin_signals() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start signals /dev/null bash -c 'exec {never}<> <(:)
		while kill -HUP "$1"; do read -r -t 0.002 -u $never; done' signals "${process_pids[ufdd]}"
}

test_load() {
	local n=$n_rounds

	start_ufdd && begin_signals &&
		load "$n upgrades and ways back under load, without a store, and signals at any moment" --rounds $n
	process_kill signals
	end_daemon
	daemon && load "$n upgrades and ways back under load, with a state directory" --rounds $n && end_daemon
}

# A daemon that is started anew whenever it is killed.
test_load_killed() {
	process_start keeper "$SCRATCH/ufdd.log" bash -c 'trap "kill -TERM \$!; exit" TERM
		while :; do setpriv --pdeathsig KILL "$@" & wait $!; done' \
		keeper "$UFDD" --socket "$UFD_SOCKET" --state-dir "$STATE"
	wait_for_socket keeper "$UFD_SOCKET" 20
	load "each killed as soon as it has taken over" --rounds $((n_rounds / 2)) --kill
	process_kill keeper TERM
}

# ---- draining -------------------------------------------------------------------------------------

test_drain() {
	daemon && guest_start drained --socket "$UFD_SOCKET" --write --pause-us 1000 &&
		guest_wait_line drained ATTACHED 20
	ctl drain --wait --json=short && grep -q '"absent_bytes":0,"complete":true' "$log" &&
		[ "$(status draining)" = true ]
	tap "a drain fills every guest" $?
	"$TOY" --socket "$UFD_SOCKET" --image "$SCRATCH/image" --mib 4 --name late >"$log" 2>&1
	[ $? -ne 0 ] && grep -q Draining "$log"
	tap "and lets no new one in" $?
	ctl upgrade "$NEXT" && [ "$(status draining)" = true ] && ctl upgrade --rollback && [ "$(status draining)" = true ]
	tap "nor does the next program" $?
	ctl drain --cancel && [ "$(status draining)" = false ] &&
		"$TOY" --socket "$UFD_SOCKET" --image "$SCRATCH/image" --mib 4 --name late >"$log" 2>&1
	tap "until it is cancelled" $?
	guest_finish drained 60
	tap "the guest that was filled has its pages" $?
	log=$SCRATCH/log
	end_daemon
}

# ---- layouts --------------------------------------------------------------------------------------

min_reader() {
	od -An -tu4 -j96 -N4 "$STATE"/old-vm.ledger | tr -d ' '
}

# A process that knows nothing of us: it cannot hand itself over anew, so the ledger is all there is.
start_stranger() {
	mkfifo "$SCRATCH/in" && exec {stranger_in}<>"$SCRATCH/in"
	: >"$SCRATCH/old-vm.out"
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start old-vm "$SCRATCH/old-vm.out" bash -c 'exec "$@" <"$0"' "$SCRATCH/in" "$TOY" --no-client \
		--image "$SCRATCH/image" --mib "$GUEST_MIB" --write --pause-us 200
	guest_wait_line old-vm READY 20 || return
	ctl call io.ufd.guest.AttachProcess "{\"name\":\"old-vm\",\"pid\":${process_pids[old-vm]},
		\"source\":\"file:$SCRATCH/image\",\"settings\":{\"background\":false}}"
}

test_layouts() {
	daemon && ctl upgrade "$NEXT" && start_stranger
	status=$?
	if [ $status -ne 0 ] && [ "$(id -u)" -ne 0 ]; then
		why="attaching needs root"
		tap "layouts" 77
		return
	fi
	tap "a guest of the next release" $status
	[ "$(min_reader)" = 1 ]
	tap "until it is committed the next release writes what the one before reads" $?
	process_kill ufdd && daemon && [ "$(status guests)" = 1 ]
	tap "and that one can take over by hand" $?
	ctl upgrade --rollback && ctl upgrade "$NEXT" && ctl upgrade --commit && [ "$(min_reader)" = 2 ]
	tap "committed, it asks for its own layout" $?
	ctl upgrade "$UFDD"
	[ $? -eq 1 ] && grep -q "guest .old-vm.: its ledger asks for a newer release" "$log"
	tap "the release before is refused then" $?

	process_kill ufdd && : >"$SCRATCH/ufdd.log" && daemon && [ "$(status guests)" = 0 ] &&
		grep -q "old-vm.*newer release" "$SCRATCH/ufdd.log" && [ -e "$STATE/old-vm.ledger" ] &&
		[ "$(min_reader)" = 2 ]
	tap "started by hand it names the guest, and leaves it" $?
	echo go >&"$stranger_in"
	process_kill ufdd && daemon "$NEXT" && [ "$(status guests)" = 1 ] && guest_finish old-vm 60
	tap "nothing is lost by that" $?
	log=$SCRATCH/ufdd.log
	end_daemon
}

[ "$(stat -f -c %T /dev/shm)" = tmpfs ] || tap_skip_all "/dev/shm is no tmpfs"
STATE=$(mktemp -d /dev/shm/ufd-test.XXXXXX) || exit 99
trap 'rm -rf "$STATE"; tap_end' EXIT
guest_image || exit 99
begin_hang
daemon || exit 99
test_refused_programs
test_failing_execution
test_unprivileged
test_there_and_back
test_load
test_load_killed
test_drain
test_layouts
end_hang
