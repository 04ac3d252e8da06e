// SPDX-License-Identifier: GPL-2.0

//! MP_JOIN, both ways, and what its HMACs are computed over.

use hmac::{Hmac, KeyInit, Mac};
use proptest::prelude::*;
use proto::key::KeyField;
use proto::option::mp_join::{
    fastclose_message, find, hmac_message, same_hmac, standard_syn_alone, syn_alone, Body,
    MpJoinRepr, ACK_HMAC_LEN,
};
use proto::option::{Error, Segment, MAX_LEN};
use proto::token::Token;
use proto::vectors;
use sha2::Sha256;

fn mp_join() -> impl Strategy<Value = (Segment, MpJoinRepr)> {
    let token = || (1_u32..).prop_map(|token| Token::new(token).unwrap());
    let established = || prop_oneof![Just(Segment::Ack), Just(Segment::Data)];
    let form = prop_oneof![
        token().prop_map(|token| (Segment::Syn, Body::Token { token })),
        (established(), token()).prop_map(|(segment, token)| (segment, Body::Token { token })),
        (token(), any::<u32>())
            .prop_map(|(token, nonce)| (Segment::Syn, Body::TokenNonce { token, nonce })),
        Just((Segment::SynAck, Body::Empty)),
        any::<([u8; 8], u32)>()
            .prop_map(|(hmac, nonce)| (Segment::SynAck, Body::HmacNonce { hmac, nonce })),
        (established(), token(), any::<(u32, [u8; 16])>()).prop_map(
            |(segment, token, (nonce, hmac))| (
                segment,
                Body::TokenNonceHmac { token, nonce, hmac }
            )
        ),
    ];
    (form, any::<(bool, u8)>()).prop_map(|((segment, body), (backup, address_id))| {
        (
            segment,
            MpJoinRepr {
                backup,
                address_id,
                body,
            },
        )
    })
}

fn emit(repr: &MpJoinRepr) -> Vec<u8> {
    let mut buffer = [0xa5; MAX_LEN];
    let length = repr.emit(&mut buffer).unwrap();
    assert!(buffer[length..].iter().all(|&byte| byte == 0xa5));
    buffer[..length].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_emitted_parses_back((segment, repr) in mp_join()) {
        let bytes = emit(&repr);
        prop_assert_eq!(bytes.len(), repr.buffer_len());
        prop_assert_eq!(bytes.len() % 4, 0);
        prop_assert_eq!(MpJoinRepr::parse(&bytes, segment), Ok(repr));
        prop_assert_eq!(find(&bytes, segment), Some(repr));
    }

    #[test]
    fn a_syn_is_read_the_same_where_it_is_known_to_be(
        (segment, repr) in mp_join(), behind in prop::collection::vec(0_u8..3, 0..3),
    ) {
        let bytes = [emit(&repr), behind].concat();
        let found = find(&bytes, Segment::Syn);
        let alone = |length| found.filter(|_| bytes.len() == length);
        prop_assert_eq!(syn_alone(&bytes), alone(8));
        prop_assert_eq!(standard_syn_alone(&bytes), alone(12));
        prop_assert!(segment != Segment::Syn || alone(repr.buffer_len()).is_none_or(|it| it == repr));
    }

    #[test]
    fn every_truncation_and_every_small_buffer_is_named((segment, repr) in mp_join()) {
        let bytes = emit(&repr);
        for got in 0..bytes.len() {
            let needed = if got < 4 { 4 } else { bytes.len() };
            let error = Error::Truncated { needed, got };
            prop_assert_eq!(MpJoinRepr::parse(&bytes[..got], segment), Err(error));
            let mut buffer = [0xa5; MAX_LEN];
            let needed = bytes.len();
            prop_assert_eq!(repr.emit(&mut buffer[..got]), Err(Error::NoRoom { needed, got }));
            prop_assert_eq!(buffer, [0xa5; MAX_LEN]);
        }
    }

    #[test]
    fn every_other_length_is_refused(length in 4_u8..=40, rest: [u8; 36], segment in 0..4) {
        let segment = [Segment::Syn, Segment::SynAck, Segment::Ack, Segment::Data][segment as usize];
        let mut bytes = vec![30, length, 0x10, 1];
        bytes.extend(rest);
        bytes[4] |= 1;
        bytes.truncate(usize::from(length));
        let known: &[u8] = match segment {
            Segment::Syn => &[8, 12],
            Segment::SynAck => &[4, 16],
            Segment::Ack | Segment::Data => &[8, 28],
        };
        let parsed = MpJoinRepr::parse(&bytes, segment);
        if known.contains(&length) {
            prop_assert_eq!(emit(&parsed.unwrap()), bytes);
        } else {
            prop_assert_eq!(parsed, Err(Error::Length(length)));
        }
    }

    #[test]
    fn no_byte_string_harms(bytes in proptest::collection::vec(any::<u8>(), 0..=64)) {
        for segment in [Segment::Syn, Segment::SynAck, Segment::Ack, Segment::Data] {
            let _ = MpJoinRepr::parse(&bytes, segment);
            let _ = find(&bytes, segment);
        }
    }

    #[test]
    fn hmacs_are_equal_exactly_when_all_bytes_are(one: [u8; 16], at in 0_usize..16, flip in 1_u8..) {
        let mut other = one;
        prop_assert!(same_hmac(&one, &other));
        other[at] ^= flip;
        prop_assert!(!same_hmac(&one, &other));
    }

    #[test]
    fn a_message_is_both_key_fields_and_both_nonces_own_first(fields in key_fields(), nonces: [u32; 2]) {
        let [own, peer] = fields;
        let message = hmac_message(own, peer, nonces[0], nonces[1]);
        let parts = [own, peer].map(|field| field.raw().to_be_bytes()).concat();
        prop_assert_eq!(message.to_vec(), [parts, nonces.map(u32::to_be_bytes).concat()].concat());
    }

    #[test]
    fn a_message_stands_for_one_connection_one_exchange_and_one_direction(
        fields in key_fields(),
        nonces: [u32; 2],
        other_fields in key_fields(),
        other_nonces: [u32; 2],
        mixed: [bool; 4],
    ) {
        // Some parts the same, some not: as an attacker can combine what it saw.
        let field = |at: usize| if mixed[at] { fields[at] } else { other_fields[at] };
        let nonce = |at: usize| if mixed[2 + at] { nonces[at] } else { other_nonces[at] };
        let of = |a: KeyField, b: KeyField, [x, y]: [u32; 2]| hmac_message(a, b, x, y);
        let one = of(fields[0], fields[1], nonces);
        let other = of(field(0), field(1), [nonce(0), nonce(1)]);
        let same = (fields[0], fields[1], nonces) == (field(0), field(1), [nonce(0), nonce(1)]);
        prop_assert_eq!(one == other, same);
        let reflected = of(fields[1], fields[0], [nonces[1], nonces[0]]);
        prop_assert_eq!(one == reflected, fields[0] == fields[1] && nonces[0] == nonces[1]);
    }

    #[test]
    fn what_a_fastclose_signs_is_both_key_fields_own_first_and_its_subtype(fields in key_fields()) {
        let [own, peer] = fields;
        let parts = [own, peer].map(|field| field.raw().to_be_bytes()).concat();
        prop_assert_eq!(fastclose_message(own, peer).to_vec(), [parts, vec![7]].concat());
    }

    #[test]
    fn a_fastclose_stands_for_one_connection_and_one_direction(
        fields in key_fields(), other in key_fields(), mixed: [bool; 2],
    ) {
        let field = |at: usize| if mixed[at] { fields[at] } else { other[at] };
        let one = fastclose_message(fields[0], fields[1]);
        let same = fields == [field(0), field(1)];
        prop_assert_eq!(one == fastclose_message(field(0), field(1)), same);
        prop_assert_eq!(one == fastclose_message(fields[1], fields[0]), fields[0] == fields[1]);
    }

    #[test]
    fn an_hmac_verifies_under_its_key_alone(
        key in proptest::collection::vec(any::<u8>(), 16..=64),
        fields in key_fields(),
        nonces: [u32; 2],
        at: prop::sample::Index,
        flip in 1_u8..,
    ) {
        let message = hmac_message(fields[0], fields[1], nonces[0], nonces[1]);
        let mut other = key.clone();
        *at.get_mut(&mut other) ^= flip;
        let front = |key: &[u8]| -> [u8; ACK_HMAC_LEN] { *hmac(key, &message).first_chunk().unwrap() };
        prop_assert!(same_hmac(&front(&key), &front(&key)));
        prop_assert!(!same_hmac(&front(&key), &front(&other)));
    }
}

fn key_fields() -> impl Strategy<Value = [KeyField; 2]> {
    let field = || (1_u64 << 32..).prop_map(|raw| KeyField::from_raw(raw).unwrap());
    [field(), field()]
}

fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().into()
}

#[test]
fn hmacs_of_joins_are_those_of_another_library() {
    assert_eq!(vectors::join_hmacs(hmac), Ok(()));
    assert!(vectors::join_hmacs(|key, message| hmac(message, key)).is_err());
}

#[test]
fn hmacs_of_fastcloses_are_those_of_another_library() {
    assert_eq!(vectors::fastclose_hmacs(hmac), Ok(()));
    assert!(vectors::fastclose_hmacs(|key, message| hmac(message, key)).is_err());
}

#[test]
fn the_forms_in_bytes() {
    let token = Token::new(0x0102_0304).unwrap();
    let join = |body| MpJoinRepr {
        backup: true,
        address_id: 9,
        body,
    };
    assert_eq!(emit(&join(Body::Empty)), [30, 4, 0x11, 9]);
    assert_eq!(
        emit(&join(Body::Token { token })),
        [30, 8, 0x11, 9, 1, 2, 3, 4]
    );
    let syn = Body::TokenNonce {
        token,
        nonce: 0x0506_0708,
    };
    assert_eq!(emit(&join(syn)), [30, 12, 0x11, 9, 1, 2, 3, 4, 5, 6, 7, 8]);
    let syn_ack = Body::HmacNonce {
        hmac: [7; 8],
        nonce: 0x0506_0708,
    };
    assert_eq!(
        emit(&join(syn_ack)),
        [30, 16, 0x11, 9, 7, 7, 7, 7, 7, 7, 7, 7, 5, 6, 7, 8]
    );
    let ack = Body::TokenNonceHmac {
        token,
        nonce: 0x0506_0708,
        hmac: [7; 16],
    };
    let mut bytes = vec![30, 28, 0x11, 9, 1, 2, 3, 4, 5, 6, 7, 8];
    bytes.extend([7; 16]);
    assert_eq!(emit(&join(ack)), bytes);
}

#[test]
fn zero_tokens_and_foreign_options_are_refused() {
    let parse = |bytes: &[u8]| MpJoinRepr::parse(bytes, Segment::Syn);
    assert_eq!(parse(&[30, 8, 0x10, 0, 0, 0, 0, 0]), Err(Error::ZeroToken));
    assert_eq!(parse(&[30, 8, 0x00, 0, 0, 0, 0, 1]), Err(Error::Subtype(0)));
    assert_eq!(parse(&[31, 8, 0x10, 0, 0, 0, 0, 1]), Err(Error::Kind(31)));
}

#[test]
fn only_the_first_mptcp_option_counts() {
    let join = [30, 8, 0x10, 9, 1, 2, 3, 4];
    let prio = [30, 3, 0x50];
    let found = |parts: &[&[u8]]| find(&parts.concat(), Segment::Syn).is_some();
    assert!(found(&[&[1, 1, 2, 4, 5, 0xb4], &join, &prio]));
    assert!(!found(&[&prio, &join]));
    assert!(!found(&[&[30, 4, 0x10, 9], &join]));
}

#[test]
fn each_end_has_its_own_key_and_nonce_first() {
    let a = KeyField::from_raw(0x0101_0101_0202_0202).unwrap();
    let b = KeyField::from_raw(0x0303_0303_0404_0404).unwrap();
    let of_a = hmac_message(a, b, 0x0505_0505, 0x0606_0606);
    let mut expected = [0; 24];
    for (value, field) in (1..=6).zip(expected.chunks_mut(4)) {
        field.fill(value);
    }
    assert_eq!(of_a, expected);
    assert_ne!(
        of_a,
        hmac_message(b, a, 0x0606_0606, 0x0505_0505),
        "a reflected message verifies"
    );
}
