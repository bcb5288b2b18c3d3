#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# The examples, compiled as a stranger would against the installed tree, and run against the installed ufdd.
# Usage: test-install-examples.sh SOURCE-DIRECTORY BUILD-DIRECTORY
set -eu

source=$1
build=$2
scratch=$(mktemp -d /tmp/ufd-test-examples.XXXXXX)
root=$scratch/root
log=$build/meson-logs/install-log.txt
ufdd=

# The log of a real installation is what its own `ninja uninstall` needs: it is put back.
finish() {
	[ -z "$ufdd" ] || kill "$ufdd" 2>/dev/null || true
	rm -f "$log"
	[ ! -e "$scratch/install-log" ] || mv "$scratch/install-log" "$log"
	rm -rf "$scratch"
}
trap finish EXIT
trap 'exit 1' INT TERM HUP

fail() {
	echo "$*" >&2
	[ ! -e "$scratch/ufdd.log" ] || cat "$scratch/ufdd.log" >&2
	exit 1
}

expect() { # what, pattern, command...
	what=$1 pattern=$2
	shift 2
	said=$(timeout -k 5 60 "$@" 2>&1) || fail "$what failed: $said"
	case $said in
	*$pattern*) echo "$what: $said" ;;
	*) fail "$what said: $said" ;;
	esac
}

[ ! -e "$log" ] || cp "$log" "$scratch/install-log"
DESTDIR=$root meson install -C "$build" --no-rebuild --quiet

pc=$(find "$root" -name libufd.pc)
ufdd_program=$(find "$root" -name ufdd -type f -perm -100)
[ -n "$pc" ] && [ -n "$ufdd_program" ] || fail "libufd.pc or ufdd is not installed"
libraries=${pc%/pkgconfig/*}
export PKG_CONFIG_SYSROOT_DIR="$root" PKG_CONFIG_PATH="$libraries/pkgconfig"
export LD_LIBRARY_PATH="$libraries"

compile() { # example, package
	# shellcheck disable=SC2046 # flags are words
	cc -std=gnu11 -D_GNU_SOURCE -Wall -Wextra -Werror -o "$scratch/$1" "$source/docs/examples/$1.c" \
		$(pkg-config --cflags --libs "$2") -pthread "-Wl,-rpath-link,$libraries"
}
compile vmm libufd
compile tool libufd-pager
compile heir libufd-pager

# A program that links libufd needs nothing else at hand but jansson.
needed=$(readelf -d "$libraries/libufd.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' | grep -v '^libc\.so' || true)
[ "$needed" = libjansson.so.4 ] || fail "libufd needs: $needed"

export UFD_SOCKET="$scratch/socket"
"$ufdd_program" --socket "$UFD_SOCKET" >"$scratch/ufdd.log" 2>&1 &
ufdd=$!
tries=0
while [ ! -S "$UFD_SOCKET" ]; do
	kill -0 "$ufdd" 2>/dev/null || fail "ufdd ended"
	tries=$((tries + 1))
	[ "$tries" -lt 200 ] || fail "ufdd does not listen"
	sleep 0.05
done

head -c 4000000 /dev/urandom >"$scratch/saved"
expect "vmm" "as saved" "$scratch/vmm"
expect "vmm with a file" "as saved" "$scratch/vmm" "$scratch/saved"
expect "tool" "all as computed" "$scratch/tool"
expect "heir" ", 0 of them wrong" "$scratch/heir"
