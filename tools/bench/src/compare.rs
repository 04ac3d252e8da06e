// SPDX-License-Identifier: GPL-2.0

//! Whether two runs agree. Instructions repeat, so they must agree within a percent; times, rates and what depends on
//! chance need not, and are left out.

use std::fs;
use std::path::Path;

use anyhow::{ensure, Context, Result};

use crate::chart::number;
use crate::report::Report;

/// The most that a figure may differ, in percent.
pub const TOLERANCE: f64 = 1.0;

/// What a comparison found.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    /// Cases that both runs have.
    pub compared: usize,
    /// What differs, one a line.
    pub differences: Vec<String>,
    /// Results that were not compared, and why.
    pub left_out: Vec<String>,
}

/// Compares the results in two directories. Fails if they have none of instructions in common.
pub fn directories(first: &Path, second: &Path) -> Result<Comparison> {
    let (first, second) = (read_all(first)?, read_all(second)?);
    let comparison = reports(&first, &second);
    ensure!(
        comparison.compared > 0 || !comparison.differences.is_empty(),
        "there is nothing to compare: {}",
        comparison.left_out.join("; ")
    );
    Ok(comparison)
}

fn read_all(dir: &Path) -> Result<Vec<Report>> {
    let mut files = vec![];
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|kind| kind == "json") {
            files.push(path);
        }
    }
    files.sort();
    let read =
        |path: &Path| -> Result<Report> { Ok(serde_json::from_str(&fs::read_to_string(path)?)?) };
    files
        .iter()
        .map(|path| read(path).with_context(|| path.display().to_string()))
        .collect()
}

fn reports(first: &[Report], second: &[Report]) -> Comparison {
    let mut comparison = Comparison::default();
    for report in first {
        let Some(other) = second.iter().find(|other| other.bench == report.bench) else {
            let text = format!("{}: only in the first run", report.bench);
            comparison.left_out.push(text);
            continue;
        };
        if report.is_exact() {
            compare(report, other, &mut comparison);
        } else {
            let text = format!("{}: {}, no instructions", report.bench, report.unit);
            comparison.left_out.push(text);
        }
    }
    for report in second {
        if !first.iter().any(|other| other.bench == report.bench) {
            let text = format!("{}: only in the second run", report.bench);
            comparison.left_out.push(text);
        }
    }
    comparison
}

fn compare(first: &Report, second: &Report, comparison: &mut Comparison) {
    let mut differ = |key: &(String, String), what: String| {
        let text = format!("{}: {}: {}: {what}", first.bench, key.0, key.1);
        comparison.differences.push(text);
    };
    for case in &first.cases {
        let key = case.key();
        let Some(other) = second.find(&key) else {
            differ(&key, "only in the first run".to_owned());
            continue;
        };
        comparison.compared += 1;
        let (old, new) = (case.figure(), other.figure());
        let percent = (new - old) / old * 100.0;
        // What is no number doesn't agree with anything, nor does a change from 0.
        let agrees = old == new || percent.abs() <= TOLERANCE;
        if !agrees {
            differ(
                &key,
                format!("{} and {} ({percent:+.2} %)", number(old), number(new)),
            );
        }
    }
    for case in &second.cases {
        if first.find(&case.key()).is_none() {
            differ(&case.key(), "only in the second run".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Case;

    fn report(unit: &str, figures: &[(&str, f64)]) -> Report {
        let mut report = Report::new("test", unit);
        for (what, figure) in figures {
            let case = Case::counted("absent".to_owned(), *what, vec![*figure]);
            report.cases.push(case);
        }
        report
    }

    fn compared(first: &[(&str, f64)], second: &[(&str, f64)]) -> Comparison {
        let of = |figures| [report("guest instructions", figures)];
        reports(&of(first), &of(second))
    }

    #[test]
    fn a_percent_is_the_most() {
        let within = compared(&[("a", 1000.0), ("b", 0.0)], &[("a", 1010.0), ("b", 0.0)]);
        assert_eq!((within.compared, within.differences.len()), (2, 0));
        let beyond = compared(&[("a", 1000.0)], &[("a", 1011.0)]);
        assert_eq!(
            beyond.differences,
            ["test: absent: a: 1,000 and 1,011 (+1.10 %)"]
        );
        for (old, new) in [(1000.0, 989.0), (0.0, 1.0), (1.0, f64::NAN)] {
            let found = compared(&[("a", old)], &[("a", new)]);
            assert_eq!(found.differences.len(), 1, "{old} {new}");
        }
    }

    #[test]
    fn a_case_that_one_run_lacks_is_a_difference() {
        assert_eq!(compared(&[("a", 1.0)], &[("b", 1.0)]).differences.len(), 2);
    }

    #[test]
    fn times_are_left_out() {
        let of = |figure| [report("percent of the time", &[("a", figure)])];
        let found = reports(&of(1.0), &of(2.0));
        assert_eq!((found.compared, found.differences.len()), (0, 0));
        assert_eq!(found.left_out.len(), 1);
    }

    #[test]
    fn directories_with_nothing_in_common_are_an_error() {
        let base = std::env::temp_dir().join(format!("dc-compare.{}", std::process::id()));
        let [first, second] = ["1", "2"].map(|name| base.join(name));
        for dir in [&first, &second] {
            fs::create_dir_all(dir).unwrap();
        }
        assert!(directories(&first, &second).is_err());
        let text = serde_json::to_string(&report("guest instructions", &[("a", 1.0)])).unwrap();
        for dir in [&first, &second] {
            fs::write(dir.join("test.json"), &text).unwrap();
        }
        assert_eq!(directories(&first, &second).unwrap().compared, 1);
        fs::remove_dir_all(base).unwrap();
    }
}
