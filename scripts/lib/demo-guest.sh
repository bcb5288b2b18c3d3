# SPDX-License-Identifier: LGPL-2.1-or-later
# The demo's main job: one QEMU guest, saved once, restored in turn lazily and eagerly. Sourced by
# scripts/demo, whose variables and fail() it uses.
# shellcheck shell=bash disable=SC2154,SC2034

SHARED=			# where eager copies of the memory lie: RAM, if there is room
first_tick=		# of the first restore; every other must go on at the same
lazy_ms=()
eager_ms=()
complete_ms=()
pages_checked=0
wrong_pages=0

elapsed_ms() {
	echo $((($(now_us) - $1) / 1000))
}

median() {
	printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"
}

check_room() {
	local need_kib=$((GUEST_MIB * 1024 * 5 / 4)) have_kib

	have_kib=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)
	[ "$have_kib" -ge $((need_kib * 3 / 2)) ] ||
		fail "a guest of $GUEST_MIB MiB needs $((need_kib * 3 / 2048)) MiB of free memory, there are \
$((have_kib / 1024)); try --guest-mib $((have_kib / 4096))"
	have_kib=$(df -k --output=avail "$SCRATCH" | tail -n 1)
	[ "$have_kib" -ge $((need_kib * 2)) ] ||
		fail "$SCRATCH has only $((have_kib / 1024)) MiB left; set TMPDIR to a larger place"

	have_kib=$(df -k --output=avail /dev/shm 2>/dev/null | tail -n 1)
	if [ "${have_kib:-0}" -ge "$need_kib" ]; then
		SHARED=$(mktemp -d /dev/shm/ufd-demo.XXXXXX) || fail "/dev/shm cannot be written"
	else
		SHARED=$SCRATCH/shared
		mkdir "$SHARED" || fail "$SHARED cannot be made"
	fi
}

boot_and_save() {
	local start

	say "booting a guest of $GUEST_MIB MiB ($GUEST_ACCEL), stamping $GUEST_WORKING_SET_MIB MiB of it"
	GUEST_NONCE=$(od -An -N8 -tx1 /dev/urandom | tr -d ' \n')
	guest_console source
	guest_start source memfd
	guest_expect source 'READY*' 120 || fail "the guest did not boot" "$SCRATCH/source.log"
	echo "$line"
	guest_expect source 'TICK 100' 60 || fail "the guest does not tick"

	say "saving it"
	start=$(now_us)
	ufdctl snapshot save --compress none --qmp "$SCRATCH/source.qmp" "$SCRATCH/snapshot" ||
		fail "the guest could not be saved" "$SCRATCH/ufdd.log"
	populated_bytes=$(jq .populated_bytes "$SCRATCH/snapshot/manifest.json")
	echo "$((populated_bytes >> 20)) MiB in $(elapsed_ms "$start") ms; now it is killed"
	guest_stop source
	guest_console_close
	# What the eager side copies; and damage in an image would be noticed before the guest reads it.
	guest_plain_snapshot "$SCRATCH/snapshot" "$SCRATCH/plain" || fail "the memory could not be unpacked"
	lazy_from=$SCRATCH/snapshot
	if $is_corrupt; then
		lazy_from=$SCRATCH/plain
	fi
}

# Flip one bit in the middle of a stamped page, which begins with the run's nonce.
corrupt() {
	local offset

	offset=$("$BUILD/tests/support/flip-byte" "$SCRATCH/plain/memory.raw" "$GUEST_NONCE") ||
		fail "no stamped page in the saved memory"
	echo "Byte $offset of the saved memory is flipped now."
}

# The guest must go on where it was saved, however its memory came.
note_tick() {
	[ "${first_tick:=$line}" = "$line" ] || fail "one restore went on at $first_tick, this one at $line"
}

# A full check by the guest itself; pages of both kinds are counted.
check_guest() {
	local words

	guest_verify "$1" 120 || fail "the guest did not check its memory" "$SCRATCH/ufdd.log"
	echo "$line"
	words=" $line "
	words=${words#* pages=}
	pages_checked=$((pages_checked + ${words%% *}))
	words=${words#* wrong=}
	wrong_pages=$((wrong_pages + ${words%% *}))
}

restore_lazily() {
	local name=demo-$1 log=$SCRATCH/restore.log start GUEST_RUN=()

	[ -t 2 ] && log=/dev/stderr
	guest_run_preloaded
	guest_console lazy
	rm -f "$SCRATCH/ended"
	start=$(now_us)
	guest_start lazy memfd -incoming defer
	wait_for_socket lazy "$SCRATCH/lazy.qmp" 20 || fail "QEMU did not start" "$SCRATCH/lazy.log"
	# The inner shell notes the time of the end; what it starts ends with it too.
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start restore "$log" bash -c 'setpriv --pdeathsig KILL -- "$@"; r=$?
		echo "${EPOCHREALTIME/./}" >"$0"; exit $r' "$SCRATCH/ended" "$BUILD/cli/ufdctl" restore "$lazy_from" --clone \
		--qmp "$SCRATCH/lazy.qmp" --name "$name" --wait
	guest_expect lazy 'TICK *' 60 || fail "the guest does not tick" "$SCRATCH/restore.log"
	lazy_ms+=("$(elapsed_ms "$start")")
	note_tick
	echo "lazily: $line, ${lazy_ms[-1]} ms after its QEMU was started"

	check_guest lazy
	process_wait restore || fail "the restore failed" "$SCRATCH/restore.log"
	complete_ms+=($((($(cat "$SCRATCH/ended") - start) / 1000)))
	ufdctl guest show "$name" --json >"$SCRATCH/shown.json" || fail "the guest is not known"
	guest_stop lazy
	guest_console_close
}

restore_eagerly() {
	local start

	guest_console eager
	start=$(now_us)
	cp --sparse=always "$SCRATCH/plain/memory.raw" "$SHARED/memory" || fail "the copy failed"
	guest_start eager "$SHARED/memory" -incoming defer
	wait_for_socket eager "$SCRATCH/eager.qmp" 20 || fail "QEMU did not start" "$SCRATCH/eager.log"
	"$BUILD/tests/support/load-snapshot" "$SCRATCH/snapshot" "$SCRATCH/eager.qmp" ||
		fail "the devices were not loaded" "$SCRATCH/eager.log"
	guest_expect eager 'TICK *' 60 || fail "the guest does not tick"
	eager_ms+=("$(elapsed_ms "$start")")
	note_tick
	echo "eagerly: $line, ${eager_ms[-1]} ms after the copy was begun"
	guest_stop eager
	guest_console_close
	rm -f "$SHARED/memory"
}

report() {
	local lazy eager complete

	lazy=$(median "${lazy_ms[@]}")
	eager=$(median "${eager_ms[@]}")
	complete=$(median "${complete_ms[@]}")
	[ "$wrong_pages" -eq 0 ] && exit_status=0 || exit_status=1
	result=$(jq -c --argjson wrong "$wrong_pages" --argjson checked "$pages_checked" \
		--argjson lazy "$lazy" --argjson eager "$eager" --argjson complete "$complete" \
		--argjson bytes $((GUEST_MIB << 20)) --argjson populated "$populated_bytes" '{
			ok: ($wrong == 0), guest_bytes: $bytes, populated_bytes: $populated,
			spawn_to_first_tick_ms: $lazy, eager_copy_ms: $eager,
			faults: .guest.faults,
			fault_p50_us: (.guest.fault_p50_ns / 1000), fault_p99_us: (.guest.fault_p99_ns / 1000),
			pages_checked: $checked, wrong_pages: $wrong, restore_complete_ms: $complete
		}' "$SCRATCH/shown.json") || fail "ufdctl's counters could not be read"

	say "medians of $ROUNDS"
	jq -r '"first tick: \(.spawn_to_first_tick_ms) ms lazily, \(.eager_copy_ms) ms eagerly " +
		"(\(.eager_copy_ms / .spawn_to_first_tick_ms * 10 | round / 10) times sooner)",
		"everything there after \(.restore_complete_ms) ms",
		"last restore: \(.faults) faults, p50 \(.fault_p50_us) us, p99 \(.fault_p99_us) us",
		"\(.pages_checked) pages checked by the guest, \(.wrong_pages) wrong"' <<<"$result"
}

demo_guest() {
	local round

	check_room
	guest_prepare || fail "the guest's kernel could not be had"
	guest_choose_accel
	start_daemon
	boot_and_save
	if $is_corrupt; then
		corrupt
	fi
	say "restoring it, $ROUNDS times each"
	for ((round = 1; round <= ROUNDS; round++)); do
		restore_lazily "$round"
		restore_eagerly
	done
	report
}
