# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="a live patch of any one function of Debian's kernel, for tests"
needs="root kbuild-debian"
uses="GCC"
sources="tools/refusal/livepatch"

# $out/dc_livepatch.ko
produce() {
	mkdir "$out/obj"
	in_root make -C "$dir_kbuild_debian" M="$tree/tools/refusal/livepatch" MO="$out/obj" CC="$GCC" modules
	mv "$out/obj/dc_livepatch.ko" "$out/"
	rm -r "$out/obj"
}
