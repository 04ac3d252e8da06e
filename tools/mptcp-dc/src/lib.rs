// SPDX-License-Identifier: GPL-2.0

//! Socket options of mptcp_dc: MPTCP with a low-overhead handshake, and MPTCP whose subflows are authenticated with a
//! key of the application.
//!
//! Every function takes anything that has a file descriptor, such as `std::net::TcpStream` or `socket2::Socket`, and
//! works on MPTCP sockets (`IPPROTO_MPTCP`) of a kernel that has the module. Elsewhere it fails with
//! [`Error::NotMptcp`] or [`Error::NoModule`], and the connection goes on as if the option had not been tried.
//!
//! # External keys
//!
//! MPTCP itself sends its keys in clear: whoever sees the handshake can add a subflow of its own. A connection with
//! external keys sends none. Both ends ask for that before they connect, and set the same key once they share one; until then
//! the connection has one path.
//!
//! ```no_run
//! use socket2::{Domain, Protocol, Socket, Type};
//!
//! # fn handshake(_: &Socket) -> [u8; 32] { [0; 32] }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
//! mptcp_dc::enable_app_key(&socket, true)?;
//! socket.connect(&"192.0.2.1:443".parse::<std::net::SocketAddr>()?.into())?;
//!
//! let key = handshake(&socket);
//! match mptcp_dc::set_key(&socket, &key) {
//!     // The kernel may add subflows from now on.
//!     Ok(()) => {}
//!     // Plain TCP: works, on one path.
//!     Err(mptcp_dc::Error::Refused) => {}
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A server calls [`enable_app_key`] for its listener and [`set_key`] for what `accept()` returns. The two ends need
//! not set their keys at the same time.
//!
//! With TLS, the key is what both ends export (RFC 5705; RFC 8446, section 7.5) under [`EXPORTER_LABEL`], without context,
//! [`EXPORTED_LEN`] bytes. With rustls:
//!
//! ```
//! use mptcp_dc::{EXPORTED_LEN, EXPORTER_LABEL};
//!
//! fn key(tls: &rustls::Connection) -> Result<[u8; EXPORTED_LEN], rustls::Error> {
//!     tls.export_keying_material([0; EXPORTED_LEN], EXPORTER_LABEL.as_bytes(), None)
//! }
//! ```
//!
//! `examples/tls.rs` is a whole client and server. Programs with OpenSSL need no change at all: mptcp-dc-tls(1).
//!
//! # Low overhead
//!
//! In a network where everybody who can send packets is trusted, [`set_low_overhead`] lets one socket differ from what
//! `net.mptcp_dc.lowoverhead` says for its network namespace.
//!
//! C header: `include/uapi/linux/mptcp_dc.h`

#![deny(unsafe_op_in_unsafe_fn, missing_docs)]

mod error;
mod info;
mod option;

use std::ffi::c_int;
use std::os::fd::AsFd;

pub use error::Error;
pub use info::{info, Info, KeyState, Mode};

/// What this crate's functions return.
pub type Result<T> = std::result::Result<T, Error>;

/// The shortest key that [`set_key`] takes, in bytes.
pub const KEY_LEN_MIN: usize = 16;

/// The longest.
pub const KEY_LEN_MAX: usize = 64;

/// Label under which TLS exports the key, for both ends. RFC 5705, section 4: labels that begin with `EXPERIMENTAL` need no
/// registration.
pub const EXPORTER_LABEL: &str = "EXPERIMENTAL mptcp-dc key";

/// Bytes to be exported from TLS.
pub const EXPORTED_LEN: usize = 32;

/// `MPTCP_ENABLE_APP_KEY`: the connection is to have external keys, or to be plain TCP if the peer won't.
///
/// To be called before `connect()` or `listen()`. What a listener accepts follows it.
///
/// # Errors
///
/// [`Error::TooLate`] after `connect()` or `listen()`; [`Error::NotAllowed`] if `net.mptcp_dc.app_key` is 0.
pub fn enable_app_key(socket: impl AsFd, enable: bool) -> Result<()> {
    option::set_int(socket.as_fd(), option::ENABLE_APP_KEY, enable.into())
}

/// `MPTCP_KEY`: the key that authenticates the connection's subflows, [`KEY_LEN_MIN`] to [`KEY_LEN_MAX`] bytes, the same
/// at both ends. Can't be read back.
///
/// To be called once the connection is established. Another call replaces the key; subflows that exist stay.
/// The caller's copy may be wiped afterwards.
///
/// # Errors
///
/// [`Error::NotConnected`] before the connection is established; [`Error::Refused`] if it has no external keys, because it
/// or the peer didn't ask for them; [`Error::NotMptcp`] for a connection that a listener accepted as plain TCP;
/// [`Error::Invalid`] for any other length.
pub fn set_key(socket: impl AsFd, key: &[u8]) -> Result<()> {
    let socket = socket.as_fd();
    option::set(socket, option::KEY, key).map_err(|error| match error {
        // Both are EOPNOTSUPP. With the module, the other option answers.
        Error::NoModule if info(socket).is_ok() => Error::Refused,
        error => error,
    })
}

/// What a socket does about low overhead: values of the sysctl `net.mptcp_dc.lowoverhead`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum LowOverhead {
    /// Neither accepts nor offers it.
    Off = 0,
    /// A listener accepts it.
    Accept = 1,
    /// A listener accepts it, `connect()` offers it.
    Offer = 2,
}

/// `MPTCP_LOWOVERHEAD`: overrides the sysctl for this socket, and for what it accepts.
///
/// To be called before `connect()` or `listen()`.
///
/// # Errors
///
/// [`Error::TooLate`] after `connect()` or `listen()`; [`Error::NotAllowed`] for more than [`LowOverhead::Off`] while the
/// sysctl is 0.
pub fn set_low_overhead(socket: impl AsFd, value: LowOverhead) -> Result<()> {
    option::set_int(socket.as_fd(), option::LOWOVERHEAD, value as c_int)
}
