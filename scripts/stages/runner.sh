# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the program behind scripts/vm, apart from the other tools: it is needed when they don't compile"
needs="root cargo"
sources="tools/vm"
live=yes

# As stage tools.
produce() {
	build_programs --package vm
}
