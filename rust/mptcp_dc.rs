// SPDX-License-Identifier: GPL-2.0

//! Multipath TCP for data centers: takes over the handshake of the kernel's own MPTCP.
//!
//! | module | what it is |
//! |---|---|
//! | [`hook`] | redirecting functions of the kernel |
//! | [`bh`] | evidence that softirqs are disabled |
//! | [`stack`] | views of the MPTCP stack's objects |
//! | [`secret`] | where tokens and random parts come from |
//! | [`handshake`] | the handshakes: MP_CAPABLE and MP_JOIN, low-overhead and external-key |
//! | [`sockopt`] | socket options |
//! | [`tests`] | KUnit |
//! | `proto` | the protocol, a crate with no kernel in it |
//! | `rust/c` | what only C can say |

mod bh;
mod bindings;
mod handshake;
mod hook;
mod secret;
mod sockopt;
mod stack;
mod tests;

use kernel::error::to_result;
use kernel::prelude::*;

module! {
    type: MptcpDc,
    name: "mptcp_dc",
    authors: ["The mptcp_dc authors"],
    description: "Multipath TCP for data centers: the low-overhead handshake",
    license: "GPL",
}

/// The loaded module. The fields are dropped in this order.
struct MptcpDc {
    _handshake: Handshake,
    _apps: Apps,
    _netns: Netns,
    _secret: Secrets,
}

/// Drop: every secret is wiped.
struct Secrets;

impl Drop for Secrets {
    fn drop(&mut self) {
        secret::stop();
    }
}

/// Drop: no hook is installed, nothing runs in a replacement.
struct Handshake;

impl Drop for Handshake {
    fn drop(&mut self) {
        handshake::stop();
    }
}

/// Drop: every application's key is wiped.
struct Apps;

impl Drop for Apps {
    fn drop(&mut self) {
        // SAFETY: No hook uses them anymore.
        unsafe { bindings::dc_apps_exit() };
    }
}

/// Drop: no namespace has sysctls or counters of ours.
struct Netns;

impl Drop for Netns {
    fn drop(&mut self) {
        // SAFETY: They were registered, and no hook uses them anymore.
        unsafe { bindings::dc_netns_exit() };
    }
}

impl kernel::Module for MptcpDc {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: Process context, once, before anything else of the module runs.
        unsafe {
            to_result(bindings::dc_symbols_init())?;
            to_result(bindings::dc_layout_check())?;
            to_result(bindings::dc_tokens_init())?;
            to_result(bindings::dc_stateless_init())?;
        }
        secret::start()?;
        let secret = Secrets;
        // SAFETY: Process context, once. Sysctls can't be set before `dc_netns_open`.
        unsafe { to_result(bindings::dc_netns_init()) }?;
        let netns = Netns;
        let apps = Apps;
        handshake::start()?;
        let handshake = Handshake;
        // SAFETY: The hooks that it lets be switched on were found.
        unsafe { bindings::dc_netns_open() };
        Ok(Self {
            _handshake: handshake,
            _apps: apps,
            _netns: netns,
            _secret: secret,
        })
    }
}
