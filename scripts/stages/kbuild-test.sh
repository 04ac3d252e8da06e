# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="test kernel from the same source: KUnit, KASAN, lockdep and more (.config.fragment)"
needs="root kernel"
uses="LLVM_VERSION"
sources=".config.fragment"

# What the others use of $out: the whole as KDIR; vmlinux; installed/lib/modules/RELEASE.
produce() {
	local -a make=(in_root make -C "$dir_kernel/source" O="$out" LLVM="-$LLVM_VERSION" -j"$jobs")
	"${make[@]}" tinyconfig
	cat "$tree/.config.fragment" >>"$out/.config"
	"${make[@]}" olddefconfig
	check_config "$tree/.config.fragment" "$out/.config"
	"${make[@]}" vmlinux modules
	"${make[@]}" INSTALL_MOD_PATH="$out/installed" INSTALL_MOD_STRIP=1 modules_install
}

# check_config WANTED HAVE: fail, naming each line of WANTED that HAVE doesn't say. An option that
# HAVE doesn't mention is off.
check_config() {
	local line option missing=''
	while read -r line; do
		case $line in
		CONFIG_*=*)
			grep -qxF -- "$line" "$2" || missing+="  $line"$'\n'
			;;
		'# CONFIG_'*' is not set')
			option=${line#\# } option=${option% is not set}
			! grep -q "^$option=" "$2" || missing+="  $line"$'\n'
			;;
		esac
	done <"$1"
	if [ -n "$missing" ]; then
		printf 'The configuration does not come out as %s asks; missing:\n%s' "${1##*/}" "$missing"
		return 1
	fi
}
