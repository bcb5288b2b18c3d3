#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A thousand guests in the store of a service manager, and the daemon killed.
MACHINE_SECONDS=110
. "${SOURCE_ROOT:?}/tests/support/machine.sh"
machine_boot

MANY=$BUILD/tests/support/many-vmm
N=1000
LIMIT_MS=300
BUSY_LIMIT_MS=1500	# where others use every CPU
N_ROUNDS=4	# of many-vmm
log=$SCRATCH/many.out

# many_start OPTION...: it waits for a line on fd $go.
many_start() {
	mkfifo "$SCRATCH/go" && exec {go}<>"$SCRATCH/go"
	: >"$log"
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start many "$log" bash -c 'exec "$@" <"$0"' "$SCRATCH/go" "$MANY" --guests $N \
		--processes 50 --image "$SCRATCH/image" --socket /run/ufd/io.ufd.manager "$@"
}

has_said_or_ended() {
	[ "$(grep -c "$1" "$log")" -ge "$2" ] || ! process_is_alive many
}

# counted FIELD: of the round that was last.
counted() {
	tail -n 1 "$log" | sed -n "s/.*\"$1\":\([0-9.]*\).*/\1/p"
}

# Is the daemon ready, after NRestarts=N?
is_ready() {
	[ "$(unit_get ufdd NRestarts)" -eq "$1" ] && systemctl --quiet is-active ufdd
}

idle_ticks() {
	local ticks

	read -ra ticks </proc/stat
	echo "${ticks[4]}"
}

# Do others use the CPUs, by more than three quarters? Now: the load is of a minute, in which other tests ran.
is_busy() {
	local before

	before=$(idle_ticks)

	sleep 1
	[ $((($(idle_ticks) - before) * 4)) -lt $(($(nproc) * $(getconf CLK_TCK))) ]
}

is_busy && LIMIT_MS=$BUSY_LIMIT_MS	# before this test is itself the load

ulimit -n "$(ulimit -Hn)"
# One connection a guest, all of them root's; 1,000 is more than the default.
mkdir -p /etc/ufd && cat >/etc/ufd/ufdd.conf <<'END'
[limits]
connections = 1100
connections-per-user = 1100
guests = 1100
END
"$MANY" --write-image "$SCRATCH/image" --guests $N || exit 99
systemctl start ufdd.socket || exit 99
many_start && wait_until 60 has_said_or_ended ATTACHED 1
[ "$(unit_get ufdd NFileDescriptorStore)" -eq $((2 * N)) ]
tap "$N guests take two places each in the store" $?

# Each round kills the daemon and touches a page of every guest; that of a quiet moment counts.
result=0
best_ms=
for ((round = 1; round <= N_ROUNDS; round++)); do
	unit_get ufdd MainPID >&$go
	wait_until 30 has_said_or_ended '^{' $round && [ "$(counted pages_checked)" = $((round * N)) ] &&
		[ "$(counted wrong_pages)" = 0 ] && wait_until 20 is_ready $round || { result=1; break; }
	first_ms=$(counted first_served_ms)
	echo "# first fault served after $first_ms ms, all after $(counted last_served_ms) ms"
	[ "${first_ms%.*}" -lt "${best_ms:-1000000}" ] && best_ms=${first_ms%.*}
done
[ $result -eq 0 ] && process_wait many
tap "killed, none is lost and every page is right" $?

echo "# first fault served after $best_ms ms, $LIMIT_MS allowed"
[ "${best_ms:-1000000}" -le "$LIMIT_MS" ]
tap "the first fault is served in time" $?
