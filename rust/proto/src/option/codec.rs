// SPDX-License-Identifier: GPL-2.0

//! Bounded reading and writing of big-endian fields.

use core::cmp::Ordering;

use super::{subtype_of, Error, KIND};

/// Checks that `bytes` are exactly one MPTCP option of `subtype`, with its two bytes of flags, and
/// returns its length.
#[inline]
pub(super) fn check_frame(bytes: &[u8], subtype: u8) -> Result<usize, Error> {
    let got = bytes.len();
    let &[kind, length, _, _, ..] = bytes else {
        return Err(Error::Truncated { needed: 4, got });
    };
    if kind != KIND {
        return Err(Error::Kind(kind));
    }
    if let Some(other) = subtype_of(bytes).filter(|&other| other != subtype) {
        return Err(Error::Subtype(other));
    }
    let needed = usize::from(length);
    match got.cmp(&needed) {
        Ordering::Less => Err(Error::Truncated { needed, got }),
        Ordering::Equal => Ok(needed),
        Ordering::Greater => Err(Error::Length(length)),
    }
}

/// Takes fields off the front of a byte string.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    #[inline]
    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let Some((field, rest)) = self.rest.split_first_chunk() else {
            return Err(Error::Truncated {
                needed: N,
                got: self.rest.len(),
            });
        };
        self.rest = rest;
        Ok(*field)
    }
}

/// Puts fields into a buffer, front to back, never past its end.
pub(super) struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    /// A writer of exactly `needed` bytes at the front of `buffer`. An error leaves it untouched.
    #[inline]
    pub(super) fn new(buffer: &'a mut [u8], needed: usize) -> Result<Self, Error> {
        let got = buffer.len();
        match buffer.get_mut(..needed) {
            Some(rest) => Ok(Self { rest }),
            None => Err(Error::NoRoom { needed, got }),
        }
    }

    #[inline]
    pub(super) fn put<const N: usize>(&mut self, field: [u8; N]) -> Result<(), Error> {
        let rest = core::mem::take(&mut self.rest);
        let got = rest.len();
        let Some((room, rest)) = rest.split_first_chunk_mut() else {
            return Err(Error::NoRoom { needed: N, got });
        };
        *room = field;
        self.rest = rest;
        Ok(())
    }
}
