#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Snapshots of a QEMU that runs: full, incremental, live; the chain of them restored lazily, and saved again meanwhile.
# The guest checks every page of its memory itself.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"
. scripts/lib/packages.sh
. scripts/lib/guest.sh

GUEST_MIB=192
GUEST_WORKING_SET_MIB=48
GUEST_BLANK_MIB=8
log=$SCRATCH/log
out=$SCRATCH/out

ufdctl() {
	"$BUILD/cli/ufdctl" "$@" >"$out" 2>>"$log"
	local status=$?
	cat "$out" >>"$log"
	return $status
}

# save GUEST DIR [OPTION...]: the reply is in $out.
save() {
	local guest=$1 directory=$2
	shift 2
	ufdctl --json snapshot save "$guest" "$SCRATCH/$directory" "$@"
}

# is EXPRESSION: does jq find it true of the last reply?
is() {
	jq -e "$1" "$out" >/dev/null 2>>"$log" && return
	echo "not so: $1" >>"$log"
	return 1
}

# boot TRACK: a guest named `web`, attached, that has written its working set.
boot() {
	GUEST_NONCE=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
	guest_console source
	guest_start source memfd &&
		guest_expect source 'TICK 5' 90 2>>"$log" &&
		ufdctl guest attach web --qmp "$SCRATCH/source.qmp" --source zero --populated keep --track "$1"
}

runs_on() {
	guest_expect "$1" 'TICK *' 20 2>>"$log" && guest_expect "$1" 'TICK *' 20 2>>"$log"
}

# verify NAME: every page is right.
verify() {
	guest_verify "$1" 90 2>>"$log" && echo "$line" >>"$log" && [[ $line == *" ok pages="*" wrong=0" ]]
}

end_source() {
	guest_stop source
	guest_console_close
}

# restore DIR [OPTION...]: into a QEMU named lazy, as guest `again`.
restore() {
	local directory=$1
	shift
	guest_console lazy
	guest_start lazy memfd -incoming defer
	wait_for_socket lazy "$SCRATCH/lazy.qmp" 20 &&
		ufdctl --json restore "$SCRATCH/$directory" --qmp "$SCRATCH/lazy.qmp" --name again "$@"
}

end_lazy() {
	guest_stop lazy
	guest_console_close
}

# restores DIR [OPTION...]: and everything is right.
restores() {
	local status=1

	restore "$@" && runs_on lazy && verify lazy && status=0
	end_lazy
	return $status
}

# row NAME COMMAND...
row() {
	local name=$1
	shift

	: >"$log"
	"$@"
	tap "$name" $?
}

full() {
	save web full && is '.way == "paused" and .consumer == "snapshot" and .epoch == 1 and .paused_ns > 0' &&
		runs_on source
}

incremental() {
	save web inc --incremental "$SCRATCH/full" && is '.way == "paused" and .epoch == 2' &&
		is ".file_bytes * 2 < $(stat -c %s "$SCRATCH/full/memory.ufdi")" && runs_on source
}

# The parent is no longer what the guest counts from.
wrong_parent() {
	! save web wrong --incremental "$SCRATCH/full" && grep -q 'take a full one' "$log" &&
		[ ! -e "$SCRATCH/wrong" ] && runs_on source
}

# Packed so slowly a guest that writes cannot be had in a pause of 1 ms; what this one has read is in the next one.
too_long() {
	! save web strict --incremental "$SCRATCH/inc" --live --strict --max-pause 1 --compress zstd:19 &&
		grep -q 'PauseTooLong' "$log" && [ ! -e "$SCRATCH/strict" ] && runs_on source
}

live_incremental() {
	save web live --incremental "$SCRATCH/inc" --live --max-pause 2000 --compress zstd:1 &&
		is '.way == "rounds" and .rounds >= 1' && runs_on source
}

live_full() {
	save web live-full --live --max-pause 2000 --consumer other --compress none && is '.way == "rounds"' &&
		runs_on source
}

# A guest that is still being restored is saved: full, from the source where it has not read a page yet.
saved_lazily() {
	restore live --consumer lazily --background no --clone && runs_on lazy &&
		save again again-full --untracked &&
		is ".populated_bytes >= $((GUEST_WORKING_SET_MIB << 20))" &&
		ufdctl --json guest show again && is '.guest.absent_bytes > 1048576'
}

# The first incremental after a lazy restore holds what the guest wrote, and nothing that was only read.
saved_incrementally() {
	save again again-inc --incremental "$SCRATCH/live" && is '.consumer == "lazily"' &&
		is ".populated_bytes < $((GUEST_WORKING_SET_MIB << 19))" && runs_on lazy && verify lazy
}

twin() {
	restore live && is '.warnings[0] | test("--clone")'
}

broken_chain() {
	mv "$SCRATCH/inc/memory.ufdi" "$SCRATCH/inc/away"
	refused_with 'is missing.*inc/memory.ufdi'
	local status=$?
	mv "$SCRATCH/inc/away" "$SCRATCH/inc/memory.ufdi"
	return $status
}

# flip FILE: a bit in each sixteenth of it, and back again. Of some of these frames the guest has written every page
# since, so that nobody reads them any more; of all of them it has not.
flip() {
	python3 - "$1" <<'END'
import os, sys
with open(sys.argv[1], "r+b") as file:
    for part in range(1, 16):
        at = os.path.getsize(sys.argv[1]) * part // 16
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), at)
END
}

# A frame of the eldest that does not have its checksum: the guest waits, the file is named, nothing wrong is read.
broken_frame() {
	local status=1 deadline=$(($(now_us) + 60000000))

	flip "$SCRATCH/full/memory.ufdi"
	if restore live --clone; then
		until grep -q 'full/memory.ufdi' "$SCRATCH/ufdd.log"; do
			[ "$(now_us)" -lt "$deadline" ] || break
			sleep 0.05
		done
		echo v >&"$console_in"
		! guest_listen lazy 'VERIFY*' 2 2>>"$log" && ! grep -q 'WRONG' "$log" &&
			grep -q 'full/memory.ufdi' "$SCRATCH/ufdd.log" &&
			ufdctl why again && grep -q 'full/memory.ufdi' "$out" && status=0
	fi
	end_lazy
	flip "$SCRATCH/full/memory.ufdi"
	return $status
}

# refused_with WORDS: a restore of the chain.
refused_with() {
	local status=1

	! restore live --clone && grep -q "$1" "$log" && status=0
	end_lazy
	return $status
}

wrong_digest() {
	mv "$SCRATCH/inc/memory.ufdi" "$SCRATCH/inc/away"
	cp "$SCRATCH/live-full/memory.ufdi" "$SCRATCH/inc/memory.ufdi"
	refused_with 'inc/memory.ufdi is not the parent'
	local status=$?
	mv "$SCRATCH/inc/away" "$SCRATCH/inc/memory.ufdi"
	return $status
}

truncated() {
	cp "$SCRATCH/live/memory.ufdi" "$SCRATCH/live/away"
	truncate -s -4096 "$SCRATCH/live/memory.ufdi"
	refused_with 'the manifest says'
	local status=$?
	mv "$SCRATCH/live/away" "$SCRATCH/live/memory.ufdi"
	return $status
}

# Whoever has no monitor pauses the guest himself, and gets its memory alone.
memory_only() {
	local pid=${process_pids[source]} fd status=1

	fd=$(find "/proc/$pid/fd" -lname '*memory-backend-memfd*' | head -n 1)
	kill -STOP "$pid"
	save web memory --memory-only --consumer mine && is '.state_bytes == 0 and .consumer == "mine"' &&
		ufdctl --json image diff "$SCRATCH/memory/memory.ufdi" "$fd" && is '.differ_bytes == 0' && status=0
	kill -CONT "$pid"
	return $status
}

before_write() {
	save web held --live --max-pause 2000 && is '.way == "copy-before-write" and .rounds == 0' &&
		runs_on source &&
		save web held-inc --live --incremental "$SCRATCH/held" --max-pause 2000 &&
		is '.way == "copy-before-write"' && runs_on source && verify source
}

[ "$(id -u)" -eq 0 ] || tap_skip_all "attaching to a process needs root"
command -v qemu-system-x86_64 >/dev/null || tap_skip_all "qemu-system-x86_64 is missing"
guest_prepare 2>"$log" || tap_skip_all "no guest kernel: $(tail -n 1 "$log")"
start_ufdd || exit 99

row "a guest is attached" boot scan
row "a full snapshot" full
row "an incremental one" incremental
row "a parent that is not the last one is refused" wrong_parent
row "a pause that would be too long is refused" too_long
row "a live incremental one" live_incremental
row "a live full one, with a consumer of its own" live_full
row "memory alone" memory_only
row "the source is right after all of it" verify source
end_source
row "the chain of three is restored" restores live
row "the live full one is restored" restores live-full --clone
row "a guest that is still being restored is saved" saved_lazily
row "and incrementally" saved_incrementally
end_lazy
row "what was saved lazily is restored" restores again-full
row "the chain behind a restored guest is restored" restores again-inc
row "a second guest from one snapshot is warned of" twin
end_lazy
row "a parent that is missing is named" broken_chain
row "a parent that is another image is named" wrong_digest
row "a file that was cut is named" truncated
row "a broken frame is named, and nothing wrong is read" broken_frame
row "a guest with synchronous write protection is attached" boot wp
row "copy before write" before_write
end_source
row "what was copied before it was written is restored" restores held
row "and its incremental one" restores held-inc
