# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the kernel's own selftests of MPTCP, for --add=DIR:/opt/selftests"
needs="root kernel"
uses="GCC"

# $out/net/mptcp/*.sh
produce() {
	local -a make=(in_root make -j"$jobs" CC="$GCC" HOSTCC="$GCC")
	"${make[@]}" -C "$dir_kernel/source" O="$out/build" ARCH=x86 headers
	"${make[@]}" -C "$dir_kernel/source/tools/testing/selftests" O="$out/build" TARGETS=net/mptcp \
		KHDR_INCLUDES="-isystem $out/build/usr/include" INSTALL_PATH="$out/installed" install
	mv "$out"/installed/* "$out/"
	rm -r "$out/build" "$out/installed"
	[ -x "$out/net/mptcp/mptcp_connect" ] || die "mptcp_connect was not built"
}
