# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="MPTCP with the keys of TLS: the command mptcp-dc-tls, its library, their tests' programs, the example of tools/mptcp-dc"
needs="root cargo"
sources="tools/mptcp-dc tools/mptcp-dc-tls tools/tls-tests/programs tools/Cargo.lock include/uapi Documentation/man/mptcp-dc-tls.1"
live=yes

# $out/usr/ is what an installation puts in /usr; $out/bin/tls is the example, linked statically; $out/tests/ are programs
# of the tests.
produce() {
	in_root make -C "$tree/tools/mptcp-dc-tls" O="$out" PREFIX="$out/usr" install
	mkdir -p "$out/tests"
	in_root make -C "$tree/tools/tls-tests/programs" O="$out/tests"
	build_programs --package mptcp-dc --example tls
}
