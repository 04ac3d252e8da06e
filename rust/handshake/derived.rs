// SPDX-License-Identifier: GPL-2.0

//! Standard MPTCP whose keys and nonces are hashes and not random: `net.mptcp_dc.derived_nonces`.
//!
//! | value | where the stack draws it | where it comes from instead |
//! |---|---|---|
//! | server's key | `subflow_check_req()` | [`take_syn`] |
//! | server's nonce | `subflow_req_create_thmac()` | [`take_syn`] |
//! | client's key | `mptcp_token_new_connect()` | [`dc_standard_connect`] |
//! | client's nonce | `__mptcp_subflow_connect()` | [`set_nonce`], before the first SYN is written |
//!
//! Each lies in the stack's own field from the beginning, so nothing depends on the module afterwards.

use core::mem::MaybeUninit;
use core::num::NonZeroU64;

use kernel::ffi::c_int;
use kernel::prelude::*;
use proto::nonce::Flow;
use proto::option::mp_capable::{
    Flags,
    RFC_VERSION, //
};
use proto::option::{
    mp_join,
    KIND, //
};

use super::join::fields_of;
use crate::bh::{
    BhDisabled,
    BhGuard, //
};
use crate::bindings::*;
use crate::secret;
use crate::stack::{
    flow_of_sock,
    Netns,
    Packet, //
};

/// How many keys a server tries whose tokens are busy, and how many a client.
const SERVER_TRIES: usize = MPTCP_TOKEN_MAX_RETRIES as usize + 1;
const CLIENT_TRIES: usize = MPTCP_TOKEN_MAX_RETRIES as usize;

/// Answers a standard SYN as `subflow_check_req()` does, but for the random numbers; `None` leaves it
/// to the stack.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`; `options` are the packet's, from the
/// first of MPTCP's on.
#[inline(never)]
pub(super) unsafe fn take_syn(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    options: &[u8],
    bh: &BhDisabled,
) -> Option<c_int> {
    /// What Linux offers, as its last option. What else there may be, the stack's parser knows.
    const OFFER: [u8; 4] = [KIND, 4, RFC_VERSION, Flags::HMAC_SHA256];

    let join = if *options == OFFER {
        None
    } else if let Some(option) = mp_join::standard_syn_alone(options) {
        Some(dc_join {
            external: false,
            ..fields_of(option)
        })
    // SAFETY: By this function's requirement; softirqs are disabled.
    } else if unsafe { dc_listener_derives(listener) } {
        // SAFETY: By this function's requirement.
        unsafe { parse(skb) }?
    } else {
        return None;
    };
    // SAFETY: By this function's requirement.
    let (netns, _) = unsafe { Netns::of_listener(listener, join.is_some(), bh) }?;
    if !netns.derives() {
        return None;
    }
    // SAFETY: By this function's requirement.
    let packet = unsafe { Packet::live(skb) };
    let accept = |flow: &Flow| match &join {
        // SAFETY: By this function's requirement.
        None => unsafe { accept_capable(req, listener, skb, netns, flow, bh) },
        Some(join) => {
            let nonce = secret::join_nonce(flow, packet.seq(), bh)?.get();
            // SAFETY: As above.
            Some(unsafe { dc_join_syn(req, listener, skb, join, netns.raw(), nonce) })
        }
    };
    // IPv4 apart, as its flow fits into registers.
    match packet.flow_v4(netns.cookie()) {
        Some(flow) => accept(&flow),
        None => with_flow(packet, netns, accept),
    }
}

#[inline(never)]
fn with_flow<R>(
    packet: Packet,
    netns: Netns,
    use_it: impl FnOnce(&Flow) -> Option<R>,
) -> Option<R> {
    use_it(&packet.flow(netns.cookie())?)
}

/// Gives the request of a standard MP_CAPABLE a derived key.
///
/// # Safety
///
/// As for [`take_syn`]; `flow` must be the packet's.
#[inline(always)]
unsafe fn accept_capable(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    netns: Netns,
    flow: &Flow,
    bh: &BhDisabled,
) -> Option<c_int> {
    // Without any the stack draws one.
    let first = secret::standard_key(flow, bh)?;
    // SAFETY: The listener lives, in that namespace.
    unsafe { netns.count_syn(listener, DC_COUNT_KEY_DERIVED) };
    let accept = |key: NonZeroU64| {
        // SAFETY: The request is being made and nobody else has it.
        unsafe { dc_request_accept_standard(req, skb, key.get()) }
    };
    let again = |_| secret::standard_key_again(flow, bh).is_some_and(accept);
    if !accept(first) && !(1..SERVER_TRIES).any(again) {
        // SAFETY: The listener lives, in that namespace.
        unsafe { netns.count_fallback(listener) };
    }
    Some(0)
}

/// What the stack sees in a SYN: `Some(None)` for an MP_CAPABLE, the fields of an MP_JOIN.
///
/// # Safety
///
/// `skb` must be a SYN that has come to TCP.
#[inline(never)]
unsafe fn parse(skb: *const sk_buff) -> Option<Option<dc_join>> {
    let mut syn = MaybeUninit::uninit();
    // SAFETY: By this function's requirement; `dc_parse_standard_syn` fills it.
    let dc_standard_syn { suboption, join } = unsafe {
        dc_parse_standard_syn(skb, syn.as_mut_ptr());
        syn.assume_init()
    };
    match u32::from(suboption) {
        DC_MPC_SYN => Some(None),
        DC_MPJ_SYN => Some(Some(join)),
        _ => None,
    }
}

/// `mptcp_token_new_connect()` for standard MPTCP: with a derived key where that is wanted. Like that
/// one, it says `EBUSY` if no token is free.
///
/// # Safety
///
/// `ssk` must be a live subflow without a token, its connection locked.
#[no_mangle]
pub(super) unsafe extern "C" fn dc_standard_connect(ssk: *mut sock) -> c_int {
    // SAFETY: By this function's requirement.
    let netns = unsafe { Netns::of_sock(ssk) }.filter(Netns::derives);
    let Some(netns) = netns else {
        // SAFETY: By this function's requirement.
        return unsafe { dc_orig_token_new_connect(ssk) };
    };
    // SAFETY: By this function's requirement.
    let flow = unsafe { flow_of_sock(ssk, netns) };
    for _ in 0..CLIENT_TRIES {
        let Some(key) = secret::standard_key(&flow, &BhGuard::new()) else {
            // SAFETY: By this function's requirement.
            return unsafe { dc_orig_token_new_connect(ssk) };
        };
        // SAFETY: By this function's requirement.
        if unsafe { dc_token_add_standard(ssk, key.get()) } {
            netns.count(DC_COUNT_KEY_DERIVED);
            return 0;
        }
    }
    EBUSY.to_errno()
}

/// Whether the subflow's SYN may need [`set_nonce`].
///
/// # Safety
///
/// `ssk` must be a live subflow.
#[inline]
pub(super) unsafe fn joins(ssk: *const sock) -> bool {
    // SAFETY: By this function's requirement.
    unsafe { Netns::of_sock(ssk).is_some_and(|netns| netns.derives()) && dc_subflow_is_join(ssk) }
}

/// Derives the nonce of a standard join. It stays the same in a SYN that is sent again, also when the
/// secret was replaced in between.
///
/// # Safety
///
/// The arguments must be the first two of `mptcp_syn_options()`, whose original did not yet run.
pub(super) unsafe fn set_nonce(ssk: *mut sock, skb: *const sk_buff) {
    // SAFETY: By this function's requirement.
    let Some(netns) = unsafe { Netns::of_sock(ssk) }.filter(Netns::derives) else {
        return;
    };
    let mut isn = 0;
    // SAFETY: By this function's requirement.
    if !unsafe { dc_subflow_first_join_syn(ssk, skb, &mut isn) } {
        return;
    }
    // SAFETY: By this function's requirement.
    let flow = unsafe { flow_of_sock(ssk, netns) };
    // Without one, that of the stack stays.
    if let Some(nonce) = secret::join_nonce(&flow, isn, &BhGuard::new()) {
        // SAFETY: By this function's requirement; the socket is locked.
        unsafe { dc_subflow_set_nonce(ssk, nonce.get()) };
        netns.count(DC_COUNT_NONCE_DERIVED);
    }
}
