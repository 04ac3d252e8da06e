# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="toolchain root (Debian, by mmdebstrap): gcc, rustc, bindgen, pahole, QEMU"
uses="SUITE ROOT_PACKAGES"

produce() {
	debootstrap_into "$out" "$ROOT_PACKAGES"
	# The kernel comes from backports: same archive, same options as the release itself.
	sed -n "s/ $SUITE main/ $SUITE-backports main/p" "$out/etc/apt/sources.list" \
		>"$out/etc/apt/sources.list.d/backports.list"
	# Certificate authorities of the host's own, or cargo fails behind them.
	cp -v /usr/local/share/ca-certificates/*.crt "$out/usr/local/share/ca-certificates/" 2>/dev/null || true
	chroot "$out" update-ca-certificates
}
