// SPDX-License-Identifier: GPL-2.0

//! The client's end: SYN out, SYN/ACK in.

use kernel::ffi::{
    c_int,
    c_uint, //
};
use kernel::prelude::*;
use proto::key::KeyField;
use proto::negotiate::{
    outcome,
    Offer,
    Outcome, //
};
use proto::option::mp_capable::Features;
use proto::option::{
    mp_capable,
    mp_join,
    Segment, //
};

use super::join::{
    with_packet,
    Hmacs, //
};
use super::{
    derived,
    external, //
};
use crate::bh::BhGuard;
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
    flow_of_sock,
    Netns,
    OutOptions,
    Packet,
    Subflow, //
};

/// `mptcp_token_new_connect()`: the key field of a client that offers a handshake of ours, or a derived key.
pub(super) struct TokenNewConnect;

impl Hook for TokenNewConnect {
    const TARGET: &'static CStr = c"mptcp_token_new_connect";

    fn takes(call: Call<'_>) -> bool {
        let ssk = call.arg0();
        // SAFETY: The subflow's socket, which lives, is the first argument.
        unsafe {
            Netns::of_sock(ssk).is_some_and(|netns| netns.offer(ssk).is_some() || netns.derives())
        }
    }

    fn replacement() -> usize {
        token_new_connect as usize
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_token_new_connect()`, which runs in process context.
unsafe extern "C" fn token_new_connect(ssk: *mut sock) -> c_int {
    // SAFETY: By this function's requirement.
    let (Some(subflow), Some(netns)) = (unsafe { (Subflow::of(ssk), Netns::of_sock(ssk)) }) else {
        return EINVAL.to_errno();
    };
    // SAFETY: By this function's requirement.
    let Some(offer) = (unsafe { netns.offer(ssk) }) else {
        // SAFETY: By this function's requirement.
        return unsafe { derived::dc_standard_connect(ssk) };
    };
    if control::is_closing() {
        // Who offers low overhead isn't asked anymore. Who has external keys gets plain TCP.
        netns.count(DC_COUNT_EXTERNAL_REFUSED);
        return EBUSY.to_errno();
    }
    // The client's pair is never verified; the counter alone makes it unique.
    // SAFETY: By this function's requirement.
    let flow = unsafe { flow_of_sock(ssk, netns) };

    let added = secret::issue_free(&flow, offer.external, netns, &BhGuard::new(), |key| {
        subflow.set_key_field(key);
        // SAFETY: The stack would put the connection into its table here, too.
        unsafe { dc_token_add_connect(ssk) }
    });
    if added {
        return 0;
    }
    netns.count(DC_COUNT_TOKEN_FALLBACK);
    EBUSY.to_errno()
}

/// `mptcp_syn_options()`: says what the SYN will be, and how long; derives the nonce of a standard join.
pub(super) struct SynOptions;

impl Hook for SynOptions {
    const TARGET: &'static CStr = c"mptcp_syn_options";

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The subflow's socket, which lives, is the first argument.
        unsafe {
            Subflow::of(call.arg0()).is_some_and(Subflow::may_be_low_overhead)
                || derived::joins(call.arg0())
        }
    }

    fn replacement() -> usize {
        syn_options as usize
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_syn_options()`.
unsafe extern "C" fn syn_options(
    ssk: *mut sock,
    skb: *const sk_buff,
    size: *mut c_uint,
    opts: *mut mptcp_out_options,
) -> bool {
    // Before the stack reads the peer's token out of the subflow.
    // SAFETY: By this function's requirement.
    let joins = unsafe { dc_subflow_joins(ssk) };
    if !joins {
        // SAFETY: By this function's requirement.
        unsafe { derived::set_nonce(ssk, skb) };
    }
    // SAFETY: By this function's requirement; the socket is locked.
    let given_up = !joins && unsafe { gives_up(ssk) };
    // SAFETY: By this function's requirement.
    let written = unsafe { dc_orig_syn_options(ssk, skb, size, opts) };
    if given_up {
        return written;
    }
    // SAFETY: By this function's requirement.
    let views = unsafe { (Subflow::of(ssk), OutOptions::new(opts), Netns::of_sock(ssk)) };
    let (Some(subflow), Some(opts), Some(netns)) = views else {
        return written;
    };
    if !written || !subflow.is_low_overhead() {
        return written;
    }
    if !wire_is_ready() {
        // Without the hooks, version 1: no way to ask for external keys.
        return !subflow.is_external();
    }
    if joins && subflow.is_external() {
        // As the stack writes it.
        netns.count(DC_COUNT_JOIN_SYN_TX);
        return written;
    }
    opts.mark(OutOptions::OURS);
    let resize = |length: usize| {
        // SAFETY: The caller reads it on return.
        unsafe { size.write(length as c_uint) }
    };
    if joins {
        netns.count(DC_COUNT_JOIN_SYN_TX);
        resize(mp_join::len::TOKEN);
        return written;
    }
    netns.count(DC_COUNT_MPC_SYN_TX);
    // SAFETY: `ssk` is a live TCP socket.
    if netns.sends_full_syn() && !unsafe { dc_fastopen_requested(ssk) } {
        opts.mark(OutOptions::FULL);
        resize(mp_capable::len::KEY);
    }
    written
}

/// Gives an offer up that was made often enough; if so, the SYN about to be written is none of ours.
///
/// # Safety
///
/// `ssk` must be a live subflow, locked, whose SYN is about to be written.
unsafe fn gives_up(ssk: *mut sock) -> bool {
    // SAFETY: By this function's requirement.
    let given_up = unsafe {
        Subflow::of(ssk).is_some_and(Subflow::is_low_overhead) && dc_subflow_give_up(ssk)
    };
    // SAFETY: As above.
    if let Some(netns) = unsafe { Netns::of_sock(ssk) }.filter(|_| given_up) {
        netns.count(DC_COUNT_OFFER_GIVEN_UP);
    }
    given_up
}

/// `mptcp_active_detect_blackhole()`: a SYN of ours that the stack gives up is held against nobody.
pub(super) struct DetectBlackhole;

impl Hook for DetectBlackhole {
    const TARGET: &'static CStr = c"mptcp_active_detect_blackhole";

    fn takes(call: Call<'_>) -> bool {
        let ssk = call.arg0::<sock>();
        // The function is called for each TCP socket whose timer ran out; others have no MPTCP, or another protocol's part.
        // SAFETY: The socket, which lives and is locked, is the first argument.
        unsafe {
            dc_is_connecting_subflow(ssk) && Subflow::of(ssk).is_some_and(Subflow::is_low_overhead)
        }
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_active_detect_blackhole()`, of a subflow of ours.
        unsafe extern "C" fn detect_blackhole(ssk: *mut sock, expired: bool) {
            // SAFETY: By this function's requirement.
            let given_up = unsafe { dc_detect_blackhole(ssk, expired) };
            // SAFETY: As above.
            if let Some(netns) = unsafe { Netns::of_sock(ssk) }.filter(|_| given_up) {
                netns.count(DC_COUNT_OFFER_GIVEN_UP);
            }
        }
        detect_blackhole as usize
    }
}

/// `subflow_finish_connect()`: what the answer to our SYN means.
pub(super) struct FinishConnect;

impl Hook for FinishConnect {
    const TARGET: &'static CStr = c"subflow_finish_connect";

    fn takes(call: Call<'_>) -> bool {
        let ssk = call.arg0::<sock>();
        // SAFETY: The subflow's socket, which lives and is locked, is the first argument.
        unsafe { Subflow::of(ssk) }.is_some_and(Subflow::is_low_overhead)
            // SAFETY: As above.
            && unsafe { dc_subflow_awaits_synack(ssk) }
    }

    fn replacement() -> usize {
        finish_connect as usize
    }
}

/// # Safety
///
/// The arguments must be those of `subflow_finish_connect()`.
unsafe extern "C" fn finish_connect(ssk: *mut sock, skb: *const sk_buff) {
    // SAFETY: By this function's requirement, here and below.
    let (Some(packet), Some(subflow), Some(netns)) =
        (unsafe { (Packet::new(skb), Subflow::of(ssk), Netns::of_sock(ssk)) })
    else {
        return;
    };
    // SAFETY: By this function's requirement; neither function of the stack sleeps.
    let original = || unsafe { dc_orig_finish_connect(ssk, skb) };

    // SAFETY: The socket lives.
    if unsafe { dc_subflow_is_join(ssk) } {
        if subflow.is_external() {
            // SAFETY: By this function's requirement.
            return unsafe { external::finish_join(ssk, skb) };
        }
        match mp_join::find(packet.options(), Segment::SynAck) {
            Some(mp_join::MpJoinRepr {
                body: mp_join::Body::Empty,
                ..
            }) => {
                netns.count(DC_COUNT_JOIN_SYNACK_RX);
                let hmacs = Hmacs::none(subflow.local_key(), subflow.remote_key());
                // SAFETY: `original` doesn't sleep.
                return unsafe { with_packet(skb, Some(hmacs), original) };
            }
            // The stack finds no MP_JOIN or a wrong HMAC, and resets.
            _ => netns.count(DC_COUNT_JOIN_SYNACK_BAD),
        }
        return original();
    }

    let received = mp_capable::find(packet.options(), Segment::SynAck);
    let offer = Offer {
        features: Features {
            external: subflow.is_external(),
            ..Features::default()
        },
        own: KeyField::from_raw(subflow.local_key()),
        ..Offer::default()
    };
    match outcome(offer, received) {
        Outcome::Dc { .. } => {
            netns.count(DC_COUNT_MPC_SYNACK_RX);
            // SAFETY: `original` doesn't sleep.
            return unsafe { with_packet(skb, None, original) };
        }
        Outcome::Standard => {
            netns.count(DC_COUNT_MPC_SYNACK_STANDARD);
            // SAFETY: The socket is locked, its SYN unanswered until the original ran.
            if !unsafe { dc_subflow_restart(ssk) } {
                netns.count(DC_COUNT_TOKEN_FALLBACK);
            }
        }
        Outcome::Tcp if subflow.is_external() => {
            netns.count(DC_COUNT_EXTERNAL_REFUSED);
            // SAFETY: As above.
            unsafe { dc_subflow_refuse(ssk) };
        }
        Outcome::Tcp if received.is_some() => netns.count(DC_COUNT_MPC_SYNACK_BAD),
        Outcome::Tcp => netns.count(DC_COUNT_MPC_SYNACK_NONE),
    }
    // The stack ignores version 15, so it falls back to TCP where that was no good answer.
    original();
}
