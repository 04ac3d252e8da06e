// SPDX-License-Identifier: GPL-2.0

//! Version 15 on the wire and off it. These two hooks see every segment.

use kernel::prelude::*;
use proto::key::KeyField;
use proto::option::mp_capable::{
    find,
    len,
    restamp,
    Body,
    Features,
    Flags,
    MpCapableRepr,
    Received as Option_,
    DC_VERSION, //
};
use proto::option::mp_join::MpJoinRepr;
use proto::option::{
    mp_join,
    subtype,
    Segment,
    KIND, //
};
use proto::token::Token;

use super::external;
use super::join::{
    fields_of,
    is_expected, //
};
use crate::bindings::*;
use crate::hook::{
    Call,
    Hook, //
};
use crate::stack::{
    Netns,
    OutOptions,
    Packet,
    Received,
    Subflow, //
};

/// `mptcp_write_options()`: the stack writes its MP_CAPABLE, this restamps it.
pub(super) struct WriteOptions;

impl Hook for WriteOptions {
    const TARGET: &'static CStr = c"mptcp_write_options";

    #[inline(always)]
    fn glance(call: Call<'_>) -> Option<bool> {
        Some(Self::takes(call))
    }

    #[inline(always)]
    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The options, on the caller's stack, are the fourth argument.
        let opts = unsafe { OutOptions::live(call.arg3()) };
        let suboptions = opts.suboptions();
        suboptions & (OutOptions::HANDSHAKE | OutOptions::FASTCLOSE) != 0
            && (suboptions & OutOptions::OURS != 0
                // SAFETY: The subflow's socket, or null for a SYN/ACK, is the third argument.
                || unsafe { Subflow::of(call.arg2()) }.is_some_and(Subflow::is_low_overhead)
                || suboptions & OutOptions::FASTCLOSE != 0)
    }

    fn replacement() -> usize {
        write_options as usize
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_write_options()`.
unsafe extern "C" fn write_options(
    th: *mut tcphdr,
    ptr: *mut u32,
    tp: *mut tcp_sock,
    opts: *mut mptcp_out_options,
) {
    // SAFETY: By this function's requirement.
    let opts = unsafe { OutOptions::live(opts) };
    match opts.suboptions() {
        // SAFETY: `server::SynackOptions` reserved the room.
        OutOptions::CAPABLE_ANSWER => unsafe {
            write_capable(ptr, Segment::SynAck, opts.sndr_key(), Flags(opts.join_id()));
        },
        // SAFETY: As above.
        OutOptions::JOIN_ANSWER => unsafe { write_join_answer(ptr, opts) },
        // SAFETY: By this function's requirement.
        suboptions => unsafe { write_other(th, ptr, tp, opts, suboptions) },
    }
}

/// [`write_options`] for what isn't in a SYN/ACK.
///
/// # Safety
///
/// The arguments must be those of `mptcp_write_options()`.
#[inline(never)]
unsafe fn write_other(
    th: *mut tcphdr,
    ptr: *mut u32,
    tp: *mut tcp_sock,
    opts: OutOptions,
    suboptions: u16,
) {
    // SAFETY: By this function's requirement.
    let original = |ptr| unsafe { dc_orig_write_options(th, ptr, tp, opts.raw()) };
    if suboptions & OutOptions::FASTCLOSE != 0 {
        // SAFETY: The subflow's socket is the third argument; who sends has not closed it.
        if let Some(connection) = unsafe { Subflow::of(tp.cast()).and_then(|s| s.connection()) } {
            external::sign_fastclose(connection, opts);
        }
        return original(ptr);
    }
    if suboptions & OutOptions::MPJ != 0 {
        // SAFETY: The subflow's socket, or null for a SYN/ACK, is the third argument.
        let subflow = unsafe { Subflow::of(tp.cast()) };
        if suboptions & OutOptions::OURS == 0 && subflow.is_some_and(Subflow::is_external) {
            // Of these, only the ACK differs from the stack's: `external::EstablishedOptions`.
            return original(ptr);
        }
        // SAFETY: The stack reserved the room; the subflow's socket lives.
        let behind = unsafe { write_join(ptr.cast(), tp, opts) };
        opts.set_suboptions(suboptions & !(OutOptions::MPJ | OutOptions::OURS));
        // MP_PRIO or REMOVE_ADDR may come behind.
        if opts.suboptions() != 0 {
            original(behind.cast());
        }
        return;
    }
    // SAFETY: A SYN and an ACK have a subflow.
    let subflow = unsafe { Subflow::of(tp.cast()) };
    if suboptions & OutOptions::FULL != 0 {
        let sender = subflow.map_or(0, Subflow::local_key);
        // SAFETY: The options live; `client::syn_options` reserved the room.
        unsafe { write_capable(ptr, Segment::Syn, sender, Flags(dc_out_flags(opts.raw()))) };
        return;
    }
    original(ptr);
    let segment = match suboptions & DC_MPC_SYN as u16 {
        0 => Segment::Ack,
        _ => Segment::Syn,
    };
    let external = subflow.is_some_and(Subflow::is_external);
    // SAFETY: The stack has just written an MP_CAPABLE of at least four bytes there.
    let start = unsafe { &mut *ptr.cast::<[u8; len::COMPACT]>() };
    let _ = restamp(segment, start, external);
}

/// Writes an MP_CAPABLE with one key field, beside which no other option stands.
///
/// # Safety
///
/// `ptr` must have room for it.
#[inline(always)]
unsafe fn write_capable(ptr: *mut u32, segment: Segment, sender: u64, flags: Flags) {
    let Some(sender) = KeyField::from_raw(sender) else {
        return;
    };
    let repr = MpCapableRepr {
        features: Features {
            checksum: flags.has(Flags::CHECKSUM),
            external: sender.is_external(),
            deny_join: flags.has(Flags::DENY_JOIN),
        },
        body: Body::Key { sender },
    };
    // SAFETY: By this function's requirement.
    let option = unsafe { &mut *ptr.cast::<[u8; len::KEY]>() };
    // The array has the room, so this can't fail.
    let _ = repr.emit(segment, option);
}

/// Writes the MP_JOIN of a SYN/ACK of ours.
///
/// # Safety
///
/// `ptr` must have room for it.
#[inline(always)]
unsafe fn write_join_answer(ptr: *mut u32, opts: OutOptions) {
    let repr = MpJoinRepr {
        backup: opts.backup() & 1 != 0,
        address_id: opts.join_id(),
        body: mp_join::Body::Empty,
    };
    // SAFETY: By this function's requirement.
    let option = unsafe { &mut *ptr.cast::<[u8; mp_join::len::EMPTY]>() };
    // The array has the room, so this can't fail.
    let _ = repr.emit(option);
}

/// Writes an MP_JOIN of ours to `ptr`, and returns where the next option goes.
///
/// The stack reserved 24 bytes for the low-overhead one of an ACK, when it couldn't be told that ours is
/// shorter without another hook on every segment. What ours leaves of them is filled with no-operations.
///
/// # Safety
///
/// `ptr` must have room for what the stack reserved; `tp` must be null or a live subflow.
unsafe fn write_join(ptr: *mut u8, tp: *mut tcp_sock, opts: OutOptions) -> *mut u8 {
    /// `TCPOLEN_MPTCP_MPJ_ACK`
    const ACK_ROOM: usize = 24;
    const NOP: u8 = 1;

    let suboptions = opts.suboptions();
    let mut join = dc_join {
        token: opts.token(),
        nonce: 0,
        hmac: [0; 16],
        address_id: opts.join_id(),
        backup: opts.backup() & 1 != 0,
        external: suboptions & OutOptions::OURS != 0 && suboptions & DC_MPJ_ACK as u16 != 0,
    };
    let room = if suboptions & DC_MPJ_SYN as u16 != 0 {
        mp_join::len::TOKEN
    } else if suboptions & DC_MPJ_SYNACK as u16 != 0 {
        mp_join::len::EMPTY
    } else {
        // SAFETY: An MP_JOIN in an ACK has a subflow.
        unsafe { dc_subflow_join_fields(tp.cast(), &mut join) };
        if join.external {
            mp_join::len::TOKEN_NONCE_HMAC
        } else {
            ACK_ROOM
        }
    };
    let body = match Token::new(join.token) {
        Some(token) if join.external => mp_join::Body::TokenNonceHmac {
            token,
            nonce: join.nonce,
            hmac: join.hmac,
        },
        Some(token) if room != mp_join::len::EMPTY => mp_join::Body::Token { token },
        _ => mp_join::Body::Empty,
    };
    let repr = MpJoinRepr {
        backup: join.backup,
        address_id: join.address_id,
        body,
    };
    // SAFETY: By this function's requirement.
    let buffer = unsafe { core::slice::from_raw_parts_mut(ptr, room) };
    buffer.fill(NOP);
    // There is room, so this can't fail.
    let _ = repr.emit(buffer);
    ptr.wrapping_add(room)
}

/// `mptcp_get_options()`: an MP_CAPABLE of version 15 becomes what the stack knows.
pub(super) struct GetOptions;

impl Hook for GetOptions {
    const TARGET: &'static CStr = c"mptcp_get_options";

    #[inline(always)]
    fn glance(call: Call<'_>) -> Option<bool> {
        Some(Self::takes(call))
    }

    #[inline(always)]
    fn takes(call: Call<'_>) -> bool {
        // SAFETY: The packet, which lives, is the first argument.
        ours(unsafe { Packet::live(call.arg0()) }.options()).is_some()
    }

    fn replacement() -> usize {
        get_options as usize
    }
}

/// The options from the first of MPTCP's on, if that may be a low-overhead MP_CAPABLE or MP_JOIN. Stacks
/// write REMOVE_ADDR and MP_PRIO behind those, and nothing else goes with them (C function:
/// `mptcp_parse_option()`). Quick to say no to SYNs without, and to data and ACKs: they begin with a DSS.
#[inline(always)]
pub(crate) fn ours(options: &[u8]) -> Option<&[u8]> {
    first(options).filter(|options| is_ours(options))
}

/// Whether the first of these options may be a low-overhead MP_CAPABLE or MP_JOIN.
#[inline(always)]
pub(super) fn is_ours(options: &[u8]) -> bool {
    matches!(*options, [_, _, DC_VERSION, ..]) || is_own_join(options)
}

/// Whether the first of these options is an MP_JOIN that is none of RFC 8684's, by its length.
#[inline(always)]
pub(super) fn is_own_join(options: &[u8]) -> bool {
    const SYN: u8 = mp_join::len::TOKEN_NONCE as u8;
    const SYN_ACK: u8 = mp_join::len::HMAC_NONCE as u8;
    const ACK: u8 = mp_join::len::HMAC as u8;

    matches!(*options, [_, length, third, ..]
        if third >> 4 == subtype::MP_JOIN && !matches!(length, SYN | SYN_ACK | ACK))
}

/// The options from the first of MPTCP's on.
#[inline(always)]
pub(super) fn first(options: &[u8]) -> Option<&[u8]> {
    // How Linux, and nearly all else, begins a segment's options: NOP, NOP, timestamps.
    match behind([1, 1, 8, 10], options) {
        Some(rest) => scan(rest),
        None => first_in_syn(options),
    }
}

/// [`first`], quicker for a SYN.
#[inline(always)]
pub(super) fn first_in_syn(mut options: &[u8]) -> Option<&[u8]> {
    // How it begins those: MSS, SACK permitted, timestamps, NOP, window scale.
    if let [2, 4, _, _, rest @ ..] = options {
        options = rest;
        if let Some(rest) = behind([4, 2, 8, 10], options) {
            options = match rest {
                [1, 3, 3, _, rest @ ..] => rest,
                _ => rest,
            };
        }
    }
    scan(options)
}

#[inline(always)]
fn scan(mut options: &[u8]) -> Option<&[u8]> {
    loop {
        match *options {
            [KIND, length, _, ..] if length > 2 => return Some(options),
            [1, ref rest @ ..] => options = rest,
            [kind, length, ..] if kind > 1 && length > 1 => {
                options = options.get(usize::from(length)..)?;
            }
            _ => return None,
        }
    }
}

/// The options behind timestamps, whose twelve bytes with those before them begin with `start`. Compares all four at
/// once.
#[inline(always)]
fn behind(start: [u8; 4], options: &[u8]) -> Option<&[u8]> {
    let (head, rest) = options.split_first_chunk::<12>()?;
    (head.first_chunk() == Some(&start)).then_some(rest)
}

/// # Safety
///
/// The arguments must be those of `mptcp_get_options()`.
unsafe extern "C" fn get_options(skb: *const sk_buff, mp_opt: *mut mptcp_options_received) {
    // SAFETY: By this function's requirement.
    unsafe { dc_orig_get_options(skb, mp_opt) };
    // SAFETY: By this function's requirement.
    let views = unsafe { (Packet::new(skb), Received::new(mp_opt)) };
    let (Some(packet), Some(received)) = views else {
        return;
    };
    let _ = translate(packet, received);
}

/// Overwrites what the stack made of the options, if a handshake option of ours counts here.
fn translate(packet: Packet, received: Received) -> Option<()> {
    let segment = packet.segment();
    let options = first(packet.options())?;
    if is_own_join(options) {
        return translate_join(packet, options, segment, received);
    }
    let Some(Option_::Dc(option)) = find(options, segment) else {
        return None;
    };
    let (suboption, sender, mapping) = match (segment, option.body) {
        (Segment::SynAck, Body::Key { sender }) => {
            // Only `client::finish_connect` knows that this socket's SYN was ours.
            if !is_expected(packet) {
                return None;
            }
            (DC_MPC_SYNACK, sender, None)
        }
        // TCP Fast Open makes a connection of the SYN, which the stack reads once more. Of ours it knows all but flag B.
        (Segment::Syn, Body::Compact | Body::Key { .. }) if is_expected(packet) => {
            let Features {
                checksum,
                deny_join,
                ..
            } = option.features;
            // SAFETY: The options are the caller's to fill.
            unsafe {
                dc_received_capable(received.raw(), DC_MPC_SYN as u16, checksum, deny_join);
            }
            return Some(());
        }
        (_, Body::Keys { sender, receiver })
        | (
            _,
            Body::Data {
                sender, receiver, ..
            },
        ) => {
            // Two pairs, and B as in the SYN/ACK.
            if sender == receiver || option.features.external != receiver.is_external() {
                return None;
            }
            // Whoever holds the token that is echoed must hold the whole key field, so the ACK
            // answers a SYN/ACK of ours.
            let netns = Netns::of_key_owner(receiver, packet)?;
            netns.count(DC_COUNT_MPC_ACK_RX);
            received.set_rcvr_key(receiver.raw());
            let mapping = match option.body {
                Body::Data { mapping, .. } => Some(mapping),
                _ => None,
            };
            (DC_MPC_ACK, sender, mapping)
        }
        _ => return None,
    };

    let Features {
        checksum,
        deny_join,
        ..
    } = option.features;
    // In a segment with data, the checksum itself says that it is there.
    let checksum = match mapping {
        Some(mapping) => mapping.checksum.is_some(),
        None => checksum,
    };
    received.set_sndr_key(sender.raw());
    // SAFETY: The options are the caller's to fill.
    unsafe { dc_received_capable(received.raw(), suboption as u16, checksum, deny_join) };
    if let Some(mapping) = mapping {
        received.set_data_seq(sender.idsn().first_byte());
        received.set_subflow_seq(1);
        received.set_data_len(mapping.len);
        received.set_csum(mapping.checksum.unwrap_or([0; 2]));
        // SAFETY: As above.
        unsafe { dc_received_mapping(received.raw()) };
    }
    Some(())
}

/// [`translate`] for an MP_JOIN, with which `options` begin. Its HMAC becomes 0, which only `join::HmacSha` agrees to, for the packet
/// that [`is_expected`].
fn translate_join(
    packet: Packet,
    options: &[u8],
    segment: Segment,
    received: Received,
) -> Option<()> {
    let option = mp_join::find(options, segment)?;
    let join = fields_of(option);
    let suboption = match (segment, option.body) {
        (Segment::SynAck, mp_join::Body::Empty) if is_expected(packet) => DC_MPJ_SYNACK,
        (
            Segment::Ack | Segment::Data,
            mp_join::Body::Token { token } | mp_join::Body::TokenNonceHmac { token, .. },
        ) => {
            // Repeated, it comes when the subflow is there already.
            // SAFETY: Any token may be asked for.
            if !is_expected(packet) && !unsafe { dc_token_has_mode(token.get(), join.external) } {
                return None;
            }
            DC_MPJ_ACK
        }
        _ => return None,
    };
    // SAFETY: The options are the caller's to fill.
    unsafe { dc_received_join(received.raw(), suboption as u16, &join) };
    Some(())
}
