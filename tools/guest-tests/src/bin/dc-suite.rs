// SPDX-License-Identifier: GPL-2.0

//! Runs every suite of tests and counts what they report. scripts/test calls it, at the root of the work tree.

#![forbid(unsafe_code)]

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use anyhow::{bail, Context, Result};

const HELP: &str = "\
Usage: scripts/test [OPTION]...

Runs all tests: cargo's, those in guests with Debian's kernel and with the test kernel (KUnit, KASAN, lockdep), and the
programs in scripts/test.d. Prints their TAP as it comes (of suites that run side by side, one after another), a summary,
and at the very end
`N passed, N failed, N skipped`.

  --quick        what takes seconds: cargo's tests, and a short run in one guest
  --suite=TEXT   only suites whose name contains TEXT; may be repeated
  --list         names of suites only
  --help         this text

Exit status: 0 if something was tested, and nothing failed or was skipped; 1 if not; 2 for wrong usage.
";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("test: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// A program whose output tells test results.
struct Suite {
    name: String,
    command: Command,
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Tap,
    /// What cargo test prints.
    Cargo,
}

/// The suites in guests with the test kernel, which share its tests: one guest keeps one CPU busy. They come last: their
/// kernel takes longest to build.
const TEST_KERNEL: [&str; 2] = ["guest-test-1", "guest-test-2"];

/// Programs of scripts/test.d that need the test kernel's build tree, and come after those that don't.
const LATE: [&str; 1] = ["refusal"];

/// Starts to build what the last suite needs, on the processor time that others leave. Whoever needs it before
/// it is there waits for it; so its result doesn't matter here. What the others need, too, isn't held up.
fn build_ahead() -> Result<Child> {
    const SCRIPT: &str =
        "scripts/build --path kernel && exec nice -n19 scripts/build --path module-test";
    let mut command = Command::new("sh");
    command.args(["-c", SCRIPT]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.spawn().context(SCRIPT)
}

/// All suites in their order; those in one group run side by side.
fn suites(quick: bool) -> Result<Vec<Vec<Suite>>> {
    let directory =
        |name| env::var(name).with_context(|| format!("{name} is not set; run scripts/test"));
    let tools = directory("MPTCP_DC_TOOLS")?;
    let mut suites = Vec::new();

    let mut cargo = Command::new("scripts/build");
    cargo.args(["--in-root", "cargo", "test", "--locked", "--workspace"]);
    // Its only target is a benchmark, whose crates take long.
    cargo.args(["--exclude", "bench-core"]);
    cargo.args(["--manifest-path", "tools/Cargo.toml"]);
    cargo.args(["--target-dir", &directory("MPTCP_DC_CARGO")?]);
    suites.push(vec![Suite {
        name: "cargo".into(),
        command: cargo,
        format: Format::Cargo,
    }]);

    let guest = |name: &str, vm: &[&str], args: &[&str]| {
        let mut command = Command::new("scripts/vm");
        command.args(vm);
        command.arg(format!("--add={tools}/bin/dc-test:/usr/bin/dc-test"));
        command.args(["--", "dc-test"]).args(args);
        Suite {
            name: name.into(),
            command,
            format: Format::Tap,
        }
    };
    if quick {
        suites.push(vec![guest(
            "guest-debian",
            &["--timeout=600"],
            &["--quick", "--smoke"],
        )]);
        return Ok(suites);
    }
    suites.push(vec![
        guest("guest-debian-1", &["--timeout=2400"], &["--part=1/2"]),
        guest("guest-debian-2", &["--timeout=2400"], &["--part=2/2"]),
    ]);

    let mut programs: Vec<_> = fs::read_dir("scripts/test.d")
        .context("scripts/test.d")?
        .map(|entry| {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok((LATE.contains(&&*name), name.into_owned(), path))
        })
        .collect::<Result<_>>()?;
    programs.sort();
    for (_, name, path) in programs {
        suites.push(vec![Suite {
            name,
            command: Command::new(&path),
            format: Format::Tap,
        }]);
    }
    let vm = ["--kernel=test", "--timeout=2400"];
    suites.push(vec![
        guest(TEST_KERNEL[0], &vm, &["--quick", "--part=1/2", "--kunit"]),
        guest(TEST_KERNEL[1], &vm, &["--quick", "--part=2/2"]),
    ]);
    Ok(suites)
}

fn run() -> Result<bool> {
    use lexopt::prelude::*;

    let (mut quick, mut list, mut only) = (false, false, Vec::new());
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("quick") => quick = true,
            Long("list") => list = true,
            Long("suite") => only.push(parser.value()?.string()?),
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(true);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    if !Path::new("scripts/test.d").is_dir() {
        bail!("this runs at the root of the work tree; call scripts/test");
    }
    let mut suites = suites(quick)?;
    for group in &mut suites {
        group.retain(|suite| only.is_empty() || only.iter().any(|text| suite.name.contains(text)));
    }
    if list {
        let all = suites.iter().flatten();
        all.for_each(|suite| println!("{}", suite.name));
        return Ok(true);
    }

    let ahead = suites
        .iter()
        .flatten()
        .any(|suite| TEST_KERNEL.contains(&&*suite.name))
        .then(build_ahead)
        .transpose()?;

    let mut total = Tally::default();
    let mut summary = String::new();
    for group in suites {
        for Ended {
            name,
            tally,
            seconds,
        } in run_group(group)
        {
            summary += &format!("# {name:<14} {tally}, {seconds:.0} s\n");
            for name in &tally.bad {
                summary += &format!("#   {name}\n");
            }
            total.add(tally);
        }
    }
    if let Some(mut child) = ahead {
        child.wait()?;
    }
    println!("# summary\n{summary}{total}");
    Ok(total.failed == 0 && total.skipped == 0 && total.passed > 0)
}

/// What came of a suite.
struct Ended {
    name: String,
    tally: Tally,
    seconds: f64,
}

/// Runs suites side by side. The first's output is passed on as it comes, that of the others when all before have ended.
fn run_group(group: Vec<Suite>) -> Vec<Ended> {
    thread::scope(|scope| {
        let mut suites = group.into_iter();
        let first = suites.next();
        let others: Vec<_> = suites
            .map(|suite| {
                scope.spawn(move || {
                    let mut lines = vec![];
                    let ended = suite.run(|line| lines.push(line.to_owned()));
                    (ended, lines)
                })
            })
            .collect();
        let mut all: Vec<_> = first
            .map(|suite| suite.run(|line| println!("{line}")))
            .into_iter()
            .collect();
        for other in others {
            let (ended, lines) = other.join().unwrap_or_else(|panic| resume_unwind(panic));
            lines.iter().for_each(|line| println!("{line}"));
            all.push(ended);
        }
        all
    })
}

impl Suite {
    /// Runs it, passing its output to `show`.
    fn run(mut self, mut show: impl FnMut(&str)) -> Ended {
        show(&format!("# suite {}", self.name));
        let start = Instant::now();
        let tally = self.try_run(show).unwrap_or_else(|error| Tally {
            failed: 1,
            bad: vec![format!("not run: {error:#}")],
            ..Tally::default()
        });
        Ended {
            name: self.name,
            tally,
            seconds: start.elapsed().as_secs_f64(),
        }
    }

    fn try_run(&mut self, mut show: impl FnMut(&str)) -> Result<Tally> {
        let mut child = self
            .command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{:?}", self.command))?;
        let mut reader = Reader::new(self.format);
        for line in BufReader::new(child.stdout.take().context("no output")?).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            show(&line);
            reader.line(&line);
        }
        let status = child.wait()?;
        let mut tally = reader.finish();
        if !status.success() && tally.failed == 0 {
            tally.fail(format!("it ended with {status}"));
        }
        if tally.passed + tally.failed + tally.skipped == 0 {
            tally.fail("it reported no test".into());
        }
        Ok(tally)
    }
}

/// Results counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    /// Names of those that did not pass.
    bad: Vec<String>,
}

impl Tally {
    fn fail(&mut self, name: String) {
        self.failed += 1;
        self.bad.push(name);
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }

    fn count(&mut self, outcome: Outcome, name: &str) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Failed => self.fail(format!("failed: {name}")),
            Outcome::Skipped => {
                self.skipped += 1;
                self.bad.push(format!("skipped: {name}"));
            }
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// Reads results line by line.
struct Reader {
    format: Format,
    tally: Tally,
    /// By depth, four blanks each: results so far and the plan.
    levels: Vec<Level>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Level {
    results: usize,
    failed: usize,
    plan: Option<usize>,
}

impl Reader {
    fn new(format: Format) -> Self {
        Self {
            format,
            tally: Tally::default(),
            levels: Vec::new(),
        }
    }

    fn line(&mut self, line: &str) {
        match self.format {
            Format::Tap => self.tap(line),
            Format::Cargo => self.cargo(line),
        }
    }

    /// `test some::name ... ok`
    fn cargo(&mut self, line: &str) {
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        else {
            return;
        };
        let outcome = match outcome.split([' ', ',']).next() {
            Some("ok") => Outcome::Passed,
            Some("ignored") => Outcome::Skipped,
            _ => Outcome::Failed,
        };
        self.tally.count(outcome, name);
    }

    /// TAP with subtests. A test that holds others counts for itself only if it failed and none of them did.
    fn tap(&mut self, line: &str) {
        let text = line.trim_start_matches(' ');
        let depth = (line.len() - text.len()) / 4;
        if self.levels.len() <= depth {
            self.levels.resize(depth + 1, Level::default());
        }
        if let Some(plan) = text.strip_prefix("1..") {
            self.levels[depth].plan = plan.split(' ').next().and_then(|n| n.parse().ok());
            return;
        }
        if text.starts_with("Bail out!") {
            self.tally.fail(text.into());
            return;
        }
        let (outcome, rest) = match (text.strip_prefix("ok "), text.strip_prefix("not ok ")) {
            (Some(rest), _) if rest.contains("# SKIP") => (Outcome::Skipped, rest),
            (Some(rest), _) => (Outcome::Passed, rest),
            (None, Some(rest)) => (Outcome::Failed, rest),
            (None, None) => return,
        };
        if !rest.starts_with(|c: char| c.is_ascii_digit()) {
            return;
        }
        let name = rest.split(" # ").next().unwrap_or(rest);
        let inner = self.levels.get(depth + 1).copied().unwrap_or_default();
        self.close_below(depth);
        let level = &mut self.levels[depth];
        level.results += 1;
        level.failed += usize::from(outcome == Outcome::Failed);
        if inner.results == 0 || outcome == Outcome::Failed && inner.failed == 0 {
            self.tally.count(outcome, name);
        }
    }

    /// Checks the plans of levels deeper than `depth`, which are complete.
    fn close_below(&mut self, depth: usize) {
        for level in self.levels.split_off((depth + 1).min(self.levels.len())) {
            match level.plan {
                Some(plan) if plan > level.results => {
                    self.tally.fail(format!(
                        "{} of {plan} planned tests gave no result",
                        plan - level.results
                    ));
                }
                _ => {}
            }
        }
    }

    fn finish(mut self) -> Tally {
        self.levels.insert(0, Level::default());
        self.close_below(0);
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap(text: &str) -> Tally {
        let mut reader = Reader::new(Format::Tap);
        text.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    fn numbers(tally: &Tally) -> (usize, usize, usize) {
        (tally.passed, tally.failed, tally.skipped)
    }

    #[test]
    fn results_are_counted() {
        let tally =
            tap("TAP version 13\n1..3\nok 1 - a # 1.2 s\nnot ok 2 - b\nok 3 - c # SKIP no tool\n");
        assert_eq!(numbers(&tally), (1, 1, 1));
        assert_eq!(tally.bad, ["failed: 2 - b", "skipped: 3 - c"]);
    }

    #[test]
    fn missing_results_are_failures() {
        assert_eq!(numbers(&tap("1..3\nok 1 - a\n")), (1, 1, 0));
        assert_eq!(
            numbers(&tap("1..1\n    1..2\n    ok 1 - a\nok 1 - b\n")),
            (1, 1, 0)
        );
        assert_eq!(
            numbers(&tap("1..2\nnot ok 1 - a\nBail out! stuck\n")),
            (0, 3, 0)
        );
    }

    #[test]
    fn a_test_with_subtests_counts_once() {
        assert_eq!(
            numbers(&tap(
                "1..1\n    1..2\n    ok 1 - a\n    ok 2 - b\nok 1 - c\n"
            )),
            (2, 0, 0)
        );
        assert_eq!(
            numbers(&tap(
                "1..1\n    1..2\n    ok 1 - a\n    not ok 2 - b\nnot ok 1 - c\n"
            )),
            (1, 1, 0)
        );
        // It failed for another reason, such as a complaint of the kernel.
        assert_eq!(
            numbers(&tap("1..1\n    1..1\n    ok 1 - a\nnot ok 1 - c\n")),
            (1, 1, 0)
        );
    }

    #[test]
    fn cargo_lines_are_read() {
        let mut reader = Reader::new(Format::Cargo);
        for line in [
            "running 3 tests",
            "test rc5::tests::vectors ... ok",
            "test x ... FAILED",
            "test y ... ignored, takes a minute",
            "test src/lib.rs - a (line 3) ... ok",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured",
        ] {
            reader.line(line);
        }
        assert_eq!(numbers(&reader.finish()), (2, 1, 1));
    }
}
