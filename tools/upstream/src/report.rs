// SPDX-License-Identifier: GPL-2.0

//! Judges what the guests told, and says it in TAP.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Result;

use crate::suite::{Exception, Setup, Test};
use crate::tap::{Results, Subtest, Verdict};

/// What became of a script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub results: Results,
    /// Its exit status; 124 after a time-out.
    pub status: i32,
    pub time: Duration,
}

/// What became of a setup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Of the tests that came to their end, in order.
    pub outcomes: Vec<Outcome>,
    /// The module's, all namespaces together.
    pub counters: BTreeMap<String, u64>,
    /// The exit status of scripts/vm.
    pub vm: i32,
}

/// What the stock kernel made of the tests: of each, its first run, and those that followed to see whether it always
/// gives the same verdicts. (The kernel's scripts have subtests that it passes and fails by turns.)
pub struct Stock {
    runs: Vec<Vec<Outcome>>,
}

impl Stock {
    pub fn new(session: &Session, tests: &[Test]) -> Self {
        let run = |i| session.outcomes.get(i).cloned();
        Self {
            runs: (0..tests.len())
                .map(|i| run(i).into_iter().collect())
                .collect(),
        }
    }

    /// Adds one more run of the test with number `i`.
    pub fn push(&mut self, i: usize, outcome: Outcome) {
        self.runs[i].push(outcome);
    }

    /// The subtests of the first run of the test with number `i`.
    fn first(&self, i: usize) -> Option<&[Subtest]> {
        self.runs[i].first()?.results.complete()
    }

    /// Whether one more run could tell that a fault is none: a verdict that the stock kernel hasn't given to
    /// this test with number `i`, or its own failure.
    pub fn is_in_doubt(&self, i: usize, setup: Setup, session: &Session) -> bool {
        let here = session.outcomes.get(i).and_then(|it| it.results.complete());
        let (Some(first), Some(here)) = (self.first(i), here) else {
            return false;
        };
        let (fails, differs) = (failures(first), differences(first, here));
        if setup == Setup::Stock {
            fails
                .into_iter()
                .any(|it| self.tally(i, &it.name, Verdict::Pass).is_none())
        } else {
            differs.into_iter().any(|it| self.gave(i, &it).is_none())
        }
    }

    /// How often the stock kernel gave the subtest this verdict, of how many times, if it ever did.
    fn tally(&self, i: usize, name: &str, verdict: Verdict) -> Option<String> {
        let runs = self.runs[i].iter().filter_map(|run| run.results.complete());
        let verdicts: Vec<_> = runs.filter_map(|run| find(run, name)).collect();
        let count = verdicts.iter().filter(|it| **it == verdict).count();
        (count > 0).then(|| format!("{verdict} {count} of {} times", verdicts.len()))
    }

    fn gave(&self, i: usize, difference: &Difference<'_>) -> Option<String> {
        self.tally(i, difference.name, difference.here?)
    }
}

/// Points of a report on these setups.
pub fn points(setups: &[Setup], tests: &[Test]) -> usize {
    setups
        .iter()
        .map(|setup| tests.len() + 1 + usize::from(setup.has_module()))
        .sum()
}

/// A TAP stream.
pub struct Report<W> {
    out: W,
    planned: usize,
    points: usize,
    failed: usize,
    subtests: usize,
}

impl<W: Write> Report<W> {
    /// Begins a stream of so many points.
    pub fn new(mut out: W, planned: usize) -> Result<Self> {
        writeln!(out, "TAP version 13\n1..{planned}")?;
        Ok(Self {
            out,
            planned,
            points: 0,
            failed: 0,
            subtests: 0,
        })
    }

    /// The points of one setup: each test, the guest, and whether the module did what the setup says.
    pub fn session(
        &mut self,
        setup: Setup,
        tests: &[Test],
        session: &Session,
        stock: &Stock,
        exceptions: &[Exception],
    ) -> Result<()> {
        for (i, test) in tests.iter().enumerate() {
            let judgement = judge(setup, test, i, session, stock, exceptions);
            let outcome = session.outcomes.get(i);
            let time = outcome.map_or_else(String::new, |outcome| {
                format!(" # time={}ms", outcome.time.as_millis())
            });
            self.subtests += outcome
                .and_then(|outcome| outcome.results.complete())
                .map_or(0, <[_]>::len);
            self.point(&format!("{setup}: {test}{time}"), &judgement.faults)?;
            self.notes(&judgement.notes)?;
        }
        let faults = match session.vm {
            0 => vec![],
            status => vec![format!("scripts/vm: status {status}, see its messages")],
        };
        self.point(
            &format!("{setup}: the guest's kernel had no complaint"),
            &faults,
        )?;
        if setup.has_module() {
            self.counters(setup, &session.counters)?;
        }
        Ok(())
    }

    /// The module does what the setup is for, or that was not tested, and nothing else.
    fn counters(&mut self, setup: Setup, counters: &BTreeMap<String, u64>) -> Result<()> {
        let mut faults = Vec::new();
        let mut notes = Vec::new();
        for (owner, name) in Setup::ALL
            .into_iter()
            .filter_map(|s| Some((s, s.counter()?)))
        {
            match counters.get(name) {
                Some(&count) if (count > 0) == (owner == setup) => {
                    notes.push(format!("{name} {count}"));
                }
                Some(count) => faults.push(format!("{name} is {count}")),
                None => faults.push(format!("{name} was not counted")),
            }
        }
        let text = "the module did what the setup is for";
        self.point(&format!("{setup}: {text}"), &faults)?;
        self.notes(&notes)
    }

    fn point(&mut self, text: &str, faults: &[String]) -> Result<()> {
        self.points += 1;
        let word = if faults.is_empty() {
            "ok"
        } else {
            self.failed += 1;
            "not ok"
        };
        writeln!(self.out, "{word} {} - {text}", self.points)?;
        self.notes(faults)
    }

    fn notes(&mut self, notes: &[String]) -> Result<()> {
        for note in notes {
            writeln!(self.out, "# {note}")?;
        }
        Ok(self.out.flush()?)
    }

    /// The summary; gives the exit status.
    pub fn finish(mut self) -> Result<u8> {
        let missing = self.planned.saturating_sub(self.points);
        writeln!(
            self.out,
            "# upstream: {} subtests, {} points: {} passed, {} failed, {missing} missing",
            self.subtests,
            self.planned,
            self.points - self.failed,
            self.failed,
        )?;
        Ok(u8::from(self.failed > 0 || missing > 0))
    }
}

/// What is to be said of one script in one setup.
#[derive(Debug, Default)]
struct Judgement {
    /// Any of them fails the run.
    faults: Vec<String>,
    notes: Vec<String>,
}

impl Judgement {
    fn fault(text: impl Into<String>) -> Self {
        Self {
            faults: vec![text.into()],
            notes: vec![],
        }
    }
}

/// Judges the test with number `i`. The stock kernel must pass everything, skip nothing; the other setups must do
/// as it did, in one of its runs, save the exceptions, and each exception must be one.
fn judge(
    setup: Setup,
    test: &Test,
    i: usize,
    session: &Session,
    stock: &Stock,
    exceptions: &[Exception],
) -> Judgement {
    let Some(outcome) = session.outcomes.get(i) else {
        return Judgement::fault("never ran to its end");
    };
    let Some(subtests) = outcome.results.complete() else {
        return Judgement::fault(match outcome.status {
            124 => "verdicts are missing: timed out".to_owned(),
            status => format!("verdicts are missing: status {status}"),
        });
    };
    let mut judgement = Judgement {
        faults: vec![],
        notes: vec![format!("{} subtests", subtests.len())],
    };
    if setup == Setup::Stock {
        for failure in failures(subtests) {
            let text = format!("{}: {}", failure.name, failure.verdict);
            match stock.tally(i, &failure.name, Verdict::Pass) {
                Some(tally) => judgement.notes.push(format!("{text} (again: {tally})")),
                None => judgement.faults.push(text),
            }
        }
        return judgement;
    }
    let Some(first) = stock.first(i) else {
        return Judgement::fault("the stock kernel has no verdicts to compare with");
    };
    let known: Vec<&Exception> = exceptions
        .iter()
        .filter(|exception| exception.setup == setup && exception.script == test.script)
        .collect();
    for difference in differences(first, subtests) {
        let excused = known.iter().find(|known| known.subtest == difference.name);
        if let Some(known) = excused {
            let note = format!("{difference} (expected: {})", known.reason);
            judgement.notes.push(note);
        } else if let Some(tally) = stock.gave(i, &difference) {
            judgement
                .notes
                .push(format!("{difference} (again: {tally})"));
        } else {
            judgement.faults.push(difference.to_string());
        }
    }
    let needless = known
        .iter()
        .filter(|known| differences(first, subtests).all(|it| it.name != known.subtest));
    judgement.faults.extend(
        needless.map(|known| format!("{}: listed as an exception, but is none", known.subtest)),
    );
    judgement
}

fn failures(subtests: &[Subtest]) -> impl Iterator<Item = &Subtest> {
    subtests
        .iter()
        .filter(|subtest| subtest.verdict != Verdict::Pass)
}

fn find(subtests: &[Subtest], name: &str) -> Option<Verdict> {
    subtests
        .iter()
        .find(|subtest| subtest.name == name)
        .map(|subtest| subtest.verdict)
}

/// A subtest with another verdict than on the stock kernel; `None`: it did not run.
struct Difference<'a> {
    name: &'a str,
    stock: Option<Verdict>,
    here: Option<Verdict>,
}

impl std::fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = |verdict: Option<Verdict>| verdict.map_or("not run".into(), |v| v.to_string());
        write!(
            f,
            "{}: {}, stock: {}",
            self.name,
            word(self.here),
            word(self.stock)
        )
    }
}

fn differences<'a>(
    stock: &'a [Subtest],
    here: &'a [Subtest],
) -> impl Iterator<Item = Difference<'a>> {
    let more = here
        .iter()
        .filter(move |subtest| find(stock, &subtest.name).is_none());
    stock
        .iter()
        .chain(more)
        .map(move |subtest| Difference {
            name: &subtest.name,
            stock: find(stock, &subtest.name),
            here: find(here, &subtest.name),
        })
        .filter(|difference| difference.stock != difference.here)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::{named, Size};

    fn outcome(subtests: &[(&str, bool)]) -> Outcome {
        let mut outcome = Outcome::default();
        outcome.results.line("TAP version 13");
        outcome.results.line(&format!("1..{}", subtests.len()));
        for (i, (name, passed)) in subtests.iter().enumerate() {
            let word = if *passed { "ok" } else { "not ok" };
            outcome
                .results
                .line(&format!("{word} {} - diag: {name} # time=1ms", i + 1));
        }
        outcome
    }

    fn faults(setup: Setup, stock: &Outcome, here: &Outcome, known: &[Exception]) -> Vec<String> {
        let session = |outcome: &Outcome| Session {
            outcomes: vec![outcome.clone()],
            ..Session::default()
        };
        let tests = [named("diag.sh", Size::Full).unwrap()];
        let stock = Stock::new(&session(stock), &tests);
        judge(setup, &tests[0], 0, &session(here), &stock, known).faults
    }

    #[test]
    fn what_the_stock_kernel_does_by_turns_is_no_fault() {
        let tests = [named("diag.sh", Size::Full).unwrap()];
        let session = |outcomes: &[(&str, bool)]| Session {
            outcomes: vec![outcome(outcomes)],
            ..Session::default()
        };
        let (passed, failed) = (session(&[("a", true)]), session(&[("a", false)]));
        let faults = |setup, session, stock: &Stock| {
            judge(setup, &tests[0], 0, session, stock, &[]).faults.len()
        };
        for (first, second, setup) in [
            (&passed, &failed, Setup::Idle),
            (&failed, &passed, Setup::Stock),
        ] {
            let mut stock = Stock::new(first, &tests);
            assert!(stock.is_in_doubt(0, setup, &failed));
            assert_eq!(faults(setup, &failed, &stock), 1);
            stock.push(0, first.outcomes[0].clone());
            assert!(stock.is_in_doubt(0, setup, &failed));
            assert_eq!(faults(setup, &failed, &stock), 1);
            stock.push(0, second.outcomes[0].clone());
            assert!(!stock.is_in_doubt(0, setup, &failed));
            assert_eq!(faults(setup, &failed, &stock), 0);
        }
        // Nothing to be told by more runs.
        let stock = Stock::new(&passed, &tests);
        assert!(!stock.is_in_doubt(0, Setup::Idle, &passed));
        assert!(!stock.is_in_doubt(0, Setup::Idle, &Session::default()));
    }

    #[test]
    fn equal_verdicts_are_no_fault_save_on_the_stock_kernel() {
        let one = outcome(&[("a", true), ("b", false)]);
        assert!(faults(Setup::Idle, &one, &one, &[]).is_empty());
        assert_eq!(faults(Setup::Stock, &one, &one, &[]), ["b: FAIL"]);
    }

    #[test]
    fn each_difference_is_a_fault() {
        let stock = outcome(&[("a", true), ("b", true), ("c", false)]);
        let here = outcome(&[("a", false), ("c", true), ("d", true)]);
        assert_eq!(
            faults(Setup::Idle, &stock, &here, &[]),
            [
                "a: FAIL, stock: pass",
                "b: not run, stock: pass",
                "c: pass, stock: FAIL",
                "d: pass, stock: not run",
            ]
        );
    }

    #[test]
    fn an_exception_excuses_its_subtest_and_must_be_needed() {
        let known = Exception {
            setup: Setup::Offer,
            script: "diag.sh",
            subtest: "a",
            reason: "for this test",
        };
        let stock = outcome(&[("a", true)]);
        let known = [known];
        let here = outcome(&[("a", false)]);
        assert!(faults(Setup::Offer, &stock, &here, &known).is_empty());
        assert_eq!(faults(Setup::Idle, &stock, &here, &known).len(), 1);
        assert_eq!(
            faults(Setup::Offer, &stock, &stock, &known),
            ["a: listed as an exception, but is none"]
        );
    }

    #[test]
    fn no_verdicts_no_success() {
        let stock = outcome(&[("a", true)]);
        assert_eq!(
            faults(Setup::Idle, &stock, &Outcome::default(), &[]),
            ["verdicts are missing: status 0"]
        );
        assert_eq!(
            faults(Setup::Idle, &Outcome::default(), &stock, &[]).len(),
            1
        );
    }

    #[test]
    fn a_setup_that_does_not_what_it_is_for_fails() {
        let failed = |setup, counts: &[(&str, u64)]| {
            let mut session = Session::default();
            let counters = counts.iter().map(|&(name, n)| (name.to_owned(), n));
            session.counters.extend(counters);
            let mut report = Report::new(Vec::new(), points(&[setup], &[])).unwrap();
            let stock = Stock::new(&session, &[]);
            report.session(setup, &[], &session, &stock, &[]).unwrap();
            report.finish().unwrap()
        };
        let names: Vec<_> = Setup::ALL.into_iter().filter_map(Setup::counter).collect();
        let [derived, offer] = names[..] else {
            panic!("{names:?}")
        };
        assert_eq!(failed(Setup::Offer, &[(derived, 0), (offer, 3)]), 0);
        assert_eq!(failed(Setup::Offer, &[(derived, 0), (offer, 0)]), 1);
        assert_eq!(failed(Setup::Offer, &[(derived, 1), (offer, 3)]), 1);
        assert_eq!(failed(Setup::Derived, &[(derived, 1), (offer, 0)]), 0);
        assert_eq!(failed(Setup::Derived, &[(derived, 0), (offer, 0)]), 1);
        assert_eq!(failed(Setup::Idle, &[(derived, 0), (offer, 0)]), 0);
        assert_eq!(failed(Setup::Idle, &[(derived, 0), (offer, 3)]), 1);
        assert_eq!(failed(Setup::Idle, &[]), 1);
    }

    #[test]
    fn the_plan_covers_what_never_ran() {
        let mut out = Vec::new();
        let tests = [named("pm_netlink.sh", Size::Full).unwrap()];
        let setups = [Setup::Stock];
        let none = Session::default();
        let mut report = Report::new(&mut out, points(&setups, &tests)).unwrap();
        let stock = Stock::new(&none, &tests);
        report
            .session(Setup::Stock, &tests, &none, &stock, &[])
            .unwrap();
        assert_eq!(report.finish().unwrap(), 1);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\n1..2\nnot ok 1 - stock: pm_netlink.sh\n# never ran"));
    }
}
