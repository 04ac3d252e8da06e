// SPDX-License-Identifier: GPL-2.0

//! The server's end: SYN in, SYN/ACK out, third ACK with SYN cookies in.
//!
//! All of it runs in softirq, with the RCU read lock held.

use kernel::ffi::{
    c_int,
    c_uint, //
};
use kernel::prelude::*;
use proto::negotiate::{
    answer,
    third_ack,
    Answer,
    Refusal, //
};
use proto::option::mp_capable::{
    Body,
    MpCapableRepr,
    Received as Option_, //
};
use proto::option::{
    mp_capable,
    mp_join,
    Segment, //
};

use super::wire::{
    first,
    is_ours, //
};
use super::{
    derived,
    join,
    wire_is_ready, //
};
use crate::bh::BhDisabled;
use crate::bindings::*;
use crate::hook::{
    Call,
    Hook, //
};
use crate::secret;
use crate::stack::{
    apps_used,
    Netns,
    OutOptions,
    Packet,
    Request, //
};

/// Whether an application may have asked for external keys, and so for looking at all of MPTCP: its listener
/// keeps the stack's out, and its joins look like the stack's.
#[inline(always)]
fn any(options: &[u8]) -> bool {
    is_ours(options) || apps_used()
}

/// `subflow_check_req()`: a SYN of ours gets a pair (token, random part) and no random key. A
/// standard one gets a derived key or nonce, if that is wanted.
pub(super) struct CheckReq;

impl Hook for CheckReq {
    const TARGET: &'static CStr = c"subflow_check_req";

    fn takes(call: &Call<'_>) -> bool {
        // SAFETY: The packet, which lives, is the third argument.
        unsafe { Packet::new(call.arg2()) }
            .and_then(|packet| Some(any(first(packet.options())?)))
            // SAFETY: The listener, which lives, is the second argument; the call is in softirq.
            .is_some_and(|any| any || unsafe { dc_listener_derives(call.arg1()) })
    }

    fn replacement() -> usize {
        check_req as usize
    }
}

/// # Safety
///
/// The arguments must be those of `subflow_check_req()`.
unsafe extern "C" fn check_req(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
) -> c_int {
    // SAFETY: By this function's requirement, here and below.
    let packet = unsafe { Packet::new(skb) };
    let taken = packet.and_then(|packet| {
        // The first of our options is where the others begin, and mostly the last.
        let options = first(packet.options())?;
        let ours = if any(options) {
            // SAFETY: As above.
            unsafe { take_syn(req, listener, skb, packet, options) }
        } else {
            None
        };
        // SAFETY: As above.
        ours.or_else(|| unsafe { derived::take_syn(req, listener, skb, packet, options) })
    });
    // SAFETY: As above.
    taken.unwrap_or_else(|| unsafe { dc_orig_check_req(req, listener, skb) })
}

/// Answers a SYN of ours; `None` leaves it to the stack.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`; `options` are the packet's.
#[inline]
unsafe fn take_syn(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    packet: Packet,
    options: &[u8],
) -> Option<c_int> {
    // SAFETY: By this function's requirement.
    let request = unsafe { Request::new(req) }?;
    // SAFETY: `subflow_check_req()` runs in softirq.
    let bh = unsafe { BhDisabled::in_softirq() };

    let found = match mp_capable::syn_at(options) {
        Some(option) => Some(Option_::Dc(option)),
        None => mp_capable::find(options, Segment::Syn),
    };
    let Some(received) = found else {
        // SAFETY: By this function's requirement.
        return unsafe { join::take_syn(req, listener, skb, options, &bh) };
    };
    // SAFETY: By this function's requirement.
    let (netns, takes) = unsafe { Netns::of_listener(listener, false, &bh) }?;
    let (Answer::Dc(agreed), Option_::Dc(MpCapableRepr { body, .. })) =
        (answer(takes, Some(received)), received)
    else {
        if takes.features.external {
            // The request is one of plain TCP, as the stack has set it up.
            netns.count(DC_COUNT_EXTERNAL_REFUSED);
            return Some(0);
        }
        return None;
    };
    let flow = packet.flow(netns.cookie())?;
    let counter = match body {
        Body::Compact => DC_COUNT_MPC_SYN_COMPACT_RX,
        _ => DC_COUNT_MPC_SYN_FULL_RX,
    };
    // SAFETY: The listener lives, in that namespace.
    unsafe { netns.count_syn(listener, counter) };

    let accepted = secret::issue_free(&flow, agreed.external, netns, &bh, |key| {
        request.set_key_field(key);
        // SAFETY: The request is being made and nobody else has it.
        unsafe { dc_request_accept(req, skb) }
    });
    if !accepted {
        // SAFETY: The listener lives, in that namespace.
        unsafe { netns.count_fallback(listener) };
    }
    Some(0)
}

/// `mptcp_synack_options()`: marks the answer, because whoever writes it knows no request.
pub(super) struct SynackOptions;

impl Hook for SynackOptions {
    const TARGET: &'static CStr = c"mptcp_synack_options";

    fn takes(call: &Call<'_>) -> bool {
        // SAFETY: The request, which lives, is the first argument.
        unsafe { Request::new(call.arg0()) }.is_some_and(Request::is_low_overhead)
            // SAFETY: As above, and it is one of MPTCP.
            || unsafe { dc_request_joins(call.arg0()) }
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_synack_options()`.
        unsafe extern "C" fn synack_options(
            req: *const request_sock,
            size: *mut c_uint,
            opts: *mut mptcp_out_options,
        ) -> bool {
            // SAFETY: By this function's requirement.
            let written = unsafe { dc_orig_synack_options(req, size, opts) };
            // SAFETY: As above.
            let (true, Some(opts)) = (written, unsafe { OutOptions::new(opts) }) else {
                return written;
            };
            let join = opts.suboptions() & DC_MPJ_SYNACK as u16 != 0;
            if !wire_is_ready() {
                // Version 1 would be a lie about the key: rather plain TCP. A join fails anyway.
                opts.set_suboptions(0);
                return false;
            }
            opts.mark(OutOptions::OURS);
            if join {
                // SAFETY: The caller reads it on return.
                unsafe { size.write(mp_join::len::EMPTY as c_uint) };
            }
            true
        }
        synack_options as usize
    }
}

/// `mptcp_subflow_init_cookie_req()`: of an ACK that answers a SYN cookie, only a pair that this host
/// issued to this very connection makes an MPTCP connection.
pub(super) struct InitCookieReq;

impl Hook for InitCookieReq {
    const TARGET: &'static CStr = c"mptcp_subflow_init_cookie_req";

    fn takes(call: &Call<'_>) -> bool {
        // SAFETY: The packet, which lives, is the third argument.
        unsafe { Packet::new(call.arg2()) }
            .and_then(|packet| first(packet.options()).map(any))
            .unwrap_or(false)
    }

    fn replacement() -> usize {
        init_cookie_req as usize
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_subflow_init_cookie_req()`.
unsafe extern "C" fn init_cookie_req(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
) -> c_int {
    // SAFETY: By this function's requirement.
    unsafe { take_cookie_ack(req, listener, skb) }
        // SAFETY: By this function's requirement.
        .unwrap_or_else(|| unsafe { dc_orig_init_cookie_req(req, listener, skb) })
}

/// Judges a third ACK of ours; `None` leaves it to the stack.
///
/// # Safety
///
/// The arguments must be those of `mptcp_subflow_init_cookie_req()`.
unsafe fn take_cookie_ack(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
) -> Option<c_int> {
    // SAFETY: By this function's requirement.
    let (packet, request) = unsafe { (Packet::new(skb)?, Request::new(req)?) };
    // SAFETY: `mptcp_subflow_init_cookie_req()` runs in softirq.
    let bh = unsafe { BhDisabled::in_softirq() };

    let segment = packet.segment();
    let Some(received) = mp_capable::find(packet.options(), segment) else {
        // SAFETY: By this function's requirement.
        return unsafe { join::take_cookie_ack(req, listener, skb, packet, &bh) };
    };
    // SAFETY: By this function's requirement.
    let (netns, takes) = unsafe { Netns::of_listener(listener, false, &bh) }?;
    let Option_::Dc(option) = received else {
        if takes.features.external {
            // The SYN/ACK said nothing of standard MPTCP.
            // SAFETY: The request is being made and nobody else has it.
            unsafe { dc_request_init(req, listener) };
            netns.count(DC_COUNT_EXTERNAL_REFUSED);
            return Some(0);
        }
        return None;
    };
    let flow = packet.flow(netns.cookie())?;
    // The stack judges the rest of the ACK, so the request must look like one of plain TCP first.
    // SAFETY: The request is being made and nobody else has it.
    unsafe { dc_request_init(req, listener) };

    match third_ack(takes, None, &option, |key| {
        key.is_external() == option.features.external && secret::verify(&flow, key, &bh)
    }) {
        Ok(established) => {
            request.set_key_field(established.own);
            // SAFETY: As above.
            if unsafe { dc_request_accept_cookie(req, skb) } {
                netns.count(DC_COUNT_MPC_COOKIE_ACK_RX);
            } else {
                netns.count(DC_COUNT_TOKEN_BUSY);
                // SAFETY: The listener lives, in that namespace.
                unsafe { netns.count_fallback(listener) };
            }
        }
        Err(Refusal::NotOwn) => netns.count(DC_COUNT_MPC_COOKIE_NOT_OWN),
        Err(Refusal::Form | Refusal::Mode) => {}
    }
    Some(0)
}
