// SPDX-License-Identifier: GPL-2.0

//! MP_CAPABLE, subtype 0 (RFC 8684, section 3.1): the first handshake.
//!
//! ```text
//!                      1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------+-------+---------------+
//! |   Kind = 30   |    Length     |Sub = 0|Ver=15 |A|B|C|0 0 0 0|H|
//! +---------------+---------------+-------+-------+---------------+
//! |                     sender's token  (Tok)                     |   Length >= 12
//! |                  sender's random part  (Rnd)                  |
//! +---------------------------------------------------------------+
//! |                    receiver's token  (Tok)                    |   Length >= 20
//! |                 receiver's random part  (Rnd)                 |
//! +-------------------------------+-------------------------------+
//! |   data-level length  (>= 22)  |     checksum  (= 24)          |
//! +-------------------------------+-------------------------------+
//! ```
//!
//! | segment | length | body |
//! |---|---|---|
//! | SYN, compact | 4 | none |
//! | SYN, full (the slide, byte for byte) | 12 | `Tok_A Rnd_A` |
//! | SYN/ACK | 12 | `Tok_B Rnd_B` |
//! | ACK | 20 | `Tok_A Rnd_A Tok_B Rnd_B` |
//! | ACK with data | 22, 24 with checksum | as ACK, then data-level length, checksum |
//!
//! Version 15 is a private experiment; RFC 8684 is version 1. A stock Linux peer takes a SYN of
//! length 4 with a version above 1 for an offer and answers version 1, so the compact form
//! negotiates itself down to standard MPTCP. It ignores the full form.

use super::codec::{check_frame, Writer};
use super::{options, subtype, subtype_of, Error, Segment, KIND};
use crate::key::KeyField;

/// The version nibble of the low-overhead handshake.
pub const DC_VERSION: u8 = 15;

/// The version of RFC 8684.
pub const RFC_VERSION: u8 = 1;

/// Lengths of the option, in bytes.
pub mod len {
    /// SYN, compact: no key field.
    pub const COMPACT: usize = 4;
    /// SYN, full, and SYN/ACK: the sender's key field.
    pub const KEY: usize = 12;
    /// ACK: both key fields.
    pub const KEYS: usize = 20;
    /// ACK with data: both key fields and the data-level length.
    pub const DATA: usize = 22;
    /// ACK with data and its checksum.
    pub const DATA_CHECKSUM: usize = 24;
}

/// The flag byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// A: the sender requires DSS checksums.
    pub const CHECKSUM: u8 = 0x80;
    /// B: external keys. RFC 8684 calls it extensibility, and ignores an option that has it.
    pub const EXTERNAL: u8 = 0x40;
    /// C: no joins to the sender's initial address and port.
    pub const DENY_JOIN: u8 = 0x20;
    /// H: HMAC-SHA256.
    pub const HMAC_SHA256: u8 = 0x01;
    /// D to G: not assigned.
    const RESERVED: u8 = 0x1e;

    /// The flags of an option in `segment`.
    ///
    /// H follows from the rest: a SYN has it, because it offers version 1 as well, and every
    /// external-key segment has it, because its joins carry HMACs.
    #[inline]
    pub const fn new(segment: Segment, features: Features) -> Self {
        let mut flags = 0;
        if features.checksum {
            flags |= Self::CHECKSUM;
        }
        if features.external {
            flags |= Self::EXTERNAL;
        }
        if features.deny_join {
            flags |= Self::DENY_JOIN;
        }
        if features.external || matches!(segment, Segment::Syn) {
            flags |= Self::HMAC_SHA256;
        }
        Self(flags)
    }

    /// Whether a flag is set.
    #[inline]
    pub const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    /// What the flags say of what a host may choose.
    #[inline]
    const fn chosen(self) -> Features {
        Features {
            checksum: self.has(Self::CHECKSUM),
            external: self.has(Self::EXTERNAL),
            deny_join: self.has(Self::DENY_JOIN),
        }
    }

    /// The same, if an option in `segment` can have these flags.
    #[inline]
    fn features(self, segment: Segment) -> Result<Features, Error> {
        let features = self.chosen();
        if Self::new(segment, features) == self {
            Ok(features)
        } else {
            Err(Error::Flags(self.0))
        }
    }

    /// Whether the stock kernel heeds an option with these flags: SHA-256 and no other algorithm,
    /// no extension.
    #[inline]
    const fn standard(self) -> bool {
        self.0 & (Self::HMAC_SHA256 | Self::RESERVED | Self::EXTERNAL) == Self::HMAC_SHA256
    }
}

/// What a host says with the flags it may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A: it requires DSS checksums.
    pub checksum: bool,
    /// B: it wants (SYN), grants (SYN/ACK) or uses (ACK) external keys.
    pub external: bool,
    /// C: no joins to its initial address and port.
    pub deny_join: bool,
}

impl Features {
    /// None of them, the default.
    pub const NONE: Self = Self {
        checksum: false,
        external: false,
        deny_join: false,
    };
}

/// View of an MP_CAPABLE option of any version.
///
/// # Invariants
///
/// The bytes are exactly one option: kind 30, subtype 0, a length byte that equals their number
/// and is one of [`len`].
#[derive(Clone, Copy, Debug)]
pub struct MpCapable<T: AsRef<[u8]>> {
    bytes: T,
}

impl<T: AsRef<[u8]>> MpCapable<T> {
    /// Views `bytes`, which must be exactly one option.
    ///
    /// # Errors
    ///
    /// [`Error::Truncated`], [`Error::Kind`], [`Error::Length`] or [`Error::Subtype`].
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Error> {
        let view = Self { bytes };
        view.check_len()?;
        Ok(view)
    }

    #[inline]
    fn check_len(&self) -> Result<(), Error> {
        let length = check_frame(self.bytes.as_ref(), subtype::MP_CAPABLE)?;
        match length {
            len::COMPACT | len::KEY | len::KEYS | len::DATA | len::DATA_CHECKSUM => Ok(()),
            _ => Err(Error::Length(length as u8)),
        }
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        // Never absent, by the type's invariants.
        self.bytes.as_ref().get(at).copied().unwrap_or(0)
    }

    /// The field of `N` bytes at `at`; `None` if the form of this option has none there.
    #[inline]
    fn field<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.as_ref().get(at..)?.first_chunk().copied()
    }

    /// The option's length, one of [`len`].
    #[inline]
    pub fn length(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// The version nibble.
    #[inline]
    pub fn version(&self) -> u8 {
        self.byte(2) & 0x0f
    }

    /// The flag byte.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.byte(3))
    }

    /// The sender's key or key field, from 12 bytes on.
    #[inline]
    pub fn sender(&self) -> Option<u64> {
        self.field(4).map(u64::from_be_bytes)
    }

    /// The receiver's key or key field, from 20 bytes on.
    #[inline]
    pub fn receiver(&self) -> Option<u64> {
        self.field(12).map(u64::from_be_bytes)
    }

    /// The data-level length, from 22 bytes on.
    #[inline]
    pub fn data_len(&self) -> Option<u16> {
        self.field(20).map(u16::from_be_bytes)
    }

    /// The checksum, in 24 bytes: as on the wire, for the stack's `__sum16`.
    #[inline]
    pub fn checksum(&self) -> Option<[u8; 2]> {
        self.field(22)
    }
}

/// What a low-overhead MP_CAPABLE carries besides its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// SYN, compact: nothing.
    Compact,
    /// SYN, full, or SYN/ACK.
    Key {
        /// `Tok ‖ Rnd` of the sender.
        sender: KeyField,
    },
    /// ACK without data.
    Keys {
        /// `Tok ‖ Rnd` of the sender.
        sender: KeyField,
        /// `Tok ‖ Rnd` of the receiver, echoed.
        receiver: KeyField,
    },
    /// ACK or first data segment, with data.
    Data {
        /// `Tok ‖ Rnd` of the sender.
        sender: KeyField,
        /// `Tok ‖ Rnd` of the receiver, echoed.
        receiver: KeyField,
        /// What the data is, at data level.
        mapping: Mapping,
    },
}

/// The mapping of the first data: it starts at the sender's [`Idsn::first_byte`] and at relative
/// subflow sequence number 1 (RFC 8684, section 3.1).
///
/// [`Idsn::first_byte`]: crate::key::Idsn::first_byte
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Bytes that the mapping covers.
    pub len: u16,
    /// The DSS checksum, as on the wire; there when checksums were negotiated.
    pub checksum: Option<[u8; 2]>,
}

/// A low-overhead or external-key MP_CAPABLE option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpCapableRepr {
    /// What the flags say.
    pub features: Features,
    /// The rest.
    pub body: Body,
}

impl MpCapableRepr {
    /// Parses an option that came in `segment`.
    ///
    /// # Errors
    ///
    /// [`Error::Version`] for another version than 15; [`Error::Length`] for a form that the
    /// segment cannot have; [`Error::Flags`] for flags that it cannot have; [`Error::ZeroToken`].
    #[inline]
    pub fn parse<T: AsRef<[u8]>>(option: &MpCapable<T>, segment: Segment) -> Result<Self, Error> {
        if option.version() != DC_VERSION {
            return Err(Error::Version(option.version()));
        }
        let key = |raw| KeyField::from_raw(raw).ok_or(Error::ZeroToken);
        let body = match (
            segment,
            option.sender(),
            option.receiver(),
            option.data_len(),
        ) {
            (Segment::Syn, None, _, _) => Body::Compact,
            (Segment::Syn | Segment::SynAck, Some(sender), None, _) => Body::Key {
                sender: key(sender)?,
            },
            (Segment::Ack, Some(sender), Some(receiver), None) => Body::Keys {
                sender: key(sender)?,
                receiver: key(receiver)?,
            },
            (Segment::Data, Some(sender), Some(receiver), Some(len)) => Body::Data {
                sender: key(sender)?,
                receiver: key(receiver)?,
                mapping: Mapping {
                    len,
                    checksum: option.checksum(),
                },
            },
            _ => return Err(Error::Length(option.length() as u8)),
        };
        Ok(Self {
            features: option.flags().features(segment)?,
            body,
        })
    }

    /// The option's length, in bytes. Padding to a multiple of four is the caller's.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        match self.body {
            Body::Compact => len::COMPACT,
            Body::Key { .. } => len::KEY,
            Body::Keys { .. } => len::KEYS,
            Body::Data { mapping, .. } => match mapping.checksum {
                None => len::DATA,
                Some(_) => len::DATA_CHECKSUM,
            },
        }
    }

    /// Writes the option, as it stands in `segment`, to the front of `buffer` and returns its
    /// length. Bytes behind it stay as they are.
    ///
    /// # Errors
    ///
    /// [`Error::NoRoom`] if the buffer is too small, [`Error::Length`] if the segment cannot have
    /// this form. Nothing was written then.
    #[inline]
    pub fn emit(&self, segment: Segment, buffer: &mut [u8]) -> Result<usize, Error> {
        let length = self.buffer_len();
        match (segment, self.body) {
            (Segment::Syn, Body::Compact | Body::Key { .. })
            | (Segment::SynAck, Body::Key { .. })
            | (Segment::Ack, Body::Keys { .. })
            | (Segment::Data, Body::Data { .. }) => {}
            _ => return Err(Error::Length(length as u8)),
        }

        let mut out = Writer::new(buffer, length)?;
        let flags = Flags::new(segment, self.features);
        let version = (subtype::MP_CAPABLE << 4) | DC_VERSION;
        out.put([KIND, length as u8, version, flags.0])?;
        match self.body {
            Body::Compact => {}
            Body::Key { sender } => out.put(sender.raw().to_be_bytes())?,
            Body::Keys { sender, receiver } => {
                out.put(sender.raw().to_be_bytes())?;
                out.put(receiver.raw().to_be_bytes())?;
            }
            Body::Data {
                sender,
                receiver,
                mapping,
            } => {
                out.put(sender.raw().to_be_bytes())?;
                out.put(receiver.raw().to_be_bytes())?;
                out.put(mapping.len.to_be_bytes())?;
                if let Some(checksum) = mapping.checksum {
                    out.put(checksum)?;
                }
            }
        }
        Ok(length)
    }
}

/// Turns the start of an MP_CAPABLE that the stock kernel wrote for `segment`, of version 1, into
/// one of version 15 with B as `external`, and returns what its flags say. The key fields and lengths
/// behind it are the same. `None`, and nothing is written, if it isn't such an option.
#[inline]
pub fn restamp(
    segment: Segment,
    start: &mut [u8; len::COMPACT],
    external: bool,
) -> Option<Features> {
    let [KIND, _, version, flags] = start else {
        return None;
    };
    if *version != (subtype::MP_CAPABLE << 4) | RFC_VERSION {
        return None;
    }
    let features = Features {
        checksum: Flags(*flags).has(Flags::CHECKSUM),
        external,
        deny_join: Flags(*flags).has(Flags::DENY_JOIN),
    };
    *version = (subtype::MP_CAPABLE << 4) | DC_VERSION;
    *flags = Flags::new(segment, features).0;
    Some(features)
}

/// The MP_CAPABLE option that counts in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Version 15.
    Dc(MpCapableRepr),
    /// One that the stock kernel understands. It should read the segment itself.
    Standard,
}

/// The option that `bytes` begin with, if it is one of version 15 that a SYN can have and wants no external keys.
///
/// [`find`] says the same of it, in more steps; this is for a server that knows where it is.
#[inline(always)]
pub fn syn_at(bytes: &[u8]) -> Option<MpCapableRepr> {
    const FIRST: u8 = (subtype::MP_CAPABLE << 4) | DC_VERSION;

    let &[KIND, length, FIRST, flags] = bytes.first_chunk()? else {
        return None;
    };
    let body = match usize::from(length) {
        len::COMPACT => Body::Compact,
        len::KEY => {
            let &[_, _, _, _, ref sender @ ..] = bytes.first_chunk::<{ len::KEY }>()?;
            Body::Key {
                sender: KeyField::from_wire(*sender)?,
            }
        }
        _ => return None,
    };
    let flags = Flags(flags);
    // In a SYN, all that have no B are as the stock kernel's.
    flags.standard().then_some(MpCapableRepr {
        features: Features {
            external: false,
            ..flags.chosen()
        },
        body,
    })
}

/// Finds the MP_CAPABLE option that counts among a segment's TCP options.
///
/// As in the stock kernel (`mptcp_parse_option()`): the first one that is right for its segment
/// counts and a wrong one is passed over, wherever it stands; but an MPTCP option of another kind
/// before it disqualifies it. Only REMOVE_ADDR may come before the one in an ACK.
#[inline]
pub fn find(bytes: &[u8], segment: Segment) -> Option<Received> {
    for option in options(bytes) {
        match subtype_of(option) {
            Some(subtype::MP_CAPABLE) => {
                let Ok(option) = MpCapable::new_checked(option) else {
                    continue;
                };
                if let Ok(repr) = MpCapableRepr::parse(&option, segment) {
                    return Some(Received::Dc(repr));
                }
                if is_standard(&option, segment) {
                    return Some(Received::Standard);
                }
            }
            Some(subtype::REMOVE_ADDR) if matches!(segment, Segment::Ack | Segment::Data) => {}
            _ => return None,
        }
    }
    None
}

/// Whether the stock kernel would heed this option, were it not of version 15.
#[inline]
fn is_standard<T: AsRef<[u8]>>(option: &MpCapable<T>, segment: Segment) -> bool {
    let version = option.version();
    let form = match (segment, option.length()) {
        // It is gentle with future versions, but version 15 was ours and wrong.
        (Segment::Syn, len::COMPACT) => (RFC_VERSION..DC_VERSION).contains(&version),
        (Segment::SynAck, len::KEY)
        | (Segment::Ack, len::KEYS)
        | (Segment::Data, len::DATA | len::DATA_CHECKSUM) => version == RFC_VERSION,
        _ => false,
    };
    form && option.flags().standard()
}
