// SPDX-License-Identifier: GPL-2.0

//! Multipath TCP for data centers: takes over the handshake of the kernel's own MPTCP.
//!
//! | module | what it is |
//! |---|---|
//! | [`hook`] | redirecting functions of the kernel |
//! | [`bh`] | evidence that softirqs are disabled |
//! | [`control`] | which hooks stand, and for whom |
//! | [`stack`] | views of the MPTCP stack's objects |
//! | [`secret`] | where tokens and random parts come from |
//! | [`handshake`] | the handshakes: MP_CAPABLE and MP_JOIN, low-overhead and external-key |
//! | [`sockopt`] | socket options |
//! | [`tests`] | KUnit |
//! | `proto` | the protocol, a crate with no kernel in it |
//! | `rust/c` | what only C can say |

mod bh;
mod bindings;
mod control;
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

/// The loaded module.
///
/// Each part uses those that it holds, and was made of them, so they go in the order in which nothing is used
/// after its end: hooks, then what they and their work items use.
struct MptcpDc {
    _hooks: Hooks,
}

/// The hooks. Drop: every handshake is settled, no hook is installed, nothing runs in a replacement.
struct Hooks {
    _rekeying: Rekeying,
}

/// The replacement of secrets by a work item, which counts in a namespace. Drop: it doesn't run, and won't.
struct Rekeying {
    _apps: Apps,
}

/// What applications asked for. Drop: every application's key is wiped.
struct Apps {
    _netns: Netns,
}

/// Sysctls and counters of every namespace. Drop: there are none of ours.
struct Netns {
    _secrets: Secrets,
}

/// Drop: every secret is wiped.
struct Secrets(());

impl Secrets {
    fn start() -> Result<Self> {
        secret::start()?;
        Ok(Self(()))
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        secret::stop();
    }
}

impl Netns {
    fn start(secrets: Secrets) -> Result<Self> {
        // SAFETY: Process context, once. Sysctls can't be set before `control::open`.
        to_result(unsafe { bindings::dc_netns_init() })?;
        Ok(Self { _secrets: secrets })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // SAFETY: They were registered, and nobody who uses them is left.
        unsafe { bindings::dc_netns_exit() };
    }
}

impl Apps {
    fn start(netns: Netns) -> Result<Self> {
        // SAFETY: Process context, once.
        to_result(unsafe { bindings::dc_apps_init() })?;
        Ok(Self { _netns: netns })
    }
}

impl Drop for Apps {
    fn drop(&mut self) {
        // SAFETY: The table was made, and nobody who uses it is left.
        unsafe { bindings::dc_apps_exit() };
    }
}

impl Rekeying {
    fn start(apps: Apps) -> Self {
        Self { _apps: apps }
    }
}

impl Drop for Rekeying {
    fn drop(&mut self) {
        // SAFETY: We may sleep; the work item doesn't wait for us. No hook asks for it anymore.
        unsafe { bindings::dc_rekey_cancel() };
    }
}

impl Hooks {
    fn start(rekeying: Rekeying) -> Result<Self> {
        handshake::start()?;
        Ok(Self {
            _rekeying: rekeying,
        })
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        handshake::stop();
    }
}

impl kernel::Module for MptcpDc {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        // SAFETY: Process context, once, before anything else of the module runs.
        unsafe {
            control::start();
            to_result(bindings::dc_symbols_init())?;
            to_result(bindings::dc_layout_check())?;
            to_result(bindings::dc_tokens_init())?;
            to_result(bindings::dc_stateless_init())?;
        }
        let hooks = Hooks::start(Rekeying::start(Apps::start(Netns::start(
            Secrets::start()?,
        )?)?))?;
        control::open();
        Ok(Self { _hooks: hooks })
    }
}
