// SPDX-License-Identifier: GPL-2.0

//! `getsockopt(SOL_MPTCP, MPTCP_DC_INFO)`: what an application may know of its connection.
//!
//! C header: `include/uapi/linux/mptcp_dc.h`

use kernel::ffi::{
    c_char,
    c_int, //
};
use kernel::prelude::*;

use crate::bindings::*;
use crate::hook::{
    Call,
    Hook,
    Sleeping, //
};

/// `mptcp_getsockopt()`: answers the one option that the stack doesn't know.
pub(crate) struct Getsockopt;

impl Hook for Getsockopt {
    const TARGET: &'static CStr = c"mptcp_getsockopt";

    fn takes(call: &Call<'_>) -> bool {
        call.int1() == SOL_MPTCP as c_int && call.int2() == MPTCP_DC_INFO as c_int
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_getsockopt()`.
        unsafe extern "C" fn getsockopt(
            sk: *mut sock,
            _level: c_int,
            _optname: c_int,
            optval: *mut c_char,
            optlen: *mut c_int,
        ) -> c_int {
            // The socket's lock and a page fault may let us sleep.
            let _sleeping = Sleeping::begin();
            // SAFETY: By this function's requirement.
            unsafe { dc_info_get(sk, optval, optlen) }
        }
        getsockopt as usize
    }
}
