// SPDX-License-Identifier: GPL-2.0

//! The option codecs, fed with what peers, middleboxes and attackers may send.

use proptest::prelude::*;
use proto::key::KeyField;
use proto::option::mp_capable::{
    find, len, restamp, syn_at, Body, Features, Flags, Mapping, MpCapable, MpCapableRepr, Received,
    DC_VERSION,
};
use proto::option::{options, Error, Segment, MAX_LEN};

const SEGMENTS: [Segment; 4] = [Segment::Syn, Segment::SynAck, Segment::Ack, Segment::Data];

fn key_field() -> impl Strategy<Value = KeyField> {
    (1_u64 << 32..).prop_map(|raw| KeyField::from_raw(raw).unwrap())
}

fn features() -> impl Strategy<Value = Features> {
    any::<[bool; 3]>().prop_map(|[checksum, external, deny_join]| Features {
        checksum,
        external,
        deny_join,
    })
}

/// Every option that can be, with the segment it stands in.
fn mp_capable() -> impl Strategy<Value = (Segment, MpCapableRepr)> {
    let keys = || (key_field(), key_field());
    let form = prop_oneof![
        Just((Segment::Syn, Body::Compact)),
        key_field().prop_map(|sender| (Segment::Syn, Body::Key { sender })),
        key_field().prop_map(|sender| (Segment::SynAck, Body::Key { sender })),
        keys().prop_map(|(sender, receiver)| (Segment::Ack, Body::Keys { sender, receiver })),
        (keys(), any::<(u16, Option<[u8; 2]>)>()).prop_map(
            |((sender, receiver), (len, checksum))| {
                let mapping = Mapping { len, checksum };
                let body = Body::Data {
                    sender,
                    receiver,
                    mapping,
                };
                (Segment::Data, body)
            }
        ),
    ];
    (form, features())
        .prop_map(|((segment, body), features)| (segment, MpCapableRepr { features, body }))
}

fn emit(segment: Segment, repr: &MpCapableRepr) -> Vec<u8> {
    let mut buffer = [0xa5; MAX_LEN];
    let length = repr.emit(segment, &mut buffer).unwrap();
    buffer[..length].to_vec()
}

fn parse(segment: Segment, bytes: &[u8]) -> Result<MpCapableRepr, Error> {
    MpCapableRepr::parse(&MpCapable::new_checked(bytes)?, segment)
}

/// Option bytes that often come close to being right.
fn nearly_an_option() -> impl Strategy<Value = Vec<u8>> {
    let lengths = prop_oneof![
        Just(4_u8),
        Just(12),
        Just(20),
        Just(22),
        Just(24),
        any::<u8>(),
        0_u8..=40
    ];
    let versions = prop_oneof![Just(15_u8), Just(1), 0_u8..16];
    let subtypes = prop_oneof![6 => Just(0_u8), 1 => Just(1), 1 => Just(4), 1 => 0_u8..16];
    let flags = prop_oneof![Just(0_u8), Just(1), Just(0x41), Just(0xa1), any::<u8>()];
    let rest = proptest::collection::vec(any::<u8>(), 0..=24);
    (lengths, versions, subtypes, flags, rest).prop_map(
        |(length, version, subtype, flags, mut rest)| {
            let mut bytes = vec![30, length, (subtype << 4) | version, flags];
            rest.resize(usize::from(length.clamp(4, 28)) - 4, 0);
            bytes.extend(rest);
            bytes
        },
    )
}

fn segment() -> impl Strategy<Value = Segment> {
    proptest::sample::select(&SEGMENTS[..])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_emitted_parses_back((segment, repr) in mp_capable()) {
        let bytes = emit(segment, &repr);
        prop_assert_eq!(bytes.len(), repr.buffer_len());
        prop_assert_eq!(parse(segment, &bytes), Ok(repr));
        prop_assert_eq!(find(&bytes, segment), Some(Received::Dc(repr)));
    }

    #[test]
    fn what_parses_is_emitted_byte_for_byte(bytes in nearly_an_option(), segment in segment()) {
        if let Ok(repr) = parse(segment, &bytes) {
            prop_assert_eq!(emit(segment, &repr), bytes);
        }
    }

    #[test]
    fn a_syn_is_read_the_same_where_it_is_known_to_be(bytes in nearly_an_option()) {
        let usual = parse(Segment::Syn, &bytes).ok().filter(|repr| !repr.features.external);
        prop_assert_eq!(syn_at(&bytes), usual);
    }

    #[test]
    fn emit_writes_its_length_and_not_a_byte_more((segment, repr) in mp_capable(), room in 0..=MAX_LEN) {
        let mut buffer = [0xa5; MAX_LEN];
        let needed = repr.buffer_len();
        let result = repr.emit(segment, &mut buffer[..room]);
        if room < needed {
            prop_assert_eq!(result, Err(Error::NoRoom { needed, got: room }));
            prop_assert_eq!(buffer, [0xa5; MAX_LEN]);
        } else {
            prop_assert_eq!(result, Ok(needed));
            prop_assert!(buffer[needed..].iter().all(|&byte| byte == 0xa5));
        }
    }

    #[test]
    fn every_truncation_says_how_much_is_missing((segment, repr) in mp_capable()) {
        let bytes = emit(segment, &repr);
        for got in 0..bytes.len() {
            let needed = if got < len::COMPACT { len::COMPACT } else { bytes.len() };
            prop_assert_eq!(parse(segment, &bytes[..got]), Err(Error::Truncated { needed, got }));
            prop_assert_eq!(find(&bytes[..got], segment), None);
        }
    }

    #[test]
    fn a_form_in_the_wrong_segment_is_refused((segment, repr) in mp_capable()) {
        let bytes = emit(segment, &repr);
        for other in SEGMENTS {
            let full_syn = matches!(repr.body, Body::Key { .. })
                && matches!(other, Segment::Syn | Segment::SynAck);
            if other != segment && !full_syn {
                let length = Error::Length(bytes.len() as u8);
                prop_assert_eq!(parse(other, &bytes), Err(length));
                let mut buffer = [0xa5; MAX_LEN];
                prop_assert_eq!(repr.emit(other, &mut buffer), Err(length));
                prop_assert_eq!(buffer, [0xa5; MAX_LEN]);
            }
        }
    }

    #[test]
    fn a_token_of_zero_is_refused((segment, repr) in mp_capable()) {
        let bytes = emit(segment, &repr);
        for at in [4, 12] {
            if at + 8 <= bytes.len() {
                let mut bytes = bytes.clone();
                bytes[at..at + 4].fill(0);
                prop_assert_eq!(parse(segment, &bytes), Err(Error::ZeroToken));
            }
        }
    }

    #[test]
    fn every_other_flag_byte_is_refused((segment, repr) in mp_capable(), flags: u8) {
        let mut bytes = emit(segment, &repr);
        bytes[3] = flags;
        match parse(segment, &bytes) {
            Ok(parsed) => prop_assert_eq!(Flags::new(segment, parsed.features), Flags(flags)),
            Err(error) => {
                prop_assert_eq!(error, Error::Flags(flags));
                let h = flags & Flags::HMAC_SHA256 != 0;
                let wanted = segment == Segment::Syn || flags & Flags::EXTERNAL != 0;
                prop_assert!(h != wanted || flags & 0x1e != 0);
            }
        }
    }

    #[test]
    fn every_other_version_is_refused((segment, repr) in mp_capable(), version in 0_u8..16) {
        let mut bytes = emit(segment, &repr);
        bytes[2] = version;
        let expected = if version == DC_VERSION { Ok(repr) } else { Err(Error::Version(version)) };
        prop_assert_eq!(parse(segment, &bytes), expected);
    }

    #[test]
    fn no_byte_string_harms(bytes in proptest::collection::vec(any::<u8>(), 0..=64), segment in segment()) {
        let _ = parse(segment, &bytes);
        let _ = find(&bytes, segment);
        prop_assert!(options(&bytes).map(<[u8]>::len).sum::<usize>() <= bytes.len());
    }

    #[test]
    fn a_view_reads_only_what_is_there(bytes in nearly_an_option()) {
        if let Ok(view) = MpCapable::new_checked(&bytes) {
            prop_assert_eq!(view.length(), bytes.len());
            prop_assert_eq!(view.sender().is_some(), bytes.len() >= len::KEY);
            prop_assert_eq!(view.receiver().is_some(), bytes.len() >= len::KEYS);
            prop_assert_eq!(view.data_len().is_some(), bytes.len() >= len::DATA);
            prop_assert_eq!(view.checksum().is_some(), bytes.len() == len::DATA_CHECKSUM);
        }
    }

    #[test]
    fn standard_options_are_found_where_the_stock_kernel_finds_them(
        mut list in proptest::collection::vec(nearly_an_option(), 1..4),
        padding in 0_usize..3,
        segment in segment(),
    ) {
        for option in &mut list {
            // Version 15 is ours alone; the stock kernel takes it for a future version.
            if option[2] & 0xf == DC_VERSION {
                option[2] -= 1;
            }
        }
        let mut bytes = vec![1; padding];
        bytes.extend(list.concat());
        prop_assert_eq!(find(&bytes, segment) == Some(Received::Standard), stock::finds(&bytes, segment));
    }
}

#[test]
fn every_length_but_the_known_ones_is_refused() {
    let mut bytes = [0x11; 255];
    bytes[..4].copy_from_slice(&[30, 0, 0x0f, 0x01]);
    for length in 0..=255_u8 {
        bytes[1] = length;
        let view = MpCapable::new_checked(&bytes[..usize::from(length).max(4)]);
        if [4, 12, 20, 22, 24].contains(&length) {
            assert_eq!(view.unwrap().length(), usize::from(length));
        } else {
            assert_eq!(view.unwrap_err(), Error::Length(length));
        }
    }
    let more = MpCapable::new_checked(&[30, 4, 0x0f, 0x01, 0][..]);
    assert_eq!(more.unwrap_err(), Error::Length(4));
}

#[test]
fn what_the_stock_kernel_wrote_becomes_what_we_would_write() {
    let own = KeyField::from_raw(0x1111_2222_3333_4444).unwrap();
    let bodies = [
        (Segment::Syn, Body::Compact),
        (Segment::SynAck, Body::Key { sender: own }),
        (
            Segment::Ack,
            Body::Keys {
                sender: own,
                receiver: own,
            },
        ),
    ];
    for (segment, body) in bodies {
        for (checksum, deny_join) in [(false, false), (false, true), (true, false), (true, true)] {
            let external = checksum != deny_join;
            let features = Features {
                checksum,
                external,
                deny_join,
            };
            let ours = emit(segment, &MpCapableRepr { features, body });
            // The stock kernel writes version 1, always H and never B.
            let mut bytes = ours.clone();
            bytes[2] = 0x01;
            bytes[3] |= Flags::HMAC_SHA256;
            bytes[3] &= !Flags::EXTERNAL;
            let start: &mut [u8; 4] = bytes.first_chunk_mut().unwrap();
            assert_eq!(restamp(segment, start, external), Some(features));
            assert_eq!(bytes, ours);
        }
    }
    for other in [[30, 4, 0x0f, 1], [30, 12, 0x11, 1], [29, 4, 0x01, 1]] {
        let mut start = other;
        assert_eq!(restamp(Segment::Syn, &mut start, false), None);
        assert_eq!(start, other);
    }
}

#[test]
fn kind_and_subtype_are_checked() {
    assert_eq!(parse(Segment::Syn, &[31, 4, 0x0f, 1]), Err(Error::Kind(31)));
    assert_eq!(
        parse(Segment::Syn, &[30, 4, 0x1f, 1]),
        Err(Error::Subtype(1))
    );
}

#[test]
fn options_end_where_the_stock_kernel_ends() {
    let found = |bytes: &[u8]| options(bytes).count();
    assert_eq!(found(&[]), 0);
    assert_eq!(found(&[30]), 0);
    assert_eq!(found(&[1, 1, 30, 4, 0x0f, 1]), 1);
    assert_eq!(found(&[0, 30, 4, 0x0f, 1]), 0, "behind the end of options");
    assert_eq!(found(&[8, 1, 30, 4, 0x0f, 1]), 0, "behind a silly length");
    assert_eq!(found(&[8, 0, 30, 4, 0x0f, 1]), 0, "behind a silly length");
    assert_eq!(
        found(&[30, 4, 0x0f, 1, 30, 5, 0, 0]),
        1,
        "the second is cut"
    );
    assert_eq!(
        found(&[30, 2, 30, 4, 0x0f, 1]),
        1,
        "the first has no subtype"
    );
}

#[test]
fn the_first_right_option_counts() {
    let compact: &[u8] = &[30, 4, 0x0f, 1];
    let standard: &[u8] = &[30, 4, 0x01, 1];
    let wrong: &[u8] = &[30, 4, 0x0f, 0];
    let join: &[u8] = &[30, 12, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    let find = |list: &[&[u8]]| find(&list.concat(), Segment::Syn);
    let ours = find(&[compact]);
    assert!(matches!(ours, Some(Received::Dc(_))));
    assert_eq!(find(&[compact, standard]), ours);
    assert_eq!(find(&[standard, compact]), Some(Received::Standard));
    assert_eq!(find(&[wrong, compact]), ours);
    assert_eq!(find(&[compact, join]), ours);
    assert_eq!(find(&[join, compact]), None);
}

/// MP_CAPABLE as Linux 7.3 reads it, rewritten from `net/mptcp/options.c` by a different route than
/// the crate: C's order of checks, on raw indices.
mod stock {
    use super::Segment;

    pub fn finds(bytes: &[u8], segment: Segment) -> bool {
        let mut at = 0;
        let mut other = false;
        while at < bytes.len() {
            match bytes[at] {
                0 => return false,
                1 => at += 1,
                kind => {
                    let left = bytes.len() - at;
                    if left < 2 {
                        return false;
                    }
                    let size = usize::from(bytes[at + 1]);
                    if size < 2 || size > left {
                        return false;
                    }
                    if kind == 30 && size > 2 {
                        match bytes[at + 2] >> 4 {
                            0 if !other && capable(&bytes[at..at + size], segment) => return true,
                            0 => {}
                            4 if matches!(segment, Segment::Ack | Segment::Data) => {}
                            // Right or wrong: this crate is stricter than the kernel here.
                            _ => other = true,
                        }
                    }
                    at += size;
                }
            }
        }
        false
    }

    fn capable(option: &[u8], segment: Segment) -> bool {
        let expected = match segment {
            Segment::Syn => 4,
            Segment::SynAck => 12,
            Segment::Ack => 20,
            Segment::Data => 22,
        };
        if option.len() != expected && (expected != 22 || option.len() != 24) {
            return false;
        }
        let version = option[2] & 0x0f;
        if option.len() != 4 {
            if version != 1 {
                return false;
            }
        } else if version < 1 {
            return false;
        }
        option[3] & 0x1f == 1 && option[3] & 0x40 == 0
    }
}
