// SPDX-License-Identifier: GPL-2.0

//! Results: what a run found, as JSON for programs and as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize, Serializer};

use crate::chart::number;

/// What stands for no state of the module but the kernel itself.
pub const KERNEL: &str = "kernel";

/// A run of one benchmark.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// Its name.
    pub bench: String,
    /// What a case's figures count.
    pub unit: String,
    /// What the first column of the tables is, [`Case::module`].
    #[serde(default = "module_column")]
    pub columns: String,
    /// Where it ran, by what command: whatever tells two runs apart.
    pub environment: BTreeMap<String, String>,
    /// In the order of measurement.
    #[serde(serialize_with = "with_statistics")]
    pub cases: Vec<Case>,
    /// Names of all that missed its target.
    pub missed: Vec<String>,
    /// For [`crate::split`]: by state of the module, the symbols of all modules; under [`KERNEL`], those of the kernel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub symbols: BTreeMap<String, String>,
}

fn module_column() -> String {
    "module".to_owned()
}

/// One thing measured.
#[derive(Clone, Serialize, Deserialize)]
pub struct Case {
    /// The state of the module, or what else the report's `columns` says.
    pub module: String,
    /// What was done.
    pub what: String,
    /// The figure of each round: its median.
    pub rounds: Vec<f64>,
    /// The mean of all samples, interrupts and all.
    pub mean: f64,
    /// Frames on the wire for each sample, if that may vary.
    pub frames: Option<f64>,
    /// Joins for each sample, if that may vary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joins: Option<f64>,
    /// The case that this one is compared with, as module and what.
    pub against: Option<(String, String)>,
    /// The most that it may be.
    pub limit: Option<Limit>,
    /// In how many samples the instructions were counted that `parts` are of.
    #[serde(default)]
    pub samples: Option<f64>,
    /// What makes up the mean, if that was looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(String, f64)>,
}

/// A target.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub enum Limit {
    /// So many, interrupts included.
    Mean(f64),
    /// In every round so many.
    Most(f64),
    /// In every round at least so many: the least that it may be.
    Least(f64),
    /// So many more than what it is compared with.
    More(f64),
    /// So many percent more than what it is compared with.
    Percent(f64),
    /// At least so many percent more than what it is compared with, less if negative.
    AtLeast(f64),
}

impl Case {
    /// The median of the rounds.
    pub fn figure(&self) -> f64 {
        median(&mut self.rounds.clone())
    }

    /// What tells it from the others: [`Self::module`] and [`Self::what`].
    pub fn key(&self) -> (String, String) {
        (self.module.clone(), self.what.clone())
    }

    /// One that was counted once a round.
    pub fn counted(module: String, what: impl Into<String>, rounds: Vec<f64>) -> Self {
        Self {
            module,
            what: what.into(),
            mean: rounds.iter().sum::<f64>() / rounds.len() as f64,
            rounds,
            frames: None,
            joins: None,
            against: None,
            limit: None,
            samples: None,
            parts: vec![],
        }
    }

    fn min(&self) -> f64 {
        self.rounds.iter().copied().fold(f64::INFINITY, f64::min)
    }

    fn max(&self) -> f64 {
        self.rounds.iter().copied().fold(0.0, f64::max)
    }

    /// From the least round to the largest, in percent of the figure.
    pub fn spread(&self) -> f64 {
        match self.max() - self.min() {
            0.0 => 0.0,
            width => width / self.figure() * 100.0,
        }
    }
}

/// Writes cases with what follows from their rounds, for those who read them elsewhere.
fn with_statistics<S: Serializer>(cases: &[Case], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Written<'a> {
        #[serde(flatten)]
        case: &'a Case,
        median: f64,
        min: f64,
        max: f64,
        /// Percent.
        spread: f64,
    }
    serializer.collect_seq(cases.iter().map(|case| Written {
        case,
        median: case.figure(),
        min: case.min(),
        max: case.max(),
        spread: case.spread(),
    }))
}

/// The middle value.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = values.get((values.len() / 2).wrapping_sub(1)).copied();
    (lower.unwrap_or(f64::NAN) + upper) / 2.0
}

impl Report {
    /// An empty one, with what can be read from the system.
    pub fn new(bench: &str, unit: &str) -> Self {
        let read = |path: &str| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu.unwrap_or_default().trim_start_matches([' ', '\t', ':']);
        let cpus = available_parallelism().map_or(String::new(), |n| n.to_string());
        let memory = read("/proc/meminfo");
        let memory = memory.lines().next().unwrap_or_default();
        let memory = memory.trim_start_matches("MemTotal:").trim();
        let environment = [
            ("kernel", read("/proc/sys/kernel/osrelease")),
            ("kernel build", read("/proc/sys/kernel/version")),
            ("kernel command line", read("/proc/cmdline")),
            ("guest CPU", cpu.to_owned()),
            ("guest CPUs", cpus),
            ("guest memory", memory.to_owned()),
        ];
        Self {
            bench: bench.to_owned(),
            unit: unit.to_owned(),
            columns: module_column(),
            environment: environment
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            cases: vec![],
            missed: vec![],
            symbols: BTreeMap::new(),
        }
    }

    /// Leaves of the environment what there is without a guest: the kernel, and the CPU that scripts/bench notes.
    pub fn forget_guest(&mut self) {
        self.environment.retain(|name, _| name == "kernel");
    }

    /// Whether its figures are instructions, which repeat.
    pub fn is_exact(&self) -> bool {
        self.unit.starts_with("guest instructions")
    }

    /// The case of that module and what.
    pub fn find(&self, key: &(String, String)) -> Option<&Case> {
        let matches = |case: &&Case| case.module == key.0 && case.what == key.1;
        self.cases.iter().find(matches)
    }

    /// The difference to what a case is compared with, absolute and in percent.
    pub fn difference(&self, case: &Case) -> Option<(f64, f64)> {
        let base = self.find(case.against.as_ref()?)?.figure();
        let more = case.figure() - base;
        Some((more, more / base * 100.0))
    }

    /// Decides which targets were missed.
    pub fn judge(&mut self) {
        let missed = self.cases.iter().filter(|case| match case.limit {
            None => false,
            Some(Limit::Mean(most)) => case.mean > most,
            Some(Limit::Most(most)) => case.max() > most,
            Some(Limit::Least(least)) => case.min() < least,
            // What there is nothing to compare with has missed, too.
            Some(Limit::More(most)) => self.difference(case).is_none_or(|(more, _)| more > most),
            Some(Limit::Percent(most)) => self
                .difference(case)
                .is_none_or(|(_, percent)| percent > most),
            Some(Limit::AtLeast(least)) => self
                .difference(case)
                .is_none_or(|(_, percent)| percent < least),
        });
        self.missed = missed
            .map(|case| format!("{}: {}", case.module, case.what))
            .collect();
    }

    /// Head and rows of the table.
    fn rows(&self) -> Vec<[String; 9]> {
        let head = [
            &*self.columns,
            "case",
            "figure",
            "spread",
            "mean",
            "frames",
            "joins",
            "difference to",
            "target",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        for case in &self.cases {
            let against = match &case.against {
                Some((module, what)) if *module == case.module => format!("{what}: "),
                Some((module, what)) if *what == case.what => format!("{module}: "),
                Some((module, what)) => format!("{module}, {what}: "),
                None => String::new(),
            };
            let difference = match self.difference(case) {
                Some((more, percent)) => format!("{against}{more:+.0} ({percent:+.2} %)"),
                None => String::new(),
            };
            let name = format!("{}: {}", case.module, case.what);
            let verdict = if self.missed.contains(&name) {
                "MISSED"
            } else {
                "met"
            };
            let target = match case.limit {
                None => String::new(),
                Some(Limit::Mean(most)) => format!("mean ≤ {}: {verdict}", number(most)),
                Some(Limit::Most(most)) => format!("≤ {}: {verdict}", number(most)),
                Some(Limit::Least(least)) => format!("≥ {}: {verdict}", number(least)),
                Some(Limit::More(most)) => format!("≤ {most:+.0}: {verdict}"),
                Some(Limit::Percent(most)) => format!("≤ {most:+} %: {verdict}"),
                Some(Limit::AtLeast(least)) => format!("≥ {least:+} %: {verdict}"),
            };
            rows.push([
                case.module.clone(),
                case.what.clone(),
                number(case.figure()),
                format!("{:.2} %", case.spread()),
                number(case.mean),
                case.frames.map_or(String::new(), |n| format!("{n:.2}")),
                case.joins.map_or(String::new(), |n| format!("{n:.2}")),
                difference,
                target,
            ]);
        }
        rows
    }

    /// Head and rows of a table of parts, if there are any.
    fn rows_of_parts(&self) -> Vec<Vec<String>> {
        let mut rows: Vec<Vec<String>> = vec![];
        for case in self.cases.iter().filter(|case| !case.parts.is_empty()) {
            let cells = |first: [&str; 2], last: &str, values: Vec<String>| {
                let first = first.map(str::to_owned).into_iter();
                first.chain(values).chain([last.to_owned()]).collect()
            };
            if rows.is_empty() {
                let names = case.parts.iter().map(|(name, _)| name.clone());
                rows.push(cells([&self.columns, "case"], "sum", names.collect()));
            }
            let values = case.parts.iter().map(|(_, value)| number(value.round()));
            let sum: f64 = case.parts.iter().map(|(_, value)| value).sum();
            rows.push(cells(
                [&case.module, &case.what],
                &number(sum.round()),
                values.collect(),
            ));
        }
        rows
    }

    /// The table, in Markdown.
    pub fn table(&self) -> String {
        let mut text = format!("{}: {}\n\n", self.bench, self.unit);
        let parts = self.rows_of_parts();
        let tables = [self.rows().iter().map(|row| row.to_vec()).collect(), parts];
        for table in tables.iter().filter(|table: &&Vec<_>| !table.is_empty()) {
            for (at, row) in table.iter().enumerate() {
                // Writing to a String can't fail.
                let _ = writeln!(text, "| {} |", row.join(" | "));
                if at == 0 {
                    let _ = writeln!(text, "|---|---|{}", "---:|".repeat(row.len() - 2));
                }
            }
            text.push('\n');
        }
        text.push('\n');
        for (name, value) in &self.environment {
            let _ = writeln!(text, "- {name}: {value}");
        }
        text
    }

    /// A section of a document, in reStructuredText: the table (of parts, if there are any), without columns that are
    /// empty, and where it was measured.
    pub fn section(&self) -> String {
        let mut text = format!("{0}\n{1}\n\n", self.bench, "=".repeat(self.bench.len()));
        let parts = self.rows_of_parts();
        if parts.is_empty() {
            let rows: Vec<_> = self.rows().iter().map(|row| row.to_vec()).collect();
            text.push_str(&csv_table(&self.unit, &rows));
        } else {
            let title = format!("{}: where they are, on average", self.unit);
            text.push_str(&csv_table(&title, &parts));
        }
        for (name, value) in &self.environment {
            let _ = writeln!(text, ":{name}: ``{value}``");
        }
        text.push('\n');
        text
    }
}

/// A table in reStructuredText; the first row is its head.
fn csv_table(title: &str, rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let kept: Vec<usize> = (0..columns)
        .filter(|&column| rows.iter().skip(1).any(|row| !row[column].is_empty()))
        .collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = kept
            .iter()
            .map(|&column| format!("\"{}\"", row[column].replace('"', "\"\"")))
            .collect();
        cells.join(", ")
    };
    let mut text = format!(".. csv-table:: {title}\n");
    for (at, row) in rows.iter().enumerate() {
        let _ = match at {
            0 => writeln!(text, "   :header: {}\n", line(row)),
            _ => writeln!(text, "   {}", line(row)),
        };
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(module: &str, figure: f64, limit: Option<Limit>) -> Case {
        Case {
            against: Some(("absent".to_owned(), "x".to_owned())),
            limit,
            ..Case::counted(
                module.to_owned(),
                "x",
                vec![figure - 1.0, figure + 1.0, figure],
            )
        }
    }

    fn report(cases: Vec<Case>) -> Report {
        let mut report = Report::new("test", "units");
        report.cases = cases;
        report.judge();
        report
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&mut []).is_nan());
    }

    #[test]
    fn a_target_can_be_missed() {
        let absent = case("absent", 100.0, None);
        let percent = |figure| {
            let loaded = case("loaded", figure, Some(Limit::Percent(1.0)));
            report(vec![absent.clone(), loaded]).missed
        };
        assert!(percent(101.0).is_empty());
        assert_eq!(percent(101.5), ["loaded: x"]);
        let alone = report(vec![case("loaded", 1.0, Some(Limit::Percent(1.0)))]);
        assert_eq!(alone.missed.len(), 1, "nothing to compare with");
        let more = |most| {
            let loaded = case("loaded", 120.0, Some(Limit::More(most)));
            report(vec![absent.clone(), loaded]).missed
        };
        assert!(more(20.0).is_empty());
        assert_eq!(more(19.0), ["loaded: x"]);
        let counted = |limit| {
            let mut counted = Case::counted("a".to_owned(), "y", vec![5.0, 0.0, 7.0]);
            counted.limit = Some(limit);
            report(vec![counted]).missed.is_empty()
        };
        assert!(counted(Limit::Most(7.0)) && !counted(Limit::Most(6.0)));
        assert!(counted(Limit::Least(0.0)) && !counted(Limit::Least(1.0)));
        let absolute = |most| report(vec![case("a", 100.0, Some(Limit::Mean(most)))]).missed;
        assert!(absolute(100.0).is_empty());
        assert_eq!(absolute(99.0), ["a: x"]);
    }

    #[test]
    fn the_table_shows_what_was_missed() {
        let cases = vec![
            case("absent", 100.0, None),
            case("loaded", 200.0, Some(Limit::Percent(1.0))),
        ];
        let table = report(cases).table();
        assert!(
            table.contains("+100 (+100.00 %) | ≤ +1 %: MISSED |"),
            "{table}"
        );
    }

    #[test]
    fn a_result_can_be_read_again_and_has_its_statistics() {
        let before = report(vec![case("absent", 100.0, None)]);
        let text = serde_json::to_string(&before).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["cases"][0]["median"], 100.0);
        assert_eq!(value["cases"][0]["min"], 99.0);
        assert_eq!(value["cases"][0]["spread"], 2.0);
        let after: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(after.table(), before.table());
    }

    #[test]
    fn a_section_has_no_empty_columns() {
        let section = report(vec![case("a \"b\"", 1234.0, None)]).section();
        assert!(
            section.contains(":header: \"module\", \"case\", \"figure\", \"spread\", \"mean\"\n\n"),
            "{section}"
        );
        assert!(
            section.contains("\"a \"\"b\"\"\", \"x\", \"1,234\""),
            "{section}"
        );
    }
}
