// SPDX-License-Identifier: GPL-2.0

//! MP_JOIN without HMAC: `Tok_B`, nothing, `Tok_B`; and where it meets external-key mode's.
//!
//! The stack always computes an HMAC and compares it. Where a low-overhead join reaches that point,
//! [`HmacSha`] gives 0, which is what the hook on `mptcp_get_options()` says was received; everything
//! else that the stack checks of a join, it still checks. External-key joins, whose HMAC [`external`]
//! has verified by then, pass the same way.

use core::ptr::null;

use kernel::ffi::c_int;
use kernel::prelude::*;
use proto::option::mp_join::{
    find,
    Body,
    MpJoinRepr, //
};
use proto::option::Segment;

use super::external;
use super::wire::{
    first,
    is_own_join, //
};
use crate::bh::{
    cursor_here,
    BhDisabled,
    BhGuard, //
};
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

/// The fields of a join.
pub(super) fn fields_of(option: MpJoinRepr) -> dc_join {
    let (token, nonce, hmac, external) = match option.body {
        Body::Token { token } => (token.get(), 0, [0; 16], false),
        Body::TokenNonce { token, nonce } => (token.get(), nonce, [0; 16], true),
        Body::TokenNonceHmac { token, nonce, hmac } => (token.get(), nonce, hmac, true),
        Body::Empty => (0, 0, [0; 16], false),
        Body::HmacNonce { nonce, .. } => (0, nonce, [0; 16], true),
    };
    dc_join {
        token,
        nonce,
        hmac,
        address_id: option.address_id,
        backup: option.backup,
        external,
    }
}

/// What the HMACs of a join are to be.
pub(super) struct Hmacs {
    local_key: u64,
    remote_key: u64,
    app: *const mptcp_sock,
    previous: bool,
}

impl Hmacs {
    /// Nought, for the connection with these keys.
    pub(super) fn none(local_key: u64, remote_key: u64) -> Self {
        Self {
            local_key,
            remote_key,
            app: null(),
            previous: false,
        }
    }

    /// Under the application's key, or the one before, for the connection `app` with these keys.
    pub(super) fn under(
        app: *const mptcp_sock,
        previous: bool,
        local_key: u64,
        remote_key: u64,
    ) -> Self {
        Self {
            local_key,
            remote_key,
            app,
            previous,
        }
    }
}

/// Runs `original` on a packet whose options [`super::wire::GetOptions`] is to translate, with these
/// HMACs if it is a join.
///
/// # Safety
///
/// `original` must not sleep; the connection in `hmacs` must outlive it.
pub(super) unsafe fn with_packet<R>(
    packet: *const sk_buff,
    hmacs: Option<Hmacs>,
    original: impl FnOnce() -> R,
) -> R {
    let Hmacs {
        local_key,
        remote_key,
        app,
        previous,
    } = hmacs.unwrap_or(Hmacs::none(0, 0));
    let bh = BhGuard::new();
    let cursor = cursor_here();
    // SAFETY: Until softirqs are enabled again, nothing on this CPU looks at these fields but what
    // `original` calls.
    unsafe {
        (&raw mut (*cursor).local_key).write(local_key);
        (&raw mut (*cursor).remote_key).write(remote_key);
        (&raw mut (*cursor).app).write(app);
        (&raw mut (*cursor).previous).write(previous);
        (&raw mut (*cursor).packet).write(packet);
    }
    let result = original();
    // SAFETY: As above.
    unsafe {
        (&raw mut (*cursor).packet).write(null());
        (&raw mut (*cursor).local_key).write(0);
        (&raw mut (*cursor).remote_key).write(0);
        (&raw mut (*cursor).app).write(null());
    }
    drop(bh);
    result
}

/// Whether `packet` is the one that [`with_packet`] runs on, on this CPU.
pub(super) fn is_expected(packet: Packet) -> bool {
    // SAFETY: If it is, nothing else on this CPU changes the field; if not, any answer but a match
    // will do, and no other CPU handles this packet.
    let expected = unsafe { (&raw const (*cursor_here()).packet).read_volatile() };
    core::ptr::eq(expected, packet.raw())
}

/// `mptcp_crypto_hmac_sha()`: 0 for the join that [`with_packet`] runs on; else, and for ADD_ADDR, the
/// application's key takes the place of the stack's two.
pub(super) struct HmacSha;

/// Whether these are the keys of a subflow, in either order, that [`with_packet`] has HMACs for on this CPU.
fn has_hmacs(keys: (u64, u64)) -> bool {
    // SAFETY: As in `is_expected`: where the keys match, it is the join under way here.
    let (local, remote) = unsafe {
        let cursor = cursor_here();
        (
            (&raw const (*cursor).local_key).read_volatile(),
            (&raw const (*cursor).remote_key).read_volatile(),
        )
    };
    local != 0 && (keys == (local, remote) || keys == (remote, local))
}

impl Hook for HmacSha {
    const TARGET: &'static CStr = c"mptcp_crypto_hmac_sha";

    fn takes(call: Call<'_>) -> bool {
        let keys = (call.u64_0(), call.u64_1());
        (call.int3() == JOIN_MESSAGE && has_hmacs(keys))
            // The mark of external-key mode, if these keys are of such a connection.
            || (apps_used() && (keys.0 | keys.1) & 1 != 0)
    }

    fn replacement() -> usize {
        hmac_sha as usize
    }
}

/// `__mptcp_subflow_connect()`: notes the key that it will have hashed for the peer's token, if
/// the connection is one of ours. It goes on as ever.
pub(super) struct SubflowConnect;

impl Hook for SubflowConnect {
    const TARGET: &'static CStr = c"__mptcp_subflow_connect";

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The connection, which lives and is locked, is the first argument; the callback isn't preempted.
        unsafe { (&raw mut (*cursor_here()).peer_key).write(dc_msk_peer_key(call.arg0())) };
        false
    }

    /// Nothing is ever sent there.
    fn replacement() -> usize {
        0
    }
}

/// Whether [`SubflowConnect`] has noted this key on this CPU. If the task that connects was moved to another since,
/// or another one was quicker, no; the key is hashed then, and in vain.
pub(super) fn is_peers_key(key: u64) -> bool {
    // SAFETY: A note of another task is as good: its key isn't this one, or it is the same connection.
    key != 0 && unsafe { (&raw const (*cursor_here()).peer_key).read_volatile() } == key
}

/// Two nonces; the HMAC of an ADD_ADDR is over another length.
const JOIN_MESSAGE: c_int = 8;

/// # Safety
///
/// The arguments must be those of `mptcp_crypto_hmac_sha()`.
unsafe extern "C" fn hmac_sha(key1: u64, key2: u64, msg: *mut u8, len: c_int, hmac: *mut [u8; 32]) {
    let bh = BhGuard::new();
    // SAFETY: By this function's requirement `msg` has `len` bytes.
    let message =
        unsafe { core::slice::from_raw_parts(msg, usize::try_from(len).unwrap_or_default()) };
    let result = if len == JOIN_MESSAGE {
        // SAFETY: Softirqs are disabled.
        unsafe { hmac_of_join(key1, key2, message) }
    } else {
        owner(key1, key2).map(|app| {
            // SAFETY: As in `has_hmacs`.
            let ahmac = unsafe { (&raw const (*cursor_here()).ahmac).read_volatile() };
            external::hmac_of_address(app, key1, key2, message, ahmac)
        })
    };
    match result {
        // SAFETY: The caller has room for a whole SHA-256 there.
        Some(result) => unsafe { hmac.write(result) },
        None => {
            drop(bh);
            // SAFETY: By this function's requirement.
            unsafe { dc_orig_hmac_sha(key1, key2, msg, len, hmac.cast()) }
        }
    }
}

/// The external-key connection with these keys, in either order.
///
/// The local key comes first where an HMAC is generated, second where it is verified. Which of them it is matters
/// only where both ends are on this host, and then both have the same key, or no HMAC fits anyway.
fn owner(key1: u64, key2: u64) -> Option<*const mptcp_sock> {
    // SAFETY: The callers have softirqs disabled.
    let owner = |local, remote| unsafe { dc_external_owner(local, remote) };
    [owner(key1, key2), owner(key2, key1)]
        .into_iter()
        .find(|owner| !owner.is_null())
}

/// The HMAC of the join that is under way on this CPU. `None`: it is none of ours.
///
/// # Safety
///
/// Softirqs must be disabled.
unsafe fn hmac_of_join(key1: u64, key2: u64, message: &[u8]) -> Option<[u8; 32]> {
    if !has_hmacs((key1, key2)) {
        // Of an external-key connection, a join counts only when it has been found right before.
        return owner(key1, key2).map(|_| external::unguessable());
    }
    // SAFETY: As in `has_hmacs`.
    let (app, previous, local) = unsafe {
        let cursor = cursor_here();
        (
            (&raw const (*cursor).app).read_volatile(),
            (&raw const (*cursor).previous).read_volatile(),
            (&raw const (*cursor).local_key).read_volatile(),
        )
    };
    if app.is_null() {
        return Some([0; 32]);
    }
    // SAFETY: Who runs `with_packet` holds the connection.
    let remote = unsafe { dc_msk_peer_key(app) };
    let (key1, key2) = if key1 == local {
        (local, remote)
    } else {
        (remote, local)
    };
    Some(external::hmac_of(app, previous, key1, key2, message))
}

/// `subflow_syn_recv_sock()`: the ACK of a join must repeat the token that its SYN had. And the SYN of an external-key
/// connection by TCP Fast Open is read once more.
pub(super) struct SynRecvSock;

impl Hook for SynRecvSock {
    const TARGET: &'static CStr = c"subflow_syn_recv_sock";

    fn takes(call: Call<'_>) -> bool {
        let req = call.arg2();
        // SAFETY: The request, a live one of MPTCP, is the third argument; the packet, the second.
        unsafe {
            dc_request_joins(req)
                || dc_request_joins_external(req)
                || is_external_syn(req, call.arg1())
        }
    }

    fn replacement() -> usize {
        syn_recv_sock as usize
    }
}

/// Whether a request and its packet are those of an external-key connection that begins with its SYN.
///
/// # Safety
///
/// Both must live.
unsafe fn is_external_syn(req: *const request_sock, skb: *const sk_buff) -> bool {
    // SAFETY: By this function's requirement.
    unsafe {
        apps_used()
            && dc_request_is_external_capable(req)
            && Packet::live(skb).segment() == Segment::Syn
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

    // SAFETY: All zeroes is a valid value of integers, booleans and pointers.
    let mut of: dc_join_request = unsafe { core::mem::zeroed() };
    // SAFETY: The request lives.
    let joins = unsafe { dc_join_request_of(req, &mut of) && dc_join_complete(req) };
    // SAFETY: By this function's requirement, here and below.
    let (packet, netns) = unsafe { (Packet::new(skb), Netns::of_sock(listener)) };
    let (Some(packet), Some(netns)) = (packet, netns) else {
        return original();
    };
    if !joins {
        // SAFETY: By this function's requirement; `original` doesn't sleep in softirq.
        return unsafe {
            if is_external_syn(req, skb) {
                with_packet(skb, None, original)
            } else {
                original()
            }
        };
    }

    let ack = find(packet.options(), packet.segment()).map(fields_of);
    let right = ack.is_some_and(|ack| {
        ack.token == of.token
            && ack.external == of.external
            && (!of.external || external::is_right_ack(&of, &ack))
    });
    if !right {
        // The stack finds no MP_JOIN or a wrong HMAC, and resets.
        netns.count(DC_COUNT_JOIN_ACK_BAD);
        return original();
    }
    netns.count(DC_COUNT_JOIN_ACK_RX);
    let hmacs = Hmacs::none(of.local_key, of.remote_key);
    // The request's reference to the connection becomes the subflow's, which others may close at once.
    // SAFETY: The request holds the connection; released below.
    unsafe { dc_msk_hold(of.msk) };
    // SAFETY: `subflow_syn_recv_sock()` runs in softirq, so it doesn't sleep.
    let child = unsafe { with_packet(skb, Some(hmacs), original) };
    if of.external {
        // A child that isn't the request's own loses against one of another CPU's.
        // SAFETY: The connection is held; the original has written `own_req`.
        unsafe { dc_app_join_end(of.msk, of.local_nonce, !child.is_null() && *own_req) };
    }
    // SAFETY: Held above.
    unsafe { dc_msk_put(of.msk) };
    child
}

/// The SYN of a join, from `subflow_check_req()`. `None`: it is none of ours.
///
/// # Safety
///
/// The first three arguments must be those of `subflow_check_req()`.
#[inline(always)]
pub(super) unsafe fn take_syn(
    req: *mut request_sock,
    listener: *const sock,
    skb: *mut sk_buff,
    option: MpJoinRepr,
    bh: &BhDisabled,
) -> Option<c_int> {
    let join = fields_of(option);
    // SAFETY: Any token may be asked for.
    if join.external && !unsafe { dc_token_has_mode(join.token, true) } {
        return None;
    }
    // SAFETY: By this function's requirement.
    let (netns, takes) = unsafe { Netns::of_listener(listener, true, bh) }?;
    if !join.external && !takes.accept {
        return None;
    }
    // SAFETY: By this function's requirement.
    let verdict = unsafe { dc_join_syn(req, listener, skb, &join, netns.raw(), 0) };
    if join.external && verdict == 0 {
        // SAFETY: By this function's requirement; the request is a join now.
        return unsafe { external::answer(req, skb, netns, bh) };
    }
    Some(verdict)
}

/// Counts a SYN with an MP_JOIN that can't be read, if it is none of the stack's.
///
/// # Safety
///
/// `listener` must be a live MPTCP listener.
pub(super) unsafe fn count_bad_syn(listener: *const sock, options: &[u8], bh: &BhDisabled) {
    if !is_own_join(options) {
        return;
    }
    // SAFETY: By this function's requirement.
    if let Some((netns, _)) = unsafe { Netns::of_listener(listener, true, bh) } {
        netns.count(DC_COUNT_JOIN_SYN_BAD);
    }
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
    // SAFETY: By this function's requirement.
    let (netns, takes) = unsafe { Netns::of_listener(listener, true, bh) }?;
    let Some(join) = find(packet.options(), packet.segment()).map(fields_of) else {
        if first(packet.options()).is_some_and(is_own_join) {
            netns.count(DC_COUNT_JOIN_ACK_BAD);
        }
        return None;
    };
    if !join.external && !takes.accept {
        return None;
    }
    netns.count(DC_COUNT_JOIN_COOKIE_ACK_RX);
    // SAFETY: By this function's requirement.
    let verdict = unsafe {
        dc_request_init(req, listener);
        dc_join_cookie_ack(req, listener, skb, &join)
    };
    if join.external && verdict == 0 {
        // SAFETY: The request is being made, and a join now.
        return Some(unsafe { external::verify_cookie_ack(req, packet, &join, netns, bh) });
    }
    Some(verdict)
}
