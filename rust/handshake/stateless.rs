// SPDX-License-Identifier: GPL-2.0

//! `net.mptcp_dc.stateless_join=1`: a SYN that joins is answered with a SYN cookie, whatever the
//! backlog, so a flood of them leaves nothing behind.
//!
//! What stands in the SYN and what its ACK repeats is [`super::join`]'s, as with any SYN cookie.
//! Here is decided only that it gets one.

use kernel::ffi::c_int;
use kernel::prelude::*;
use proto::option::mp_join::find;
use proto::option::Segment;

use super::join::fields_of;
use super::wire::{
    first,
    is_ours, //
};
use crate::bh::BhDisabled;
use crate::bindings::*;
use crate::hook::{
    Call,
    Hook, //
};
use crate::stack::{
    apps_used,
    Netns,
    Packet, //
};

/// Whether a SYN with these options can be answered without state: its ACK says it all again. Only
/// joins of ours do. A form that is added to [`super::join::take_cookie_ack`] is added here.
fn needs_no_state(options: &[u8]) -> bool {
    let options = first(options).filter(|options| is_ours(options) || apps_used());
    let Some(join) = options.and_then(|options| find(options, Segment::Syn)) else {
        return false;
    };
    let join = fields_of(join);
    // SAFETY: Any token may be asked for.
    !join.external || unsafe { dc_token_has_mode(join.token, true) }
}

/// The predicate of both hooks.
#[inline(always)]
fn takes(call: Call<'_>) -> bool {
    // SAFETY: The packet, which lives, is the second argument.
    unsafe { Packet::new(call.arg1()) }.is_some_and(|packet| needs_no_state(packet.options()))
        // SAFETY: The listener, which lives, is the first argument.
        && unsafe { Netns::of_sock(call.arg0()) }.is_some_and(|netns| netns.joins_stateless())
}

/// Answers the SYN, if its listener takes such joins; false leaves it to the stack.
///
/// # Safety
///
/// The arguments must be those of `subflow_v4_conn_request()` or `subflow_v6_conn_request()`.
unsafe fn answer(listener: *mut sock, skb: *mut sk_buff) -> bool {
    // SAFETY: Both functions run in softirq.
    let bh = unsafe { BhDisabled::in_softirq() };
    // SAFETY: By this function's requirement.
    unsafe {
        Netns::of_listener(listener, true, &bh)
            .is_some_and(|(_, takes)| takes.accept || apps_used())
            && dc_answer_stateless(listener, skb)
    }
}

/// `subflow_v4_conn_request()`
pub(super) struct ConnRequestV4;

impl Hook for ConnRequestV4 {
    const TARGET: &'static CStr = c"subflow_v4_conn_request";

    fn takes(call: Call<'_>) -> bool {
        takes(call)
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `subflow_v4_conn_request()`.
        unsafe extern "C" fn conn_request(listener: *mut sock, skb: *mut sk_buff) -> c_int {
            // SAFETY: By this function's requirement.
            unsafe {
                if answer(listener, skb) {
                    0
                } else {
                    dc_orig_v4_conn_request(listener, skb)
                }
            }
        }
        conn_request as usize
    }
}

/// `subflow_v6_conn_request()`, which IPv4 SYNs to an IPv6 listener come to as well.
pub(super) struct ConnRequestV6;

impl Hook for ConnRequestV6 {
    const TARGET: &'static CStr = c"subflow_v6_conn_request";

    fn takes(call: Call<'_>) -> bool {
        takes(call)
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `subflow_v6_conn_request()`.
        unsafe extern "C" fn conn_request(listener: *mut sock, skb: *mut sk_buff) -> c_int {
            // SAFETY: By this function's requirement.
            unsafe {
                if answer(listener, skb) {
                    0
                } else {
                    dc_orig_v6_conn_request(listener, skb)
                }
            }
        }
        conn_request as usize
    }
}
