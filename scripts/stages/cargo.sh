# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="cargo's own directory, which all that is built of the tools workspace shares: no crate is compiled twice"
needs="root"
live=yes

produce() {
	:
}
