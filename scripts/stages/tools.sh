# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the userspace programs but the benchmarks, linked statically: they run here and in any guest"
needs="root cargo"
sources="tools rust/proto"
live=yes

# $out/bin/ holds the programs. They wait for guests, or run in one, and measure nothing: not optimized, they share with the tests
# what they depend on.
produce() {
	build_programs --workspace --exclude bench
}
