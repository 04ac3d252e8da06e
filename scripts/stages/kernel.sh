# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="Debian's kernel packages, unpacked: source, image, modules, headers"
needs="root"
uses="KERNEL_SERIES KERNEL_FLAVOUR KERNEL_VERSION SUITE"

# What the others use of $out:
#   release        the kernel release (uname -r)
#   version        the package version
#   source/        linux-source, unpacked
#   headers/       headers of the flavour: .config, Module.symvers, vmlinux with BTF
#   vmlinuz config System.map
#   modules/       lib/modules/RELEASE
produce() {
	local release version packages name deb
	in_root apt-get update

	release=$(kernel_release "$KERNEL_VERSION")
	version=$KERNEL_VERSION
	if ! in_root apt-cache show "linux-headers-$release=$version" >/dev/null 2>&1; then
		version=$(newest_version)
		[ -n "$version" ] || die "the archive no longer has linux-source-$KERNEL_SERIES in $SUITE-backports:" \
			"set KERNEL_SERIES and KERNEL_VERSION in scripts/versions to what it has"
		release=$(kernel_release "$version")
		say "kernel: the archive no longer has $KERNEL_VERSION, taking $version of the same series"
	fi
	printf '%s\n' "$release" >"$out/release"
	printf '%s\n' "$version" >"$out/version"

	packages="linux-source-$KERNEL_SERIES linux-headers-$release
		linux-binary-$release linux-modules-$release linux-base-$release"
	mkdir "$out/debs" "$out/tree"
	for name in $packages; do
		echo "download $name $version"
		(cd "$out/debs" && in_root apt-get -o APT::Sandbox::User=root download "$name=$version")
	done
	for deb in "$out"/debs/*.deb; do
		echo "unpack $(basename "$deb")"
		dpkg-deb -x "$deb" "$out/tree"
	done
	rm -r "$out/debs"

	echo "unpack the source"
	mkdir "$out/source"
	tar -xf "$out/tree/usr/src/linux-source-$KERNEL_SERIES.tar.xz" -C "$out/source" --strip-components=1
	mv "$out/tree/usr/src/linux-headers-$release" "$out/headers"
	mv "$out/tree/usr/lib/modules/$release" "$out/modules"
	for name in vmlinuz config System.map; do
		mv "$(find "$out/tree" "$out/modules" -name "$name*" -type f | head -n 1)" "$out/$name"
	done
	rm -r "$out/tree"
}

# kernel_release PACKAGE_VERSION: 7.3.4-1~bpo13+1 gives 7.3.4+deb13-amd64
kernel_release() {
	local upstream=${1%%-*} debian
	debian=$(sed -n 's/.*~bpo\([0-9]*\)+.*/+deb\1/p' <<<"$1")
	printf '%s%s-%s\n' "$upstream" "$debian" "$KERNEL_FLAVOUR"
}

newest_version() {
	in_root apt-cache madison "linux-source-$KERNEL_SERIES" |
		awk -F'|' '{ gsub(/ /, "", $2); print $2; exit }'
}
