# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="a live patch that empties MPTCP's hashes, for benchmarks"
needs="root kbuild-debian"
uses="GCC"
sources="tools/bench/emptied"

# $out/dc_emptied.ko
produce() {
	mkdir "$out/obj"
	in_root make -C "$dir_kbuild_debian" M="$tree/tools/bench/emptied" MO="$out/obj" CC="$GCC" modules
	mv "$out/obj/dc_emptied.ko" "$out/"
	rm -r "$out/obj"
}
