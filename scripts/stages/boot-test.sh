# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="what a guest boots: the test kernel"
needs="root kbuild-test"

produce() {
	local release
	release=$(cat "$dir_kbuild_test/include/config/kernel.release")
	in_root objcopy --strip-debug "$dir_kbuild_test/vmlinux" "$out/kernel"
	cp -r "$dir_kbuild_test/installed/lib/modules/$release" "$out/modules"
	rm -f "$out/modules"/{build,source}
	boot_files "$release" virtio_blk ext4 overlay
}
