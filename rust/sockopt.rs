// SPDX-License-Identifier: GPL-2.0

//! Socket options, level `SOL_MPTCP`: what an application may know of its connection (`MPTCP_DC_INFO`), and
//! what it may ask for.
//!
//! C header: `include/uapi/linux/mptcp_dc.h`

use kernel::ffi::{
    c_char,
    c_int,
    c_uint, //
};
use kernel::prelude::*;

use crate::bindings::*;
use crate::hook::{
    Call,
    Hook, //
};
use crate::stack::apps_used;

/// `mptcp_getsockopt()`: answers the one option that the stack doesn't know.
pub(crate) struct Getsockopt;

impl Hook for Getsockopt {
    const TARGET: &'static CStr = c"mptcp_getsockopt";

    fn takes(call: Call<'_>) -> bool {
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
            // SAFETY: By this function's requirement.
            unsafe { dc_info_get(sk, optval, optlen) }
        }
        getsockopt as usize
    }
}

/// `mptcp_setsockopt()`: takes the options that the stack doesn't know.
pub(crate) struct Setsockopt;

impl Hook for Setsockopt {
    const TARGET: &'static CStr = c"mptcp_setsockopt";

    fn takes(call: Call<'_>) -> bool {
        call.int1() == SOL_MPTCP as c_int
            && matches!(
                call.int2() as u32,
                MPTCP_ENABLE_APP_KEY | MPTCP_KEY | MPTCP_LOWOVERHEAD
            )
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_setsockopt()`.
        unsafe extern "C" fn setsockopt(
            sk: *mut sock,
            _level: c_int,
            optname: c_int,
            optval: sockptr_t,
            optlen: c_uint,
        ) -> c_int {
            // SAFETY: By this function's requirement.
            unsafe { dc_app_setsockopt(sk, optname, optval, optlen) }
        }
        setsockopt as usize
    }
}

/// `mptcp_destroy()`: what was asked for, and the key, go with the socket. It goes on as ever, for as long as its
/// subflows' locks are held.
pub(crate) struct Destroy;

impl Hook for Destroy {
    const TARGET: &'static CStr = c"mptcp_destroy";

    fn takes(call: Call<'_>) -> bool {
        if apps_used() {
            // SAFETY: The socket, which still lives, is the first argument.
            unsafe { dc_app_forget(call.arg0()) };
        }
        false
    }

    /// Nothing is ever sent there.
    fn replacement() -> usize {
        0
    }
}
