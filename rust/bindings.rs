// SPDX-License-Identifier: GPL-2.0

//! What `rust/c/dc.h` says, as bindgen reads it.

#![expect(
    non_camel_case_types,
    non_upper_case_globals,
    non_snake_case,
    dead_code,
    unreachable_pub
)]
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    unsafe_op_in_unsafe_fn
)]

use kernel::ffi;

include!(env!("MPTCP_DC_BINDINGS"));
