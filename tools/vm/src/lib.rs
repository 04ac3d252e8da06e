// SPDX-License-Identifier: GPL-2.0

//! What the runner on the host (`vm`) and the first process of its guests (`vm-guest`) share.

#![forbid(unsafe_code)]

pub mod message;
pub mod splat;

/// Name of the virtio-serial port that carries [`message::Message`]s.
pub const PORT_NAME: &str = "mptcp_dc.vm";

/// The last line that a guest writes to its kernel log. What the kernel said during the run stands before it.
pub const END_OF_RUN: &str = "vm: end of the run";

/// Paths inside the initramfs, relative to its root.
pub mod initramfs {
    /// Modules needed to mount the root file system, and their order, one name a line.
    pub const EARLY: &str = "early";
    /// See [`EARLY`].
    pub const EARLY_ORDER: &str = "early/modules.load";
    /// Files that lie over the root file system.
    pub const LAYER: &str = "layer";
}
