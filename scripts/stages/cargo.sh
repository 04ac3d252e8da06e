# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="cargo's own directory, shared by all that is built of the tools workspace"
needs="root"
live=yes

produce() {
	:
}
