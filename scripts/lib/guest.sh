# SPDX-License-Identifier: LGPL-2.1-or-later
# The demo guest: its kernel, its initrd, its QEMU and its console. Sourced by bash scripts, after
# packages.sh and processes.sh; BUILD names the build directory, SCRATCH a directory of the script's own.

GUEST_KERNEL=		# set by guest_prepare()
GUEST_INITRD=
GUEST_ACCEL=tcg		# set by guest_choose_accel()
GUEST_MIB=2048
GUEST_WORKING_SET_MIB=1280
GUEST_BLANK_MIB=64
GUEST_VCPUS=1
GUEST_BACKEND=		# more options of the memory backend, such as `,hugetlb=on`
GUEST_RUN=()		# what its QEMU is started by, such as `ufdctl run --`

# Debian's kernel for virtual machines, unpacked and not installed, and our init as the whole initrd.
guest_prepare() {
	local lock is_there=false

	mkdir -p "$BUILD/guest" && exec {lock}>"$BUILD/guest/lock" || return 1
	# Tests run side by side: the first of them fetches the kernel for all.
	flock "$lock"
	guest_make_files && is_there=true
	exec {lock}>&-
	$is_there
}

guest_make_files() {
	local directory=$BUILD/guest image

	# Any build directory's will do: it is the same file.
	GUEST_KERNEL=$(ls "$directory"/vmlinuz-* build*/guest/vmlinuz-* 2>/dev/null | head -n 1)
	if [ ! -f "$GUEST_KERNEL" ]; then
		image=$(packages_kernel_image)
		if [ -z "$image" ] && [ "$(id -u)" -eq 0 ]; then
			apt-get update >/dev/null 2>&1
			image=$(packages_kernel_image)
		fi
		[ -n "$image" ] || { echo "apt knows no linux-image-cloud-amd64: apt-get update" >&2; return 1; }
		packages_unpack_kernel "$directory" "$image" || return 1
		GUEST_KERNEL=$(echo "$directory"/vmlinuz-*)
	fi

	GUEST_INITRD=$directory/initrd
	cp "$BUILD/tests/support/guest-init" "$directory/init" &&
		(cd "$directory" && echo init | cpio --quiet -o -H newc >initrd.new && mv initrd.new initrd)
}

# Start its QEMU so that nobody need trace it; 1 if this build's library needs a sanitizer, which QEMU has not.
guest_run_preloaded() {
	GUEST_RUN=()
	! grep -Eq '__(asan|tsan|ubsan)_' "$BUILD/lib/preload/libufd-preload.so" || return 1
	GUEST_RUN=("$BUILD/cli/ufdctl" run --)
}

# guest_start NAME MEMORY [OPTION...]: a QEMU; MEMORY is `memfd` or the path of a file to have as memory.
# Its monitor is $SCRATCH/NAME.qmp, its console $SCRATCH/NAME.in and .out.
guest_start() {
	local name=$1 memory=$2 cpu=max,-erms,-fsrm size=${GUEST_MIB}M backend
	shift 2

	# Under emulation `rep movsb` and `rep stosb` take a step a byte; without these flags the kernel
	# clears pages by words. On KVM the guest gets the host's processor.
	[ "$GUEST_ACCEL" = kvm ] && cpu=host
	backend=memory-backend-memfd,id=ram0,size=$size,share=on
	[ "$memory" = memfd ] || backend=memory-backend-file,id=ram0,size=$size,share=on,mem-path=$memory
	backend+=$GUEST_BACKEND

	[ -p "$SCRATCH/$name.in" ] || mkfifo "$SCRATCH/$name.in" "$SCRATCH/$name.out" || return 1
	process_start "$name" "$SCRATCH/$name.log" "${GUEST_RUN[@]}" qemu-system-x86_64 -nodefaults -display none -no-reboot \
		-accel "$GUEST_ACCEL" -cpu "$cpu" -smp "$GUEST_VCPUS" -m "$size" \
		-machine pc,memory-backend=ram0 -object "$backend" \
		-kernel "$GUEST_KERNEL" -initrd "$GUEST_INITRD" \
		-append "console=ttyS0 panic=-1 quiet tick_ms=10 rate=50 nonce=${GUEST_NONCE:-0} \
ws_mb=$GUEST_WORKING_SET_MIB blank_mb=$GUEST_BLANK_MIB" \
		-chardev "pipe,id=console,path=$SCRATCH/$name" -serial chardev:console \
		-qmp "unix:$SCRATCH/$name.qmp,server=on,wait=off" "$@"
}

# Ends it; consoles and monitor may be used by the next of this name.
guest_stop() {
	process_kill "$1"
	rm -f "$SCRATCH/$1.qmp" "$SCRATCH/$1.in" "$SCRATCH/$1.out"
}

# guest_console NAME: opens both ends of its console as $console_in and $console_out, before it starts.
guest_console() {
	[ -p "$SCRATCH/$1.in" ] || mkfifo "$SCRATCH/$1.in" "$SCRATCH/$1.out" || return 1
	exec {console_in}<>"$SCRATCH/$1.in" {console_out}<>"$SCRATCH/$1.out"
}

guest_console_close() {
	unset "line_parts[$console_out]"
	exec {console_in}>&- {console_out}>&-
}

# guest_listen NAME PATTERN SECONDS: the next console line that matches, in $line; 2 if none comes.
# Kernel lines and ticks pass by; a page found wrong, or a guest that gave up, is told at once.
guest_listen() {
	local name=$1 pattern=$2 deadline=$(($(now_us) + $3 * 1000000))

	while [ "$(now_us)" -lt "$deadline" ]; do
		if ! read_line "$console_out"; then
			process_is_alive "$name" && continue
			echo "The guest's QEMU ended: $(tail -n 2 "$SCRATCH/$name.log")" >&2
			return 1
		fi
		line=${line%$'\r'}
		# shellcheck disable=SC2053 # a pattern
		[[ $line == $pattern ]] && return 0
		case $line in WRONG* | FAILED*) echo "The guest says: $line" >&2 ;; esac
	done
	return 2
}

# guest_expect NAME PATTERN SECONDS: the same, and silence is told.
guest_expect() {
	guest_listen "$@" && return
	[ $? -eq 2 ] && echo "The guest did not say '$2' within $3 s" >&2
	return 1
}

# guest_verify NAME SECONDS: have it check all of its memory; the result is in $line.
#
# Now and then the emulated serial port loses what is typed in the first moments after a restore: the
# guest ticks on and takes what is typed later. So it is asked again; asked twice, it checks twice.
guest_verify() {
	local deadline=$(($(now_us) + $2 * 1000000)) status=2

	while [ $status -eq 2 ] && [ "$(now_us)" -lt "$deadline" ]; do
		echo v >&"$console_in"
		guest_listen "$1" 'VERIFY*' 15
		status=$?
	done
	[ $status -eq 2 ] && echo "The guest did not check its memory within $2 s" >&2
	return $status
}

# guest_plain_snapshot FROM TO: the same as the first release wrote it: memory.raw, without checksums.
guest_plain_snapshot() {
	mkdir "$2" && "$BUILD/cli/ufdctl" --quiet image convert --to raw "$1/memory.ufdi" "$2/memory.raw" &&
		cp "$1/device.state" "$2" &&
		jq '{format, version: 1, created_ns, machine, memory_bytes, populated_bytes, state_bytes,
			memories: [.memories[] | . + {offset_bytes: 0}]}' "$1/manifest.json" >"$2/manifest.json"
}

# KVM if it really boots a guest within 5 seconds; nested or broken ones hang or end.
guest_choose_accel() {
	local line

	[ -w /dev/kvm ] || return 0
	GUEST_ACCEL=kvm
	guest_console probe
	GUEST_WORKING_SET_MIB=8 GUEST_BLANK_MIB=1 GUEST_MIB=256 guest_start probe memfd
	guest_expect probe 'TICK 5' 5 2>/dev/null || GUEST_ACCEL=tcg
	guest_stop probe
	guest_console_close
}
