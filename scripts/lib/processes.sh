# SPDX-License-Identifier: LGPL-2.1-or-later
# Programs that a script starts, and that end with it, whatever happens. Sourced by bash scripts.
#
# Every program started by process_start() is killed by its pid when the script ends, and by the
# kernel if the script itself is killed.

declare -A process_pids=()	# name -> pid, of those that were started and not reaped yet

# process_start NAME LOG COMMAND...: in the background; its output goes to LOG.
process_start() {
	local name=$1 log=$2
	shift 2

	setpriv --pdeathsig KILL -- "$@" </dev/null >>"$log" 2>&1 &
	process_pids[$name]=$!
}

process_is_alive() {
	kill -0 "${process_pids[$1]:-0}" 2>/dev/null
}

# process_kill NAME [SIGNAL]: and wait until it is gone.
process_kill() {
	local pid=${process_pids[$1]:-}

	[ -n "$pid" ] || return 0
	unset "process_pids[$1]"
	kill "-${2:-KILL}" "$pid" 2>/dev/null
	wait "$pid" 2>/dev/null
	return 0
}

# process_wait NAME: until it ends by itself; its exit status.
process_wait() {
	local pid=${process_pids[$1]:-}

	unset "process_pids[$1]"
	wait "$pid"
}

process_kill_all() {
	local name

	for name in "${!process_pids[@]}"; do
		process_kill "$name"
	done
}

# ---- waiting ----------------------------------------------------------------------------------------

now_us() {
	echo "${EPOCHREALTIME/./}"
}

# pause_ms N: without starting a program.
pause_ms() {
	local never

	[ -n "${pause_fd:-}" ] || exec {pause_fd}<> <(:)
	read -r -t "$(printf '0.%03d' "$1")" -u "$pause_fd" never
	return 0
}

# wait_for_socket NAME PATH SECONDS: until the program NAME has made its socket.
wait_for_socket() {
	local deadline=$(($(now_us) + $3 * 1000000))

	until [ -S "$2" ]; do
		process_is_alive "$1" || return 1
		[ "$(now_us)" -lt "$deadline" ] || return 1
		pause_ms 2
	done
}

# ---- lines ----------------------------------------------------------------------------------------

declare -A line_parts=()	# fd -> what has come of its next line

# read_line FD: its next line, in $line, waited for up to a second. Return: 1 if it is not there yet;
# what has come of it is kept for the next time.
read_line() {
	local part is_whole=false

	IFS= read -r -t 1 -u "$1" part && is_whole=true
	line_parts[$1]=${line_parts[$1]:-}$part
	$is_whole || return 1
	line=${line_parts[$1]}
	line_parts[$1]=
}
