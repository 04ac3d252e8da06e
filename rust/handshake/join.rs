// SPDX-License-Identifier: GPL-2.0

//! MP_JOIN without HMAC: `Tok_B`, nothing, `Tok_B`.
//!
//! The stack always computes an HMAC and compares it. Where a low-overhead join reaches that point,
//! [`HmacSha`] gives 0, which is what the hook on `mptcp_get_options()` says was received; everything
//! else that the stack checks of a join, it still checks.

use core::ptr::null;

use kernel::ffi::c_int;
use kernel::prelude::*;
use proto::option::mp_join::{
    find,
    Body,
    MpJoinRepr, //
};
use proto::option::Segment;

use crate::bh::{
    BhDisabled,
    BhGuard, //
};
use crate::bindings::*;
use crate::hook::{
    Call,
    Hook, //
};
use crate::stack::{
    Netns,
    Packet, //
};

/// The fields of a join that says `Tok_B` and nothing else.
pub(super) fn token_of(option: Option<MpJoinRepr>) -> Option<dc_join> {
    let MpJoinRepr {
        backup,
        address_id,
        body: Body::Token { token },
    } = option?
    else {
        return None;
    };
    Some(dc_join {
        token: token.get(),
        address_id,
        backup,
    })
}

/// Runs `original` on a packet whose options [`super::wire::GetOptions`] is to translate, with HMACs
/// under these keys of nought if it is a join.
///
/// # Safety
///
/// `original` must not sleep.
pub(super) unsafe fn with_packet<R>(
    packet: *const sk_buff,
    keys: Option<(u64, u64)>,
    original: impl FnOnce() -> R,
) -> R {
    let (local_key, remote_key) = keys.unwrap_or((0, 0));
    let bh = BhGuard::new();
    // SAFETY: Any CPU has one.
    let cursor = unsafe { dc_cursor_here() };
    // SAFETY: Until softirqs are enabled again, nothing on this CPU looks at these fields but what
    // `original` calls.
    unsafe {
        (&raw mut (*cursor).local_key).write(local_key);
        (&raw mut (*cursor).remote_key).write(remote_key);
        (&raw mut (*cursor).packet).write(packet);
    }
    let result = original();
    // SAFETY: As above.
    unsafe {
        (&raw mut (*cursor).packet).write(null());
        (&raw mut (*cursor).local_key).write(0);
        (&raw mut (*cursor).remote_key).write(0);
    }
    drop(bh);
    result
}

/// Whether `packet` is the one that [`with_packet`] runs on, on this CPU.
pub(super) fn is_expected(packet: Packet) -> bool {
    // SAFETY: If it is, nothing else on this CPU changes the field; if not, any answer but a match
    // will do, and no other CPU handles this packet.
    let expected = unsafe { (&raw const (*dc_cursor_here()).packet).read_volatile() };
    core::ptr::eq(expected, packet.raw())
}

/// `mptcp_crypto_hmac_sha()`: 0 for the join that [`with_packet`] runs on.
pub(super) struct HmacSha;

impl Hook for HmacSha {
    const TARGET: &'static CStr = c"mptcp_crypto_hmac_sha";

    fn takes(call: &Call<'_>) -> bool {
        /// Two nonces; the HMAC of an ADD_ADDR is over another length.
        const JOIN_MESSAGE: c_int = 8;

        // SAFETY: As in `is_expected`: where the keys match, it is the join under way here.
        let (local, remote) = unsafe {
            let cursor = dc_cursor_here();
            (
                (&raw const (*cursor).local_key).read_volatile(),
                (&raw const (*cursor).remote_key).read_volatile(),
            )
        };
        let keys = (call.u64_0(), call.u64_1());
        local != 0
            && call.int3() == JOIN_MESSAGE
            && (keys == (local, remote) || keys == (remote, local))
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_crypto_hmac_sha()`.
        unsafe extern "C" fn hmac_sha(
            _key1: u64,
            _key2: u64,
            _msg: *mut u8,
            _len: c_int,
            hmac: *mut [u8; 32],
        ) {
            // SAFETY: The caller has room for a whole SHA-256 there.
            unsafe { hmac.write([0; 32]) };
        }
        hmac_sha as usize
    }
}

/// `subflow_syn_recv_sock()`: the ACK of a join must repeat the token that its SYN had.
pub(super) struct SynRecvSock;

impl Hook for SynRecvSock {
    const TARGET: &'static CStr = c"subflow_syn_recv_sock";

    fn takes(call: &Call<'_>) -> bool {
        // SAFETY: The request, a live one of MPTCP, is the third argument.
        unsafe { dc_request_joins(call.arg2()) }
    }

    fn replacement() -> usize {
        syn_recv_sock as usize
    }
}

type ChildInit = Option<unsafe extern "C" fn(*mut sock, *const sock)>;

/// # Safety
///
/// The arguments must be those of `subflow_syn_recv_sock()`.
unsafe extern "C" fn syn_recv_sock(
    listener: *const sock,
    skb: *mut sk_buff,
    req: *mut request_sock,
    dst: *mut dst_entry,
    req_unhash: *mut request_sock,
    own_req: *mut bool,
    opt_child_init: ChildInit,
) -> *mut sock {
    // SAFETY: By this function's requirement.
    let original = || unsafe {
        dc_orig_syn_recv_sock(listener, skb, req, dst, req_unhash, own_req, opt_child_init)
    };

    let (mut token, mut local_key, mut remote_key) = (0, 0, 0);
    // SAFETY: The request lives.
    let joins = unsafe { dc_join_keys(req, &mut token, &mut local_key, &mut remote_key) };
    // SAFETY: By this function's requirement, here and below.
    let (packet, netns) = unsafe { (Packet::new(skb), Netns::of_sock(listener)) };
    let (Some(packet), Some(netns), true) = (packet, netns, joins) else {
        return original();
    };

    let ack = token_of(find(packet.options(), packet.segment()));
    if ack.is_none_or(|ack| ack.token != token) {
        // The stack finds no MP_JOIN or a wrong HMAC, and resets.
        netns.count(DC_COUNT_JOIN_ACK_BAD);
        return original();
    }
    netns.count(DC_COUNT_JOIN_ACK_RX);
    // SAFETY: `subflow_syn_recv_sock()` runs in softirq, so it doesn't sleep.
    unsafe { with_packet(skb, Some((local_key, remote_key)), original) }
}

/// The SYN of a join, from `subflow_check_req()`. `None`: it is none of ours.
///
/// # Safety
///
/// The arguments must be those of `subflow_check_req()`; `options` are the packet's.
pub(super) unsafe fn take_syn(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    options: &[u8],
    bh: &BhDisabled,
) -> Option<c_int> {
    let join = token_of(find(options, Segment::Syn))?;
    // SAFETY: By this function's requirement.
    let netns = unsafe { Netns::of_listener(listener, true, bh) }.filter(Netns::accepts)?;
    netns.count(DC_COUNT_JOIN_SYN_RX);
    // SAFETY: By this function's requirement.
    Some(unsafe { dc_join_syn(req, listener, skb, &join, null()) })
}

/// The ACK of a join that answers a SYN cookie, from `mptcp_subflow_init_cookie_req()`. `None`: it is
/// none of ours.
///
/// # Safety
///
/// The arguments must be those of `mptcp_subflow_init_cookie_req()`.
pub(super) unsafe fn take_cookie_ack(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    packet: Packet,
    bh: &BhDisabled,
) -> Option<c_int> {
    let join = token_of(find(packet.options(), packet.segment()))?;
    // SAFETY: By this function's requirement.
    let netns = unsafe { Netns::of_listener(listener, true, bh) }.filter(Netns::accepts)?;
    netns.count(DC_COUNT_JOIN_COOKIE_ACK_RX);
    // SAFETY: By this function's requirement.
    unsafe {
        dc_request_init(req, listener);
        Some(dc_join_cookie_ack(req, listener, skb, &join))
    }
}
