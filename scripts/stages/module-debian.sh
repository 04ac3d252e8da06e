# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="mptcp_dc.ko for Debian's kernel"
needs="root kernel kbuild-debian boot-debian"
uses="GCC"
sources="Kbuild include rust"
live=yes

produce() {
	build_module "$dir_kbuild_debian" "$dir_boot_debian" CC="$GCC"
}
