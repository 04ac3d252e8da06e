# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the programs of the benchmarks, linked statically: they run here and in any guest"
needs="root cargo"
sources="tools rust/proto"
live=yes

# $out/bin/ holds the programs.
produce() {
	build_programs --release --package bench
}
