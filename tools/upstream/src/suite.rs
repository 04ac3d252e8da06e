// SPDX-License-Identifier: GPL-2.0

//! What is run, and where verdicts may differ.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A state of the machine that the selftests run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setup {
    /// Without the module: what the other setups are measured by.
    Stock,
    /// The module loaded, every namespace at its default, `lowoverhead=0`.
    Idle,
    /// The module loaded, every namespace that a script makes at `lowoverhead=2`.
    Offer,
}

impl Setup {
    /// In the order in which they run.
    pub const ALL: [Self; 3] = [Self::Stock, Self::Idle, Self::Offer];

    /// `net.mptcp_dc.lowoverhead` of new namespaces, if not the default.
    pub fn lowoverhead(self) -> Option<u8> {
        (self == Self::Offer).then_some(2)
    }

    pub fn has_module(self) -> bool {
        self != Self::Stock
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stock => "stock",
            Self::Idle => "idle",
            Self::Offer => "offer",
        })
    }
}

impl FromStr for Setup {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|setup| setup.to_string() == name)
            .ok_or_else(|| "a setup is stock, idle or offer".into())
    }
}

/// A script of the selftests with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub script: &'static str,
    pub args: &'static [&'static str],
    /// A run that takes longer hangs.
    pub limit: Duration,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.script)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

/// A line of [`TESTS`].
pub struct Entry {
    pub script: &'static str,
    /// Arguments of a quick run; `None`: not part of it.
    quick: Option<&'static [&'static str]>,
    /// Arguments of a full run.
    full: &'static [&'static str],
    /// For the full run, on an emulated and busy CPU.
    limit: Duration,
}

impl Entry {
    pub fn test(&self, full: bool) -> Option<Test> {
        let args = if full { Some(self.full) } else { self.quick };
        args.map(|args| Test {
            script: self.script,
            args,
            limit: self.limit,
        })
    }
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

// mptcp_connect.sh draws delay, loss, offloads and sizes at random unless told. Told, so that runs differ in
// nothing but the module; with reordering and loss in the full run.
const CONNECT_QUICK: &[&str] = &["-f", "16384", "-d", "0", "-l", "0%", "-r", "0", "-e", "tso"];
const CONNECT_FULL: &[&str] = &[
    "-f", "1048576", "-d", "10", "-l", "0.5%", "-r", "95% 50%", "-e", "tso",
];

/// Every script that the module must not disturb.
pub const TESTS: &[Entry] = &[
    Entry {
        script: "pm_netlink.sh",
        quick: Some(&[]),
        full: &[],
        limit: minutes(3),
    },
    Entry {
        script: "diag.sh",
        quick: Some(&[]),
        full: &[],
        limit: minutes(6),
    },
    Entry {
        script: "mptcp_sockopt.sh",
        quick: Some(&[]),
        full: &[],
        limit: minutes(5),
    },
    Entry {
        script: "mptcp_connect.sh",
        quick: Some(CONNECT_QUICK),
        full: CONNECT_FULL,
        limit: minutes(30),
    },
    Entry {
        script: "mptcp_connect_checksum.sh",
        quick: None,
        full: CONNECT_FULL,
        limit: minutes(30),
    },
    Entry {
        script: "mptcp_connect_mmap.sh",
        quick: None,
        full: CONNECT_FULL,
        limit: minutes(30),
    },
    Entry {
        script: "mptcp_connect_sendfile.sh",
        quick: None,
        full: CONNECT_FULL,
        limit: minutes(30),
    },
    Entry {
        script: "mptcp_connect_splice.sh",
        quick: None,
        full: CONNECT_FULL,
        limit: minutes(30),
    },
];

/// A subtest whose verdict differs from the stock kernel's, and should.
pub struct Exception {
    pub setup: Setup,
    pub script: &'static str,
    /// As in the script's TAP, without the script's name.
    pub subtest: &'static str,
    pub reason: &'static str,
}

/// An entry that no longer holds fails the run: the list can only shrink unnoticed by being edited.
pub const EXCEPTIONS: &[Exception] = &[];
