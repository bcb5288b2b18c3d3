#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The shipped units and processes that know nothing of ufd; instances of other users; a user's own.
. "${SOURCE_ROOT:?}/tests/support/machine.sh"
machine_boot
. tests/support/guests.sh
. tests/support/service.sh

OWNER=daemon	# a user that every system has
AS_OWNER="setpriv --reuid $OWNER --regid $OWNER --groups ufd --pdeathsig KILL"

# target_start NAME WORD...: a toy that nobody has attached; WORDs start it (systemd-run, setpriv).
target_start() {
	local name=$1
	shift

	mkfifo "$SCRATCH/$name.go" && exec {go}<>"$SCRATCH/$name.go"
	: >"$SCRATCH/$name.out"
	"$@" "$TOY" --no-client --mib "$GUEST_MIB" --image "$SCRATCH/image" &&
		wait_until 20 target_is_ready "$name"
}

target_is_ready() {
	pid=$(sed -n 's/^READY //p' "$SCRATCH/$1.out")
	[ -n "$pid" ]
}

# target_finish NAME: lets it touch its pages, all of which are right.
target_finish() {
	echo >&$go
	exec {go}>&-
	wait_until 60 grep -q '^{' "$SCRATCH/$1.out"
	grep -q '"ok":true,.*"wrong_pages":0,' "$SCRATCH/$1.out"
}

in_background() {
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start "$1" "$SCRATCH/$1.out" bash -c 'exec "$@" <"$0"' "$SCRATCH/$1.go" "${@:2}"
}

guarded_by_seccomp() {
	systemd-run --quiet --unit="$1" -p DefaultDependencies=no -p NoNewPrivileges=yes \
		-p SystemCallFilter='~userfaultfd ptrace' -p StandardInput="file:$SCRATCH/$1.go" \
		-p StandardOutput="append:$SCRATCH/$1.out" "${@:2}"
}

attach() {
	ufdctl guest attach "$1" --pid "$2" --source "file:$SCRATCH/image" --background no >"$log" 2>&1
}

test_by_pid() {
	target_start by-pid in_background by-pid && attach by-pid "$pid" && kill_daemon &&
		target_finish by-pid
	verdict "a process that knows nothing is attached, and outlives a killed daemon" $?
}

test_seccomp() {
	target_start guarded guarded_by_seccomp guarded && ! attach guarded "$pid" &&
		grep -q seccomp-targets.conf "$log"
	verdict "behind a seccomp filter it is refused, naming the drop-in" $?

	mkdir -p /run/systemd/system/ufdd.service.d &&
		cp "$(find "$MACHINE_STAGE" -name seccomp-targets.conf)" \
			/run/systemd/system/ufdd.service.d/50-case.conf &&
		systemctl daemon-reload && systemctl restart ufdd && attach guarded "$pid" &&
		target_finish guarded
	verdict "with the drop-in it is attached" $?
}

helper_is_there() {
	helper=$(pgrep -x ufdd-attach)
}

is_gone() {
	! kill -0 "$1" 2>/dev/null
}

# A process whose only thread waits for a child as after vfork() cannot be stopped.
test_helper() {
	local waiting='import ctypes, mmap, os, signal
fd = os.memfd_create("ram"); os.ftruncate(fd, 1 << 20); ram = mmap.mmap(fd, 1 << 20)
ram.madvise(mmap.MADV_DONTFORK); print("READY", os.getpid(), flush=True)
CLONE, CLONE_VFORK = 56, 0x4000
ctypes.CDLL(None).syscall(CLONE, CLONE_VFORK | signal.SIGCHLD, 0, 0, 0, 0) or signal.pause()
signal.pause()'
	local helper= child

	process_start stuck "$SCRATCH/stuck.out" python3 -c "$waiting"
	wait_until 20 target_is_ready stuck && wait_until 20 pgrep -P "$pid" >/dev/null
	child=$(pgrep -P "$pid")
	process_start attach "$log" ufdctl guest attach stuck --pid "$pid" --source zero
	wait_until 20 helper_is_there && kill_daemon && ! is_gone "$helper" &&
		kill -KILL "$child" && wait_until 20 is_gone "$helper" && ! is_gone "$pid"
	verdict "the helper that traces a process outlives the daemon, and the process both" $?
}

test_instance() {
	local socket=/run/ufd/$OWNER/io.ufd.manager

	systemctl start ufdd@$OWNER.socket
	chmod 711 "$SCRATCH" && chmod 644 "$SCRATCH/image"
	guest_as=$AS_OWNER guest_start instance --socket $socket --pause-us 1000 &&
		guest_wait_line instance ATTACHED 20 && UNIT=ufdd@$OWNER kill_daemon &&
		[ "$(user_of "$(unit_get ufdd@$OWNER MainPID)")" = $OWNER ] &&
		guest_finish instance 60
	verdict "an instance serves the guests of its user, and is killed without harm" $?

	! setpriv --reuid nobody --clear-groups ufdctl --socket $socket status >"$log" 2>&1 &&
		grep -q "Permission denied" "$log"
	verdict "others cannot reach it" $?
}

user_systemctl() {
	$AS_OWNER env XDG_RUNTIME_DIR=/run/user/own systemctl --user "$@"
}

test_user() {
	install -d -o $OWNER -m 700 /run/user/own /run/user/home
	systemd-run --quiet --unit=own-manager -p DefaultDependencies=no -p User=$OWNER \
		-p SupplementaryGroups=ufd -p Delegate=yes -E XDG_RUNTIME_DIR=/run/user/own \
		-E HOME=/run/user/home /lib/systemd/systemd --user --unit=basic.target
	wait_until 20 user_systemctl is-active --quiet basic.target 2>/dev/null &&
		user_systemctl start ufdd.socket
	guest_as=$AS_OWNER guest_start own --socket /run/user/own/ufd/io.ufd.manager --pause-us 1000 &&
		guest_wait_line own ATTACHED 20 &&
		kill -KILL "$(user_systemctl show ufdd -p MainPID --value)" && guest_finish own 60
	verdict "a user's own manager keeps the user's own guests" $?
	[ "$(user_systemctl show ufdd -p NRestarts --value)" -eq 1 ]
	verdict "and started the daemon anew" $?
	systemctl stop own-manager
}

guest_image || exit 99
for case in by_pid seccomp helper instance user; do
	fresh
	"test_$case"
done
