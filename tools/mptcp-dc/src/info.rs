// SPDX-License-Identifier: GPL-2.0

//! `MPTCP_DC_INFO`: what the module tells about a connection.

use std::os::fd::AsFd;

use crate::option;
use crate::Result;

/// How a connection speaks MPTCP, if it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Neither connected nor connecting.
    None,
    /// Fell back to plain TCP.
    Tcp,
    /// RFC 8684.
    Standard,
    /// Low-overhead handshake.
    LowOverhead,
    /// The same with an external key.
    ExternalKey,
    /// A later module's.
    Other(u32),
}

impl From<u32> for Mode {
    fn from(value: u32) -> Self {
        match value {
            0 => Self::None,
            1 => Self::Tcp,
            2 => Self::Standard,
            3 => Self::LowOverhead,
            4 => Self::ExternalKey,
            other => Self::Other(other),
        }
    }
}

/// What a connection knows of its external key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyState {
    /// The mode has no external key.
    None,
    /// No key was set yet: the connection has one path and announces no address.
    Missing,
    /// A key was set.
    Set,
    /// A later module's.
    Other(u32),
}

impl From<u32> for KeyState {
    fn from(value: u32) -> Self {
        match value {
            0 => Self::None,
            1 => Self::Missing,
            2 => Self::Set,
            other => Self::Other(other),
        }
    }
}

/// `struct mptcp_dc_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// How the connection speaks MPTCP.
    pub mode: Mode,
    /// Its external key.
    pub key_state: KeyState,
    /// 0: none (yet).
    pub local_token: u32,
    /// 0: not known, or the mode is standard.
    pub remote_token: u32,
    /// Initial data sequence number; 0: none (yet).
    pub local_idsn: u64,
    /// 0: not known, or the mode is standard.
    pub remote_idsn: u64,
    /// Subflows beside the first.
    pub subflows: u32,
}

/// Asks for `MPTCP_DC_INFO`. Any time, any MPTCP socket.
///
/// ```no_run
/// # fn adds_paths(stream: &std::net::TcpStream) -> mptcp_dc::Result<bool> {
/// let info = mptcp_dc::info(stream)?;
/// # Ok(
/// info.subflows > 0
/// # )
/// # }
/// ```
pub fn info(socket: impl AsFd) -> Result<Info> {
    let mut room = [0; LENGTH];
    let filled = option::get(socket.as_fd(), option::INFO, &mut room)?;
    Ok(parse(filled))
}

/// `sizeof(struct mptcp_dc_info)` without what later versions append.
const LENGTH: usize = 40;

/// Reads the structure. What an older module doesn't tell is 0.
fn parse(mut bytes: &[u8]) -> Info {
    let rest = &mut bytes;
    Info {
        mode: u32::from_ne_bytes(take(rest)).into(),
        key_state: u32::from_ne_bytes(take(rest)).into(),
        local_token: u32::from_ne_bytes(take(rest)),
        remote_token: u32::from_ne_bytes(take(rest)),
        local_idsn: u64::from_ne_bytes(take(rest)),
        remote_idsn: u64::from_ne_bytes(take(rest)),
        subflows: u32::from_ne_bytes(take(rest)),
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (head, tail) = bytes.split_first_chunk().unwrap_or((&[0; N], &[]));
    *bytes = tail;
    *head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_read_field_by_field() {
        let mut bytes = Vec::new();
        for word in [4u32, 7, 0x01020304, 0x05060708] {
            bytes.extend(word.to_ne_bytes());
        }
        for long in [0x1112131415161718u64, 0x2122232425262728] {
            bytes.extend(long.to_ne_bytes());
        }
        for word in [3u32, 0] {
            bytes.extend(word.to_ne_bytes());
        }
        let info = Info {
            mode: Mode::ExternalKey,
            key_state: KeyState::Other(7),
            local_token: 0x01020304,
            remote_token: 0x05060708,
            local_idsn: 0x1112131415161718,
            remote_idsn: 0x2122232425262728,
            subflows: 3,
        };
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(parse(&bytes), info);
        assert_eq!(
            parse(&bytes[..32]),
            Info {
                subflows: 0,
                ..info
            }
        );
        assert_eq!(parse(&[]).mode, Mode::None);
    }
}
