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
    /// The module loaded, every namespace that a script makes at `derived_nonces=1`.
    Derived,
    /// The module loaded, every namespace that a script makes at `lowoverhead=2`.
    Offer,
}

impl Setup {
    /// In the order in which they run.
    pub const ALL: [Self; 4] = [Self::Stock, Self::Idle, Self::Derived, Self::Offer];

    /// The sysctl of new namespaces that isn't at its default.
    pub fn sysctl(self) -> Option<&'static str> {
        match self {
            Self::Stock | Self::Idle => None,
            Self::Derived => Some("net.mptcp_dc.derived_nonces=1"),
            Self::Offer => Some("net.mptcp_dc.lowoverhead=2"),
        }
    }

    /// The counter that moves in this setup and in no other.
    pub fn counter(self) -> Option<&'static str> {
        match self {
            Self::Stock | Self::Idle => None,
            Self::Derived => Some("KeyDerived"),
            Self::Offer => Some("MPCapableSYNACKRX"),
        }
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
            Self::Derived => "derived",
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
            .ok_or_else(|| "a setup is stock, idle, derived or offer".into())
    }
}

/// A script of the selftests with its arguments. As text, words are separated by blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    pub script: &'static str,
    pub args: Vec<String>,
    /// A run that takes longer, in the guest's time, hangs.
    pub limit: Duration,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.script)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

/// How much is run; the larger size holds the smaller one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// What takes minutes.
    Quick,
    /// Every script of the selftests, with larger transfers: hours under emulation.
    Full,
}

/// A script, and the runs that it belongs to.
struct Entry {
    script: &'static str,
    /// The smallest run that it is part of.
    size: Size,
    quick: &'static str,
    full: &'static str,
    limit: Duration,
}

impl Entry {
    fn test(&self, size: Size) -> Test {
        let args = if size == Size::Quick {
            self.quick
        } else {
            self.full
        };
        self.with(args.split_ascii_whitespace())
    }

    fn with<'a>(&self, args: impl Iterator<Item = &'a str>) -> Test {
        Test {
            script: self.script,
            args: args.map(str::to_owned).collect(),
            limit: self.limit,
        }
    }
}

/// The tests of a run of this size.
pub fn tests(size: Size) -> Vec<Test> {
    let entries = ENTRIES.iter().filter(|entry| entry.size <= size);
    entries.map(|entry| entry.test(size)).collect()
}

/// One test from `SCRIPT [ARGUMENT]...`; without arguments, those that it has in a run of this size.
pub fn named(text: &str, size: Size) -> Option<Test> {
    let mut words = text.split_ascii_whitespace().peekable();
    let script = words.next()?;
    let entry = ENTRIES.iter().find(|entry| entry.script == script)?;
    Some(match words.peek() {
        Some(_) => entry.with(words),
        None => entry.test(entry.size.max(size)),
    })
}

const fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

// mptcp_connect.sh draws delay, loss, offloads and sizes at random unless told. Told, so that runs differ in
// nothing but the module; with reordering and loss in the full run.
const CONNECT_QUICK: &str = "-f 16384 -d 0 -l 0% -r 0 -e tso";
const CONNECT_FULL: &str = "-f 1048576 -d 10 -l 0.5% -r 95% -e tso";

const fn entry(script: &'static str, size: Size, limit: Duration) -> Entry {
    Entry {
        script,
        size,
        quick: "",
        full: "",
        limit,
    }
}

const fn connect(script: &'static str, size: Size) -> Entry {
    Entry {
        quick: CONNECT_QUICK,
        full: CONNECT_FULL,
        ..entry(script, size, minutes(15))
    }
}

const ENTRIES: &[Entry] = &[
    entry("pm_netlink.sh", Size::Quick, minutes(3)),
    entry("diag.sh", Size::Quick, minutes(3)),
    entry("mptcp_sockopt.sh", Size::Quick, minutes(3)),
    connect("mptcp_connect.sh", Size::Quick),
    connect("mptcp_connect_checksum.sh", Size::Full),
    connect("mptcp_connect_mmap.sh", Size::Full),
    connect("mptcp_connect_sendfile.sh", Size::Full),
    connect("mptcp_connect_splice.sh", Size::Full),
    entry("userspace_pm.sh", Size::Full, minutes(10)),
    entry("simult_flows.sh", Size::Full, minutes(20)),
    entry("mptcp_join.sh", Size::Full, minutes(90)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_survives_being_passed_to_the_guest() {
        for size in [Size::Quick, Size::Full] {
            for test in tests(size) {
                assert_eq!(named(&test.to_string(), Size::Quick), Some(test));
            }
        }
    }

    #[test]
    fn a_named_test_has_the_arguments_of_its_size() {
        let args = |text, size| named(text, size).map(|test| test.args.join(" "));
        assert_eq!(
            args("mptcp_connect.sh", Size::Quick).as_deref(),
            Some(CONNECT_QUICK)
        );
        assert_eq!(
            args("mptcp_connect_mmap.sh", Size::Quick).as_deref(),
            Some(CONNECT_FULL)
        );
        assert_eq!(args("mptcp_join.sh -f", Size::Quick).as_deref(), Some("-f"));
        assert_eq!(args("join.sh", Size::Full), None);
    }
}
