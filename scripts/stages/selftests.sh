# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the kernel's own MPTCP selftests: scripts, their library, programs linked statically"
needs="root kernel"
uses="GCC"

# $out/net/ is what a guest needs, laid out as in the kernel's tools/testing/selftests.
produce() {
	local source=$dir_kernel/source
	mkdir "$out/headers" "$out/obj" "$out/net"
	in_root make -C "$source" O="$out/headers" HOSTCC="$GCC" headers
	# SRC_PATH and OBJ_PATH: from where to where TEST_INCLUDES, the library, is copied.
	in_root make -C "$source/tools/testing/selftests/net/mptcp" -j"$jobs" CC="$GCC" LDFLAGS=-static \
		KHDR_INCLUDES="-isystem $out/headers/usr/include" OUTPUT="$out/obj" INSTALL_PATH="$out/net/mptcp" \
		SRC_PATH="$source/tools/testing/selftests" OBJ_PATH="$out" install
	rm -r "$out/headers" "$out/obj"
}
