// SPDX-License-Identifier: GPL-2.0

//! Calls every function that the module may call, with arguments that the optimiser cannot know.
//! `no_panic.rs` compiles it as Kbuild would and looks for panics in the result.

#![no_std]

use core::num::NonZeroU32;

use proto::key::{is_low_overhead, KeyField};
use proto::negotiate::{self, Agreed, Answer, Established, Listener, Offer, Outcome, Refusal};
use proto::nonce::{End, Flow};
use proto::option::mp_capable::{self, Features, Mapping, MpCapable, MpCapableRepr, Received};
use proto::option::mp_join::{self, MpJoinRepr};
use proto::option::{options, Error, Segment};
use proto::secret::{verify_own_pair, Secret};
use proto::siphash::HashKey;
use proto::token::{Counter, Place, Slices, Take, Token};
use proto::vectors::Failed;

#[no_mangle]
pub fn rekey(secret: &mut Secret, cipher: &[u8; 16], hash: &[u8; 16]) {
    secret.set_keys(cipher, hash);
}

#[no_mangle]
pub fn issue(secret: &Secret, flow: &Flow, counter: Counter, external: bool) -> Option<KeyField> {
    secret.issue(flow, counter, external)
}

#[no_mangle]
pub fn verify(secrets: &[&Secret], flow: &Flow, key: KeyField) -> Option<(usize, Counter)> {
    verify_own_pair(secrets.iter().copied(), flow, key)
}

#[no_mangle]
pub fn flow4(netns: u64, local: End<4>, remote: End<4>) -> Flow {
    Flow::v4(netns, local, remote)
}

#[no_mangle]
pub fn flow6(netns: u64, local: End<16>, remote: End<16>) -> Flow {
    Flow::v6(netns, local, remote)
}

#[no_mangle]
pub fn hashes(flow: &Flow, key: &HashKey, number: u32, token: Token, epoch: u64) -> u64 {
    flow.standard_key(key, Counter(number)).get()
        ^ u64::from(flow.join_nonce(key, number).get())
        ^ u64::from(flow.join_cookie(key, number, number, token, epoch))
}

#[no_mangle]
pub fn take(cpus: NonZeroU32, slice: u32, cursor: u32) -> Option<Take> {
    Slices::for_cpus(cpus).next(slice, cursor)
}

#[no_mangle]
pub fn place(slices: Slices, counter: Counter) -> Place {
    slices.place(counter)
}

#[no_mangle]
pub fn issued(slices: Slices, counter: Counter, cursors: &[u32]) -> bool {
    slices.issued(counter, |slice| cursors.get(slice as usize).copied())
}

#[no_mangle]
pub fn low_overhead(token: u32, key: u64, idsn: u64) -> bool {
    is_low_overhead(token, key, idsn)
        && KeyField::from_raw(key).is_some_and(|key| key.idsn().first_byte() != 0)
}

#[no_mangle]
pub fn scan(bytes: &[u8]) -> usize {
    options(bytes).fold(0, |sum: usize, option| sum.wrapping_add(option.len()))
}

#[no_mangle]
pub fn find(bytes: &[u8], segment: Segment) -> Option<Received> {
    mp_capable::find(bytes, segment)
}

#[no_mangle]
pub fn view(bytes: &[u8]) -> Option<[u8; 2]> {
    let view = MpCapable::new_checked(bytes).ok()?;
    let known = view.sender()? ^ view.receiver()? ^ u64::from(view.data_len()?);
    (known != u64::from(view.version())).then_some(view.checksum()?)
}

#[no_mangle]
pub fn parse(bytes: &[u8], segment: Segment) -> Result<MpCapableRepr, Error> {
    MpCapableRepr::parse(&MpCapable::new_checked(bytes)?, segment)
}

#[no_mangle]
pub fn emit(repr: &MpCapableRepr, segment: Segment, buffer: &mut [u8]) -> Result<usize, Error> {
    repr.emit(segment, buffer)
}

#[no_mangle]
pub fn restamp(segment: Segment, start: &mut [u8; 4], external: bool) -> Option<Features> {
    mp_capable::restamp(segment, start, external)
}

#[no_mangle]
pub fn find_join(bytes: &[u8], segment: Segment) -> Option<MpJoinRepr> {
    mp_join::find(bytes, segment)
}

#[no_mangle]
pub fn join_syn_alone(bytes: &[u8]) -> [Option<MpJoinRepr>; 2] {
    [mp_join::syn_alone(bytes), mp_join::standard_syn_alone(bytes)]
}

#[no_mangle]
pub fn emit_join(repr: &MpJoinRepr, buffer: &mut [u8]) -> Result<usize, Error> {
    repr.emit(buffer)
}

#[no_mangle]
pub fn hmac_message(own: KeyField, peer: KeyField, nonces: [u32; 2]) -> [u8; 24] {
    mp_join::hmac_message(own, peer, nonces[0], nonces[1])
}

#[no_mangle]
pub fn fastclose_message(own: KeyField, peer: KeyField) -> [u8; 17] {
    mp_join::fastclose_message(own, peer)
}

#[no_mangle]
pub fn same_hmac(one: &[u8; 16], other: &[u8; 16]) -> bool {
    mp_join::same_hmac(one, other)
}

#[no_mangle]
pub fn syn(offer: Offer, own: KeyField) -> MpCapableRepr {
    negotiate::syn(offer, own)
}

#[no_mangle]
pub fn answer(listener: Listener, received: Option<Received>) -> Answer {
    negotiate::answer(listener, received)
}

#[no_mangle]
pub fn syn_ack(listener: Listener, agreed: Agreed, own: KeyField) -> MpCapableRepr {
    negotiate::syn_ack(listener, agreed, own)
}

#[no_mangle]
pub fn outcome(offer: Offer, received: Option<Received>) -> Outcome {
    negotiate::outcome(offer, received)
}

#[no_mangle]
pub fn ack(
    offer: Offer,
    agreed: Agreed,
    own: KeyField,
    peer: KeyField,
    mapping: Option<Mapping>,
) -> MpCapableRepr {
    negotiate::ack(offer, agreed, own, peer, mapping)
}

#[no_mangle]
pub fn third_ack(
    listener: Listener,
    kept: Option<Agreed>,
    ack: &MpCapableRepr,
    secret: &Secret,
    flow: &Flow,
) -> Result<Established, Refusal> {
    negotiate::third_ack(listener, kept, ack, |own| {
        secret.verify(flow, own).is_some()
    })
}

#[no_mangle]
pub fn vectors() -> Result<(), Failed> {
    proto::vectors::ALL
        .iter()
        .try_for_each(|(_, check)| check())
}
