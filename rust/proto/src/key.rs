// SPDX-License-Identifier: GPL-2.0

//! The key field and the initial data sequence number.
//!
//! Where RFC 8684 puts a host's 64-bit key, a low-overhead host puts `Tok ‖ Rnd`: its token and
//! 32 hashed bits. Its initial data sequence number is the same two halves the other way round,
//! `Rnd ‖ Tok`. So neither end computes a SHA-256, and a connection's mode can be read off its
//! token, key field and IDSN ([`is_low_overhead`]). One bit of the own random part tells low-overhead from
//! external-key ([`KeyField::is_external`]).

use crate::token::Token;

/// `Tok ‖ Rnd` of one host: 64 bits, the token in the high half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyField {
    token: Token,
    random: u32,
}

impl KeyField {
    /// Joins a token and a random part.
    #[inline]
    pub const fn new(token: Token, random: u32) -> Self {
        Self { token, random }
    }

    /// The key field of this value, a host integer; `None` when its token is 0.
    #[inline]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match Token::new((raw >> 32) as u32) {
            Some(token) => Some(Self::new(token, raw as u32)),
            None => None,
        }
    }

    /// The key field of these bytes on the wire; `None` when its token is 0.
    #[inline(always)]
    pub const fn from_wire([a, b, c, d, e, f, g, h]: [u8; 8]) -> Option<Self> {
        match Token::new(u32::from_be_bytes([a, b, c, d])) {
            Some(token) => Some(Self::new(token, u32::from_be_bytes([e, f, g, h]))),
            None => None,
        }
    }

    /// The value, a host integer, as the stack's `local_key` and `remote_key` hold it. On the
    /// wire it is big endian.
    #[inline]
    pub const fn raw(self) -> u64 {
        ((self.token.get() as u64) << 32) | self.random as u64
    }

    /// The token.
    #[inline]
    pub const fn token(self) -> Token {
        self.token
    }

    /// The random part.
    #[inline]
    pub const fn random(self) -> u32 {
        self.random
    }

    /// Whether the connection that has this as its *own* key field is external-key, else low-overhead.
    ///
    /// A host marks the connections of its own by the lowest bit of their random part, so the mode needs
    /// no room in the kernel's structures. A peer's key field says nothing about it; on the wire the B bit
    /// does.
    #[inline]
    pub const fn is_external(self) -> bool {
        self.random & 1 != 0
    }

    /// The same, marked.
    #[inline]
    pub const fn with_external(self, external: bool) -> Self {
        Self {
            token: self.token,
            random: self.random & !1 | external as u32,
        }
    }

    /// The initial data sequence number that goes with this key field.
    #[inline]
    pub const fn idsn(self) -> Idsn {
        Idsn(self.raw().rotate_left(32))
    }
}

/// `Rnd ‖ Tok` of one host: its initial data sequence number, a host integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Idsn(pub u64);

impl Idsn {
    /// The data sequence number of the first byte of data: one more, modulo 2^64, as in RFC 8684,
    /// section 3.1.
    #[inline]
    pub const fn first_byte(self) -> u64 {
        self.0.wrapping_add(1)
    }
}

/// Whether a connection that holds these three values is low-overhead or external-key.
///
/// It is, exactly when the token is the high half of the key field and the IDSN is the key field
/// with its halves swapped. A standard connection passes by accident once in 2^96, and
/// once in 2^32 where the IDSN is gone and the caller can't compare it.
#[inline]
pub const fn is_low_overhead(local_token: u32, local_key: u64, idsn: u64) -> bool {
    idsn == local_key.rotate_left(32) && local_token == (local_key >> 32) as u32 && local_token != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_slide_drawn_in_numbers() {
        let key = KeyField::from_raw(0x1111_2222_3333_4444).unwrap();
        assert_eq!(key.token().get(), 0x1111_2222);
        assert_eq!(key.random(), 0x3333_4444);
        assert_eq!(key.idsn(), Idsn(0x3333_4444_1111_2222));
        assert_eq!(key.idsn().first_byte(), 0x3333_4444_1111_2223);
        assert_eq!(Idsn(u64::MAX).first_byte(), 0);
    }

    #[test]
    fn a_key_field_without_a_token_is_none() {
        assert_eq!(KeyField::from_raw(0xffff_ffff), None);
        assert!(!is_low_overhead(0, 0, 0));
        assert!(!is_low_overhead(0, 5, 5 << 32));
    }

    proptest! {
        #[test]
        fn the_mode_shows_in_token_key_and_idsn(raw in 1_u64 << 32.., flip in 0_u32..64) {
            let key = KeyField::from_raw(raw).unwrap();
            let (token, idsn) = (key.token().get(), key.idsn().0);
            prop_assert_eq!(key.raw(), raw);
            prop_assert!(is_low_overhead(token, raw, idsn));
            prop_assert!(!is_low_overhead(token, raw, idsn ^ (1 << flip)));
            prop_assert!(!is_low_overhead(token, raw ^ (1 << flip), idsn));
            prop_assert!(!is_low_overhead(token ^ (1 << (flip / 2)), raw, idsn));
        }
    }
}
