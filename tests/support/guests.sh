# SPDX-License-Identifier: LGPL-2.1-or-later
# VMMs of tests in the background, each of which knows what its pages must hold. Sourced by scripts that
# have sourced tests/support/tap.sh.

TOY=$BUILD/tests/support/toy-vmm
GUEST_MIB=32

# guest_image: once, before the first guest.
guest_image() {
	"$TOY" --write-image "$SCRATCH/image" --mib "$GUEST_MIB"
}

# guest_start NAME OPTION...: of toy-vmm; what it says goes to $SCRATCH/NAME.out.
guest_start() {
	local name=$1
	shift

	: >"$SCRATCH/$name.out"
	process_start "$name" "$SCRATCH/$name.out" "$TOY" --name "$name" --image "$SCRATCH/image" \
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

# guest_finish NAME SECONDS: it comes to its end, and every page was right.
guest_finish() {
	log=$SCRATCH/$1.out
	guest_wait_line "$1" '^{' "$2" || { guest_says "$1" '^{' || return; }
	process_wait "$1" && grep -q '"ok":true,.*"wrong_pages":0,' "$log"
}
