# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the font of the plots"
needs="root"

# $out/font.ttf
produce() {
	mkdir "$out/deb"
	in_root apt-get update
	(cd "$out/deb" && in_root apt-get -o APT::Sandbox::User=root download fonts-dejavu-core)
	dpkg-deb -x "$out"/deb/*.deb "$out/deb/tree"
	mv "$out/deb/tree/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf" "$out/font.ttf"
	rm -r "$out/deb"
}
