# SPDX-License-Identifier: LGPL-2.1-or-later
# ufd on a machine of tests/support/systemd, as a package would install it. Sourced by bash scripts, outside
# and inside of it; outside, $BUILD is the build directory and $SCRATCH a folder of the script's own.

MACHINE_STAGE=/run/out/root	# what is installed, seen from inside

# The log of a real installation is what its own `ninja uninstall` needs: it is put back.
machine_install_tree() {
	local saved=$BUILD/meson-logs/install-log.txt status

	[ ! -e "$saved" ] || cp "$saved" "$SCRATCH/install-log"
	DESTDIR=$1 meson install -C "$BUILD" --no-rebuild --quiet >"$SCRATCH/install.out" 2>&1 </dev/null
	status=$?
	rm -f "$saved"
	[ ! -e "$SCRATCH/install-log" ] || mv "$SCRATCH/install-log" "$saved"
	[ $status -eq 0 ] || sed 's/^/# /' "$SCRATCH/install.out"
	return $status
}

# unit_drop_in UNIT NAME: from standard input. Needs `systemctl daemon-reload`.
unit_drop_in() {
	mkdir -p "/run/systemd/system/$1.d" && cat >"/run/systemd/system/$1.d/$2.conf"
}

# As a package would: files, users, folders, and the rule that udev would apply.
machine_install() {
	local libraries unit rule said

	libraries=$(cd "$MACHINE_STAGE" && find . -path '*/tmpfiles.d/ufd.conf')
	libraries=${libraries%/tmpfiles.d/ufd.conf}
	rule=$(cat "$MACHINE_STAGE/$libraries/udev/rules.d/"*.rules)
	cp -a "$MACHINE_STAGE/." / &&
		said=$(systemd-sysusers "/$libraries/sysusers.d/ufd.conf" 2>&1) &&
		systemd-tmpfiles --create "/$libraries/tmpfiles.d/ufd.conf" || {
		sed 's/^/# /' <<<"${said:-}"
		return 1
	}
	if [ -e /dev/userfaultfd ]; then
		chgrp "$(sed -n 's/.*GROUP="\([^"]*\)".*/\1/p' <<<"$rule")" /dev/userfaultfd &&
			chmod "$(sed -n 's/.*MODE="\([^"]*\)".*/\1/p' <<<"$rule")" /dev/userfaultfd || return
	fi
	for unit in ufdd.service ufdd.socket ufdd@.service ufdd@.socket; do
		# Nothing of a booted machine is wanted here.
		unit_drop_in $unit 10-machine <<<$'[Unit]\nDefaultDependencies=no' || return
	done
	systemctl daemon-reload
}
