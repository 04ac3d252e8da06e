// SPDX-License-Identifier: GPL-2.0

//! The MPTCP options of TCP (kind 30), read and written.
//!
//! A *view* ([`MpCapable`]) gives access to the fields of a byte string whose frame (kind, length,
//! subtype) was checked; a *repr* ([`MpCapableRepr`], [`MpJoinRepr`]) is an option whose every field
//! is right, to be emitted or handed on.
//!
//! [`MpCapable`]: mp_capable::MpCapable
//! [`MpCapableRepr`]: mp_capable::MpCapableRepr
//! [`MpJoinRepr`]: mp_join::MpJoinRepr

use core::fmt;

mod codec;
pub mod mp_capable;
pub mod mp_join;

/// TCP option kind of Multipath TCP (RFC 8684, section 8.1).
pub const KIND: u8 = 30;

/// The longest that all options of a TCP segment together can be, in bytes (RFC 9293).
pub const MAX_LEN: usize = 40;

const KIND_END: u8 = 0;
const KIND_NOP: u8 = 1;

/// Subtypes of the MPTCP option (RFC 8684, section 8.2), in the high nibble of its third byte.
pub mod subtype {
    /// Multipath capable (RFC 8684, section 3.1).
    pub const MP_CAPABLE: u8 = 0;
    /// Join connection (RFC 8684, section 3.2).
    pub const MP_JOIN: u8 = 1;
    /// Data sequence signal (RFC 8684, section 3.3).
    pub const DSS: u8 = 2;
    /// Add address (RFC 8684, section 3.4.1).
    pub const ADD_ADDR: u8 = 3;
    /// Remove address (RFC 8684, section 3.4.2).
    pub const REMOVE_ADDR: u8 = 4;
    /// Close the whole connection at once (RFC 8684, section 3.5).
    pub const MP_FASTCLOSE: u8 = 7;
}

/// Where an option stands: its handshake segment, as the TCP flags and the payload tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// SYN without ACK.
    Syn,
    /// SYN with ACK.
    SynAck,
    /// No SYN, no payload.
    Ack,
    /// No SYN, with payload.
    Data,
}

impl Segment {
    /// Classifies a segment.
    #[inline]
    pub const fn of(syn: bool, ack: bool, payload: bool) -> Self {
        match (syn, ack, payload) {
            (true, false, _) => Self::Syn,
            (true, true, _) => Self::SynAck,
            (false, _, false) => Self::Ack,
            (false, _, true) => Self::Data,
        }
    }
}

/// Why bytes are not the option they were taken for, or could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The buffer ends inside the option.
    Truncated {
        /// Bytes wanted.
        needed: usize,
        /// Bytes there.
        got: usize,
    },
    /// The buffer is too small to emit into; nothing was written.
    NoRoom {
        /// Bytes wanted.
        needed: usize,
        /// Bytes there.
        got: usize,
    },
    /// Not kind 30 but this.
    Kind(u8),
    /// The length byte, impossible for the option or for the segment it stands in.
    Length(u8),
    /// The subtype of another option.
    Subtype(u8),
    /// A version that this is not.
    Version(u8),
    /// Flags that the segment must not have, or lacks.
    Flags(u8),
    /// A token of 0 in a key field or token field.
    ZeroToken,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { needed, got } => {
                write!(f, "option truncated: {got} of {needed} bytes")
            }
            Self::NoRoom { needed, got } => write!(f, "no room: {got} of {needed} bytes"),
            Self::Kind(kind) => write!(f, "TCP option kind {kind}, not {KIND}"),
            Self::Length(length) => write!(f, "impossible option length {length}"),
            Self::Subtype(subtype) => write!(f, "another MPTCP subtype: {subtype}"),
            Self::Version(version) => write!(f, "another MPTCP version: {version}"),
            Self::Flags(flags) => write!(f, "impossible flags {flags:#04x}"),
            Self::ZeroToken => f.write_str("a token is 0"),
        }
    }
}

impl core::error::Error for Error {}

/// The MPTCP options among a segment's TCP options, in order, each as all of its bytes.
///
/// Reads as the stock kernel does (`mptcp_get_options()`): ends at kind 0, at a length below 2 and
/// at an option that runs past the end. An MPTCP option too short to have a subtype is passed over.
///
/// # Examples
///
/// ```
/// use proto::option::options;
///
/// let bytes = [1, 2, 4, 5, 0xb4, 30, 4, 0xf0, 0x01, 1, 30, 3, 0x50];
/// let found: Vec<&[u8]> = options(&bytes).collect();
/// assert_eq!(found, [&[30, 4, 0xf0, 0x01][..], &[30, 3, 0x50]]);
/// ```
#[inline]
pub const fn options(bytes: &[u8]) -> Options<'_> {
    Options { rest: bytes }
}

/// The iterator that [`options`] returns.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Options<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            match *self.rest {
                [KIND_NOP, ref rest @ ..] => self.rest = rest,
                [] | [KIND_END, ..] | [_] => return None,
                [kind, length, ..] => {
                    let (option, rest) = self.rest.split_at_checked(usize::from(length))?;
                    if length < 2 {
                        return None;
                    }
                    self.rest = rest;
                    if kind == KIND && length > 2 {
                        return Some(option);
                    }
                }
            }
        }
    }
}

/// The subtype of an MPTCP option.
#[inline]
pub fn subtype_of(option: &[u8]) -> Option<u8> {
    option.get(2).map(|byte| byte >> 4)
}
