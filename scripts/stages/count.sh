# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="a QEMU plugin that counts instructions by where they are"
needs="root cargo"
sources="tools/count tools/Cargo.lock"
live=yes

# $out/libcount.so; dynamic, because QEMU loads it
produce() {
	in_root cargo build --locked --release --manifest-path "$tree/tools/Cargo.toml" --package count \
		--target-dir "$dir_cargo"
	cp "$dir_cargo/release/libcount.so" "$out/.new"
	mv "$out/.new" "$out/libcount.so"
}
