# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="a QEMU plugin that counts instructions by where they are"
needs="root cargo"
sources="tools/count tools/Cargo.lock"
live=yes

# $out/libcount.so; dynamic, because QEMU loads it
produce() {
	(cd "$tree" && RUSTFLAGS='' in_root cargo build --locked --release --manifest-path tools/Cargo.toml --package count \
		--target x86_64-unknown-linux-gnu --target-dir "$dir_cargo")
	cp "$dir_cargo/x86_64-unknown-linux-gnu/release/libcount.so" "$out/.new"
	mv "$out/.new" "$out/libcount.so"
}
