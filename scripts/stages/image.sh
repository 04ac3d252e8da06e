# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="root filesystem of the test guests, read-only, without a kernel"
needs="root"
uses="SUITE GUEST_PACKAGES"

# $out/image.ext4
produce() {
	debootstrap_into "$out/tree" "$GUEST_PACKAGES"
	rm -rf "$out"/tree/usr/share/{doc,man,locale} "$out"/tree/var/cache/apt/*.bin
	printf 'vm\n' >"$out/tree/etc/hostname"
	printf '127.0.0.1 localhost vm\n::1 localhost\n' >"$out/tree/etc/hosts"
	ext4_image "$out/tree" "$out/image.ext4"
	rm -r "$out/tree"
}
