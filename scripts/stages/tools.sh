# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="the userspace programs, linked statically: they run here and in any guest"
needs="root"
sources="tools rust/proto"
live=yes

# $out/bin/ holds the programs, $out/target/ is cargo's.
produce() {
	local program
	in_root env RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release \
		--manifest-path "$tree/tools/Cargo.toml" --workspace --bins \
		--target x86_64-unknown-linux-gnu --target-dir "$out/target"
	# A program that is running can be replaced, not written to.
	mkdir -p "$out/bin"
	for program in "$out"/target/x86_64-unknown-linux-gnu/release/*; do
		if [ -f "$program" ] && [ -x "$program" ]; then
			cp "$program" "$out/bin/.new"
			mv "$out/bin/.new" "$out/bin/$(basename "$program")"
		fi
	done
}
