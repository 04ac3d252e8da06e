# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="mptcp_dc.ko for the test kernel"
needs="root kernel kbuild-test boot-test"
uses="LLVM_VERSION"
sources="Kbuild include rust"
live=yes

produce() {
	build_module "$dir_kbuild_test" "$dir_boot_test" LLVM="-$LLVM_VERSION"
}
