// SPDX-License-Identifier: GPL-2.0

//! Why an option was refused.

use std::fmt;
use std::io;

/// Why an option was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// No MPTCP socket: TCP's, UDP's, or no socket at all (`ENOPROTOOPT`, `EOPNOTSUPP`, `ENOTSOCK`).
    NotMptcp,
    /// The kernel has no mptcp_dc (`EOPNOTSUPP`).
    NoModule,
    /// This connection has no external keys: it didn't ask for them, or the peer refused (`EOPNOTSUPP`).
    Refused,
    /// The network namespace's sysctls forbid it (`EPERM`).
    NotAllowed,
    /// To be set before `connect()` or `listen()` (`EISCONN`).
    TooLate,
    /// To be set once the connection is established (`ENOTCONN`).
    NotConnected,
    /// The value or its length is none of the option's (`EINVAL`).
    Invalid,
    /// Anything else.
    Os(io::Error),
}

impl Error {
    fn errno(&self) -> i32 {
        match self {
            Self::NotMptcp => libc::ENOPROTOOPT,
            Self::NoModule | Self::Refused => libc::EOPNOTSUPP,
            Self::NotAllowed => libc::EPERM,
            Self::TooLate => libc::EISCONN,
            Self::NotConnected => libc::ENOTCONN,
            Self::Invalid => libc::EINVAL,
            Self::Os(error) => error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotMptcp => "this is no MPTCP socket",
            Self::NoModule => "the kernel does not know the option: mptcp_dc is not loaded",
            Self::Refused => {
                "the connection has no external keys: it did not ask for them, or the peer refused"
            }
            Self::NotAllowed => "forbidden by a sysctl of net.mptcp_dc",
            Self::TooLate => "too late: this must come before connect() or listen()",
            Self::NotConnected => "too early: the connection is not established",
            Self::Invalid => "not a value of this option",
            Self::Os(error) => return error.fmt(f),
        })
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Os(error) => Some(error),
            _ => None,
        }
    }
}

/// Keeps the errno; the explanation goes.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::from_raw_os_error(error.errno())
    }
}
