// SPDX-License-Identifier: GPL-2.0

//! What `rust/c/dc.h` says, as bindgen reads it.

#![allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::ptr_as_ptr,
    clippy::ref_as_ptr,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unsafe_op_in_unsafe_fn,
    reason = "generated"
)]

use kernel::ffi;

include!(env!("MPTCP_DC_BINDINGS"));
