// SPDX-License-Identifier: GPL-2.0

//! Which plots show a report.

use crate::chart::{Chart, Kind};
use crate::report::{Case, Report};

/// The plots of a report. What has none of its own gets bars: a group for each thing measured, a bar for each state of the
/// module.
pub fn of(report: &Report) -> Vec<Chart> {
    let everything = |_: &Case| true;
    let mut charts = match report.bench.as_str() {
        "syn" => [("mss", "MSS only"), ("linux", "options of a Linux client")]
            .map(|(name, form)| {
                let is_mss = |case: &Case| case.what.ends_with("; MSS only");
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
