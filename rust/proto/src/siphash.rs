// SPDX-License-Identifier: GPL-2.0

//! SipHash-2-4, the keyed hash behind everything that is not a token.
//!
//! Source: J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF" (2012). The kernel
//! takes TCP's initial sequence numbers from the same function, where it once took them from MD5
//! (RFC 6528). It stands here a second time because a call into the kernel costs more than the
//! inlined rounds, and because the userspace peer needs it.

use core::hint::black_box;

/// A SipHash key, overwritten when dropped.
pub struct HashKey {
    /// The state before the first word, which says the same as the key.
    start: State,
}

/// The last, partial word of a message: up to seven bytes, in the low 56 bits.
///
/// SipHash puts the message's length, modulo 256, in the byte above them. Using these seven bytes
/// saves two of its rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    word: u64,
    len: u8,
}

impl Tail {
    /// No bytes: the message ends with its last whole word.
    pub const EMPTY: Self = Self { word: 0, len: 0 };

    /// Seven bytes, the low 56 bits of `word`; the first byte is the lowest.
    #[inline]
    pub const fn seven(word: u64) -> Self {
        Self {
            word: word & (u64::MAX >> 8),
            len: 7,
        }
    }
}

impl HashKey {
    /// The key's 16 bytes are two words, little endian.
    #[inline]
    pub fn new(key: &[u8; 16]) -> Self {
        Self {
            start: State::of(key),
        }
    }

    /// Replaces the key in place.
    pub fn set_key(&mut self, key: &[u8; 16]) {
        self.start = State::of(key);
    }

    /// Overwrites the key with zeros.
    pub fn wipe(&mut self) {
        self.start = State {
            v0: 0,
            v1: 0,
            v2: 0,
            v3: 0,
        };
        black_box(self);
    }

    /// Hashes `words`, each as its eight bytes, little endian, followed by `tail`.
    ///
    /// Equals SipHash-2-4 of that byte string.
    #[inline(always)]
    pub fn hash<const N: usize>(&self, words: [u64; N], tail: Tail) -> u64 {
        const { assert!(N <= 31, "the length byte would be cut") };
        let bytes = (N as u64).wrapping_mul(8).wrapping_add(u64::from(tail.len));

        let mut state = self.start;
        for word in words {
            state.absorb(word);
        }
        state.absorb(tail.word | (bytes << 56));
        state.finish()
    }
}

impl Drop for HashKey {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[derive(Clone, Copy)]
struct State {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl State {
    /// The state before the first word, under `key`.
    #[inline(always)]
    const fn of(key: &[u8; 16]) -> Self {
        let key = u128::from_le_bytes(*key);
        let (k0, k1) = (key as u64, (key >> 64) as u64);
        Self {
            v0: k0 ^ 0x736f_6d65_7073_6575,
            v1: k1 ^ 0x646f_7261_6e64_6f6d,
            v2: k0 ^ 0x6c79_6765_6e65_7261,
            v3: k1 ^ 0x7465_6462_7974_6573,
        }
    }
}

impl State {
    #[inline(always)]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v2 = self.v2.rotate_left(32);
    }

    #[inline(always)]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.round();
        self.v0 ^= word;
    }

    #[inline(always)]
    fn finish(mut self) -> u64 {
        self.v2 ^= 0xff;
        for _ in 0..4 {
            self.round();
        }
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }
}
