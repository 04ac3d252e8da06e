// SPDX-License-Identifier: GPL-2.0

//! Which plots show a report.

use crate::chart::{Chart, Kind};
use crate::conclusions;
use crate::report::{Case, Report};

/// What the name of a SYN with no option but MSS ends with.
const SIMPLE: &str = "; MSS only";

/// The plots of a report. What has none of its own gets bars: a group for each thing measured, a bar for each state of the
/// module.
pub fn of(report: &Report) -> Vec<Chart> {
    let everything = |_: &Case| true;
    let mut charts = match report.bench.as_str() {
        "syn" => [("mss", "MSS only"), ("linux", "options of a Linux client")]
            .map(|(name, form)| {
                let is_mss = |case: &Case| case.what.ends_with(SIMPLE);
                let mut chart = bars(report, |case| is_mss(case) == (name == "mss"));
                chart.name = format!("syn-{name}");
                chart.title = format!("What a SYN and its answer cost the server ({form})");
                chart
            })
            .to_vec(),
        name if name.ends_with("-split") => vec![parts(report)],
        "flood" => flood(report),
        "scale" => vec![by_connections(report)],
        "http" | "life" | "memory" => by_subflows(report),
        _ => vec![bars(report, everything)],
    };
    for chart in &mut charts {
        let is_shown = |case: &Case| match chart.name.as_str() {
            "syn-mss" => case.what.ends_with(SIMPLE),
            "syn-linux" => !case.what.ends_with(SIMPLE),
            name if name.starts_with("flood-") => case.what == chart.unit,
            _ => true,
        };
        let follows = conclusions::of(report, is_shown);
        if let Some(title) = conclusions::title(&report.bench) {
            chart.title = title.to_owned();
        }
        chart.caption.extend(follows);
        chart.caption.push(place(report));
        chart.caption = chart.caption.iter().flat_map(|text| lines(text)).collect();
    }
    charts
}

/// Where and by which command it was measured.
fn place(report: &Report) -> String {
    let get = |name: &str| report.environment.get(name).map_or("?", String::as_str);
    format!(
        "{}: kernel {}, module {}, QEMU {}",
        get("command"),
        get("kernel"),
        get("module"),
        get("QEMU").split(' ').next().unwrap_or("?"),
    )
}

/// A sentence as lines that fit under a plot.
fn lines(text: &str) -> Vec<String> {
    const LETTERS: usize = 130;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let last = lines.last_mut();
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + word.chars().count() < LETTERS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A plot for each thing counted, as each has a unit of its own.
fn flood(report: &Report) -> Vec<Chart> {
    let whats = distinct(report.cases.iter().map(|case| case.what.as_str()));
    let chart = |(number, what): (usize, &String)| {
        let mut chart = bars(report, |case| case.what == *what);
        chart.name = format!("flood-{}", number + 1);
        chart.title = format!("Flood of MP_JOIN SYNs: {what}");
        chart.unit = what.clone();
        chart
    };
    whats.iter().enumerate().map(chart).collect()
}

/// Lines over the connections that there are: `what, N connections`.
fn by_connections(report: &Report) -> Chart {
    let split = |case: &Case| -> Option<(String, f64)> {
        let (what, rest) = case.what.rsplit_once(", ")?;
        let count = rest.strip_suffix(" connections")?.parse().ok()?;
        Some((format!("{what}, {}", case.module), count))
    };
    let points: Vec<_> = report
        .cases
        .iter()
        .filter_map(|case| split(case).map(|(name, count)| (name, (count, case.figure()))))
        .collect();
    let names = distinct(points.iter().map(|(name, _)| name.as_str()));
    let of = |name: &String| {
        let of = points.iter().filter(|(other, _)| other == name);
        (name.clone(), of.map(|(_, point)| *point).collect())
    };
    Chart {
        name: report.bench.clone(),
        title: String::new(),
        caption: vec![],
        unit: report.unit.clone(),
        kind: Kind::Lines {
            x: "connections there (MPTCP; logarithmic)".to_owned(),
            log: true,
            series: names.iter().map(of).collect(),
        },
    }
}

/// Lines over the subflows of a connection: the figures, and their share of regular MPTCP's.
fn by_subflows(report: &Report) -> Vec<Chart> {
    const BASE: &str = "regular MPTCP";
    let subject = match report.bench.as_str() {
        "http" => "Requests for 1 KB that a busy CPU serves, 250 at a time",
        "life" => "What a connection costs both hosts, from its beginning to its end",
        _ => "Slab that a connection holds, both hosts together",
    };
    let points = |module: &str| -> Vec<(f64, f64)> {
        let of = report.cases.iter().filter(|case| case.module == module);
        of.filter_map(|case| {
            let (count, _) = case.what.split_once(" subflow")?;
            Some((count.parse().ok()?, case.figure()))
        })
        .collect()
    };
    let modules = distinct(report.cases.iter().map(|case| case.module.as_str()));
    let chart = |name: String, title: String, unit: &str, series| Chart {
        name,
        title,
        caption: vec![],
        unit: unit.to_owned(),
        kind: Kind::Lines {
            x: "subflows of a connection, the first included".to_owned(),
            log: false,
            series,
        },
    };
    let absolute = modules.iter().map(|name| (name.clone(), points(name)));
    let absolute = absolute.collect::<Vec<_>>();
    let base = points(BASE);
    let share = |(x, y): &(f64, f64)| {
        let (_, of) = base.iter().find(|(other, _)| other == x)?;
        Some((*x, y / of * 100.0))
    };
    let relative = absolute.iter().map(|(name, points)| {
        let shares = points.iter().filter_map(share).collect();
        (name.clone(), shares)
    });
    let relative = relative.collect::<Vec<_>>();
    vec![
        chart(
            report.bench.clone(),
            subject.to_owned(),
            &report.unit,
            absolute,
        ),
        chart(
            format!("{}-relative", report.bench),
            format!("{subject}, against {BASE}"),
            "percent of regular MPTCP with as many subflows",
            relative,
        ),
    ]
}

/// Each value once, in the order of appearance.
fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen: Vec<String> = vec![];
    for value in values {
        if !seen.iter().any(|old| old == value) {
            seen.push(value.to_owned());
        }
    }
    seen
}

fn bars(report: &Report, wanted: impl Fn(&Case) -> bool) -> Chart {
    let cases: Vec<_> = report.cases.iter().filter(|case| wanted(case)).collect();
    let mut groups = distinct(cases.iter().map(|case| case.what.as_str()));
    let modules = distinct(cases.iter().map(|case| case.module.as_str()));
    let values = |module: &str| {
        let value = |what: &String| {
            let found = |case: &&&Case| case.module == module && case.what == *what;
            cases.iter().find(found).map(|case| case.figure())
        };
        groups.iter().map(value).collect()
    };
    let series = modules
        .iter()
        .map(|module| (module.clone(), values(module)))
        .collect();
    // What all have in common is in the title.
    if groups.iter().all(|group| group.ends_with(SIMPLE)) {
        for group in &mut groups {
            group.truncate(group.len() - SIMPLE.len());
        }
    }
    Chart {
        name: report.bench.clone(),
        title: format!("{}, by state of the module", report.bench),
        caption: vec![],
        unit: report.unit.clone(),
        kind: Kind::Bars {
            groups,
            series,
            stacked: false,
        },
    }
}

/// What each case is made of. Of the states in which the module doesn't take part in a case, only the first is shown.
fn parts(report: &Report) -> Chart {
    let split = report.cases.iter().filter(|case| !case.parts.is_empty());
    let is_new = |case: &&Case| {
        let first = report.cases.iter().find(|other| other.what == case.what);
        let is_derived = case.module.contains("derived") && case.what.contains("MP_");
        is_derived || first.is_some_and(|first| first.module == case.module)
    };
    // Of SYNs in two forms, the simple one will do.
    let is_simple = |case: &&Case| case.what.ends_with(SIMPLE);
    let mut cases: Vec<_> = split.filter(is_new).collect();
    if cases.iter().any(is_simple) {
        cases.retain(is_simple);
    }
    let names = distinct(
        cases
            .iter()
            .flat_map(|case| case.parts.iter().map(|part| part.0.as_str())),
    );
    let value = |case: &Case, name: &str| {
        let found = case.parts.iter().find(|part| part.0 == name);
        found.map(|part| part.1)
    };
    let series = names
        .iter()
        .map(|name| {
            let values = cases.iter().map(|case| value(case, name)).collect();
            (name.clone(), values)
        })
        .collect();
    let label = |case: &&Case| {
        let what = case.what.trim_end_matches(SIMPLE);
        format!("{what} ({})", case.module)
    };
    Chart {
        name: report.bench.clone(),
        title: format!("{}: where the instructions are", report.bench),
        caption: vec![
            "Means, interrupts and all, counted by function in a run with a plugin in QEMU. Colours add up to the whole; less is better."
                .to_owned(),
        ],
        unit: report.unit.clone(),
        kind: Kind::Bars {
            groups: cases.iter().map(label).collect(),
            series,
            stacked: true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_over_subflows_are_shares_of_regular_mptcp_with_as_many() {
        let mut report = Report::new("http", "requests");
        for (module, what, value) in [
            ("regular MPTCP", "1 subflow", 200.0),
            ("regular MPTCP", "8 subflows", 100.0),
            ("lowoverhead=2", "8 subflows", 150.0),
            ("lowoverhead=2", "4 subflows", 170.0),
        ] {
            let case = Case::counted(module.to_owned(), what, vec![value]);
            report.cases.push(case);
        }
        let charts = of(&report);
        let lines = charts.iter().map(|chart| match &chart.kind {
            Kind::Lines { series, .. } => series.clone(),
            Kind::Bars { .. } => panic!("bars"),
        });
        let [absolute, relative] = &lines.collect::<Vec<_>>()[..] else {
            panic!()
        };
        assert_eq!(absolute[1].1, [(8.0, 150.0), (4.0, 170.0)]);
        assert_eq!(relative[0].1, [(1.0, 100.0), (8.0, 100.0)]);
        // Nothing to compare with, no point.
        assert_eq!(relative[1].1, [(8.0, 150.0)]);
        assert!(charts[0].title != charts[1].title);
    }

    #[test]
    fn bars_stand_in_the_order_of_measurement() {
        let mut report = Report::new("other", "units");
        for (module, what, value) in [("b", "y", 1.0), ("b", "x", 2.0), ("a", "x", 3.0)] {
            let case = Case::counted(module.to_owned(), what, vec![value]);
            report.cases.push(case);
        }
        let [chart] = &of(&report)[..] else { panic!() };
        let series = [
            ("b".to_owned(), vec![Some(1.0), Some(2.0)]),
            ("a".to_owned(), vec![None, Some(3.0)]),
        ];
        assert_eq!(
            chart.kind,
            Kind::Bars {
                groups: vec!["y".to_owned(), "x".to_owned()],
                series: series.to_vec(),
                stacked: false
            }
        );
    }
}
