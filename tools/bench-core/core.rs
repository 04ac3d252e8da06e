// SPDX-License-Identifier: GPL-2.0

//! Crypto and options of a handshake, each alone, with inputs that the compiler can't foresee. `dc-bench core` runs it.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use bench::crypto::name;
use criterion::{criterion_group, criterion_main, Criterion};
use proto::key::KeyField;
use proto::nonce::{End, Flow};
use proto::option::mp_capable::{self, Body, Features, MpCapableRepr};
use proto::option::mp_join::MpJoinRepr;
use proto::option::Segment;
use proto::secret::Secret;
use proto::token::{Counter, Slices, Token};

use openssl::Sha256;

/// Bytes of a block of SHA-256.
const BLOCK: usize = 64;

/// OpenSSL's SHA-256: assembly for every kind of CPU (AVX2, SHA extensions), as the kernel has it. Portable code would be too
/// easy to beat. `OPENSSL_ia32cap` switches extensions off.
mod openssl {
    use std::ffi::c_int;

    /// `SHA256_CTX` (openssl/sha.h): the state, lengths, the block that isn't full yet, and two numbers.
    #[repr(C)]
    #[derive(Clone)]
    pub struct Sha256([u32; 28]);

    #[link(name = "crypto")]
    extern "C" {
        fn SHA256_Init(state: *mut Sha256) -> c_int;
        fn SHA256_Update(state: *mut Sha256, bytes: *const u8, count: usize) -> c_int;
        fn SHA256_Final(hash: *mut u8, state: *mut Sha256) -> c_int;
    }

    impl Sha256 {
        pub fn new() -> Self {
            let mut state = Self([0; 28]);
            // SAFETY: It is a SHA256_CTX, and writable.
            unsafe { SHA256_Init(&mut state) };
            state
        }

        pub fn update(&mut self, bytes: &[u8]) {
            // SAFETY: It was initialized; so many bytes are there to be read.
            unsafe { SHA256_Update(self, bytes.as_ptr(), bytes.len()) };
        }

        pub fn finish(mut self) -> [u8; 32] {
            let mut hash = [0; 32];
            // SAFETY: It was initialized; a hash has 32 bytes.
            unsafe { SHA256_Final(hash.as_mut_ptr(), &mut self) };
            hash
        }
    }
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finish()
}

/// A block of ChaCha20 (RFC 8439, section 2.3) of 20 rounds, in portable code, as `chacha20_block()` of lib/crypto is.
fn chacha20_block(state: &[u32; 16]) -> [u32; 16] {
    // Or it would go through memory, as the C doesn't.
    #[inline(always)]
    fn quarter(x: &mut [u32; 16], [a, b, c, d]: [usize; 4]) {
        x[a] = x[a].wrapping_add(x[b]);
        x[d] = (x[d] ^ x[a]).rotate_left(16);
        x[c] = x[c].wrapping_add(x[d]);
        x[b] = (x[b] ^ x[c]).rotate_left(12);
        x[a] = x[a].wrapping_add(x[b]);
        x[d] = (x[d] ^ x[a]).rotate_left(8);
        x[c] = x[c].wrapping_add(x[d]);
        x[b] = (x[b] ^ x[c]).rotate_left(7);
    }
    let mut x = *state;
    for _ in 0..10 {
        quarter(&mut x, [0, 4, 8, 12]);
        quarter(&mut x, [1, 5, 9, 13]);
        quarter(&mut x, [2, 6, 10, 14]);
        quarter(&mut x, [3, 7, 11, 15]);
        quarter(&mut x, [0, 5, 10, 15]);
        quarter(&mut x, [1, 6, 11, 12]);
        quarter(&mut x, [2, 7, 8, 13]);
        quarter(&mut x, [3, 4, 9, 14]);
    }
    for (x, state) in x.iter_mut().zip(state) {
        *x = x.wrapping_add(*state);
    }
    x
}

/// A CPU's random numbers: `crng_fast_key_erasure()`, which `get_random_bytes()` calls once for up to 32 bytes. Each call makes
/// a block; half of it is the next key.
struct Crng {
    key: [u32; 8],
}

impl Crng {
    const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

    fn state(&self, rest: [u32; 4]) -> [u32; 16] {
        let mut state = [0; 16];
        state[..4].copy_from_slice(&Self::CONSTANTS);
        state[4..12].copy_from_slice(&self.key);
        state[12..].copy_from_slice(&rest);
        state
    }

    fn u64(&mut self) -> u64 {
        let block = chacha20_block(&self.state([0; 4]));
        self.key.copy_from_slice(&block[..8]);
        u64::from(block[8]) | (u64::from(block[9]) << 32)
    }
}

/// RFC 8439, section 2.3.2: what is measured is ChaCha20.
fn check_chacha20() {
    let key = std::array::from_fn(|at| {
        let at = 4 * at as u8;
        u32::from_le_bytes([at, at + 1, at + 2, at + 3])
    });
    let block = chacha20_block(&Crng { key }.state([1, 0x0900_0000, 0x4a00_0000, 0]));
    assert_eq!(
        (block[0], block[15]),
        (0xe4e7_f110, 0x4e3c_50a2),
        "ChaCha20"
    );
}

/// `mptcp_crypto_key_sha()`
fn key_sha(key: u64) -> (u32, u64) {
    let [a, b, c, d, .., s, t, u, v, w, x, y, z] = sha256(&[&key.to_be_bytes()]);
    let token = u32::from_be_bytes([a, b, c, d]);
    (token, u64::from_be_bytes([s, t, u, v, w, x, y, z]))
}

/// The states behind the pads of an HMAC key, as `hmac_sha256_preparekey()` has them.
struct HmacKey {
    inner: Sha256,
    outer: Sha256,
}

impl HmacKey {
    fn new(key: &[u8]) -> Self {
        let pad = |with: u8| {
            let mut block = [with; BLOCK];
            for (byte, key) in block.iter_mut().zip(key) {
                *byte ^= key;
            }
            let mut hash = Sha256::new();
            hash.update(&block);
            hash
        };
        let (inner, outer) = (pad(0x36), pad(0x5c));
        Self { inner, outer }
    }

    fn hmac(&self, message: &[u8]) -> [u8; 32] {
        let (mut inner, mut outer) = (self.inner.clone(), self.outer.clone());
        inner.update(message);
        outer.update(&inner.finish());
        outer.finish()
    }
}

/// RFC 4231, test case 2: what is measured is HMAC-SHA256.
fn check_hmac() {
    let hmac = HmacKey::new(b"Jefe").hmac(b"what do ya want for nothing?");
    assert_eq!(hmac[..4], [0x5b, 0xdc, 0xc1, 0x46]);
}

fn flow(port: u16) -> Flow {
    let end = |last, port: u16| End {
        addr: [192, 0, 2, last],
        port: port.to_be_bytes(),
    };
    Flow::v4(1, end(1, 80), end(2, port))
}

fn stock(c: &mut Criterion) {
    check_hmac();
    check_chacha20();
    let mut crng = Crng {
        key: black_box([5; 8]),
    };
    c.bench_function(name::KEY_GEN, |b| {
        b.iter(|| {
            let key = crng.u64();
            (key, key_sha(key))
        })
    });
    c.bench_function(name::RANDOM, |b| b.iter(|| crng.u64()));
    c.bench_function(name::KEY_SHA, |b| {
        b.iter(|| key_sha(black_box(0x0123_4567_89ab_cdef)))
    });
    c.bench_function(name::KEYS_SHA, |b| {
        b.iter(|| [key_sha(black_box(1)), key_sha(black_box(2))])
    });
    c.bench_function(name::JOIN_HMAC, |b| {
        b.iter(|| HmacKey::new(&black_box([7; 16])).hmac(&black_box([9; 8])))
    });
}

fn ours(c: &mut Criterion) {
    let secret = Secret::new(
        black_box(b"0123456789abcdef"),
        black_box(b"fedcba9876543210"),
    );
    let stretch = Slices::for_cpus(NonZeroU32::new(4).unwrap()).stretch(1);
    let mut cursor = 0;
    // Counters begin anew before the key would be due.
    let mut next = || -> Counter {
        cursor = (cursor + 1) & 0xff_ffff;
        stretch.counter(cursor).unwrap()
    };
    c.bench_function(name::TOKEN, |b| b.iter(|| secret.cipher().seal(next())));
    c.bench_function(name::PAIR, |b| {
        b.iter(|| {
            secret
                .issue(&flow(black_box(4000)), next(), false)
                .map(|key| (key, key.idsn()))
        })
    });
    c.bench_function(name::DERIVED_KEY, |b| {
        b.iter(|| flow(black_box(4000)).standard_key(secret.hash_key(), next()))
    });
    c.bench_function(name::DERIVED_NONCE, |b| {
        b.iter(|| flow(black_box(4000)).join_nonce(secret.hash_key(), black_box(5)))
    });
    // K_A, K_B, Rand_A, Rand_B
    let key = HmacKey::new(b"the same key at both ends");
    c.bench_function(name::EXTERNAL_HMAC, |b| {
        b.iter(|| key.hmac(&black_box([9; 24])))
    });
}

fn options(c: &mut Criterion) {
    let answer = MpCapableRepr {
        features: Features::default(),
        body: Body::Key {
            sender: KeyField::new(Token::new(7).unwrap(), 9),
        },
    };
    let mut buffer = [0xa5; 40];
    c.bench_function(name::WRITE, |b| {
        b.iter(|| black_box(answer).emit(Segment::SynAck, black_box(&mut buffer)))
    });
    // The options of a Linux client's SYN, and ours.
    const SYN: [u8; 24] = [
        2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0x12, 0x34, 0x56, 0, 0, 0, 0, 1, 3, 3, 7, 30, 4, 0x0f,
        0x01,
    ];
    assert!(mp_capable::find(&SYN, Segment::Syn).is_some());
    c.bench_function(name::READ, |b| {
        b.iter(|| mp_capable::find(black_box(&SYN), Segment::Syn))
    });
    const JOIN: [u8; 8] = [30, 8, 0x10, 7, 1, 2, 3, 4];
    assert!(MpJoinRepr::parse(&JOIN, Segment::Syn).is_ok());
    c.bench_function(name::READ_JOIN, |b| {
        b.iter(|| MpJoinRepr::parse(black_box(&JOIN), Segment::Syn))
    });
}

/// Samples of some milliseconds, so that on a busy machine some are without interruption.
fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
        .sample_size(60)
        .without_plots()
}

criterion_group!(name = all; config = criterion(); targets = stock, ours, options);
criterion_main!(all);
