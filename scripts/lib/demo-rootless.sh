# SPDX-License-Identifier: LGPL-2.1-or-later
# The demo without any privilege: a toy VMM of our own, whose pager is killed and started again while
# its threads fault. Sourced by scripts/demo.
# shellcheck shell=bash disable=SC2034

TOY_MIB=256

# toy_expect PATTERN SECONDS: the next line of the toy that matches, in $line.
toy_expect() {
	local deadline=$(($(now_us) + $2 * 1000000))

	while [ "$(now_us)" -lt "$deadline" ]; do
		if ! read_line "$toy_out"; then
			process_is_alive toy && continue
			return 1
		fi
		echo "toy: $line"
		# shellcheck disable=SC2053 # a pattern
		[[ $line == $1 ]] && return 0
	done
	return 1
}

# A folder on a tmpfs for what the next daemon must know; $SHARED is removed at the end. Without one
# libufd hands the guest over anew.
make_state_dir() {
	SHARED=$(mktemp -d /dev/shm/ufd-demo.XXXXXX 2>/dev/null) || return
	state_options=(--state-dir "$SHARED")
}

demo_rootless() {
	local log=$SCRATCH/toy.log toy=$BUILD/tests/support/toy-vmm state_options=()

	say "an image of $TOY_MIB MiB, a daemon of our own, and a toy VMM of 4 threads"
	"$toy" --write-image "$SCRATCH/image" --mib "$TOY_MIB" || fail "the image could not be written"
	make_state_dir
	start_daemon "${state_options[@]}"

	mkfifo "$SCRATCH/toy.out" || fail "no pipe"
	exec {toy_out}<>"$SCRATCH/toy.out"
	# shellcheck disable=SC2016 # expanded by the inner shell
	process_start toy "$log" bash -c 'exec "$@" >"$0"' "$SCRATCH/toy.out" "$toy" \
		--socket "$UFD_SOCKET" --image "$SCRATCH/image" --mib "$TOY_MIB" --threads 4 \
		--user-mode --write --pause-us 20
	toy_expect 'ATTACHED*' 20 || fail "the toy was not attached" "$log"
	toy_expect HALF 60 || fail "the toy does not go on" "$log"

	say "killing ufdd in the middle, and starting it again"
	process_kill ufdd
	toy_expect LOST 10 || fail "the toy did not notice" "$log"
	start_daemon "${state_options[@]}"
	toy_expect '{*' 90 || fail "the toy did not come to its end" "$log"
	process_wait toy
	case $? in
	0) exit_status=0 ;;
	1) exit_status=1 ;;
	*) fail "the toy failed" "$log" ;;
	esac

	result=$line
	[[ $line =~ \"(wrong_pages)\":([0-9]+) ]] && say "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
	echo "That was a program of ours, with a userfaultfd that anybody may make. The full mode, with an"
	echo "unmodified QEMU, is opened by one command, run as root:"
	echo
	echo "	scripts/demo"
}
