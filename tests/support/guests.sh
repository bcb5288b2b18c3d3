# SPDX-License-Identifier: LGPL-2.1-or-later
# VMMs of tests in the background, each of which knows what its pages must hold. Sourced by scripts that
# have sourced tests/support/tap.sh.

TOY=$BUILD/tests/support/toy-vmm
GUEST_MIB=8

# guest_image: once, before the first guest.
guest_image() {
	"$TOY" --write-image "$SCRATCH/image" --mib "$GUEST_MIB"
}

# guest_start NAME OPTION...: of toy-vmm; what it says goes to $SCRATCH/NAME.out. $guest_as is a command
# that starts it as somebody.
guest_start() {
	local name=$1
	shift

	: >"$SCRATCH/$name.out"
	# shellcheck disable=SC2086 # words
	process_start "$name" "$SCRATCH/$name.out" ${guest_as:-} "$TOY" --name "$name" --image "$SCRATCH/image" \
		--mib "$GUEST_MIB" "$@"
}

# guest_says NAME PATTERN: has it said a line of this kind?
guest_says() {
	grep -q "$2" "$SCRATCH/$1.out"
}

# guest_wait_line NAME PATTERN SECONDS
guest_wait_line() {
	local deadline=$(($(now_us) + $3 * 1000000))

	until guest_says "$1" "$2"; do
		process_is_alive "$1" && [ "$(now_us)" -lt "$deadline" ] || return 1
		pause_ms 5
	done
}

# guest_hold NAME, guest_go NAME: it touches nothing meanwhile, so that what is absent stays absent however
# long that takes.
guest_hold() {
	kill -STOP "${process_pids[$1]}"
}

guest_go() {
	kill -CONT "${process_pids[$1]}"
}

# guest_hurry NAME: no more pauses.
guest_hurry() {
	kill -USR1 "${process_pids[$1]}"
}

# guest_finish NAME SECONDS: it comes to its end, and every page was right.
guest_finish() {
	guest_wait_line "$1" '^{' "$2" || { guest_says "$1" '^{' || return; }
	process_wait "$1" && grep -q '"ok":true,.*"wrong_pages":0,' "$SCRATCH/$1.out"
}
