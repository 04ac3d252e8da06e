# SPDX-License-Identifier: GPL-2.0
#
# What a person calls. The module's objects are in Kbuild, the build chain is scripts/build, guests are scripts/vm.

# A kernel tree prepared for out-of-tree modules with Rust; without it scripts/build makes one of Debian's kernel.
KDIR ?=

build := scripts/build

help: ## this list
	@echo 'Usage: make [TARGET]'
	@echo
	@sed -n 's/^\([a-z][a-z -]*\):.* ## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  %-14s %s\n' "$$name" "$$text"; done
	@echo
	@echo '  make KDIR=/path/to/prepared/tree modules   builds mptcp_dc.ko here, for that kernel'

all: modules ## the same as modules

modules: ## mptcp_dc.ko for Debian's kernel (or for KDIR=…); says where it is
ifeq ($(KDIR),)
	@dir=$$($(build) --path module-debian) && echo "$$dir/mptcp_dc.ko"
else
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules
endif

demo: ## a download over low-overhead MPTCP, with the handshake shown field by field
	@scripts/demo

test: ## every test of this project, on both kernels
	@scripts/test

test-quick: ## the tests that take seconds, and a short run in one guest
	@scripts/test --quick

test-upstream: ## all of the kernel's own MPTCP selftests, with and without the module; for hours
	@scripts/upstream --full

bench: ## costs, floods, a full table, checks of the cipher; BENCH=NAME: only that one of scripts/bench --help
	@scripts/bench $(BENCH)

lint: ## formatting, clippy, checkpatch, shellcheck
	@scripts/lint

doc: ## API documentation of the userspace crates and of proto; says where it is
	@scripts/lint --doc

clean: ## remove what was built from this tree (not the kernels and images: scripts/build --prune)
ifneq ($(KDIR),)
	$(MAKE) -C $(KDIR) M=$(CURDIR) clean
endif
	@$(build) --clean

.PHONY: help all modules demo test test-quick test-upstream bench lint doc clean
