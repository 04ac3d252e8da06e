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
    AtomicBool,
    AtomicUsize,
    Ordering, //
};

use kernel::prelude::*;
use proto::key::KeyField;

use crate::bindings;
use crate::hook::{
    wait_for_tasks,
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
    /// Run for every SYN to an MPTCP listener. Installed only while some network namespace has
    /// `stateless_join` above 0.
    STATELESS:
    stateless::ConnRequestV4,
    stateless::ConnRequestV6,
}

hook_group! {
    /// Run for every segment. Installed only while some network namespace has `lowoverhead` above 0.
    HOT:
    wire::WriteOptions,
    wire::GetOptions,
}

hook_group! {
    /// Runs for every segment, too. Installed, beside [`HOT`], only while some application has external
    /// keys.
    EXTERNAL:
    external::EstablishedOptions,
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
    // SAFETY: Process context. With the last namespace, `STATELESS`, `HOT` and `EXTERNAL` go.
    unsafe {
        bindings::dc_netns_close();
        bindings::dc_externals_lock();
    }
    COLD.remove();
}

/// Whether [`HOT`] stands, and will until whoever reads this has finished its segment. Only then may
/// an option be given another length than the stack's own has: the stack would else write its own
/// into the room of ours.
static WIRE_READY: AtomicBool = AtomicBool::new(false);

/// Reads [`WIRE_READY`].
#[inline]
fn wire_is_ready() -> bool {
    WIRE_READY.load(Ordering::Acquire)
}

fn wire_start() -> Result {
    HOT.install()?;
    WIRE_READY.store(true, Ordering::Release);
    Ok(())
}

/// No namespace offers or accepts anymore.
fn wire_stop() {
    // SYNs that came before that have been answered.
    wait_for_tasks();
    // SAFETY: Process context.
    unsafe { bindings::dc_handshakes_settle() };
    WIRE_READY.store(false, Ordering::Release);
    wait_for_tasks();
    HOT.remove();
}

/// A namespace began (`on`) or ceased to have a sysctl above 0. Calls are serialised by
/// `dc_mode_lock`.
#[no_mangle]
extern "C" fn dc_switched(which: bindings::dc_switch, on: bool) -> kernel::ffi::c_int {
    /// How many namespaces have `stateless_join`.
    static STATELESS_USERS: AtomicUsize = AtomicUsize::new(0);
    /// How many namespaces have `lowoverhead`.
    static WIRE_USERS: AtomicUsize = AtomicUsize::new(0);

    let is_stateless = which == bindings::DC_SWITCH_STATELESS_JOIN;
    let counter = if is_stateless {
        &STATELESS_USERS
    } else {
        &WIRE_USERS
    };
    let users = counter.load(Ordering::Relaxed);
    if on {
        if users == 0 {
            let started = if is_stateless {
                STATELESS.install()
            } else {
                wire_start()
            };
            if let Err(err) = started {
                return err.to_errno();
            }
        }
        counter.store(users.wrapping_add(1), Ordering::Relaxed);
    } else {
        counter.store(users.saturating_sub(1), Ordering::Relaxed);
        match users {
            1 if is_stateless => STATELESS.remove(),
            1 => wire_stop(),
            _ => {}
        }
    }
    0
}

/// External keys began (`on`) or ceased to be used. Calls are serialised by `dc_mode_lock`.
#[no_mangle]
extern "C" fn dc_external_changed(on: bool) -> kernel::ffi::c_int {
    if !on {
        let _ = dc_switched(bindings::DC_SWITCH_LOWOVERHEAD, false);
        EXTERNAL.remove();
        return 0;
    }
    if let Err(err) = EXTERNAL.install() {
        return err.to_errno();
    }
    let err = dc_switched(bindings::DC_SWITCH_LOWOVERHEAD, true);
    if err != 0 {
        EXTERNAL.remove();
    }
    err
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
