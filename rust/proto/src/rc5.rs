// SPDX-License-Identifier: GPL-2.0

//! The RC5 block cipher, generic in word size, rounds and key length.
//!
//! Source: R. Rivest, "The RC5 Encryption Algorithm" (1994), and RFC 2040. `RC5-w/r/b` is
//! [`Rc5<W, R, B>`]: words of `w` bits, `R` rounds, a key of `B` bytes. A block is two words,
//! `[A, B]`; byte strings become words little endian, first byte lowest.

use core::hint::black_box;

mod sealed {
    pub trait Sealed {}
}

/// A word of the cipher: `u8`, `u16`, `u32`, `u64` or `u128`.
///
/// Rotations take the amount modulo the width, as RC5 asks.
pub trait Word: sealed::Sealed + Copy {
    /// Width of the word, in bytes.
    const BYTES: usize;
    /// The word 0.
    const ZERO: Self;
    /// `Odd((e - 2) * 2^w)`, where the subkey table starts.
    const P: Self;
    /// `Odd((phi - 1) * 2^w)`, the step of the subkey table.
    const Q: Self;

    /// Reads a word from at most [`Self::BYTES`] bytes, little endian; missing bytes are 0.
    fn from_le(bytes: &[u8]) -> Self;
    /// Sum modulo `2^w`.
    fn add(self, other: Self) -> Self;
    /// Difference modulo `2^w`.
    fn sub(self, other: Self) -> Self;
    /// Exclusive or.
    fn xor(self, other: Self) -> Self;
    /// Rotates left by the low `log2(w)` bits of `amount`.
    fn rotl(self, amount: Self) -> Self;
    /// Rotates right by the low `log2(w)` bits of `amount`.
    fn rotr(self, amount: Self) -> Self;
    /// Rotates left by three bits.
    fn rotl3(self) -> Self;
}

macro_rules! impl_word {
    ($($word:ty: $p:literal, $q:literal;)*) => {$(
        impl sealed::Sealed for $word {}

        impl Word for $word {
            const BYTES: usize = size_of::<Self>();
            const ZERO: Self = 0;
            const P: Self = $p;
            const Q: Self = $q;

            #[inline]
            fn from_le(bytes: &[u8]) -> Self {
                // A rotation by 8 is the shift by one byte that `u8` has, too.
                bytes.iter().rev().fold(0, |word: Self, &byte| word.rotate_left(8) | Self::from(byte))
            }

            #[inline]
            fn add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }

            #[inline]
            fn sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }

            #[inline]
            fn xor(self, other: Self) -> Self {
                self ^ other
            }

            // The library's rotations take their amount modulo the width.
            #[allow(clippy::cast_lossless, reason = "lossless for some of the types only")]
            #[inline]
            fn rotl(self, amount: Self) -> Self {
                self.rotate_left(amount as u32)
            }

            #[allow(clippy::cast_lossless, reason = "lossless for some of the types only")]
            #[inline]
            fn rotr(self, amount: Self) -> Self {
                self.rotate_right(amount as u32)
            }

            #[inline]
            fn rotl3(self) -> Self {
                self.rotate_left(3)
            }
        }
    )*};
}

impl_word! {
    u8: 0xb7, 0x9f;
    u16: 0xb7e1, 0x9e37;
    u32: 0xb7e1_5163, 0x9e37_79b9;
    u64: 0xb7e1_5162_8aed_2a6b, 0x9e37_79b9_7f4a_7c15;
    u128: 0xb7e1_5162_8aed_2a6a_bf71_5880_9cf4_f3c7, 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
}

/// RC5 with words of type `W`, `R` rounds and a key of `B` bytes (1 to 255), ready for use.
///
/// The subkeys are overwritten when the value is dropped. Safe Rust cannot promise that no copy
/// of them stays behind where the value was moved from; a holder that cares makes the value where
/// it will live and changes the key with [`set_key`](Self::set_key).
///
/// # Examples
///
/// ```
/// use proto::rc5::Rc5;
///
/// let cipher = Rc5::<u32, 12, 16>::new(&[0; 16]);
/// let sealed = cipher.encrypt([0, 0]);
/// assert_eq!(sealed, [0xeedb_a521, 0x6d8f_4b15]);
/// assert_eq!(cipher.decrypt(sealed), [0, 0]);
/// ```
pub struct Rc5<W: Word, const R: usize, const B: usize> {
    /// `S[0]` and `S[1]`, added before the first round.
    whitening: [W; 2],
    /// `S[2i]` and `S[2i + 1]` of every round `i`.
    rounds: [[W; 2]; R],
}

impl<W: Word, const R: usize, const B: usize> Rc5<W, R, B> {
    /// Expands `key`.
    pub fn new(key: &[u8; B]) -> Self {
        let mut cipher = Self {
            whitening: [W::ZERO; 2],
            rounds: [[W::ZERO; 2]; R],
        };
        cipher.set_key(key);
        cipher
    }

    /// Replaces the key in place.
    pub fn set_key(&mut self, key: &[u8; B]) {
        const {
            assert!(
                B >= 1 && B <= 255 && R <= 255,
                "RC5-w/r/b has 1 <= b <= 255, r <= 255"
            )
        };

        // The key as words `L`. `B` words always suffice, `words` of them are used.
        let mut secret = [W::ZERO; B];
        for (word, bytes) in secret.iter_mut().zip(key.chunks(W::BYTES)) {
            *word = W::from_le(bytes);
        }
        let words = B.div_ceil(W::BYTES);
        let subkeys = R.wrapping_add(1).wrapping_mul(2);

        let mut next = W::P;
        for subkey in self
            .whitening
            .iter_mut()
            .chain(self.rounds.as_flattened_mut())
        {
            *subkey = next;
            next = next.add(W::Q);
        }

        let (mut a, mut b) = (W::ZERO, W::ZERO);
        let (mut i, mut j) = (0_usize, 0_usize);
        for _ in 0..subkeys.max(words).wrapping_mul(3) {
            let (Some(subkey), Some(word)) = (self.subkey(i), secret.get_mut(j)) else {
                break; // Never: `i < subkeys` and `j < words`.
            };
            a = subkey.add(a).add(b).rotl3();
            *subkey = a;
            b = word.add(a).add(b).rotl(a.add(b));
            *word = b;
            i = i.wrapping_add(1);
            if i == subkeys {
                i = 0;
            }
            j = j.wrapping_add(1);
            if j == words {
                j = 0;
            }
        }

        secret = [W::ZERO; B];
        black_box(&mut secret);
    }

    /// The subkey `S[i]`.
    fn subkey(&mut self, i: usize) -> Option<&mut W> {
        match i.checked_sub(2) {
            None => self.whitening.get_mut(i),
            Some(i) => self.rounds.as_flattened_mut().get_mut(i),
        }
    }

    /// Encrypts one block `[A, B]`.
    #[inline(always)]
    pub fn encrypt(&self, [a, b]: [W; 2]) -> [W; 2] {
        let [s0, s1] = self.whitening;
        let mut a = a.add(s0);
        let mut b = b.add(s1);
        for &[even, odd] in &self.rounds {
            a = a.xor(b).rotl(b).add(even);
            b = b.xor(a).rotl(a).add(odd);
        }
        [a, b]
    }

    /// Decrypts one block `[A, B]`: the inverse of [`encrypt`](Self::encrypt).
    #[inline]
    pub fn decrypt(&self, [mut a, mut b]: [W; 2]) -> [W; 2] {
        for &[even, odd] in self.rounds.iter().rev() {
            b = b.sub(odd).rotr(a).xor(a);
            a = a.sub(even).rotr(b).xor(b);
        }
        let [s0, s1] = self.whitening;
        [a.sub(s0), b.sub(s1)]
    }

    /// Overwrites the subkeys with zeros.
    ///
    /// The optimiser cannot see through [`black_box`], so the stores stay, although nothing reads
    /// them.
    pub fn wipe(&mut self) {
        self.whitening = [W::ZERO; 2];
        self.rounds = [[W::ZERO; 2]; R];
        black_box(self);
    }
}

impl<W: Word, const R: usize, const B: usize> Drop for Rc5<W, R, B> {
    fn drop(&mut self) {
        self.wipe();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decrypting_gives_back_what_was_encrypted(key: [u8; 16], a: u16, b: u16) {
            let cipher = Rc5::<u16, 16, 16>::new(&key);
            prop_assert_eq!(cipher.decrypt(cipher.encrypt([a, b])), [a, b]);
            prop_assert_eq!(cipher.encrypt(cipher.decrypt([a, b])), [a, b]);
        }

        #[test]
        fn every_width_inverts_itself(key: [u8; 7], a: u128, b: u128) {
            let narrow = Rc5::<u8, 3, 7>::new(&key);
            let block = [a as u8, b as u8];
            prop_assert_eq!(narrow.decrypt(narrow.encrypt(block)), block);
            let wide = Rc5::<u128, 3, 7>::new(&key);
            prop_assert_eq!(wide.decrypt(wide.encrypt([a, b])), [a, b]);
        }

        #[test]
        fn set_key_equals_new(old: [u8; 16], key: [u8; 16], a: u16, b: u16) {
            let mut cipher = Rc5::<u16, 16, 16>::new(&old);
            cipher.set_key(&key);
            prop_assert_eq!(cipher.encrypt([a, b]), Rc5::<u16, 16, 16>::new(&key).encrypt([a, b]));
        }
    }

    #[test]
    fn a_wiped_cipher_holds_no_subkey() {
        let mut cipher = Rc5::<u16, 16, 16>::new(&[7; 16]);
        assert_ne!(cipher.rounds, [[0; 2]; 16]);
        cipher.wipe();
        assert_eq!(cipher.whitening, [0; 2]);
        assert_eq!(cipher.rounds, [[0; 2]; 16]);
    }
}
