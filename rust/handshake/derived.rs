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
use proto::option::mp_capable::{
    Flags,
    RFC_VERSION, //
};
use proto::option::KIND;

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
#[inline]
pub(super) unsafe fn take_syn(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    packet: Packet,
    options: &[u8],
) -> Option<c_int> {
    /// What Linux offers, as its last option. What else there may be, the stack's parser knows.
    const OFFER: [u8; 4] = [KIND, 4, RFC_VERSION, Flags::HMAC_SHA256];

    // SAFETY: By this function's requirement; `subflow_check_req()` runs in softirq.
    let bh = unsafe { BhDisabled::in_softirq() };
    // SAFETY: As above.
    if !unsafe { dc_listener_derives(listener) } {
        return None;
    }
    let mut syn = MaybeUninit::<dc_standard_syn>::uninit();
    let suboption = if *options == OFFER {
        DC_MPC_SYN
    } else {
        // SAFETY: By this function's requirement; `dc_parse_standard_syn` fills it.
        u32::from(unsafe {
            dc_parse_standard_syn(skb, syn.as_mut_ptr());
            syn.assume_init_ref().suboption
        })
    };
    // SAFETY: By this function's requirement.
    let (netns, _) = unsafe { Netns::of_listener(listener, suboption == DC_MPJ_SYN, &bh) }?;
    let flow = packet.flow(netns.cookie())?;

    match suboption {
        DC_MPC_SYN => {
            // Without any the stack draws one.
            let first = secret::standard_key(&flow, &bh)?;
            // SAFETY: The listener lives, in that namespace.
            unsafe { netns.count_syn(listener, DC_COUNT_KEY_DERIVED) };
            let accept = |key: NonZeroU64| {
                // SAFETY: The request is being made and nobody else has it.
                unsafe { dc_request_accept_standard(req, skb, key.get()) }
            };
            let again = |_| secret::standard_key(&flow, &bh).is_some_and(accept);
            if !accept(first) && !(1..SERVER_TRIES).any(again) {
                // SAFETY: The listener lives, in that namespace.
                unsafe { netns.count_fallback(listener) };
            }
            Some(0)
        }
        DC_MPJ_SYN => {
            // SAFETY: An MP_JOIN was found by `dc_parse_standard_syn`, which filled it.
            let syn = unsafe { syn.assume_init_ref() };
            let nonce = secret::join_nonce(&flow, packet.seq(), &bh)?.get();
            netns.count(DC_COUNT_NONCE_DERIVED);
            // SAFETY: By this function's requirement.
            Some(unsafe { dc_join_syn(req, listener, skb, &syn.join, nonce) })
        }
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
