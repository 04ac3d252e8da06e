// SPDX-License-Identifier: GPL-2.0

//! On the host: a guest for each setup, its output to a log, its verdicts to the report.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, LineWriter, Write};
use std::iter;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::guest::{Event, SELFTESTS};
use crate::report::{self, Outcome, Report, Session, Stock};
use crate::suite::{Setup, Test, EXCEPTIONS};
use crate::tap::Results;

/// So often a line says where the run is.
const PROGRESS: Duration = Duration::from_secs(10);
/// For booting, loading and unloading, on top of the tests' own limits.
const OVERHEAD: Duration = Duration::from_secs(120);
/// Seconds that a counted second of the guest may take.
const SLOWNESS: u32 = 4;
/// So often the stock kernel runs a script again of which a verdict is in doubt.
const AGAIN: usize = 5;

/// What a run consists of.
pub struct Plan {
    /// [`Setup::Stock`] comes first.
    pub setups: Vec<Setup>,
    pub tests: Vec<Test>,
    /// Guests at a time.
    pub jobs: usize,
    /// Directory for the scripts' output.
    pub logs: PathBuf,
}

/// Runs the tests in each setup and reports; gives the exit status.
pub fn run(plan: &Plan) -> Result<u8> {
    fs::create_dir_all(&plan.logs).with_context(|| plan.logs.display().to_string())?;
    let sessions = all(plan)?;
    let mut report = Report::new(io::stdout(), report::points(&plan.setups, &plan.tests))?;
    let stock = settle(plan, &sessions)?;
    for &setup in &plan.setups {
        report.session(setup, &plan.tests, &sessions[&setup], &stock, EXCEPTIONS)?;
    }
    eprintln!(
        "upstream: the scripts' output is in {}",
        plan.logs.display()
    );
    report.finish()
}

/// Every setup's session, so many at a time.
fn all(plan: &Plan) -> Result<BTreeMap<Setup, Session>> {
    let next = AtomicUsize::new(0);
    let one_by_one = || -> Result<Vec<(Setup, Session)>> {
        iter::from_fn(|| plan.setups.get(next.fetch_add(1, Ordering::Relaxed)))
            .map(|&setup| Ok((setup, session(plan, setup, &setup.to_string())?)))
            .collect()
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.jobs).map(|_| scope.spawn(one_by_one)).collect();
        let mut sessions = BTreeMap::new();
        for worker in workers {
            sessions.extend(worker.join().expect("a worker does not panic")?);
        }
        Ok(sessions)
    })
}

/// Has the stock kernel run the scripts again of which a verdict is in doubt, until none is.
fn settle(plan: &Plan, sessions: &BTreeMap<Setup, Session>) -> Result<Stock> {
    let mut stock = Stock::new(&sessions[&Setup::Stock], &plan.tests);
    for n in 1..=AGAIN {
        let in_doubt = |i: &usize| {
            let mut sessions = sessions.iter();
            sessions.any(|(&setup, session)| stock.is_in_doubt(*i, setup, session))
        };
        let numbers: Vec<usize> = (0..plan.tests.len()).filter(in_doubt).collect();
        if numbers.is_empty() {
            break;
        }
        eprintln!("upstream: stock: verdicts are in doubt, run again ({n} of {AGAIN} at most)");
        let again = Plan {
            setups: vec![Setup::Stock],
            tests: numbers.iter().map(|&i| plan.tests[i].clone()).collect(),
            jobs: 1,
            logs: plan.logs.clone(),
        };
        let session = session(&again, Setup::Stock, &format!("stock-again-{n}"))?;
        let status = session.vm;
        ensure!(
            status == 0,
            "stock, again: scripts/vm: status {status}, see its messages"
        );
        for (i, outcome) in numbers.into_iter().zip(session.outcomes) {
            stock.push(i, outcome);
        }
    }
    Ok(stock)
}

/// Boots a guest, lets it run the tests, and gathers what it told; `log` is the name of its log.
fn session(plan: &Plan, setup: Setup, log: &str) -> Result<Session> {
    let start = Instant::now();
    let mut guest = boot(plan, setup)?;
    let output = guest.stdout.take().context("no output")?;
    let path = plan.logs.join(format!("{log}.log"));
    let mut log = LineWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
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
                let test = plan.tests.get(session.outcomes.len());
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
    session.vm = guest.wait()?.code().unwrap_or(-1);
    Ok(session)
}

/// Starts scripts/vm with this program and the selftests in the guest. Time in the guest counts instructions: the
/// scripts' own time-outs are tight, and must not depend on how busy this machine is.
fn boot(plan: &Plan, setup: Setup) -> Result<Child> {
    let selftests = variable("MPTCP_DC_SELFTESTS")?;
    let program = env::current_exe()?;
    let tests: Duration = plan.tests.iter().map(|test| test.limit).sum();
    let limit = (OVERHEAD + tests) * SLOWNESS;
    let mut command = Command::new(variable("MPTCP_DC_VM")?);
    command
        .arg("--icount")
        .arg(format!("--timeout={}", limit.as_secs()))
        .arg(format!(
            "--add={}:{SELFTESTS}/net",
            selftests.join("net").display()
        ))
        .arg(format!("--add={}:{SELFTESTS}/upstream", program.display()))
        .args((!setup.has_module()).then_some("--no-module"))
        .arg("--")
        .arg(format!("{SELFTESTS}/upstream"))
        .arg(format!("--in-guest={setup}"))
        .args(plan.tests.iter().map(|test| format!("--test={test}")))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    command.spawn().context("scripts/vm")
}

/// A path that scripts/upstream sets.
fn variable(name: &str) -> Result<PathBuf> {
    let value = env::var_os(name).with_context(|| format!("{name} is not set"))?;
    Ok(value.into())
}
