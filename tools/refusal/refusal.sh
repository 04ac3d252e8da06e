#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Does the module refuse what it must refuse? Runs as root in a guest of scripts/vm and prints TAP.
#
# Usage: refusal.sh layout   on a kernel whose struct mptcp_sock has a field more
#        refusal.sh stock    on the kernel that the module is built for, with $patch at hand
set -u

cold=mptcp_synack_options	# hooked as long as the module is loaded
hot=mptcp_get_options		# hooked while some namespace has lowoverhead above 0
patch=/opt/refusal/dc_livepatch.ko

number=0
failed=0

# check NAME COMMAND...: a test, which passes if COMMAND does
check() {
	number=$((number + 1))
	name=$1
	shift
	if report=$("$@" 2>&1); then
		echo "ok $number - $name"
	else
		echo "not ok $number - $name"
		printf '%s\n' "$report" | sed 's/^/# /'
		failed=$((failed + 1))
	fi
}

# refused ERROR MESSAGE COMMAND...: COMMAND fails and says ERROR, the kernel says MESSAGE: both are regular
# expressions.
refused() {
	error=$1 message=$2
	shift 2
	mark="refusal: test $number"
	echo "$mark" >/dev/kmsg
	if said=$("$@" 2>&1); then
		echo "not refused: $*"
		return 1
	fi
	log=$(dmesg | sed "1,/$mark\$/d")
	printf '%s\n' "$said" "$log"
	if ! printf '%s\n' "$said" | grep -qE "$error"; then
		echo "the error is not '$error'"
		return 1
	fi
	if ! printf '%s\n' "$log" | grep -qE "$message"; then
		echo "the kernel did not say '$message'"
		return 1
	fi
}

# hooked FUNCTION...: these and no others are in the hands of an ftrace user. Sorted by name.
hooked() {
	now=$(cut -d' ' -f1 /sys/kernel/tracing/enabled_functions | sort | tr '\n' ' ')
	echo "in the hands of ftrace users: $now"
	[ "$now" = "${*:+$* }" ]
}

# absent FUNCTION...: nothing of the module is left, and only others have the FUNCTIONs
absent() {
	hooked "$@" || return 1
	for path in /sys/module/mptcp_dc /proc/net/mptcp_dc /proc/sys/net/mptcp_dc; do
		if [ -e "$path" ]; then
			echo "$path is there"
			return 1
		fi
	done
	if grep . /sys/kernel/debug/kprobes/list; then
		echo "a kprobe is left"
		return 1
	fi
}

present() {
	[ -e /proc/sys/net/mptcp_dc/lowoverhead ] && [ -e /proc/net/mptcp_dc ] || return 1
	now=$(cut -d' ' -f1 /sys/kernel/tracing/enabled_functions)
	echo "$now"
	printf '%s\n' "$now" | grep -qx "$cold"
}

load() {
	modprobe mptcp_dc && present
}

unload() {
	rmmod mptcp_dc && absent "$@"
}

# apply FUNCTION: the live patch takes it, and every task is in the new code
apply() {
	insmod "$patch" function="$1" || return 1
	transition dc_livepatch
}

revert() {
	echo 0 >/sys/kernel/livepatch/dc_livepatch/enabled || return 1
	transition || return 1
	rmmod dc_livepatch
}

# transition [PATCH]: wait until livepatch is done and has exactly PATCH
transition() {
	for _ in $(seq 300); do
		have=$(ls /sys/kernel/livepatch)
		if [ "$have" = "${1:-}" ] &&
		   { [ -z "$have" ] || [ "$(cat "/sys/kernel/livepatch/$have/transition")" = 0 ]; }; then
			return
		fi
		sleep 0.1
	done
	echo "livepatch is not done: $have"
	return 1
}

lowoverhead_is() {
	is=$(cat /proc/sys/net/mptcp_dc/lowoverhead)
	echo "lowoverhead is $is"
	[ "$is" = "$1" ]
}

# write VALUE FILE; tee names the error
write() {
	echo "$1" | tee "$2"
}

# Where the kernel has the field behind the added one is 64 bits behind where the module has it.
moved_by_64_bits() {
	dmesg | sed -nE 's/.*struct mptcp_sock: field token is at bit ([0-9]+) in this kernel, at bit ([0-9]+) .*/\1 \2/p' |
		{
			read -r here there
			echo "field token: bit $here here, bit $there in the module"
			[ "$((here - there))" -eq 64 ]
		}
}

layout() {
	echo "1..4"
	for try in once again; do
		check "a module for another struct mptcp_sock is refused $try, and the structure and field are named" \
			refused 'Exec format error' 'mptcp_dc: struct mptcp_sock: field token is at bit' modprobe mptcp_dc
		if [ "$try" = once ]; then
			check "the field is where the added one put it" moved_by_64_bits
		fi
	done
	check "nothing is left of it" absent
}

stock() {
	enabled=/proc/sys/kernel/ftrace_enabled
	mode=/proc/sys/net/mptcp_dc/lowoverhead

	echo "1..23"
	check "nothing is hooked before" absent
	for function in $cold $hot; do
		check "a live patch of $function" apply "$function"
		check "with it, the module is refused and $function named" \
			refused 'Device or resource busy' "mptcp_dc: $function: a live patch" modprobe mptcp_dc
		check "nothing of the module is left, the live patch is" absent "$function"
		check "the live patch goes" revert
	done
	check "then the module loads" load

	check "a live patch of $cold is refused while the module is loaded" \
		refused 'Device or resource busy' "livepatch: .*'$cold'" insmod "$patch" function=$cold
	check "the module still has it" present
	check "a live patch of $hot, of which the module makes no use yet" apply "$hot"
	check "low overhead is refused then, and $hot named" \
		refused 'Device or resource busy' "mptcp_dc: $hot: a live patch" write 2 $mode
	check "it stays off" lowoverhead_is 0
	check "the live patch goes" revert
	check "then low overhead is switched on" write 2 $mode
	check "and is on" lowoverhead_is 2
	check "a live patch of $hot is refused now" \
		refused 'Device or resource busy' "livepatch: .*'$hot'" insmod "$patch" function=$hot
	check "low overhead is switched off" write 0 $mode

	# As long as it could be, PERMANENT hooks were in the way (EBUSY); Linux 7.3 refuses it to anybody.
	check "ftrace can't be switched off under the hooks" \
		refused 'Device or resource busy|Operation not supported' '' write 0 $enabled
	check "they stand" present
	check "the module goes, and nothing of it is left" unload
}

mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
echo "TAP version 13"
case ${1:-} in
layout | stock) "$1" ;;
*)
	sed -n '6,7s/^# //p' "$0" >&2
	exit 2
	;;
esac
[ "$failed" -eq 0 ]
