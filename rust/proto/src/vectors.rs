// SPDX-License-Identifier: GPL-2.0

//! Test vectors, published and our own, that cargo and KUnit both run.
//!
//! Nothing here panics: each check returns the name of the first vector that failed. The functions
//! are `#[inline]`, so a module that calls none of them carries none of them.

use crate::key::KeyField;
use crate::nonce::{End, Flow};
use crate::option::mp_capable::{Body, Features, Mapping, MpCapable, MpCapableRepr};
use crate::option::mp_join::{fastclose_message, hmac_message};
use crate::option::{Segment, MAX_LEN};
use crate::rc5::{Rc5, Word};
use crate::secret::Secret;
use crate::siphash::{HashKey, Tail};
use crate::token::Counter;

/// The name of a vector that failed.
pub type Failed = &'static str;

/// Runs one group of vectors.
pub type Check = fn() -> Result<(), Failed>;

/// Every group, with the name that a report gives it.
pub const ALL: [(&str, Check); 4] = [
    ("rc5", rc5),
    ("siphash", siphash),
    ("own_pair", own_pair),
    ("mp_capable", mp_capable),
];

#[inline]
fn ensure(right: bool, name: Failed) -> Result<(), Failed> {
    if right {
        Ok(())
    } else {
        Err(name)
    }
}

/// The two words of a block of bytes.
#[inline]
fn block<W: Word>(bytes: &[u8]) -> [W; 2] {
    let (a, b) = bytes.split_at_checked(W::BYTES).unwrap_or_default();
    [W::from_le(a), W::from_le(b)]
}

/// The bytes 0, 1, 2, ...
const fn ascending<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut rest: &mut [u8] = &mut bytes;
    let mut value = 0_u8;
    while let [first, tail @ ..] = rest {
        *first = value;
        value = value.wrapping_add(1);
        rest = tail;
    }
    bytes
}

/// RC5: the five vectors of Rivest's paper (section 6), all of RFC 2040 (section 9) as single blocks,
/// and all of draft-krovetz-rc6-rc5-vectors-00 with word sizes that computers have.
///
/// # Errors
///
/// The vector that failed.
#[inline]
pub fn rc5() -> Result<(), Failed> {
    /// `word / rounds: key, plain => sealed;` as byte strings.
    macro_rules! check {
        ($($name:literal $word:ty, $rounds:literal: $key:expr, $plain:expr => $sealed:expr;)*) => {$({
            let cipher = Rc5::<$word, $rounds, { $key.len() }>::new(&$key);
            let (plain, sealed) = (block($plain.as_ref()), block($sealed.as_ref()));
            ensure(cipher.encrypt(plain) == sealed && cipher.decrypt(sealed) == plain, $name)?;
        })*};
    }
    /// Bytes of a number, in the order in which its digits are printed.
    macro_rules! b {
        ($number:expr) => {
            $number.to_be_bytes()
        };
    }

    check! {
        "Rivest 1" u32, 12: b!(0x00000000000000000000000000000000_u128),
            b!(0x0000000000000000_u64) => b!(0x21A5DBEE154B8F6D_u64);
        "Rivest 2" u32, 12: b!(0x915F4619BE41B2516355A50110A9CE91_u128),
            b!(0x21A5DBEE154B8F6D_u64) => b!(0xF7C013AC5B2B8952_u64);
        "Rivest 3" u32, 12: b!(0x783348E75AEB0F2FD7B169BB8DC16787_u128),
            b!(0xF7C013AC5B2B8952_u64) => b!(0x2F42B3B70369FC92_u64);
        "Rivest 4" u32, 12: b!(0xDC49DB1375A5584F6485B413B5F12BAF_u128),
            b!(0x2F42B3B70369FC92_u64) => b!(0x65C178B284D197CC_u64);
        "Rivest 5" u32, 12: b!(0x5269F149D41BA0152497574D7F153125_u128),
            b!(0x65C178B284D197CC_u64) => b!(0xEB44E415DA319824_u64);

        "Krovetz RC5-8/12/4" u8, 12: ascending::<4>(), ascending::<2>() => b!(0x212A_u16);
        "Krovetz RC5-16/16/8" u16, 16: ascending::<8>(), ascending::<4>() => b!(0x23A8D72E_u32);
        "Krovetz RC5-32/20/16" u32, 20: ascending::<16>(), ascending::<8>()
            => b!(0x2A0EDC0E9431FF73_u64);
        "Krovetz RC5-64/24/24" u64, 24: ascending::<24>(), ascending::<16>()
            => b!(0xA46772820EDBCE0235ABEA32AE7178DA_u128);
        "Krovetz RC5-128/28/32" u128, 28: ascending::<32>(), ascending::<32>()
            => [b!(0xECA5910921A4F4CFDD7AD7AD20A1FCBA_u128), b!(0x068EC7A7CD752D68FE914B7FE180B440_u128)]
                .as_flattened();
    }

    /// RFC 2040 encrypts in CBC mode: the cipher sees `plain ^ iv`.
    #[inline]
    const fn cbc_input(plain: u64, iv: u64) -> [u8; 8] {
        (plain ^ iv).to_be_bytes()
    }
    macro_rules! cbc {
        ($($name:literal $rounds:literal, $key:expr, $iv:literal, $plain:literal => $sealed:literal;)*) => {
            check! {$(
                $name u32, $rounds: $key, cbc_input($plain, $iv) => cbc_input($sealed, 0);
            )*}
        };
    }
    const KEY8: [u8; 8] = 0x0102030405060708_u64.to_be_bytes();
    const KEY16: [u8; 16] = 0x01020304050607081020304050607080_u128.to_be_bytes();
    // 26 and 29 are the padded concatenations of 24 with 25 and of 24, 27 and 28.
    cbc! {
        "RFC 2040 1" 0, [0], 0, 0 => 0x7a7bba4d79111d1e;
        "RFC 2040 2" 0, [0], 0, 0xffffffffffffffff => 0x797bba4d78111d1e;
        "RFC 2040 3" 0, [0], 1, 0 => 0x7a7bba4d79111d1f;
        "RFC 2040 4" 0, [0], 0, 1 => 0x7a7bba4d79111d1f;
        "RFC 2040 5" 0, [0], 0x0102030405060708, 0x1020304050607080 => 0x8b9ded91ce7794a6;
        "RFC 2040 6" 1, [0x11], 0, 0 => 0x2f759fe7ad86a378;
        "RFC 2040 7" 2, [0], 0, 0 => 0xdca2694bf40e0788;
        "RFC 2040 8" 2, [0; 4], 0, 0 => 0xdca2694bf40e0788;
        "RFC 2040 9" 8, [0], 0, 0 => 0xdcfe098577eca5ff;
        "RFC 2040 10" 8, [0], 0x0102030405060708, 0x1020304050607080 => 0x9646fb77638f9ca8;
        "RFC 2040 11" 12, [0], 0x0102030405060708, 0x1020304050607080 => 0xb2b3209db6594da4;
        "RFC 2040 12" 16, [0], 0x0102030405060708, 0x1020304050607080 => 0x545f7f32a5fc3836;
        "RFC 2040 13" 8, [1, 2, 3, 4], 0, 0xffffffffffffffff => 0x8285e7c1b5bc7402;
        "RFC 2040 14" 12, [1, 2, 3, 4], 0, 0xffffffffffffffff => 0xfc586f92f7080934;
        "RFC 2040 15" 16, [1, 2, 3, 4], 0, 0xffffffffffffffff => 0xcf270ef9717ff7c4;
        "RFC 2040 16" 12, KEY8, 0, 0xffffffffffffffff => 0xe493f1c1bb4d6e8c;
        "RFC 2040 17" 8, KEY8, 0x0102030405060708, 0x1020304050607080 => 0x5c4c041e0f217ac3;
        "RFC 2040 18" 12, KEY8, 0x0102030405060708, 0x1020304050607080 => 0x921f12485373b4f7;
        "RFC 2040 19" 16, KEY8, 0x0102030405060708, 0x1020304050607080 => 0x5ba0ca6bbe7f5fad;
        "RFC 2040 20" 8, KEY16, 0x0102030405060708, 0x1020304050607080 => 0xc533771cd0110e63;
        "RFC 2040 21" 12, KEY16, 0x0102030405060708, 0x1020304050607080 => 0x294ddb46b3278d60;
        "RFC 2040 22" 16, KEY16, 0x0102030405060708, 0x1020304050607080 => 0xdad6bda9dfe8f7e8;
        "RFC 2040 23" 12, [1, 2, 3, 4, 5], 0, 0xffffffffffffffff => 0x97e0787837ed317f;
        "RFC 2040 24" 8, [1, 2, 3, 4, 5], 0, 0xffffffffffffffff => 0x7875dbf6738c6478;
        "RFC 2040 25" 8, [1, 2, 3, 4, 5], 0x7875dbf6738c6478, 0x0808080808080808 => 0x8f34c3c681c99695;
        "RFC 2040 27" 8, [1, 2, 3, 4, 5], 0, 0 => 0x7cb3f1df34f94811;
        "RFC 2040 28" 8, [1, 2, 3, 4, 5], 0x7cb3f1df34f94811, 0x1122334455667701 => 0x7fd1a023a5bba217;
    }
    Ok(())
}

/// SipHash-2-4: those official vectors (github.com/veorq/SipHash) whose messages are whole words,
/// or end with seven bytes more.
///
/// # Errors
///
/// The vector that failed.
#[inline]
pub fn siphash() -> Result<(), Failed> {
    const BYTES: [u8; 64] = ascending();
    let key = HashKey::new(&ascending());

    /// The message 0, 1, 2, ... of `$words` words, and of seven bytes more.
    macro_rules! check {
        ($($words:literal: $whole:literal, $seven:literal;)*) => {$({
            let mut words = [0_u64; $words];
            for (word, bytes) in words.iter_mut().zip(BYTES.chunks(8)) {
                *word = <u64 as Word>::from_le(bytes);
            }
            let tail = BYTES.chunks(8).nth($words).map_or(0, <u64 as Word>::from_le);
            let (whole, seven) = (key.hash(words, Tail::EMPTY), key.hash(words, Tail::seven(tail)));
            ensure(whole == $whole, concat!("SipHash of ", $words, " words"))?;
            ensure(seven == $seven, concat!("SipHash of ", $words, " words and 7 bytes"))?;
        })*};
    }
    check! {
        0: 0x726f_db47_dd0e_0e31, 0xab02_00f5_8b01_d137;
        1: 0x93f5_f579_9a93_2462, 0xa129_ca61_49be_45e5;
        2: 0x3f2a_cc7f_57c2_9bdb, 0xa80c_038c_cd5c_cec8;
        3: 0xb8ad_50c6_f649_af94, 0x32d8_92fa_d841_c342;
        4: 0x7127_512f_72f2_7cce, 0x9abf_d876_6a33_735c;
        5: 0x0e3e_a96b_5304_a7d0, 0xd06c_98cd_5c09_75eb;
        6: 0xe612_a3cb_9ecb_a951, 0x2457_31c1_3ca4_2499;
        7: 0xb78d_bfaf_3a8d_83bd, 0x958a_324c_eb06_4572;
    }
    Ok(())
}

const NETNS: u64 = 1;

/// 192.0.2.1:8080 and 198.51.100.7:49153.
const ENDS4: [End<4>; 2] = [
    End {
        addr: [192, 0, 2, 1],
        port: 8080_u16.to_be_bytes(),
    },
    End {
        addr: [198, 51, 100, 7],
        port: 49153_u16.to_be_bytes(),
    },
];

/// `[2001:db8::1]:8080` and `[2001:db8::2]:49153`.
const ENDS6: [End<16>; 2] = [
    End {
        addr: ((0x2001_0db8_u128 << 96) | 1).to_be_bytes(),
        port: 8080_u16.to_be_bytes(),
    },
    End {
        addr: ((0x2001_0db8_u128 << 96) | 2).to_be_bytes(),
        port: 49153_u16.to_be_bytes(),
    },
];

/// Own pairs: fixed secrets, connections and counters give fixed key fields, and lead back.
///
/// The figures are our own, computed by a second implementation (Python, big integers). They keep a
/// change of the layouts from going unseen.
///
/// # Errors
///
/// The vector that failed.
#[inline]
pub fn own_pair() -> Result<(), Failed> {
    let secret = Secret::new(&ascending(), &ascending());
    let ([l4, r4], [l6, r6]) = (ENDS4, ENDS6);
    let flows = [Flow::v4(NETNS, l4, r4), Flow::v6(NETNS, l6, r6)];
    let fields = [
        [
            (0, 0x48a8_282c_3844_b79f_u64),
            (0xffff_ffff, 0x762e_ce00_5770_a197),
        ],
        [
            (0, 0x48a8_282c_1ae5_582e),
            (0xffff_ffff, 0x762e_ce00_c6c4_2925),
        ],
    ];
    for (flow, fields) in flows.iter().zip(fields) {
        for (counter, raw) in fields {
            let counter = Counter(counter);
            let key = secret.issue(flow, counter, raw & 1 != 0).ok_or("token 0")?;
            ensure(key.raw() == raw, "key field")?;
            ensure(secret.verify(flow, key) == Some(counter), "own pair")?;
        }
    }
    let [v4, v6] = &flows;
    let key = secret.issue(v4, Counter(0), false).ok_or("token 0")?;
    ensure(
        secret.verify(v6, key).is_none(),
        "another connection's pair",
    )
}

/// MP_CAPABLE: every form as bytes, parsed and emitted.
///
/// # Errors
///
/// The form that failed.
#[inline]
pub fn mp_capable() -> Result<(), Failed> {
    let sender = KeyField::from_raw(0x1111_2222_3333_4444).ok_or("key field")?;
    let receiver = KeyField::from_raw(0x5555_6666_7777_8888).ok_or("key field")?;
    let plain = Features::default();
    let external = Features {
        external: true,
        ..plain
    };
    let checksum = Features {
        checksum: true,
        deny_join: true,
        ..plain
    };
    let data = |len, checksum| Body::Data {
        sender,
        receiver,
        mapping: Mapping { len, checksum },
    };
    let (key, keys) = (Body::Key { sender }, Body::Keys { sender, receiver });

    form(
        "SYN, compact",
        Segment::Syn,
        plain,
        Body::Compact,
        &[30, 4, 0x0f, 0x01],
    )?;
    form(
        "SYN, external",
        Segment::Syn,
        external,
        Body::Compact,
        &[30, 4, 0x0f, 0x41],
    )?;
    form(
        "SYN, A and C",
        Segment::Syn,
        checksum,
        Body::Compact,
        &[30, 4, 0x0f, 0xa1],
    )?;
    form(
        "SYN, full",
        Segment::Syn,
        plain,
        key,
        b"\x1e\x0c\x0f\x01\x11\x11\x22\x22\x33\x33\x44\x44",
    )?;
    form(
        "SYN/ACK",
        Segment::SynAck,
        plain,
        key,
        b"\x1e\x0c\x0f\x00\x11\x11\x22\x22\x33\x33\x44\x44",
    )?;
    form(
        "SYN/ACK, external",
        Segment::SynAck,
        external,
        key,
        b"\x1e\x0c\x0f\x41\x11\x11\x22\x22\x33\x33\x44\x44",
    )?;
    form(
        "ACK",
        Segment::Ack,
        plain,
        keys,
        b"\x1e\x14\x0f\x00\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x66\x66\x77\x77\x88\x88",
    )?;
    form(
        "data",
        Segment::Data,
        plain,
        data(0x1234, None),
        b"\x1e\x16\x0f\x00\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x66\x66\x77\x77\x88\x88\x12\x34",
    )?;
    form("data and checksum", Segment::Data, checksum, data(1, Some([0xab, 0xcd])), b"\x1e\x18\x0f\xa0\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x66\x66\x77\x77\x88\x88\x00\x01\xab\xcd")
}

/// One form of MP_CAPABLE, both ways.
#[inline]
fn form(
    name: Failed,
    segment: Segment,
    features: Features,
    body: Body,
    wire: &[u8],
) -> Result<(), Failed> {
    let repr = MpCapableRepr { features, body };
    let mut buffer = [0xa5; MAX_LEN];
    let length = repr.emit(segment, &mut buffer).map_err(|_| name)?;
    let (emitted, rest) = buffer.split_at_checked(length).ok_or(name)?;
    ensure(
        emitted == wire && rest.iter().all(|&byte| byte == 0xa5),
        name,
    )?;
    let view = MpCapable::new_checked(wire).map_err(|_| name)?;
    ensure(MpCapableRepr::parse(&view, segment) == Ok(repr), name)
}

/// A key, both key fields, both nonces, and `HMAC_A` and `HMAC_B` in full, as halves.
type JoinVector<'a> = (Failed, &'a [u8], [u64; 2], [u32; 2], [[u128; 2]; 2]);

/// `HMAC_A` and `HMAC_B` of joins with external keys, by an HMAC-SHA256 that is given key and message.
///
/// The figures are of another library's, Python's `hmac`, where each end's is
/// `hmac.new(key, struct.pack(">QQLL", K_own, K_peer, Rand_own, Rand_peer), "sha256").hexdigest()`.
///
/// # Errors
///
/// The vector that failed.
#[inline]
pub fn join_hmacs(hmac: impl Fn(&[u8], &[u8]) -> [u8; 32]) -> Result<(), Failed> {
    const ASCENDING: [u8; 64] = ascending();
    let ascending = |length| ASCENDING.get(..length).unwrap_or_default();
    let vectors: [JoinVector<'_>; 4] = [
        (
            "16 bytes",
            ascending(16),
            [0x1111_2222_3333_4445, 0x5555_6666_7777_8889],
            [0x9a3c_710e, 0x0bad_cafe],
            [
                [
                    0xf0ec_509a_9523_4447_3c70_9f52_e7c6_7d6c,
                    0x60d5_4996_dc7f_4b3a_387c_f8d3_9bb0_a374,
                ],
                [
                    0x1e98_a93d_55cc_86f6_03a8_aee3_789d_e739,
                    0x93ec_bc4f_f3b5_3013_6840_c7b0_5ce9_22f1,
                ],
            ],
        ),
        (
            "27 bytes",
            b"what only the two ends know",
            [0xfedc_ba98_7654_3211, 0x0000_0001_0000_0001],
            [0x0000_0000, 0xffff_ffff],
            [
                [
                    0x11bb_a3e2_7bcd_6db7_6254_25b8_a6dd_1d5e,
                    0x8ab4_5f4c_210b_d392_0b6d_4a87_1076_42ec,
                ],
                [
                    0x7edb_7c6e_f414_77f9_3804_5b27_9a65_300d,
                    0x8868_c924_aef5_aa82_10d7_ce53_b824_fc3e,
                ],
            ],
        ),
        (
            "32 bytes",
            ascending(32),
            [0xffff_ffff_ffff_ffff, 0x8000_0000_0000_0001],
            [0xffff_ffff, 0x0000_0000],
            [
                [
                    0xd3ee_2b67_2156_1f5e_7c86_2bee_f22f_bdfc,
                    0x174d_f095_530b_c280_3116_f958_6938_5dd7,
                ],
                [
                    0x355f_4b43_8db9_0305_08d4_81ce_b44f_38cf,
                    0xdf28_99c2_ec53_be74_c0e3_cd5f_6572_b92a,
                ],
            ],
        ),
        (
            "64 bytes",
            ascending(64),
            [0x0123_4567_89ab_cdef, 0xf123_4567_89ab_cded],
            [0x0102_0304, 0x0102_0304],
            [
                [
                    0x023e_466f_6e06_d435_be20_8fdb_ccf4_b5ce,
                    0x1e0f_6544_b68d_a654_f723_4c39_03c3_fa69,
                ],
                [
                    0x8161_67fc_2231_43fe_c0b3_6e14_937d_ac61,
                    0x0a26_d9f8_7dae_7ce2_2d4c_a95f_82f4_9693,
                ],
            ],
        ),
    ];
    for (name, key, [a, b], [rand_a, rand_b], expected) in vectors {
        let field = |raw| KeyField::from_raw(raw).ok_or(name);
        let (a, b) = (field(a)?, field(b)?);
        let messages = [
            hmac_message(a, b, rand_a, rand_b),
            hmac_message(b, a, rand_b, rand_a),
        ];
        for (message, halves) in messages.iter().zip(expected) {
            ensure_hmac(hmac(key, message), halves, name)?;
        }
    }
    Ok(())
}

/// A key, both key fields, and the HMACs of A and of B in full, as halves.
type FastcloseVector<'a> = (Failed, &'a [u8], [u64; 2], [[u128; 2]; 2]);

/// What MP_FASTCLOSE carries with external keys, by an HMAC-SHA256 that is given key and message.
///
/// The figures are of another library's, Python's `hmac`, where each end's is
/// `hmac.new(key, struct.pack(">QQB", K_own, K_peer, 7), "sha256").hexdigest()`.
///
/// # Errors
///
/// The vector that failed.
#[inline]
pub fn fastclose_hmacs(hmac: impl Fn(&[u8], &[u8]) -> [u8; 32]) -> Result<(), Failed> {
    const ASCENDING: [u8; 64] = ascending();
    let ascending = |length| ASCENDING.get(..length).unwrap_or_default();
    let vectors: [FastcloseVector<'_>; 4] = [
        (
            "16 bytes",
            ascending(16),
            [0x1111_2222_3333_4445, 0x5555_6666_7777_8889],
            [
                [
                    0x175e_04d8_ffa3_a28a_952e_430e_9207_070f,
                    0x9fc0_29ad_2c5c_2964_d055_64a0_ec32_4443,
                ],
                [
                    0xf3e0_2c4b_0bd9_6c2b_52b5_59eb_2a44_09a3,
                    0xc5b2_3af0_23ae_abfb_57d0_8080_6acb_a277,
                ],
            ],
        ),
        (
            "27 bytes",
            b"what only the two ends know",
            [0xfedc_ba98_7654_3211, 0x0000_0001_0000_0001],
            [
                [
                    0xf0ca_31bf_daa8_8a1c_54ac_a2d5_578f_2789,
                    0x5d49_e53c_86cf_4e7a_f2a8_9400_1a0b_6e54,
                ],
                [
                    0xb59b_142c_116f_785b_afa1_f778_09f7_5b60,
                    0xbb6f_454e_e965_371a_50b5_f204_caed_f1c2,
                ],
            ],
        ),
        (
            "32 bytes",
            ascending(32),
            [0xffff_ffff_ffff_ffff, 0x8000_0000_0000_0001],
            [
                [
                    0x44fd_1f13_234e_f00a_5c46_4550_ec3b_cd7f,
                    0x43e3_4467_3ec1_1337_bd11_1be8_a121_5e0a,
                ],
                [
                    0xe1ea_1705_d19e_0d5d_a23a_0555_a048_fa60,
                    0x3b45_f4ef_0c56_fe9c_fbca_f7fd_f438_9740,
                ],
            ],
        ),
        (
            "64 bytes",
            ascending(64),
            [0x0123_4567_89ab_cdef, 0xf123_4567_89ab_cded],
            [
                [
                    0x4b09_3094_8635_026e_7659_f71f_0b2d_6eae,
                    0xc4fc_217c_b570_fbb1_a097_6f11_0258_fc59,
                ],
                [
                    0x0278_0273_fde2_3566_f33d_076f_a926_dfd8,
                    0xfcfe_4b3a_bb81_1fad_4617_2d4b_6684_b219,
                ],
            ],
        ),
    ];
    for (name, key, [a, b], expected) in vectors {
        let field = |raw| KeyField::from_raw(raw).ok_or(name);
        let (a, b) = (field(a)?, field(b)?);
        let messages = [fastclose_message(a, b), fastclose_message(b, a)];
        for (message, halves) in messages.iter().zip(expected) {
            ensure_hmac(hmac(key, message), halves, name)?;
        }
    }
    Ok(())
}

/// That an HMAC has these halves.
#[inline]
fn ensure_hmac(hmac: [u8; 32], [high, low]: [u128; 2], name: Failed) -> Result<(), Failed> {
    let (first, second) = hmac.split_at_checked(16).ok_or(name)?;
    ensure(
        first == high.to_be_bytes() && second == low.to_be_bytes(),
        name,
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_vector_holds() {
        for (name, check) in super::ALL {
            assert_eq!(check(), Ok(()), "{name}");
        }
    }
}
