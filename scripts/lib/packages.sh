# SPDX-License-Identifier: LGPL-2.1-or-later
# What Debian 12 must have installed, and how it gets there. Sourced by scripts/demo and scripts/test.
#
#	. scripts/lib/packages.sh
#	packages_install $PACKAGES_BUILD $PACKAGES_GUEST
#
# Only what is missing is asked of apt, so that a machine that has everything needs neither root
# nor a network.

# To build the daemon, the tool and the libraries with every feature that is not optional; `check`
# because the programs of the demo stand beside the tests.
PACKAGES_BUILD="gcc libc6-dev meson ninja-build pkg-config
	liburing-dev libevent-dev libsystemd-dev libjansson-dev libinih-dev
	liblz4-dev libzstd-dev libxxhash-dev check"

# To run a real guest: QEMU, and the tools that unpack a kernel and pack an initrd.
PACKAGES_GUEST="qemu-system-x86 cpio jq"

# To build every feature and run every suite. rustc and golang-go are for clients in other languages, and for nothing else.
PACKAGES_TEST="clang clang-format scdoc libgnutls28-dev libbpf-dev bpftool systemd procps
	python3 socat zstd golang-go golang-github-varlink-go-dev varlink-go rustc"

# Those of the given packages that are not installed, on one line.
packages_missing() {
	for _package; do
		_state=$(dpkg-query -W -f '${db:Status-Status}' "$_package" 2>/dev/null) || _state=
		[ "$_state" = installed ] || printf '%s ' "$_package"
	done
}

# Install what is missing of the given packages; quiet unless it fails.
packages_install() {
	_missing=$(packages_missing "$@")
	[ -n "$_missing" ] || return 0

	if [ "$(id -u)" -ne 0 ]; then
		echo "Missing packages: $_missing" >&2
		echo "Install them as root: apt-get install --no-install-recommends $_missing" >&2
		return 1
	fi
	echo "Installing: $_missing" >&2
	_log=$(mktemp)
	if ! packages_apt $_missing >"$_log" 2>&1; then
		cat "$_log" >&2
		rm -f "$_log"
		return 1
	fi
	rm -f "$_log"
}

# The lists are refreshed only when the first try fails: that saves seconds on a prepared machine.
packages_apt() {
	export DEBIAN_FRONTEND=noninteractive
	apt-get install -y --no-install-recommends "$@" && return 0
	apt-get update && apt-get install -y --no-install-recommends "$@"
}

# The newest kernel image package this release has, by name; nothing is installed.
packages_kernel_image() {
	apt-cache depends linux-image-cloud-amd64 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1
}

# packages_unpack_kernel FOLDER IMAGE: the package's kernel as FOLDER/vmlinuz-RELEASE, and its modules
# in FOLDER/modules-RELEASE.
packages_unpack_kernel() {
	_release=${2#linux-image-}
	echo "Fetching a kernel: $2" >&2
	rm -rf "$1/package" "$1/modules-$_release" && mkdir "$1/package" || return 1
	(cd "$1/package" && apt-get -q -o APT::Sandbox::User=root download "$2" >log 2>&1 &&
		dpkg-deb -x "$2"_*.deb . && mv "lib/modules/$_release/kernel" "../modules-$_release" &&
		mv "boot/vmlinuz-$_release" ..) || {
		cat "$1/package/log" >&2
		return 1
	}
	rm -rf "$1/package"
}
