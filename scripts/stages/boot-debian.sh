# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="what a guest boots: Debian's kernel"
needs="root kernel"

produce() {
	local release source part
	release=$(cat "$dir_kernel/release")
	source=$dir_kernel/modules
	cp "$dir_kernel/vmlinuz" "$out/kernel"
	mkdir -p "$out/modules/kernel"
	cp "$source"/modules.{order,builtin,builtin.modinfo} "$out/modules/"
	# The guest has neither radio nor real hardware. Unpacked, because xz is slow on an emulated CPU.
	(
		cd "$source" || exit
		find kernel/{arch/x86/crypto,crypto,lib,net,drivers/net,drivers/block,drivers/virtio,fs/ext4} \
			kernel/fs/{jbd2,overlayfs,fuse,nls} kernel/fs/mbcache.ko.xz -name '*.ko.xz' |
			grep -vE '/(ethernet|wireless|wwan|wan|usb|can|arcnet|fddi|phy|bluetooth|mac80211|nfc|ceph|sunrpc|rxrpc|drbd)/' |
			xargs cp --parents -t "$out/modules"
	)
	find "$out/modules" -name '*.ko.xz' -print0 | xargs -0 -n 32 -P "$jobs" xz -d
	boot_files "$release" virtio_blk ext4 overlay
}
