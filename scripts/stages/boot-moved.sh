# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034,SC2154
about="what a guest boots: the test kernel, with a field more in struct mptcp_sock"
needs="root kernel kbuild-test boot-test"
uses="LLVM_VERSION"

# The modules are the test kernel's own, as they are: the kernel's release and its other structures are the same.
#
# A copy of the test kernel's objects and a changed header stand in for the originals while make runs, and only
# for it, so it compiles what includes the header and links: minutes, where a kernel of its own takes ten.
produce() {
	local source=$dir_kernel/source header=net/mptcp/protocol.h
	sed '/^struct mptcp_sock {/,/^};/s/^\tu32\t\ttoken;$/\tu64\t\tadded;\n&/' "$source/$header" >"$out/protocol.h"
	[ "$(diff "$source/$header" "$out/protocol.h" | grep -c '^[<>]')" -eq 1 ] ||
		die "$header is not as this stage expects: it has to put one field into struct mptcp_sock"

	echo "copy the objects"
	cp -a --reflink=auto "$dir_kbuild_test" "$out/objects"
	# shellcheck disable=SC2016 # expanded by the inner shell
	in_root bash -ec '
		mount --bind "$1/objects" "$2"
		mount --bind "$1/protocol.h" "$3/$4"
		exec make -C "$3" O="$2" "${@:5}" vmlinux
	' moved "$out" "$dir_kbuild_test" "$source" "$header" LLVM="-$LLVM_VERSION" -j"$jobs"

	in_root objcopy --strip-debug "$out/objects/vmlinux" "$out/kernel"
	rm -r "$out/objects"
	cp -a "$dir_boot_test"/{release,modules.ext4,early} "$out/"
}
