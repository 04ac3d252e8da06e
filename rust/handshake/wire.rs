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
    MpCapableRepr,
    Received as Option_,
    DC_VERSION, //
};
use proto::option::{
    subtype,
    Segment,
    KIND, //
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
    fn takes(call: &Call<'_>) -> bool {
        // SAFETY: The options, on the caller's stack, are the fourth argument.
        let Some(opts) = (unsafe { OutOptions::new(call.arg3()) }) else {
            return false;
        };
        let suboptions = opts.suboptions();
        suboptions & OutOptions::MPC != 0
            && (suboptions & OutOptions::OURS != 0
                // SAFETY: The subflow's socket, or null for a SYN/ACK, is the third argument.
                || unsafe { Subflow::of(call.arg2()) }.is_some_and(Subflow::is_low_overhead))
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
    // SAFETY: By this function's requirement, here and below.
    unsafe { dc_orig_write_options(th, ptr, tp, opts) };
    let Some(opts) = (unsafe { OutOptions::new(opts) }) else {
        return;
    };
    let suboptions = opts.suboptions();
    // SAFETY: The stack has just written an MP_CAPABLE of at least four bytes there.
    let header = unsafe { &mut *ptr.cast::<[u8; len::COMPACT]>() };

    if suboptions & OutOptions::FULL != 0 {
        let features = restamp(Segment::Syn, header);
        // SAFETY: The subflow's socket, which lives, is the third argument.
        let key = unsafe { Subflow::of(tp.cast()) }
            .and_then(|subflow| KeyField::from_raw(subflow.local_key()));
        if let (Some(features), Some(sender)) = (features, key) {
            // SAFETY: `client::syn_options` reserved the room.
            let option = unsafe { &mut *ptr.cast::<[u8; len::KEY]>() };
            let repr = MpCapableRepr {
                features,
                body: Body::Key { sender },
            };
            // The array has the room, so this can't fail.
            let _ = repr.emit(Segment::Syn, option);
        }
        return;
    }
    let segment = if suboptions & DC_MPC_SYN as u16 != 0 {
        Segment::Syn
    } else {
        Segment::Ack
    };
    let _ = restamp(segment, header);
}

/// `mptcp_get_options()`: an MP_CAPABLE of version 15 becomes what the stack knows.
pub(super) struct GetOptions;

impl Hook for GetOptions {
    const TARGET: &'static CStr = c"mptcp_get_options";

    #[inline(always)]
    fn takes(call: &Call<'_>) -> bool {
        // SAFETY: The packet, which lives, is the first argument.
        unsafe { Packet::new(call.arg0()) }.is_some_and(|packet| may_have_ours(packet.options()))
    }

    fn replacement() -> usize {
        get_options as usize
    }
}

/// Whether an MP_CAPABLE of version 15 may be among the options. Quick to say no to data and ACKs: their
/// MPTCP option is a DSS, behind which none can come.
#[inline(always)]
pub(crate) fn may_have_ours(mut options: &[u8]) -> bool {
    /// NOP, NOP, timestamps: how Linux, and nearly all else, begins a segment's options.
    const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];

    if let [a, b, c, d, _, _, _, _, _, _, _, _, rest @ ..] = options {
        if [*a, *b, *c, *d] == TIMESTAMPS {
            options = rest;
        }
    }
    loop {
        match *options {
            [KIND, _, third, ..] if third >> 4 == subtype::DSS => return false,
            [KIND, _, third, ..] if third == subtype::MP_CAPABLE << 4 | DC_VERSION => return true,
            [1, ref rest @ ..] => options = rest,
            [kind, length, ..] if kind > 1 && length > 1 => match options.get(usize::from(length)..) {
                Some(rest) => options = rest,
                None => return false,
            },
            _ => return false,
        }
    }
}

/// # Safety
///
/// The arguments must be those of `mptcp_get_options()`.
unsafe extern "C" fn get_options(skb: *const sk_buff, mp_opt: *mut mptcp_options_received) {
    // SAFETY: By this function's requirement, here and below.
    unsafe { dc_orig_get_options(skb, mp_opt) };
    let (Some(packet), Some(received)) = (unsafe { (Packet::new(skb), Received::new(mp_opt)) }) else {
        return;
    };
    let _ = translate(packet, received);
}

/// Overwrites what the stack made of the options, if an MP_CAPABLE of ours counts here.
fn translate(packet: Packet, received: Received) -> Option<()> {
    let segment = packet.segment();
    let Some(Option_::Dc(option)) = find(packet.options(), segment) else {
        return None;
    };
    let (suboption, sender, mapping) = match (segment, option.body) {
        (Segment::SynAck, Body::Key { sender }) => {
            // Only `client::finish_connect` knows that this socket's SYN was ours.
            // SAFETY: Nothing else runs on this CPU that looks at the cursor, until put.
            let expected = unsafe {
                let synack = (*dc_cursor_get()).synack;
                dc_cursor_put();
                synack
            };
            if !core::ptr::eq(expected, packet.raw()) {
                return None;
            }
            (DC_MPC_SYNACK, sender, None)
        }
        (_, Body::Keys { sender, receiver }) | (_, Body::Data { sender, receiver, .. }) => {
            if option.features.external {
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
