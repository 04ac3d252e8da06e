// SPDX-License-Identifier: GPL-2.0

//! In the guest: runs the scripts one by one. Their output goes to standard output; lines that begin with
//! [`MARK`] tell the host where it is.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::ip;
use crate::suite::{Setup, Test};

/// Where the guest finds the selftests, below which they stand as in the kernel's source.
pub const SELFTESTS: &str = "/opt/selftests";
/// Begins a line of this program's own.
const MARK: &str = "@upstream";
/// Holds the `ip` that the scripts call.
const PROGRAMS: &str = "/run/upstream";

/// What a guest tells its host, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The next test begins.
    Begin,
    /// It ended, with this status, after this time (told in milliseconds).
    End { status: i32, time: Duration },
    /// What the namespaces of all tests counted together.
    Counter { name: String, value: u64 },
}

impl Event {
    fn tell(&self) {
        match self {
            Self::Begin => println!("{MARK} begin"),
            Self::End { status, time } => println!("{MARK} end {status} {}", time.as_millis()),
            Self::Counter { name, value } => println!("{MARK} counter {name} {value}"),
        }
    }

    /// `None`: a line of the script's.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.strip_prefix(MARK)?.split_ascii_whitespace().collect();
        match words[..] {
            ["begin"] => Some(Self::Begin),
            ["end", status, time] => Some(Self::End {
                status: status.parse().ok()?,
                time: Duration::from_millis(time.parse().ok()?),
            }),
            ["counter", name, value] => Some(Self::Counter {
                name: name.to_owned(),
                value: value.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// Runs the tests; fails only if they can't be run.
pub fn run(setup: Setup, tests: &[Test]) -> Result<u8> {
    fs::create_dir_all(PROGRAMS)?;
    symlink(env::current_exe()?, Path::new(PROGRAMS).join("ip"))?;
    let counters = Path::new(PROGRAMS).join("counters");
    if setup.has_module() {
        module(&["modprobe", "mptcp_dc"])?;
    }

    for test in tests {
        let mut command = command(test)?;
        if setup.has_module() {
            command.env(ip::COUNTERS, &counters);
        }
        if let Some(setting) = setup.sysctl() {
            command.env(ip::SYSCTL, setting);
        }
        Event::Begin.tell();
        let start = Instant::now();
        let status = command.status().with_context(|| test.to_string())?;
        Event::End {
            // timeout(1) gives 124 when it had to act.
            status: status.code().unwrap_or(-1),
            time: start.elapsed(),
        }
        .tell();
    }

    if setup.has_module() {
        for (name, value) in sum(&fs::read_to_string(counters)?) {
            Event::Counter { name, value }.tell();
        }
        module(&["modprobe", "-r", "mptcp_dc"])?;
    }
    Ok(0)
}

/// The script under timeout(1), its errors among its output, and nothing skipped silently.
fn command(test: &Test) -> Result<Command> {
    let path = env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=10", &test.limit.as_secs().to_string()])
        .arg(format!("./{}", test.script))
        .args(&test.args)
        .current_dir(Path::new(SELFTESTS).join("net/mptcp"))
        .env("PATH", format!("{PROGRAMS}:{path}"))
        .env("SELFTESTS_MPTCP_LIB_EXPECT_ALL_FEATURES", "1")
        .stdin(Stdio::null())
        .stderr(io::stdout().as_fd().try_clone_to_owned()?);
    Ok(command)
}

fn module(command: &[&str]) -> Result<()> {
    let status = Command::new(command[0]).args(&command[1..]).status()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// Adds up lines `NAME VALUE`.
fn sum(text: &str) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, Ok(value))) = line
            .split_once(' ')
            .map(|(name, value)| (name, value.trim().parse::<u64>()))
        {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_other_output_are_told_apart() {
        assert_eq!(Event::parse("@upstream begin"), Some(Event::Begin));
        assert_eq!(
            Event::parse("@upstream end 124 360000"),
            Some(Event::End {
                status: 124,
                time: Duration::from_secs(360)
            })
        );
        assert_eq!(Event::parse("ok 1 - diag: a"), None);
    }

    #[test]
    fn counters_of_namespaces_add_up() {
        let sums = sum("A 1\nB 0\nA 2\nB 5\n");
        assert_eq!((sums["A"], sums["B"]), (3, 5));
    }
}
