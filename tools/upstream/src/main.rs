// SPDX-License-Identifier: GPL-2.0

//! Runs the kernel's own MPTCP selftests without the module and with it, and compares the verdicts of their
//! subtests. scripts/upstream calls it.
//!
//! One program in three places, so that no shell script is needed in the guest:
//! - on the host it boots a guest per [`Setup`], reads the verdicts and reports ([`host`]);
//! - in the guest it runs the scripts one by one ([`guest`]);
//! - under the name `ip`, first in the scripts' PATH, it sees the network namespaces come and go ([`ip`]).

#![forbid(unsafe_code)]

mod guest;
mod host;
mod ip;
mod report;
mod suite;
mod tap;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result};

use host::Plan;
use suite::{Setup, Size};

const HELP: &str = "\
Usage: scripts/upstream [OPTION]...

Runs the MPTCP selftests of the kernel's source on Debian's kernel: without the module, with the module loaded
and idle, and with derived_nonces=1 and then lowoverhead=2 in every network namespace that they make. Each subtest
must have the same verdict every time. Prints TAP, a line for each script in each setup; any difference fails,
unless the kernel without the module comes to the same verdict when it runs the script again, five times at most.

  --full           every script, with larger transfers: for hours
  --test='SCRIPT [ARGUMENT]...'
                   only this, of all that --list shows; may be repeated
  --setup=NAME     only stock and this one, idle, derived or offer; may be repeated
  --jobs=N         guests at a time (default: a CPU for each)
  --logs=DIR       where the scripts' output goes (default: logs/upstream of the cache)
  --list           the scripts, with the arguments of a full run

Exit status: 0 if all verdicts agree, 1 if not, 125 if it could not be found out.
";

/// What this program could not find out.
const BROKEN: u8 = 125;

fn main() -> ExitCode {
    let mut args = env::args_os();
    let name = args.next().map(PathBuf::from).unwrap_or_default();
    let result = if name.file_name() == Some("ip".as_ref()) {
        ip::main(args.collect())
    } else {
        run(args)
    };
    ExitCode::from(result.unwrap_or_else(|error| {
        eprintln!("upstream: {error:#}");
        BROKEN
    }))
}

/// The command line; gives the exit status.
fn run(args: impl Iterator<Item = OsString>) -> Result<u8> {
    use lexopt::prelude::*;

    let mut in_guest = None;
    let mut jobs = thread::available_parallelism()?.get();
    let mut list = false;
    let mut logs = None;
    let mut named: Vec<String> = Vec::new();
    let mut setups: Vec<Setup> = Vec::new();
    let mut size = Size::Quick;
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(0);
            }
            Long("full") => size = Size::Full,
            Long("in-guest") => in_guest = Some(parser.value()?.parse()?),
            Long("jobs") => jobs = parser.value()?.parse()?,
            Long("list") => {
                list = true;
                size = Size::Full;
            }
            Long("logs") => logs = Some(PathBuf::from(parser.value()?)),
            Long("setup") => setups.push(parser.value()?.parse()?),
            Long("test") => named.push(parser.value()?.string()?),
            _ => return Err(arg.unexpected().into()),
        }
    }

    let tests = if named.is_empty() {
        suite::tests(size)
    } else {
        let choose = |text: &String| {
            suite::named(text, size).with_context(|| format!("no such test: {text}; see --list"))
        };
        named.iter().map(choose).collect::<Result<_>>()?
    };
    if list {
        for test in tests {
            println!("{test}");
        }
        return Ok(0);
    }
    if let Some(setup) = in_guest {
        return guest::run(setup, &tests);
    }
    let setups = Setup::ALL
        .into_iter()
        .filter(|&setup| setup == Setup::Stock || setups.is_empty() || setups.contains(&setup))
        .collect();
    host::run(&Plan {
        setups,
        tests,
        jobs: jobs.max(1),
        logs: logs.map_or_else(default_logs, Ok)?,
    })
}

fn default_logs() -> Result<PathBuf> {
    let cache = env::var_os("MPTCP_DC_CACHE").context("MPTCP_DC_CACHE is not set")?;
    Ok(Path::new(&cache).join("logs/upstream"))
}
