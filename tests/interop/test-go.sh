#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# A foreign Varlink implementation against ufdd: Debian's for Go, with code generated from our interface files.
. "${SOURCE_ROOT:?}/tests/support/tap.sh"

GOCODE=/usr/share/gocode
for program in go varlink-go-interface-generator; do
	command -v "$program" >/dev/null || tap_skip_all "needs $program (apt-get install golang-go varlink-go)"
done
[ -d "$GOCODE/src/github.com/varlink/go/varlink" ] ||
	tap_skip_all "needs golang-github-varlink-go-dev"

# Without network and modules; the cache is the test's own.
build_client() {
	local name package

	export GO111MODULE=off GOPATH=$SCRATCH/go:$GOCODE GOCACHE=$SCRATCH/cache GOFLAGS=
	for name in io.ufd.guest io.ufd.manager; do
		package=$SCRATCH/go/src/${name//./}
		mkdir -p "$package"
		cp "lib/wire/$name.varlink" "$package/"
		(cd "$package" && varlink-go-interface-generator "$name.varlink") || return
		chmod u+rw "$package"/*.go
	done
	mkdir -p "$SCRATCH/go/src/client"
	cp tests/interop/client.go "$SCRATCH/go/src/client/"
	go build -o "$SCRATCH/client" client
}

log=$SCRATCH/log
build_client >"$log" 2>&1 || { tap "the client is generated and built" 1; exit; }
start_ufdd || { log=$SCRATCH/ufdd.log tap "ufdd starts" 1; exit; }
mkfifo "$SCRATCH/in" && exec 8<>"$SCRATCH/in"
"$BUILD/tests/support/toy-vmm" --write-image "$SCRATCH/image" --mib 8 || exit 99
# shellcheck disable=SC2016 # expanded by the inner shell
process_start toy "$SCRATCH/toy" bash -c 'exec "$@" <"$0"' "$SCRATCH/in" \
	"$BUILD/tests/support/toy-vmm" --no-client --image "$SCRATCH/image" --mib 8
pid=
while process_is_alive toy && [ -z "$pid" ]; do
	pid=$(sed -n 's/^READY //p' "$SCRATCH/toy")
done
timeout -k 5 60 "$SCRATCH/client" "$UFD_SOCKET" "$pid" lib/wire >"$log" 2>&1
status=$?
# the client's own results, and the plan at the end by tap_end
while IFS= read -r line; do
	case $line in
	"ok "*) tap "${line#* - }" 0 ;;
	"not ok "*) log= tap "${line#* - }" 1 ;;
	esac
done <"$log"
tap "the client ends well" "$status"
