// SPDX-License-Identifier: GPL-2.0

//! Tests of mptcp_dc on a running kernel: real connections between network namespaces, judged on the wire, at the
//! sockets and by what the kernel counts. Runs as root in a guest that scripts/vm has booted.

mod capture;
mod connection;
mod crowd;
mod gate;
mod handshake;
mod joinable;
mod kernel;
mod mptcp;
mod netns;
mod page;
mod process;
mod raw;
mod tests;
mod tracer;
mod wire;

use std::env;
use std::panic;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Result};

const HELP: &str = "\
Usage: dc-test [OPTION]...

Runs the tests as root, in network namespaces of their own, and prints TAP. Loads mptcp_dc if it isn't.

  --filter=TEXT  only tests whose name contains TEXT; may be repeated (any of them)
  --skip=TEXT    not those; may be repeated
  --quick        fewer repetitions; see --list
  --long         more: 500 connections each way over every bad network, loaded and unloaded 100 times,
                 10^5 sockets with keys
  --part=N/M     every M-th test only, from the N-th on: guests can share the work
  --smoke        a few tests of each kind, in a minute
  --kunit        the module's KUnit results too; without any, this fails
  --list         names only
  --help         this text

Exit status: 0 if all tests passed, 1 if one failed or none ran, 2 for wrong usage.
";

/// How much to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    Quick,
    #[default]
    Normal,
    Long,
}

impl Scale {
    /// The number for this scale.
    pub fn of(self, quick: usize, normal: usize, long: usize) -> usize {
        match self {
            Self::Quick => quick,
            Self::Normal => normal,
            Self::Long => long,
        }
    }
}

/// What a test says when it passed: nothing, or figures worth showing.
type Verdict = Result<String>;

/// A test. Its name says the behaviour.
pub struct Test {
    name: String,
    /// It is stuck if it runs longer.
    limit: Duration,
    run: Box<dyn FnOnce() -> Verdict + Send>,
}

impl Test {
    /// A test that takes seconds.
    pub fn new(name: impl Into<String>, run: impl FnOnce() -> Result<()> + Send + 'static) -> Self {
        Self::with_note(name, Duration::from_secs(300), move || {
            run().map(|()| String::new())
        })
    }

    /// A test that may take `limit` and has something to say.
    pub fn with_note(
        name: impl Into<String>,
        limit: Duration,
        run: impl FnOnce() -> Verdict + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            limit,
            run: Box::new(run),
        }
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Options {
    filters: Vec<String>,
    skips: Vec<String>,
    scale: Scale,
    /// Which of how many.
    part: Option<(usize, usize)>,
    smoke: bool,
    kunit: bool,
    list: bool,
    help: bool,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dc-test: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options> {
    use lexopt::prelude::*;

    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("filter") => options.filters.push(parser.value()?.string()?),
            Long("skip") => options.skips.push(parser.value()?.string()?),
            Long("quick") => options.scale = Scale::Quick,
            Long("long") => options.scale = Scale::Long,
            Long("part") => {
                let text = parser.value()?.string()?;
                let part = text.split_once('/').map(|(n, m)| (n.parse(), m.parse()));
                options.part = match part {
                    Some((Ok(n), Ok(m))) if (1..=m).contains(&n) => Some((n, m)),
                    _ => bail!("--part is N/M, as 1/2 and 2/2"),
                };
            }
            Long("smoke") => options.smoke = true,
            Long("kunit") => options.kunit = true,
            Long("list") => options.list = true,
            Short('h') | Long("help") => options.help = true,
            _ => return Err(arg.unexpected().into()),
        }
    }
    Ok(options)
}

/// Whether all went well.
fn run(options: &Options) -> Result<bool> {
    if options.help {
        print!("{HELP}");
        return Ok(true);
    }
    let mut tests = tests::all(options.scale);
    let matches = |name: &str, texts: &[String]| texts.iter().any(|text| name.contains(text));
    tests.retain(|test| {
        (options.filters.is_empty() || matches(&test.name, &options.filters))
            && !matches(&test.name, &options.skips)
            && (!options.smoke || matches(&test.name, &tests::SMOKE.map(String::from)))
    });
    if let Some((part, parts)) = options.part {
        let mut numbers = 0..;
        tests.retain(|_| numbers.next().is_some_and(|n: usize| n % parts == part - 1));
    }
    if options.list {
        tests.iter().for_each(|test| println!("{}", test.name));
        return Ok(true);
    }
    // SAFETY: It only tells.
    if unsafe { libc::geteuid() } != 0 {
        bail!("this makes network namespaces and loads modules: it needs root, in a guest (scripts/vm)");
    }
    if env::consts::ARCH != "x86_64" {
        bail!("mptcp_dc is for x86-64");
    }

    kernel::load()?;
    if options.kunit {
        tests.splice(0..0, kernel::kunit_tests()?);
    }
    println!("TAP version 13");
    println!("1..{}", tests.len());
    let (total, mut failed) = (tests.len(), 0);
    for (number, test) in (1..).zip(tests) {
        let (name, limit) = (test.name.clone(), test.limit);
        let start = Instant::now();
        let verdict = run_one(test);
        let spent = start.elapsed().as_secs_f64();
        match verdict {
            Some(Ok(note)) => {
                println!("ok {number} - {name} # {spent:.1} s");
                note.lines().for_each(|line| println!("# {line}"));
            }
            Some(Err(error)) => {
                failed += 1;
                println!("not ok {number} - {name} # {spent:.1} s");
                format!("{error:?}")
                    .lines()
                    .for_each(|line| println!("# {line}"));
            }
            None => {
                println!("not ok {number} - {name} # {spent:.1} s");
                println!("# stuck: not done after {} s", limit.as_secs());
                // Its threads can't be ended, and what they do would disturb the others.
                println!("Bail out! {name} is stuck");
                return Ok(false);
            }
        }
    }
    println!("# {} passed, {failed} failed", total - failed);
    Ok(failed == 0 && total > 0)
}

/// Runs a test, then looks whether the kernel complained meanwhile. `None`: it is stuck.
fn run_one(test: Test) -> Option<Verdict> {
    let log = match kernel::Log::from_now() {
        Ok(log) => log,
        Err(error) => return Some(Err(error)),
    };
    let (sender, receiver) = mpsc::channel();
    let run = test.run;
    thread::spawn(move || {
        let verdict = panic::catch_unwind(panic::AssertUnwindSafe(run));
        let _ = sender.send(verdict.unwrap_or_else(|_| Err(anyhow::anyhow!("the test panicked"))));
    });
    let verdict = receiver.recv_timeout(test.limit).ok()?;
    Some(verdict.and_then(|note| log.check().map(|()| note)))
}
