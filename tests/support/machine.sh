# SPDX-License-Identifier: LGPL-2.1-or-later
# For a test script whose cases run on a machine with a systemd of its own, with ufd installed on it.
#
#	. "${SOURCE_ROOT:?}/tests/support/machine.sh"
#	machine_boot			# outside: boots, shows the cases' results, and exits
#	tap "a case" $?			# inside, as root; see tests/support/tap.sh
#
# The script runs twice: as the test, and once more as a unit of the machine, where machine_boot
# returns. There the shipped units lie where `meson install` puts them, the group and the folders exist,
# nothing is started, and $BUILD has the test programs. Everything is gone afterwards.
MACHINE_CASE=$(readlink -e "$0")
. "${SOURCE_ROOT:?the source root; meson sets it}/tests/support/tap.sh"
. tests/support/machine-install.sh

# ---- outside ----------------------------------------------------------------------------------------

# What the inner half needs of the source and build trees, which a machine may not see: they can lie
# on a file system of their own.
machine_copy_tests() {
	mkdir -p "$1"/{source/scripts,source/tests,build/tests} &&
		cp -a scripts/lib "$1/source/scripts" && cp -a tests/support "$1/source/tests" &&
		cp -a "$BUILD/tests/support" "$1/build/tests" && cp "$MACHINE_CASE" "$1/case"
}

# The program that the machine runs: the case, as meson would have started it.
machine_write_script() {
	{
		echo '#!/bin/bash'
		echo 'export SOURCE_ROOT=/run/out/source UFD_BUILD=/run/out/build UFD_TEST_INSIDE=yes'
		declare -p UFD_TEST_LONG UFD_TEST_SHORT UFD_FEATURES_MASK 2>/dev/null
		echo 'exec /run/out/case'
	} >"$1" && chmod +x "$1"
}

machine_run() {
	local output=$SCRATCH/machine status
	trap - EXIT

	mkdir "$output" && machine_install_tree "$output/root" && machine_copy_tests "$output" &&
		machine_write_script "$SCRATCH/script" || { rm -rf "$SCRATCH"; exit 99; }
	trap 'rm -rf "$SCRATCH"' EXIT
	setpriv --pdeathsig TERM timeout -k 5 "${MACHINE_SECONDS:-120}" tests/support/systemd "$SCRATCH/script" "$output" >"$SCRATCH/said"
	status=$?
	if [ $status -eq 77 ] && [ ! -s "$output/log" ]; then
		echo "1..0 # SKIP $(tail -n 1 "$SCRATCH/said")"
		exit 0
	fi
	cat "$SCRATCH/said" "$output/log"
	exit $status
}

# ---- inside -----------------------------------------------------------------------------------------

unit_get() {
	systemctl show "$1" -p "$2" --value
}

# wait_until SECONDS COMMAND...: until it succeeds.
wait_until() {
	local deadline=$(($(now_us) + $1 * 1000000))
	shift

	until "$@"; do
		[ "$(now_us)" -lt "$deadline" ] || return 1
		pause_ms 5
	done
}

machine_boot() {
	[ -n "${UFD_TEST_INSIDE:-}" ] || machine_run
	machine_install && return
	echo "Bail out! ufd cannot be installed on the machine"
	exit 99
}
