// SPDX-License-Identifier: GPL-2.0

//! External-key mode: MP_JOIN with HMACs under the application's key.
//!
//! ```text
//! client::SynOptions ─────── SYN, Tok_B Rand_A ───────▶ answer(): Rand_B, HMAC_B
//! finish_join(): HMAC_A ◀─── SYN/ACK, HMAC_B Rand_B ──  the stack
//! EstablishedOptions ─────── ACK, Tok_B Rand_A HMAC_A ▶ verify_cookie_ack() (SYN cookies)
//!                                                       is_right_ack()
//! ```
//!
//! SYN and SYN/ACK look like the stack's own, so the stack writes and parses them. `Rand_B` is made of what
//! the SYN says, and the ACK says all that again: with SYN cookies nothing is kept.
//!
//! A connection whose key isn't there yet starts no path manager ([`PmFullyEstablished`]), and the peer's
//! joins are dropped, so that they come again.

use kernel::ffi::{
    c_int,
    c_uint, //
};
use kernel::prelude::*;
use proto::key::KeyField;
use proto::option::mp_join::{
    fastclose_message,
    find,
    hmac_message,
    len,
    same_hmac,
    Body,
    MpJoinRepr,
    ACK_HMAC_LEN,
    SYN_ACK_HMAC_LEN, //
};
use proto::option::{
    options,
    subtype,
    subtype_of,
    Segment, //
};
use proto::token::Token;

use super::join::{
    with_packet,
    Hmacs, //
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
use crate::secret::{
    join_nonces,
    JoinSyn, //
};
use crate::stack::{
    Connection,
    Netns,
    OutOptions,
    Packet,
    Subflow, //
};

/// One end's half of an HMAC's message.
#[derive(Clone, Copy)]
struct End {
    key: u64,
    nonce: u32,
}

/// HMAC-SHA256 of what `own` says to `peer`, under the connection's key or the one before; `None` if there
/// is no such key.
fn hmac(msk: *const mptcp_sock, previous: bool, own: End, peer: End) -> Option<[u8; 32]> {
    let (own_key, peer_key) = (KeyField::from_raw(own.key)?, KeyField::from_raw(peer.key)?);
    sign(
        msk,
        previous,
        &hmac_message(own_key, peer_key, own.nonce, peer.nonce),
    )
}

fn sign(msk: *const mptcp_sock, previous: bool, message: &[u8]) -> Option<[u8; 32]> {
    let mut hmac = [0; 32];
    // SAFETY: The message and the HMAC have these lengths. Callers hold the connection, or are in an RCU
    // read side that keeps it.
    let signed = unsafe {
        dc_app_hmac(
            msk,
            previous,
            message.as_ptr(),
            message.len(),
            hmac.as_mut_ptr(),
        )
    };
    signed.then_some(hmac)
}

/// What nobody can guess, where an HMAC is to match nothing.
pub(super) fn unguessable() -> [u8; 32] {
    let mut bytes = [0; 32];
    // SAFETY: That many bytes. Any context.
    unsafe { kernel::bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
    bytes
}

/// ADD_ADDR carries the bytes of its HMAC from here on.
const TAIL: usize = 24;

/// The HMAC of both key fields and the stack's message, under the application's key or the one before it. `None`: there
/// is no such key.
fn hmac_with_keys(
    msk: *const mptcp_sock,
    previous: bool,
    key1: u64,
    key2: u64,
    message: &[u8],
) -> Option<[u8; 32]> {
    /// Two keys, and the longest message: address ID, IPv6 address and port of an ADD_ADDR.
    const LONGEST: usize = 16 + 19;

    let mut buffer = [0; LONGEST];
    let mut length = 0;
    let parts = [&key1.to_be_bytes()[..], &key2.to_be_bytes()[..], message];
    for (to, from) in buffer.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
        length += 1;
    }
    sign(msk, previous, buffer.get(..length)?)
}

/// What the stack's HMAC is in external-key mode. Without a key, nothing that anybody could guess.
pub(super) fn hmac_of(
    msk: *const mptcp_sock,
    previous: bool,
    key1: u64,
    key2: u64,
    message: &[u8],
) -> [u8; 32] {
    hmac_with_keys(msk, previous, key1, key2, message).unwrap_or_else(unguessable)
}

/// [`hmac_of`] for an ADD_ADDR: under the key, or under the one before it if that makes `ahmac`, which has come.
pub(super) fn hmac_of_address(
    msk: *const mptcp_sock,
    key1: u64,
    key2: u64,
    message: &[u8],
    ahmac: u64,
) -> [u8; 32] {
    let under = |previous| {
        let mut hmac = hmac_with_keys(msk, previous, key1, key2, message)?;
        if let Some(last) = hmac.last_chunk_mut::<{ 32 - TAIL }>() {
            // Nought means "echo" to the stack.
            if *last == [0; 32 - TAIL] {
                *last = 1u64.to_be_bytes();
            }
        }
        Some(hmac)
    };
    let current = under(false);
    if ahmac == 0 || current.is_some_and(|hmac| tail(&hmac) == ahmac) {
        return current.unwrap_or_else(unguessable);
    }
    under(true)
        .filter(|hmac| tail(hmac) == ahmac)
        .or(current)
        .unwrap_or_else(unguessable)
}

/// The bytes of an HMAC that an ADD_ADDR carries.
fn tail(hmac: &[u8; 32]) -> u64 {
    hmac.last_chunk()
        .map_or(0, |tail: &[u8; 32 - TAIL]| u64::from_be_bytes(*tail))
}

/// What an MP_FASTCLOSE carries that `own` says to `peer`, under the connection's key or the one before.
fn fastclose(msk: *const mptcp_sock, previous: bool, own: u64, peer: u64) -> Option<u64> {
    let (own, peer) = (KeyField::from_raw(own)?, KeyField::from_raw(peer)?);
    let hmac = sign(msk, previous, &fastclose_message(own, peer))?;
    Some(u64::from_be_bytes(*hmac.first_chunk()?))
}

/// Signs an MP_FASTCLOSE that is about to be written, if its connection has an application's key. Without one it stays the
/// stack's.
pub(super) fn sign_fastclose(connection: Connection, opts: OutOptions) {
    if !connection.is_external() {
        return;
    }
    let (own, peer) = (connection.local_key(), connection.remote_key());
    if let Some(hmac) = fastclose(connection.raw(), false, own, peer) {
        opts.set_rcvr_key(hmac);
    }
}

/// What this end's MP_FASTCLOSE carries, and the peer's, when the module is gone: what they do with it. Without a key,
/// what nobody can guess.
///
/// # Safety
///
/// `msk` must be a live external-key connection; the others, places for the values.
#[no_mangle]
unsafe extern "C" fn dc_abort_keys(msk: *const mptcp_sock, ours: *mut u64, theirs: *mut u64) {
    // SAFETY: By this function's requirement.
    let connection = unsafe { Connection::live(msk) };
    let (own, peer) = (connection.local_key(), connection.remote_key());
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, ..] = unguessable();
    let random = [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ];
    // SAFETY: By this function's requirement.
    unsafe {
        ours.write(fastclose(msk, false, own, peer).unwrap_or(random[0]));
        theirs.write(fastclose(msk, false, peer, own).unwrap_or(random[1]));
    }
}

/// `mptcp_incoming_options()`: of an external-key connection, an MP_FASTCLOSE must be signed, and an ADD_ADDR may be under
/// the key before. Sees every segment, but only while there are external keys.
pub(super) struct IncomingOptions;

impl Hook for IncomingOptions {
    const TARGET: &'static CStr = c"mptcp_incoming_options";

    #[inline(always)]
    fn glance(call: Call<'_>) -> Option<bool> {
        // SAFETY: The subflow's socket, which lives and holds its connection, is the first argument.
        let connection =
            unsafe { Subflow::of(call.arg0()).and_then(|subflow| subflow.connection()) };
        if connection.is_some_and(Connection::may_be_external) {
            None
        } else {
            Some(false)
        }
    }

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The packet, which lives, is the second argument.
        let packet = unsafe { Packet::live(call.arg1()) };
        options(packet.options()).any(|option| {
            matches!(
                subtype_of(option),
                Some(subtype::MP_FASTCLOSE | subtype::ADD_ADDR)
            )
        })
    }

    fn replacement() -> usize {
        incoming_options as usize
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_incoming_options()`.
unsafe extern "C" fn incoming_options(ssk: *mut sock, skb: *mut sk_buff) -> bool {
    // SAFETY: By this function's requirement.
    let original = || unsafe { dc_orig_incoming_options(ssk, skb) };
    // SAFETY: By this function's requirement, here and below.
    let (packet, connection) = unsafe {
        (
            Packet::live(skb),
            Subflow::of(ssk).and_then(|subflow| subflow.connection()),
        )
    };
    let Some(connection) = connection.filter(|connection| connection.is_external()) else {
        return original();
    };
    let mut closes = options(packet.options())
        .filter_map(fastclose_of)
        .map(|said| is_right_fastclose(connection, said, packet))
        .peekable();
    if closes.peek().is_some() {
        // What stands beside it doesn't matter anymore, or comes from who knows where.
        if closes.any(|right| right) {
            // SAFETY: The subflow's socket lives, and holds its connection.
            unsafe { dc_msk_abort(connection.raw()) };
        // SAFETY: As above.
        } else if let Some(netns) = unsafe { Netns::of_sock(ssk) } {
            netns.count(DC_COUNT_FASTCLOSE_BAD);
        }
        return true;
    }
    let ahmac = options(packet.options()).find_map(ahmac_of).unwrap_or(0);
    let bh = BhGuard::new();
    // SAFETY: Softirqs are disabled, so the place is ours.
    let noted = unsafe { &raw mut (*cursor_here()).ahmac };
    // SAFETY: As above.
    unsafe { noted.write(ahmac) };
    let result = original();
    // SAFETY: As above.
    unsafe { noted.write(0) };
    drop(bh);
    result
}

/// The eight bytes of an MP_FASTCLOSE (RFC 8684, section 3.5).
fn fastclose_of(option: &[u8]) -> Option<u64> {
    match *option {
        [_, 12, _, _, ref key @ ..] if subtype_of(option) == Some(subtype::MP_FASTCLOSE) => {
            Some(u64::from_be_bytes(*key.first_chunk()?))
        }
        _ => None,
    }
}

/// The HMAC of an ADD_ADDR that is no echo (RFC 8684, section 3.4.1).
fn ahmac_of(option: &[u8]) -> Option<u64> {
    /// Flag E: an echo, which has none.
    const ECHO: u8 = 1;

    match *option {
        [_, length, third, ..]
            if subtype_of(option) == Some(subtype::ADD_ADDR)
                && third & ECHO == 0
                && length >= 16 =>
        {
            Some(u64::from_be_bytes(*option.last_chunk()?))
        }
        _ => None,
    }
}

/// Whether an MP_FASTCLOSE with these eight bytes is the peer's.
///
/// One that isn't signed counts in a reset, whose sequence number TCP has checked, if there is no other subflow that the
/// reset doesn't end anyway: as long as this end has no key, which it could be signed with; and where the peer may have
/// none, if it is as in RFC 8684.
fn is_right_fastclose(connection: Connection, said: u64, packet: Packet) -> bool {
    let msk = connection.raw();
    // SAFETY: The connection lives.
    if !unsafe { dc_app_has_key(msk) } {
        return packet.is_reset();
    }
    let (own, peer) = (connection.local_key(), connection.remote_key());
    let signed = [false, true].into_iter().any(|previous| {
        fastclose(msk, previous, peer, own)
            .is_some_and(|hmac| same_hmac(&hmac.to_be_bytes(), &said.to_be_bytes()))
    });
    // SAFETY: As above.
    signed || (packet.is_reset() && said == own && unsafe { dc_msk_is_alone(msk) })
}

/// Answers the SYN of a join that the stack would take. Returns what `subflow_check_req()` does.
///
/// # Safety
///
/// `req` must be the request of an external-key join, made of `skb`, that nobody else has.
pub(super) unsafe fn answer(
    req: *mut request_sock,
    skb: *mut sk_buff,
    netns: Netns,
    bh: &BhDisabled,
) -> Option<c_int> {
    // SAFETY: All zeroes is a valid value of integers, booleans and pointers.
    let mut of: dc_join_request = unsafe { core::mem::zeroed() };
    // SAFETY: By this function's requirement, here and below.
    let packet = unsafe {
        if !dc_join_request_of(req, &mut of) {
            return None;
        }
        Packet::new(skb)?
    };
    let answer = || {
        let syn = JoinSyn {
            flow: packet.flow(netns.cookie())?,
            isn: packet.seq(),
            nonce: of.remote_nonce,
            token: Token::new(of.token)?,
        };
        let nonce = join_nonces(&syn, bh).next()?;
        let (own, peer) = ends(&of, nonce);
        let hmac = hmac(of.msk, false, own, peer)?;
        Some((nonce, u64::from_be_bytes(*hmac.first_chunk()?)))
    };
    match answer() {
        Some((nonce, hmac)) => {
            // SAFETY: By this function's requirement.
            unsafe { dc_join_answer(req, nonce, hmac) };
            Some(0)
        }
        None => {
            // The key isn't there yet.
            netns.count(DC_COUNT_JOIN_NO_KEY);
            // SAFETY: By this function's requirement.
            unsafe { dc_join_drop(req) };
            Some(EPERM.to_errno())
        }
    }
}

/// This host's end and the peer's, of a join to this host.
fn ends(of: &dc_join_request, nonce: u32) -> (End, End) {
    (
        End {
            key: of.local_key,
            nonce,
        },
        End {
            key: of.remote_key,
            nonce: of.remote_nonce,
        },
    )
}

/// Whether `ack` carries `HMAC_A` for our `nonce`, under the connection's key or the one before.
fn has_hmac_a(of: &dc_join_request, nonce: u32, ack: &dc_join) -> bool {
    let (own, peer) = ends(of, nonce);
    [false, true].into_iter().any(|previous| {
        hmac(of.msk, previous, peer, own).is_some_and(|hmac| {
            let expected: Option<&[u8; ACK_HMAC_LEN]> = hmac.first_chunk();
            expected.is_some_and(|expected| same_hmac(expected, &ack.hmac))
        })
    })
}

/// Whether `ack` ends the handshake that the request began, and for the first time: with the same addresses,
/// sequence number and `Rand_A`, the same `Rand_B` comes again within its time.
///
/// If so, `dc_app_join_end()` must be called.
pub(super) fn is_right_ack(of: &dc_join_request, ack: &dc_join) -> bool {
    ack.nonce == of.remote_nonce
        && (of.verified || has_hmac_a(of, of.local_nonce, ack))
        // SAFETY: The request holds its connection.
        && unsafe { dc_app_join_begin(of.msk, of.local_nonce) }
}

/// Judges the ACK of a join that answers a SYN cookie. Returns 0, or `-EINVAL`: drop.
///
/// # Safety
///
/// `req` must be the request of that join, which is being made.
pub(super) unsafe fn verify_cookie_ack(
    req: *mut request_sock,
    packet: Packet,
    ack: &dc_join,
    netns: Netns,
    bh: &BhDisabled,
) -> c_int {
    // SAFETY: All zeroes is a valid value of integers, booleans and pointers.
    let mut of: dc_join_request = unsafe { core::mem::zeroed() };
    let mut right = || {
        // SAFETY: By this function's requirement.
        if !unsafe { dc_join_request_of(req, &mut of) } {
            return None;
        }
        let syn = JoinSyn {
            flow: packet.flow(netns.cookie())?,
            isn: packet.seq().wrapping_sub(1),
            nonce: ack.nonce,
            token: Token::new(ack.token)?,
        };
        let nonce = join_nonces(&syn, bh).find(|nonce| has_hmac_a(&of, *nonce, ack));
        nonce
    };
    match right() {
        Some(nonce) => {
            // SAFETY: By this function's requirement.
            unsafe { dc_join_verified(req, nonce) };
            0
        }
        None => {
            netns.count(DC_COUNT_JOIN_ACK_BAD);
            EINVAL.to_errno()
        }
    }
}

/// The SYN/ACK of an external-key join: `subflow_finish_connect()`.
///
/// # Safety
///
/// The arguments must be those of `subflow_finish_connect()`, for a subflow that joins an external-key
/// connection.
pub(super) unsafe fn finish_join(ssk: *mut sock, skb: *const sk_buff) {
    // SAFETY: By this function's requirement, here and below.
    let (Some(packet), Some(subflow), Some(netns)) =
        (unsafe { (Packet::new(skb), Subflow::of(ssk), Netns::of_sock(ssk)) })
    else {
        return;
    };
    // SAFETY: By this function's requirement; the stack's function doesn't sleep.
    let original = || unsafe { dc_orig_finish_connect(ssk, skb) };

    let msk = subflow.conn();
    // The subflow's copy of the peer's key field is none: `dc_subflow_joins()`.
    // SAFETY: The subflow holds its connection.
    let (local_key, remote_key) = (subflow.local_key(), unsafe { dc_msk_peer_key(msk) });
    let key = match find(packet.options(), Segment::SynAck) {
        Some(MpJoinRepr {
            body:
                Body::HmacNonce {
                    hmac: theirs,
                    nonce,
                },
            ..
        }) => [false, true].into_iter().find(|previous| {
            let own = End {
                key: local_key,
                nonce: subflow.local_nonce(),
            };
            let peer = End {
                key: remote_key,
                nonce,
            };
            hmac(msk, *previous, peer, own).is_some_and(|hmac| {
                let expected: Option<&[u8; SYN_ACK_HMAC_LEN]> = hmac.first_chunk();
                expected.is_some_and(|expected| same_hmac(expected, &theirs))
            })
        }),
        _ => None,
    };
    netns.count(match key {
        Some(_) => DC_COUNT_JOIN_SYNACK_RX,
        // The stack finds no MP_JOIN or a wrong HMAC, and resets: neither key made it.
        None => DC_COUNT_JOIN_SYNACK_BAD,
    });
    // If neither key made it, nothing may match.
    let hmacs = key.map(|previous| Hmacs::under(msk, previous, local_key, subflow.remote_key()));
    // SAFETY: `original` doesn't sleep; the subflow holds its connection.
    unsafe { with_packet(skb, hmacs, original) }
}

/// `mptcp_established_options()`: the ACK of an external-key join is 4 bytes longer than the stack's.
/// Sees every segment, but only while some application has external keys.
pub(super) struct EstablishedOptions;

impl Hook for EstablishedOptions {
    const TARGET: &'static CStr = c"mptcp_established_options";

    #[inline(always)]
    fn glance(call: Call<'_>) -> Option<bool> {
        Some(Self::takes(call))
    }

    #[inline(always)]
    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The subflow's socket, which lives, is the first argument.
        unsafe { Subflow::of(call.arg0()) }
            .is_some_and(|subflow| !subflow.fully_established() && subflow.is_external())
    }

    fn replacement() -> usize {
        established_options as usize
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_established_options()`.
unsafe extern "C" fn established_options(
    ssk: *mut sock,
    skb: *mut sk_buff,
    remaining: c_uint,
    has_ts: bool,
    opts: *mut mptcp_out_options,
) -> c_int {
    /// `TCPOLEN_MPTCP_MPJ_ACK`
    const STOCK: c_int = 24;
    const OURS: c_int = len::TOKEN_NONCE_HMAC as c_int;

    // SAFETY: By this function's requirement.
    let size = unsafe { dc_orig_established_options(ssk, skb, remaining, has_ts, opts) };
    // SAFETY: As above.
    let Some(opts) = (unsafe { OutOptions::new(opts) }) else {
        return size;
    };
    let grown = size.saturating_add(OURS - STOCK);
    if size >= STOCK
        && opts.suboptions() & DC_MPJ_ACK as u16 != 0
        && u32::try_from(grown).is_ok_and(|grown| grown <= remaining)
        && crate::control::wire_is_ready()
    {
        opts.mark(OutOptions::OURS);
        return grown;
    }
    size
}

/// `mptcp_pm_fully_established()`: no address is announced and no subflow opened before the key is there.
/// `setsockopt(MPTCP_KEY)` catches up on it.
pub(super) struct PmFullyEstablished;

impl Hook for PmFullyEstablished {
    const TARGET: &'static CStr = c"mptcp_pm_fully_established";

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The connection, which lives, is the first argument.
        unsafe { dc_pm_must_wait(call.arg0()) }
    }

    fn replacement() -> usize {
        wait as usize
    }
}

/// # Safety
///
/// For the callers of functions with two pointers.
unsafe extern "C" fn wait(_: *mut kernel::ffi::c_void, _: *mut kernel::ffi::c_void) {}

/// `mptcp_pm_add_addr_received()`: nor is an address heeded, which the peer then announces again.
pub(super) struct PmAddAddrReceived;

impl Hook for PmAddAddrReceived {
    const TARGET: &'static CStr = c"mptcp_pm_add_addr_received";

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The subflow's socket, which lives and holds its connection, is the first argument.
        unsafe { Subflow::of(call.arg0()).is_some_and(|subflow| dc_pm_must_wait(subflow.conn())) }
    }

    fn replacement() -> usize {
        wait as usize
    }
}

/// `mptcp_adjust_add_addr_timeout()`: waits longer for the peer's key than the stack would for a lost segment.
pub(super) struct AddAddrTimeout;

impl Hook for AddAddrTimeout {
    const TARGET: &'static CStr = c"mptcp_adjust_add_addr_timeout";

    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The connection, which lives, is the first argument.
        unsafe { dc_msk_is_external(call.arg0()) }
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_adjust_add_addr_timeout()`.
        unsafe extern "C" fn timeout(msk: *mut mptcp_sock) -> c_uint {
            // SAFETY: By this function's requirement.
            unsafe { dc_external_add_addr_timeout(msk) }
        }
        timeout as usize
    }
}
