// SPDX-License-Identifier: GPL-2.0

//! `setsockopt()` and `getsockopt()`: the one file with unsafe code.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{Error, Result};

const SOL_MPTCP: c_int = 284;

/// An option of level `SOL_MPTCP`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name(c_int);

pub(crate) const INFO: Name = Name(0xdc00);
pub(crate) const ENABLE_APP_KEY: Name = Name(0xdc01);
pub(crate) const KEY: Name = Name(0xdc02);
pub(crate) const LOWOVERHEAD: Name = Name(0xdc03);

pub(crate) fn set_int(socket: BorrowedFd<'_>, option: Name, value: c_int) -> Result<()> {
    set(socket, option, &value.to_ne_bytes())
}

pub(crate) fn set(socket: BorrowedFd<'_>, option: Name, value: &[u8]) -> Result<()> {
    let length = value.len().try_into().map_err(|_| Error::Invalid)?;
    // SAFETY: `value` can be read for `length` bytes, and the kernel only reads.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_MPTCP,
            option.0,
            value.as_ptr().cast(),
            length,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(explain(socket, io::Error::last_os_error()))
    }
}

/// The part of `room` that the kernel filled.
pub(crate) fn get<'a>(
    socket: BorrowedFd<'_>,
    option: Name,
    room: &'a mut [u8],
) -> Result<&'a [u8]> {
    get_at(socket, SOL_MPTCP, option.0, room).map_err(|error| explain(socket, error))
}

fn get_at<'a>(
    socket: BorrowedFd<'_>,
    level: c_int,
    option: c_int,
    room: &'a mut [u8],
) -> io::Result<&'a [u8]> {
    let mut length = room.len().try_into().unwrap_or(libc::socklen_t::MAX);
    // SAFETY: `room` can be written for `length` bytes, and the kernel writes no more than these and `length`.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            room.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if status == 0 {
        Ok(room.get(..length as usize).unwrap_or(room))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What the error of an option means. Kernels refuse options that they don't know with `EOPNOTSUPP` or `ENOPROTOOPT`,
/// whatever the protocol, so that is asked for.
fn explain(socket: BorrowedFd<'_>, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT) if is_mptcp(socket) => Error::NoModule,
        Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT | libc::ENOTSOCK) => Error::NotMptcp,
        Some(libc::EPERM) => Error::NotAllowed,
        Some(libc::EISCONN) => Error::TooLate,
        Some(libc::ENOTCONN) => Error::NotConnected,
        Some(libc::EINVAL) => Error::Invalid,
        _ => Error::Os(error),
    }
}

fn is_mptcp(socket: BorrowedFd<'_>) -> bool {
    let mut protocol = [0; size_of::<c_int>()];
    get_at(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, &mut protocol)
        .is_ok_and(|got| got == libc::IPPROTO_MPTCP.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{KeyState, Mode};

    const HEADER: &str = include_str!("../../../include/uapi/linux/mptcp_dc.h");

    /// The value that the C header defines for `name`.
    fn defined(name: &str) -> i64 {
        let value = HEADER
            .lines()
            .filter_map(|line| line.strip_prefix("#define"))
            .find_map(|rest| {
                rest.trim_start()
                    .strip_prefix(name)?
                    .strip_prefix(['\t', ' '])
            })
            .and_then(|rest| rest.split_whitespace().next())
            .unwrap_or_else(|| panic!("{name} is not in the header"));
        match value.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).unwrap(),
            None => value.parse().unwrap(),
        }
    }

    #[test]
    fn numbers_are_the_c_headers() {
        for (name, ours) in [
            ("SOL_MPTCP", SOL_MPTCP),
            ("MPTCP_DC_INFO", INFO.0),
            ("MPTCP_ENABLE_APP_KEY", ENABLE_APP_KEY.0),
            ("MPTCP_KEY", KEY.0),
            ("MPTCP_LOWOVERHEAD", LOWOVERHEAD.0),
            ("MPTCP_KEY_MIN", crate::KEY_LEN_MIN as c_int),
            ("MPTCP_KEY_MAX", crate::KEY_LEN_MAX as c_int),
        ] {
            assert_eq!(defined(name), i64::from(ours), "{name}");
        }
        let number = |name| u32::try_from(defined(name)).unwrap();
        assert_eq!(Mode::from(number("MPTCP_DC_MODE_NONE")), Mode::None);
        assert_eq!(Mode::from(number("MPTCP_DC_MODE_TCP")), Mode::Tcp);
        assert_eq!(Mode::from(number("MPTCP_DC_MODE_STANDARD")), Mode::Standard);
        assert_eq!(
            Mode::from(number("MPTCP_DC_MODE_LOWOVERHEAD")),
            Mode::LowOverhead
        );
        assert_eq!(
            Mode::from(number("MPTCP_DC_MODE_EXTERNALKEY")),
            Mode::ExternalKey
        );
        assert_eq!(KeyState::from(number("MPTCP_DC_KEY_NONE")), KeyState::None);
        assert_eq!(
            KeyState::from(number("MPTCP_DC_KEY_MISSING")),
            KeyState::Missing
        );
        assert_eq!(KeyState::from(number("MPTCP_DC_KEY_SET")), KeyState::Set);
    }
}
