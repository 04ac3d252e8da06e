// SPDX-License-Identifier: GPL-2.0

//! MP_JOIN, subtype 1 (RFC 8684, section 3.2): a new subflow of a connection.
//!
//! ```text
//!                      1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------+-----+-+---------------+
//! |   Kind = 30   |    Length     |Sub = 1|0 0 0|B|  Address ID   |
//! +---------------+---------------+-------+-----+-+---------------+
//! |                     body, by segment and mode                 |
//! +---------------------------------------------------------------+
//! ```
//!
//! | segment | low-overhead | external-key |
//! |---|---|---|
//! | SYN | 8: `Tok_B` | 12: `Tok_B Rand_A` |
//! | SYN/ACK | 4: nothing | 16: `HMAC_B[0..8] Rand_B` |
//! | ACK | 8: `Tok_B` | 28: `Tok_B Rand_A HMAC_A[0..16]` |
//!
//! Segment and length alone tell the forms apart; the standard ones have 12, 16 and 24 bytes, the
//! first two laid out as here. With timestamps the longest ACK fills the 40 bytes that options have.
//!
//! Our ACKs carry the backup bit and the address ID as the SYN does, where RFC 8684 reserves the
//! space: a server that kept nothing of the SYN needs both.

use core::hint::black_box;

use super::codec::{check_frame, Reader, Writer};
use super::{options, subtype, Error, Segment, KIND};
use crate::key::KeyField;
use crate::token::Token;

/// Lengths of the option, in bytes.
pub mod len {
    /// SYN/ACK, low-overhead.
    pub const EMPTY: usize = 4;
    /// SYN and ACK, low-overhead.
    pub const TOKEN: usize = 8;
    /// SYN, external-key and standard.
    pub const TOKEN_NONCE: usize = 12;
    /// SYN/ACK, external-key and standard.
    pub const HMAC_NONCE: usize = 16;
    /// ACK, standard.
    pub const HMAC: usize = 24;
    /// ACK, external-key.
    pub const TOKEN_NONCE_HMAC: usize = 28;
}

/// Bytes of `HMAC_B` that a SYN/ACK carries.
pub const SYN_ACK_HMAC_LEN: usize = 8;
/// Bytes of `HMAC_A` that an ACK carries.
pub const ACK_HMAC_LEN: usize = 16;

/// The backup bit, in the third byte. The three bits above it are ignored, as the stock kernel
/// ignores them.
const BACKUP: u8 = 0x01;

/// What an MP_JOIN carries besides backup bit and address ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// SYN or ACK, low-overhead.
    Token {
        /// `Tok_B`.
        token: Token,
    },
    /// SYN, external-key. The standard SYN looks the same.
    TokenNonce {
        /// `Tok_B`.
        token: Token,
        /// `Rand_A`.
        nonce: u32,
    },
    /// SYN/ACK, low-overhead.
    Empty,
    /// SYN/ACK, external-key. The standard SYN/ACK looks the same.
    HmacNonce {
        /// `HMAC_B[0..8]`.
        hmac: [u8; SYN_ACK_HMAC_LEN],
        /// `Rand_B`.
        nonce: u32,
    },
    /// ACK, external-key.
    TokenNonceHmac {
        /// `Tok_B`.
        token: Token,
        /// `Rand_A`.
        nonce: u32,
        /// `HMAC_A[0..16]`.
        hmac: [u8; ACK_HMAC_LEN],
    },
}

/// An MP_JOIN option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpJoinRepr {
    /// B: the sender wants the subflow used only if no other works.
    pub backup: bool,
    /// The sender's ID of the address that the subflow comes from.
    pub address_id: u8,
    /// The rest.
    pub body: Body,
}

impl MpJoinRepr {
    /// Parses `bytes`, exactly one option, that came in `segment`.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Kind`], [`Error::Subtype`]; [`Error::Length`] for a form that the
    /// segment cannot have; [`Error::ZeroToken`].
    #[inline(always)]
    pub fn parse(bytes: &[u8], segment: Segment) -> Result<Self, Error> {
        let length = check_frame(bytes, subtype::MP_JOIN)?;
        let mut fields = Reader::new(bytes);
        let [_, _, third, address_id] = fields.take()?;
        let body = match (segment, length) {
            (Segment::Syn | Segment::Ack | Segment::Data, len::TOKEN) => Body::Token {
                token: token(&mut fields)?,
            },
            (Segment::Syn, len::TOKEN_NONCE) => Body::TokenNonce {
                token: token(&mut fields)?,
                nonce: u32::from_be_bytes(fields.take()?),
            },
            (Segment::SynAck, len::EMPTY) => Body::Empty,
            (Segment::SynAck, len::HMAC_NONCE) => Body::HmacNonce {
                hmac: fields.take()?,
                nonce: u32::from_be_bytes(fields.take()?),
            },
            (Segment::Ack | Segment::Data, len::TOKEN_NONCE_HMAC) => Body::TokenNonceHmac {
                token: token(&mut fields)?,
                nonce: u32::from_be_bytes(fields.take()?),
                hmac: fields.take()?,
            },
            _ => return Err(Error::Length(length as u8)),
        };
        Ok(Self {
            backup: third & BACKUP != 0,
            address_id,
            body,
        })
    }

    /// The option's length, in bytes: a multiple of four.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        match self.body {
            Body::Empty => len::EMPTY,
            Body::Token { .. } => len::TOKEN,
            Body::TokenNonce { .. } => len::TOKEN_NONCE,
            Body::HmacNonce { .. } => len::HMAC_NONCE,
            Body::TokenNonceHmac { .. } => len::TOKEN_NONCE_HMAC,
        }
    }

    /// Writes the option to the front of `buffer` and returns its length. Bytes behind it stay as
    /// they are.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] if the buffer is too small. Nothing was written then.
    #[inline(always)]
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = self.buffer_len();
        let mut out = Writer::new(buffer, length)?;
        let third = (subtype::MP_JOIN << 4) | if self.backup { BACKUP } else { 0 };
        out.put([KIND, length as u8, third, self.address_id])?;
        match self.body {
            Body::Empty => {}
            Body::Token { token } => out.put(token.get().to_be_bytes())?,
            Body::TokenNonce { token, nonce } => {
                out.put(token.get().to_be_bytes())?;
                out.put(nonce.to_be_bytes())?;
            }
            Body::HmacNonce { hmac, nonce } => {
                out.put(hmac)?;
                out.put(nonce.to_be_bytes())?;
            }
            Body::TokenNonceHmac { token, nonce, hmac } => {
                out.put(token.get().to_be_bytes())?;
                out.put(nonce.to_be_bytes())?;
                out.put(hmac)?;
            }
        }
        Ok(length)
    }
}

#[inline]
fn token(fields: &mut Reader<'_>) -> Result<Token, Error> {
    Token::new(u32::from_be_bytes(fields.take()?)).ok_or(Error::ZeroToken)
}

/// The low-overhead MP_JOIN of a SYN whose options from its place on are nothing else.
///
/// [`find`] says the same of it, in more steps; this is for a server that knows where it is.
#[inline(always)]
pub fn syn_alone(bytes: &[u8]) -> Option<MpJoinRepr> {
    let option: &[u8; len::TOKEN] = bytes.try_into().ok()?;
    MpJoinRepr::parse(option, Segment::Syn).ok()
}

/// [`syn_alone`] for a standard MP_JOIN.
#[inline(always)]
pub fn standard_syn_alone(bytes: &[u8]) -> Option<MpJoinRepr> {
    let option: &[u8; len::TOKEN_NONCE] = bytes.try_into().ok()?;
    MpJoinRepr::parse(option, Segment::Syn).ok()
}

/// Finds the MP_JOIN option that counts among a segment's TCP options.
///
/// That is the first MPTCP option, or none: senders write REMOVE_ADDR and MP_PRIO behind it, and no
/// other goes with it.
#[inline]
pub fn find(bytes: &[u8], segment: Segment) -> Option<MpJoinRepr> {
    MpJoinRepr::parse(options(bytes).next()?, segment).ok()
}

/// Length of a [`hmac_message`], in bytes.
pub const HMAC_MESSAGE_LEN: usize = 24;

/// What the HMAC of one end of an external-key join is computed over, with HMAC-SHA256 under the
/// application's key: `K_own ‖ K_peer ‖ Rand_own ‖ Rand_peer`.
///
/// `HMAC_A` has A's key field and nonce first, `HMAC_B` has B's. It is RFC 8684's HMAC (section
/// 3.2) with both key fields moved from the key into the message, so one application key used on two
/// connections, or a reflected message, verifies nowhere else.
#[inline]
pub fn hmac_message(
    own: KeyField,
    peer: KeyField,
    own_nonce: u32,
    peer_nonce: u32,
) -> [u8; HMAC_MESSAGE_LEN] {
    let keys = (u128::from(own.raw()) << 64) | u128::from(peer.raw());
    let nonces = (u64::from(own_nonce) << 32) | u64::from(peer_nonce);
    let mut message = [0; HMAC_MESSAGE_LEN];
    if let Some((head, tail)) = message.split_first_chunk_mut() {
        *head = keys.to_be_bytes();
        if let Some(tail) = tail.first_chunk_mut() {
            *tail = nonces.to_be_bytes();
        }
    }
    message
}

/// Length of a [`fastclose_message`], in bytes.
pub const FASTCLOSE_MESSAGE_LEN: usize = 17;

/// Bytes of the HMAC that an MP_FASTCLOSE carries, where RFC 8684 has the receiver's key.
pub const FASTCLOSE_HMAC_LEN: usize = 8;

/// What the HMAC of an external-key connection's MP_FASTCLOSE is computed over, with HMAC-SHA256 under
/// the application's key: `K_own ‖ K_peer ‖ 7`, of the end that closes.
///
/// 7 is the option's subtype. No [`hmac_message`] and no ADD_ADDR's message has this length (24; 16
/// and at least 7), so what an end signed for one of them closes nothing, and a reflected one
/// doesn't either.
#[inline]
pub fn fastclose_message(own: KeyField, peer: KeyField) -> [u8; FASTCLOSE_MESSAGE_LEN] {
    let keys = (u128::from(own.raw()) << 64) | u128::from(peer.raw());
    let mut message = [subtype::MP_FASTCLOSE; FASTCLOSE_MESSAGE_LEN];
    if let Some(head) = message.first_chunk_mut() {
        *head = keys.to_be_bytes();
    }
    message
}

/// Whether two HMACs are equal, in a time that does not depend on where they differ.
#[inline]
pub fn same_hmac<const N: usize>(one: &[u8; N], other: &[u8; N]) -> bool {
    let pairs = one.iter().zip(other);
    // The optimiser must not end early where it sees that the sum cannot become 0 again.
    let difference = pairs.fold(0, |sum, (a, b)| black_box(sum | (a ^ b)));
    difference == 0
}
