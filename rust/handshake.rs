// SPDX-License-Identifier: GPL-2.0

//! The low-overhead handshakes, MP_CAPABLE and MP_JOIN, in terms of hooks.
//!
//! ```text
//!          client                                       server
//!          client::TokenNewConnect (Tok_A, Rnd_A)
//!          client::SynOptions
//! wire::WriteOptions ────── SYN, version 15 ──────────▶ server::CheckReq (Tok_B, Rnd_B)
//!                                                       server::SynackOptions
//! client::FinishConnect ◀── SYN/ACK, Tok_B Rnd_B ────── wire::WriteOptions
//! wire::GetOptions
//! KeySha (IDSN-B)
//! wire::WriteOptions ────── ACK, Tok_A Rnd_A Tok_B Rnd_B ▶ server::InitCookieReq (SYN cookies)
//!                                                       wire::GetOptions
//!                                                       KeySha (IDSN-A)
//! ```
//!
//! MP_JOIN takes the same way, with [`join`] in the place of tokens and keys:
//!
//! ```text
//! client::SynOptions ────── SYN, Tok_B ───────────────▶ server::CheckReq
//! client::FinishConnect ◀── SYN/ACK, nothing ────────── server::SynackOptions
//! wire::WriteOptions ────── ACK, Tok_B ───────────────▶ server::InitCookieReq (SYN cookies)
//!                                                       join::SynRecvSock
//! ```
//!
//! With external keys, both are as long as the stack's own and carry HMACs: [`external`].
//!
//! Nothing is kept besides what the stack keeps anyway: an end is low-overhead if its token, key and
//! data sequence number are halves of each other ([`is_low_overhead`]), and the key's lowest bit tells which of
//! the two modes it has ([`is_external`]); only the applications' keys are kept elsewhere (`rust/c/appkey.c`). So a connection lives on when
//! the module goes.
//!
//! [`is_low_overhead`]: proto::key::is_low_overhead
//! [`is_external`]: proto::key::KeyField::is_external

mod client;
mod derived;
mod external;
mod join;
mod server;
mod stateless;
mod wire;

#[cfg(CONFIG_KUNIT = "y")]
pub(crate) use wire::ours;

use core::sync::atomic::{
    AtomicUsize,
    Ordering, //
};

use kernel::prelude::*;
use proto::key::KeyField;

use crate::bindings;
use crate::control;
use crate::hook::{
    Call,
    Hook, //
};
use crate::hook_group;
use crate::sockopt::{
    Destroy,
    Getsockopt,
    Setsockopt, //
};
use crate::stack::Subflow;

hook_group! {
    /// Run once or twice a connection. Installed as long as the module is loaded.
    COLD:
    server::CheckReq,
    server::SynackOptions,
    server::InitCookieReq,
    client::TokenNewConnect,
    client::SynOptions,
    client::DetectBlackhole,
    client::FinishConnect,
    KeySha,
    join::SynRecvSock,
    join::HmacSha,
    join::SubflowConnect,
    external::PmFullyEstablished,
    external::PmAddAddrReceived,
    external::AddAddrTimeout,
    Getsockopt,
    Setsockopt,
    Destroy,
}

hook_group! {
    /// Run for every SYN to an MPTCP listener. Installed while some network namespace has
    /// `stateless_join` above 0 ([`control`]).
    STATELESS:
    stateless::ConnRequestV4,
    stateless::ConnRequestV6,
}

hook_group! {
    /// Run for every segment. Installed while some network namespace has `lowoverhead` above 0, or
    /// some socket has external keys; and until the last handshake of ours is over ([`control`]).
    HOT:
    wire::WriteOptions,
    wire::GetOptions,
}

hook_group! {
    /// Run for every segment, too. Installed, beside [`HOT`], while there are sockets or connections with
    /// external keys.
    EXTERNAL:
    external::EstablishedOptions,
    external::IncomingOptions,
}

/// Finds all functions and installs the hooks that always stand.
///
/// The others are tried, too, so that a kernel that doesn't fit is refused now and not later.
pub(crate) fn start() -> Result {
    COLD.resolve()?;
    HOT.resolve()?;
    STATELESS.resolve()?;
    EXTERNAL.resolve()?;
    SUBFLOW_CONNECT.resolve()?;
    for range in &REMOTE_KEY_SETTERS {
        range.resolve()?;
    }
    for group in [&HOT, &STATELESS, &EXTERNAL] {
        group.install()?;
        group.remove();
    }
    COLD.install()
}

/// Ends all handshakes and removes the hooks.
pub(crate) fn stop() {
    control::close();
    COLD.remove();
    control::stop();
}

/// The code of a function of the kernel.
struct Range {
    name: &'static CStr,
    start: AtomicUsize,
    size: AtomicUsize,
}

impl Range {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            start: AtomicUsize::new(0),
            size: AtomicUsize::new(0),
        }
    }

    /// Finds the function. One that the compiler made part of another has no code of its own.
    fn resolve(&self) -> Result {
        let mut size = 0;
        // SAFETY: The name is a C string.
        let start = unsafe { bindings::dc_symbol_if_any(self.name.as_char_ptr()) };
        if start == 0 {
            return Ok(());
        }
        // SAFETY: Any address may be asked for.
        if !unsafe { bindings::dc_symbol_range(start, &mut size) } {
            return Err(ENOENT);
        }
        self.start.store(start, Ordering::Relaxed);
        self.size.store(size, Ordering::Relaxed);
        Ok(())
    }

    #[inline]
    fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.start.load(Ordering::Relaxed)) < self.size.load(Ordering::Relaxed)
    }
}

/// `subflow_set_remote_key()`, and the functions that a compiler may have made it part of. In a call
/// from there, and only there, `mptcp_crypto_key_sha()`'s `idsn` is the `iasn` of a subflow.
static REMOTE_KEY_SETTERS: [Range; 4] = [
    Range::new(c"subflow_set_remote_key"),
    Range::new(c"mptcp_propagate_state"),
    Range::new(c"subflow_finish_connect"),
    Range::new(c"__mptcp_subflow_fully_established"),
];

/// `__mptcp_subflow_connect()`. In a call from there, and only there, `mptcp_crypto_key_sha()` is asked for the peer's token
/// alone.
static SUBFLOW_CONNECT: Range = Range::new(join::SubflowConnect::TARGET);

/// `mptcp_crypto_key_sha()`: the peer's data sequence number is made of its key field, `Rnd ‖ Tok`,
/// if this end is low-overhead; so is the token by which a subflow joins the peer.
struct KeySha;

impl Hook for KeySha {
    const TARGET: &'static CStr = c"mptcp_crypto_key_sha";

    fn takes(call: Call<'_>) -> bool {
        let token = call.arg1::<u32>();
        let iasn = call.arg2::<u64>();
        if iasn.is_null() {
            return SUBFLOW_CONNECT.contains(call.parent()) && join::is_peers_key(call.u64_0());
        }
        token.is_null()
            && REMOTE_KEY_SETTERS.iter().any(|range| range.contains(call.parent()))
            // SAFETY: By `REMOTE_KEY_SETTERS`, `iasn` lies in a subflow.
            && unsafe { Subflow::from_iasn(iasn) }.is_some_and(Subflow::is_low_overhead)
    }

    fn replacement() -> usize {
        /// # Safety
        ///
        /// The arguments must be those of `mptcp_crypto_key_sha()`.
        unsafe extern "C" fn key_sha(key: u64, token: *mut u32, idsn: *mut u64) {
            // SAFETY: The caller wants one of the two there; the other is null.
            unsafe {
                if idsn.is_null() {
                    token.write((key >> 32) as u32);
                } else if let Some(key) = KeyField::from_raw(key) {
                    idsn.write(key.idsn().0);
                }
            }
        }
        key_sha as usize
    }
}
