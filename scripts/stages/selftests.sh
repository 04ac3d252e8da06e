# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the kernel's own MPTCP selftests: scripts, their library, programs linked statically"
needs="root kernel"
uses="GCC"

# $out/net/ is what a guest needs, laid out as in the kernel's tools/testing/selftests.
produce() {
	local source=$dir_kernel/source target
	mkdir "$out/headers" "$out/obj" "$out/net"
	in_root make -C "$source" O="$out/headers" HOSTCC="$GCC" headers
	# The second target finds the first one's programs made; TEST_INCLUDES of the Makefile are the library.
	for target in all install; do
		in_root make -C "$source/tools/testing/selftests/net/mptcp" -j"$jobs" \
			CC="$GCC" LDFLAGS=-static OUTPUT="$out/obj" OBJ_PATH="$out" INSTALL_PATH="$out/net/mptcp" \
			SRC_PATH="$source/tools/testing/selftests" \
			KHDR_INCLUDES="-isystem $out/headers/usr/include" "$target"
	done
	rm -r "$out/headers" "$out/obj"
}
