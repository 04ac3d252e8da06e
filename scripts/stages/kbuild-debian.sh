# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="build tree of the Debian kernel, with the Rust metadata that its headers package lacks"
needs="root kernel"
uses="GCC"

# $out is what KDIR names: prepared for out-of-tree modules whose version magic is the stock kernel's.
produce() {
	local release
	release=$(cat "$dir_kernel/release")
	cp "$dir_kernel/headers/.config" "$dir_kernel/headers/Module.symvers" "$out/"
	# resolve_btfids and pahole read the types of the running kernel from it.
	ln -s "$dir_kernel/headers/vmlinux" "$out/vmlinux"
	in_root make -C "$dir_kernel/source" O="$out" -j"$jobs" CC="$GCC" HOSTCC="$GCC" \
		KERNELRELEASE="$release" olddefconfig prepare modules_prepare
	grep -q '^CONFIG_RUST=y' "$out/.config" ||
		die "CONFIG_RUST fell out of the configuration: see 'make rustavailable' in the toolchain root"
	# Out-of-tree builds read the release from here; setlocalversion would compute another one.
	printf '%s\n' "$release" >"$out/include/config/kernel.release"
	grep -qF "\"$release\"" "$out/include/generated/utsrelease.h" ||
		die "utsrelease.h does not say $release: modules would not load"
}
