#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# The shipped units on a machine with a systemd of its own: stopped, full, and with a damaged ledger.
. "${SOURCE_ROOT:?}/tests/support/machine.sh"
machine_boot
. tests/support/guests.sh
. tests/support/service.sh

SLOW="--socket $SOCKET --write --pause-us 1000"
MANY=$BUILD/tests/support/many-vmm

stop() {
	systemctl stop ufdd.socket ufdd.service
}

start() {
	systemctl start ufdd.socket ufdd.service
}

test_stop() {
	local began_us

	guest_start stopped $SLOW && guest_wait_line stopped ATTACHED 20 && guest_hold stopped
	began_us=$(now_us)
	stop && [ $(($(now_us) - began_us)) -lt 5000000 ]
	verdict "with a duplicate in every guest, stop waits for nobody" $?

	! is_active ufdd && ! guest_says stopped '^{' && guest_go stopped && start &&
		guest_finish stopped 60
	verdict "started again, it serves the guest that waited" $?
}

# A VMM that closed its userfaultfd: once the daemon has gone, its absent pages would read zero.
test_stop_without_duplicate() {
	"$MANY" --write-image "$SCRATCH/many" --guests 1
	mkfifo "$SCRATCH/go" && exec {go}<>"$SCRATCH/go"
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start alone "$SCRATCH/alone.out" bash -c 'exec "$@" <"$0"' "$SCRATCH/go" "$MANY" \
		--guests 1 --image "$SCRATCH/many" --socket $SOCKET --no-duplicate
	# At this level the manager logs what it is told.
	wait_until 20 guest_says alone ATTACHED && systemctl log-level debug && stop && ! is_active ufdd
	systemctl log-level info
	printf '\n\n\n\n' >&$go
	process_wait alone && grep -q '"pages_checked":4,"wrong_pages":0' "$SCRATCH/alone.out"
	verdict "without one, the guest is filled before the daemon stops" $?

	journal_has "STOPPING=1" _PID=1 && journal_has "EXTEND_TIMEOUT_USEC=15000000" _PID=1
	verdict "and the manager is asked for the time that takes" $?
}

test_damage() {
	guest_start damaged $SLOW && guest_wait_line damaged ATTACHED 20
	guest_start sound $SLOW && guest_wait_line sound ATTACHED 20
	stop
	printf x | dd of=/run/ufd/state/damaged.ledger bs=1 seek=16 conv=notrunc status=none
	# until its process, which has libufd, hands it over anew
	start && journal_has "damaged.ledger cannot be adopted, and is left" -u ufdd &&
		guest_finish sound 60
	verdict "a damaged ledger is told and left, and the other guest is served" $?
}

test_full() {
	unit_drop_in ufdd.service 50-case <<-'END'
		[Service]
		FileDescriptorStoreMax=4
		Environment=UFD_FDSTORE_MAX=4
	END
	systemctl daemon-reload
	guest_start first $SLOW && guest_wait_line first ATTACHED 20
	guest_start second $SLOW && guest_wait_line second ATTACHED 20
	guest_start third $SLOW
	! process_wait third && ! guest_says third ATTACHED && guest_says third FileDescriptorStoreMax
	verdict "the guest one past FileDescriptorStoreMax is refused by name" $?

	kill_daemon && guest_finish first 60 && guest_finish second 60
	verdict "those before it are all kept" $?
}

guest_image || exit 99
for case in stop stop_without_duplicate damage full; do
	fresh
	"test_$case"
done
