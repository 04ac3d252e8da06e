// SPDX-License-Identifier: GPL-2.0

//! On the host: a guest for each setup, its output to a log, its verdicts to the report.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::guest::{Event, SELFTESTS};
use crate::report::{self, Outcome, Report, Session};
use crate::suite::{Setup, Test, EXCEPTIONS};
use crate::tap::Results;

/// Silence for so long gets a line that says where the run is.
const PROGRESS: Duration = Duration::from_secs(10);
/// For booting, loading and unloading, on top of the tests' own limits.
const OVERHEAD: Duration = Duration::from_secs(120);

/// Runs the tests in each setup, the stock one first, and reports; gives the exit status.
pub fn run(
    setups: &[Setup],
    tests: &[Test],
    full: bool,
    scripts: &[String],
    logs: &Path,
) -> Result<u8> {
    fs::create_dir_all(logs).with_context(|| logs.display().to_string())?;
    let mut report = Report::new(std::io::stdout(), report::points(setups, tests))?;
    let mut stock = None;
    for &setup in setups {
        let log = logs.join(format!("{setup}.log"));
        let mut arguments = vec![format!("--in-guest={setup}")];
        arguments.extend(full.then(|| "--full".to_owned()));
        arguments.extend(scripts.iter().map(|script| format!("--test={script}")));
        let session = session(setup, tests, &arguments, &log)?;
        report.session(setup, tests, &session, stock.as_ref(), EXCEPTIONS)?;
        if setup == Setup::Stock {
            stock = Some(session);
        }
    }
    eprintln!("upstream: the scripts' output is in {}", logs.display());
    report.finish()
}

/// Boots a guest, lets it run the tests, and gathers what it told.
fn session(setup: Setup, tests: &[Test], arguments: &[String], log: &Path) -> Result<Session> {
    let start = Instant::now();
    let mut guest = boot(setup, tests, arguments)?;
    let output = guest.stdout.take().context("no output")?;
    let mut log = BufWriter::new(File::create(log).with_context(|| log.display().to_string())?);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });

    let mut session = Session::default();
    let mut results = Results::default();
    let mut last = String::new();
    let mut told = Instant::now();
    loop {
        let wait = PROGRESS.saturating_sub(told.elapsed());
        match lines.recv_timeout(wait) {
            Ok(line) => {
                log.write_all(&line)?;
                log.write_all(b"\n")?;
                let line = String::from_utf8_lossy(&line).into_owned();
                match Event::parse(&line) {
                    Some(Event::Begin) => results = Results::default(),
                    Some(Event::End { status, time }) => session.outcomes.push(Outcome {
                        results: std::mem::take(&mut results),
                        status,
                        time,
                    }),
                    Some(Event::Counter { name, value }) => {
                        session.counters.insert(name, value);
                    }
                    None => results.line(&line),
                }
                last = line;
            }
            Err(RecvTimeoutError::Timeout) => {
                let test = tests.get(session.outcomes.len());
                eprintln!(
                    "upstream: {setup}: {} s: {}: {}",
                    start.elapsed().as_secs(),
                    test.map_or("end", |test| test.script),
                    last.trim().chars().take(60).collect::<String>()
                );
                told = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    log.flush()?;
    session.vm = guest.wait()?.code().unwrap_or(-1);
    Ok(session)
}

/// Starts scripts/vm with this program and the selftests in the guest.
fn boot(setup: Setup, tests: &[Test], arguments: &[String]) -> Result<Child> {
    let selftests = variable("MPTCP_DC_SELFTESTS")?;
    let program = env::current_exe()?;
    let limit = OVERHEAD + tests.iter().map(|test| test.limit).sum::<Duration>();
    let mut command = Command::new(variable("MPTCP_DC_VM")?);
    command
        .arg(format!("--timeout={}", limit.as_secs()))
        .arg(format!(
            "--add={}:{SELFTESTS}/net",
            selftests.join("net").display()
        ))
        .arg(format!("--add={}:{SELFTESTS}/upstream", program.display()))
        .args((!setup.has_module()).then_some("--no-module"))
        .arg("--")
        .arg(format!("{SELFTESTS}/upstream"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().context("scripts/vm")
}

/// A path that scripts/upstream sets.
fn variable(name: &str) -> Result<PathBuf> {
    let value = env::var_os(name).with_context(|| format!("{name} is not set"))?;
    Ok(value.into())
}
