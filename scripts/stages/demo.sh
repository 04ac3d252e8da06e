# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the program behind scripts/demo, apart from the other tools: it needs none of them"
needs="root cargo"
sources="tools/demo tools/Cargo.lock rust/proto"
live=yes

# As stage tools.
produce() {
	build_programs --package demo
}
