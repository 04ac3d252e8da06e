// SPDX-License-Identifier: GPL-2.0

//! Which plots show a report.

use crate::chart::{Chart, Kind};
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
                chart.caption = vec![
                    "Left to right, less is better. A low-overhead MP_CAPABLE or MP_JOIN should cost little more than the plain SYN."
                        .to_owned(),
                ];
                chart
            })
            .to_vec(),
        name if name.ends_with("-split") => vec![parts(report)],
        _ => vec![bars(report, everything)],
    };
    for chart in &mut charts {
        chart.caption.push(place(report));
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
    let groups = distinct(cases.iter().map(|case| case.what.as_str()));
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
            "Means, counted by function in a run with a plugin in QEMU. Colours add up to the whole; less is better.".to_owned(),
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
