# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="test kernel from the same source: KUnit, KASAN, lockdep and more (.config.fragment)"
needs="root kernel"
uses="LLVM_VERSION"
sources=".config.fragment"

# Directories whose code is never given memory that the module allocates, and holds nothing that it hooks: compiled without KASAN and
# UBSAN, and those that BTF needs no types of without debug information, that takes a third less time. (Others may look as if they had
# no part, but mm has kmemdup() and kfree_sensitive(), drivers/char has get_random_bytes().)
unchecked='arch/% block block/% drivers/% fs/ext4 fs/iomap fs/jbd2 fs/overlayfs kernel/bpf'
checked='drivers/char drivers/net'
unnamed='arch/% block block/% drivers/% fs/ext4 fs/iomap fs/jbd2 fs/overlayfs'

# What the others use of $out: the whole as KDIR; vmlinux; installed/lib/modules/RELEASE; the command make, as all here was
# made: with other flags all would be compiled again.
produce() {
	# make expands what no Makefile changes where it is used: $(obj) is the directory there.
	cat >"$out/make" <<-SCRIPT
	#!/bin/sh
	export KASAN_SANITIZE='\$(if \$(filter-out $checked,\$(filter $unchecked,\$(obj))),n)'
	export UBSAN_SANITIZE="\$KASAN_SANITIZE"
	exec make -C '$dir_kernel/source' O='$out' LLVM=-$LLVM_VERSION \\
		CFLAGS_KERNEL='\$(if \$(filter $unnamed,\$(obj)),-g0)' -j$jobs "\$@"
	SCRIPT
	chmod +x "$out/make"
	local -a make=(in_root "$out/make")
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
