// SPDX-License-Identifier: GPL-2.0

//! The server's end: SYN in, SYN/ACK out, third ACK with SYN cookies in.
//!
//! All of it runs in softirq, with the RCU read lock held.

use kernel::ffi::{
    c_int,
    c_uint, //
};
use kernel::prelude::*;
use proto::key::KeyField;
use proto::negotiate::{
    answer,
    third_ack,
    Answer,
    Listener,
    Refusal, //
};
use proto::nonce::Flow;
use proto::option::mp_capable::{
    Body,
    Features,
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
    first_in_syn,
    is_ours, //
};
use super::{
    derived,
    join, //
};
use crate::bh::{
    cursor_here,
    BhDisabled, //
};
use crate::bindings::*;
use crate::control::{
    self,
    wire_is_ready, //
};
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

    #[inline(always)]
    fn glance(call: Call<'_>) -> Option<bool> {
        // SAFETY: The packet, which lives, is the third argument.
        let packet = unsafe { Packet::live(call.arg2()) };
        let Some(options) = first_in_syn(packet.options()) else {
            return Some(false);
        };
        note_syn(packet, options);
        is_ours(options).then_some(true)
    }

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The listener, which lives, is the second argument; the call is in softirq.
        apps_used() || unsafe { dc_listener_derives(call.arg1()) }
    }

    fn replacement() -> usize {
        check_req as usize
    }
}

/// Notes, on this CPU, a SYN and its options from the first of MPTCP's on. In softirq.
#[inline(always)]
fn note_syn(packet: Packet, options: &[u8]) {
    let cursor = cursor_here();
    // SAFETY: In softirq, where this CPU's cursor is ours.
    unsafe {
        (&raw mut (*cursor).syn).write(packet.raw());
        (&raw mut (*cursor).options).write(options.as_ptr());
        (&raw mut (*cursor).options_length).write(options.len());
    }
}

/// The options that [`note_syn`] noted, if the SYN that it saw last on this CPU is this one. Others that trace the function
/// may run between the two, and handle another.
///
/// # Safety
///
/// Must be called in the replacement of the function in whose callback `note_syn` is called for every SYN.
#[inline(always)]
unsafe fn noted_options<'a>(packet: &'a Packet) -> Option<&'a [u8]> {
    let cursor = cursor_here();
    // SAFETY: As in `note_syn`. By this function's requirement a note about this packet was made in this very call, so
    // the options are where it says.
    unsafe {
        if !core::ptr::eq((&raw const (*cursor).syn).read(), packet.raw()) {
            return None;
        }
        Some(core::slice::from_raw_parts(
            (&raw const (*cursor).options).read(),
            (&raw const (*cursor).options_length).read(),
        ))
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
    // SAFETY: By this function's requirement.
    let packet = unsafe { Packet::live(skb) };
    // SAFETY: This is that replacement.
    let taken = unsafe { noted_options(&packet) }
        .or_else(|| first_in_syn(packet.options()))
        // SAFETY: By this function's requirement.
        .and_then(|options| unsafe { take_syn(req, listener, skb, options) });
    // SAFETY: As above.
    taken.unwrap_or_else(|| unsafe { dc_orig_check_req(req, listener, skb) })
}

/// Answers a SYN of ours, or with derived values; `None` leaves it to the stack.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`; `options` are the packet's, from the
/// first of MPTCP's on.
#[inline(always)]
unsafe fn take_syn(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    options: &[u8],
) -> Option<c_int> {
    // SAFETY: `subflow_check_req()` runs in softirq.
    let bh = unsafe { BhDisabled::in_softirq() };
    // What clients of ours send to listeners of ours comes first, and in few steps.
    let usual = if let Some(option) = mp_capable::syn_at(options) {
        // SAFETY: By this function's requirement.
        unsafe { take_usual(req, listener, skb, option, &bh) }
    } else if let Some(option) = mp_join::syn_alone(options) {
        // SAFETY: As above.
        unsafe { join::take_syn(req, listener, skb, option, &bh) }
    } else {
        None
    };
    // SAFETY: As above.
    usual.or_else(|| unsafe { take_any(req, listener, skb, options, &bh) })
}

/// [`take_syn`] for whatever there may be.
///
/// # Safety
///
/// As for [`take_syn`].
#[inline(never)]
unsafe fn take_any(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    options: &[u8],
    bh: &BhDisabled,
) -> Option<c_int> {
    if any(options) {
        // SAFETY: By this function's requirement.
        unsafe { take_ours(req, listener, skb, options, bh) }
    } else {
        // SAFETY: As above.
        unsafe { derived::take_syn(req, listener, skb, options, bh) }
    }
}

/// [`take_any`] where there may be an option of ours.
///
/// # Safety
///
/// As for [`take_syn`].
#[inline(never)]
unsafe fn take_ours(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    options: &[u8],
    bh: &BhDisabled,
) -> Option<c_int> {
    // SAFETY: By this function's requirement.
    let ours = unsafe { take_found(req, listener, skb, options, bh) };
    // SAFETY: As above.
    ours.or_else(|| unsafe { derived::take_syn(req, listener, skb, options, bh) })
}

/// Answers the option of ours that counts in a SYN, if one does.
///
/// # Safety
///
/// As for [`take_syn`].
unsafe fn take_found(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    options: &[u8],
    bh: &BhDisabled,
) -> Option<c_int> {
    let Some(received) = mp_capable::find(options, Segment::Syn) else {
        let Some(option) = mp_join::find(options, Segment::Syn) else {
            // SAFETY: By this function's requirement.
            unsafe { join::count_bad_syn(listener, options, bh) };
            return None;
        };
        // SAFETY: By this function's requirement.
        return unsafe { join::take_syn(req, listener, skb, option, bh) };
    };
    // SAFETY: By this function's requirement.
    unsafe { take_capable(req, listener, skb, received, bh) }
}

/// [`take_found`] for an MP_CAPABLE over IPv4 to a listener that takes low overhead. Of these the optimiser makes little
/// code, all of whose values fit into registers.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`.
#[inline(always)]
unsafe fn take_usual(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    option: MpCapableRepr,
    bh: &BhDisabled,
) -> Option<c_int> {
    const USUAL: Listener = Listener {
        accept: true,
        features: Features::NONE,
    };
    let Answer::Dc(agreed) = answer(USUAL, Some(Option_::Dc(option))) else {
        return None;
    };
    // SAFETY: By this function's requirement.
    let packet = unsafe { Packet::live(skb) }.v4()?;
    // SAFETY: As above.
    let netns = unsafe { Netns::take_syn(listener, counter_of(option), bh) }?;
    let flow = packet.flow(netns.cookie());
    // SAFETY: As above.
    unsafe { grant(req, listener, skb, netns, &flow, agreed.external, bh) };
    Some(0)
}

/// What counts a SYN with this option.
#[inline(always)]
fn counter_of(option: MpCapableRepr) -> dc_counter {
    match option.body {
        Body::Compact => DC_COUNT_MPC_SYN_COMPACT_RX,
        _ => DC_COUNT_MPC_SYN_FULL_RX,
    }
}

/// Answers an MP_CAPABLE to any listener.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`.
unsafe fn take_capable(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    received: Option_,
    bh: &BhDisabled,
) -> Option<c_int> {
    // SAFETY: By this function's requirement.
    let (netns, takes) = unsafe { Netns::of_listener(listener, false, bh) }?;
    // SAFETY: As above.
    let flow = unsafe { Packet::live(skb) }.flow(netns.cookie())?;
    let (Answer::Dc(agreed), Option_::Dc(option), false) = (
        answer(takes, Some(received)),
        received,
        control::is_closing(),
    ) else {
        if takes.features.external {
            // The request is one of plain TCP, as the stack has set it up.
            netns.count(DC_COUNT_EXTERNAL_REFUSED);
            return Some(0);
        }
        return None;
    };
    // SAFETY: The listener lives, in that namespace.
    unsafe { netns.count_syn(listener, counter_of(option)) };
    // SAFETY: By this function's requirement.
    unsafe { grant(req, listener, skb, netns, &flow, agreed.external, bh) };
    Some(0)
}

/// Gives the request a key field of this host for `flow`; without one, it is a request of plain TCP.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`; the listener must be one of `netns`.
#[inline(always)]
unsafe fn grant(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    netns: Netns,
    flow: &Flow,
    external: bool,
    bh: &BhDisabled,
) {
    let granted = match secret::issue(flow, external, bh) {
        // SAFETY: By this function's requirement.
        Some(key) => unsafe { accept(req, skb, key) || search(req, skb, netns, external, bh) },
        None => false,
    };
    if !granted {
        // SAFETY: The listener lives, in that namespace.
        unsafe { netns.count_fallback(listener) };
    }
}

/// Gives the request a key field, if its token is free.
///
/// # Safety
///
/// The arguments must be those of `subflow_check_req()`.
#[inline(always)]
unsafe fn accept(req: *mut request_sock, skb: *const sk_buff, key: KeyField) -> bool {
    // SAFETY: By this function's requirement the request is being made, and nobody else has it.
    unsafe {
        Request::live(req).set_key_field(key);
        dc_request_accept(req, skb)
    }
}

/// [`accept`]s the first key field whose token is free. The one before wasn't.
///
/// # Safety
///
/// As for [`accept`].
#[cold]
unsafe fn search(
    req: *mut request_sock,
    skb: *const sk_buff,
    netns: Netns,
    external: bool,
    bh: &BhDisabled,
) -> bool {
    // Made again, so that it need not be in memory before.
    // SAFETY: By this function's requirement.
    let flow = unsafe { Packet::live(skb) }.flow(netns.cookie());
    // SAFETY: As above.
    let accept = |key| unsafe { accept(req, skb, key) };
    flow.is_some_and(|flow| secret::search(&flow, external, netns, bh, accept))
}

/// `mptcp_synack_options()`: marks the answer, because whoever writes it knows no request.
pub(super) struct SynackOptions;

impl Hook for SynackOptions {
    const TARGET: &'static CStr = c"mptcp_synack_options";

    #[inline(always)]
    fn glance(call: Call<'_>) -> Option<bool> {
        // SAFETY: The request, which lives, is the first argument.
        let request = unsafe { Request::live(call.arg0()) };
        Some(request.has_key_field())
    }

    #[inline(always)]
    fn takes(call: Call<'_>) -> bool {
        Self::glance(call).unwrap_or(false)
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
            unsafe {
                if wire_is_ready() {
                    answer_options(req, size, opts)
                } else {
                    answer_without_hooks(req, size, opts)
                }
            }
        }
        synack_options as usize
    }
}

/// Says what the answer to a request is, in its options.
///
/// # Safety
///
/// The arguments must be those of `mptcp_synack_options()`.
#[inline(always)]
unsafe fn answer_options(
    req: *const request_sock,
    size: *mut c_uint,
    opts: *mut mptcp_out_options,
) -> bool {
    const JOIN: c_uint = mp_join::len::EMPTY as c_uint;
    // SAFETY: By this function's requirement.
    unsafe { dc_request_answer(req, size, opts, OutOptions::OURS, JOIN) }
}

/// [`answer_options`] when no option of ours can be written anymore. Version 1 would be a lie about the key: rather plain
/// TCP. A join fails anyway.
///
/// # Safety
///
/// As for [`answer_options`].
#[inline(never)]
unsafe fn answer_without_hooks(
    req: *const request_sock,
    size: *mut c_uint,
    opts: *mut mptcp_out_options,
) -> bool {
    // SAFETY: By this function's requirement.
    let (written, opts) = unsafe { (answer_options(req, size, opts), OutOptions::live(opts)) };
    if written && opts.suboptions() & OutOptions::OURS != 0 {
        opts.set_suboptions(0);
        return false;
    }
    written
}

/// `mptcp_subflow_init_cookie_req()`: of an ACK that answers a SYN cookie, only a pair that this host
/// issued to this very connection makes an MPTCP connection.
pub(super) struct InitCookieReq;

impl Hook for InitCookieReq {
    const TARGET: &'static CStr = c"mptcp_subflow_init_cookie_req";

    fn takes(call: Call<'_>) -> bool {
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
    let (Option_::Dc(option), false) = (received, control::is_closing()) else {
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
        Err(Refusal::Form | Refusal::Mode | Refusal::SamePair) => {}
    }
    Some(0)
}
