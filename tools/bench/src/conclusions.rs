// SPDX-License-Identifier: GPL-2.0

//! What follows from a result, in sentences below its plots: what was counted, against what, and what came out. Numbers are
//! the result's own.

use crate::chart::number;
use crate::crypto::name;
use crate::report::{Case, Report};

/// The title of a bench's only plot.
pub fn title(bench: &str) -> Option<&'static str> {
    Some(match bench {
        "join" => "What a whole join costs, both ends together, against one more TCP connection",
        "datapath" => "What a segment costs, both ends together, by state of the module",
        "table" => "Tokens in use when a connection first fell back to TCP",
        "core" => "Crypto and options of a handshake on this CPU, against stock's key and token",
        "http-sides" => {
            "Requests for 1 KB, in real time: rate, and CPU of either host, against regular MPTCP"
        }
        "scale" => "What a SYN and its answer cost a server that has many connections",
        "scale-cpus" => "SYNs a second in a guest, by the CPUs that send them and serve them",
        "scale-tokens" => "Pairs of token and key a second, by the CPUs that make them",
        "syn-split" => "Where the instructions of a SYN and its answer are",
        "join-split" => "Where the instructions of a join are",
        _ => return None,
    })
}

/// Sentences: how it was counted and against what, what differs least and most of the cases that are wanted, and the targets.
pub fn of(report: &Report, wanted: impl Fn(&Case) -> bool) -> Vec<String> {
    let mut text = vec![];
    text.extend(how(&report.bench).map(str::to_owned));
    text.extend(match report.bench.as_str() {
        "core" => core(report),
        "scale" => scale(report),
        _ => differences(report, wanted),
    });
    text.push(verdict(report));
    text
}

fn how(bench: &str) -> Option<&'static str> {
    Some(match bench {
        "syn" => "Instructions of a guest (QEMU, -icount), from the send of a SYN to the return of its SYN/ACK; medians. Against the stock kernel (absent). Less is better.",
        "join" => "Instructions of a guest (QEMU, -icount), of the call that asks for a subflow until it stands; medians. Less is better.",
        "datapath" => "Instructions of a guest (QEMU, -icount) for data there and back on one connection; medians. Less is better.",
        "flood" => "SYNs with a valid token from addresses that never answer, while ten clients join 100 connections each. The stock kernel is \"absent\".",
        "table" => "Connections are opened until one gets no token, both ends on one host; medians. The stock kernel is \"absent\". More is better.",
        "http" => "nginx and ab, a connection for each request, on one CPU of a guest (QEMU, -icount); only instructions of tasks count, both hosts together. \"hashes emptied\": stock, live-patched. Medians. More is better.",
        "http-sides" => "The same in real time, in an emulated guest of two CPUs, the client's and the server's: busy time of each CPU, against regular MPTCP in the same round. Only as good as the host is idle; medians.",
        "life" => "Instructions of a guest's tasks (QEMU, -icount): connect, 1 KB there and back, joins, close, and what waiting for the joins takes; medians. Less is better.",
        "memory" => "Growth of Slab in /proc/meminfo while 400 connections are held with all their subflows, for each of them; medians. Less is better.",
        "core" => "Time as a share of what mptcp_crypto_key_gen_sha() does (a random number by ChaCha20, and its SHA-256), on the same CPU in the same round, each the least of 60 samples. SHA-256 is OpenSSL's assembly. Less is better.",
        "scale" => "Instructions of a guest (QEMU, -icount); medians. The stock kernel (absent) makes standard connections, the module low-overhead ones.",
        "scale-cpus" => "An emulated guest of four CPUs: rates are of plain SYNs from one CPU in the same round, and only as good as the host is idle.",
        "scale-tokens" => "Each CPU from a slice of the counters, as in the module, or all from one counter; rates are of one CPU with its slice in the same round.",
        _ => return None,
    })
}

/// The least and the most that cases of a state of the module differ from what they are compared with.
fn differences(report: &Report, wanted: impl Fn(&Case) -> bool) -> Vec<String> {
    let mut states: Vec<(&str, Vec<(f64, String)>)> = vec![];
    for case in report.cases.iter().filter(|case| wanted(case)) {
        let (Some((_, percent)), Some((module, what))) = (report.difference(case), &case.against)
        else {
            continue;
        };
        // Of nothing, nothing is a share.
        if !percent.is_finite() {
            continue;
        }
        let other = match (*module == case.module, *what == case.what) {
            (true, _) => what.clone(),
            (false, true) => module.clone(),
            (false, false) => format!("{module}, {what}"),
        };
        let text = format!("{percent:+.1} % ({} against {other})", case.what);
        match states.iter_mut().find(|(state, _)| *state == case.module) {
            Some((_, all)) => all.push((percent, text)),
            None => states.push((&case.module, vec![(percent, text)])),
        }
    }
    let sentence = |(state, mut all): (&str, Vec<(f64, String)>)| {
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        match all.as_slice() {
            [] => String::new(),
            [(_, only)] => format!("{state}: {only}."),
            [(_, least), .., (_, most)] => format!("{state}: from {least} to {most}."),
        }
    };
    states.into_iter().map(sentence).collect()
}

fn core(report: &Report) -> Vec<String> {
    let pairs = report.cases.iter().filter(|case| case.what == name::PAIR);
    let sentence = |case: &Case| {
        let times = 100.0 / case.figure();
        format!(
            "{}: token and key of low overhead take {:.1} % of the time of stock's: {times:.1} times as cheap.",
            case.module,
            case.figure()
        )
    };
    pairs.map(sentence).collect()
}

fn scale(report: &Report) -> Vec<String> {
    let mut text = vec![];
    let is_growth = |case: &&Case| {
        case.against
            .as_ref()
            .is_some_and(|key| key.0 == case.module)
    };
    let growths = report.cases.iter().filter(is_growth);
    let growths = growths.filter_map(|case| Some((report.difference(case)?.1, case)));
    if let Some((most, case)) = growths.max_by(|a, b| a.0.total_cmp(&b.0)) {
        text.push(format!(
            "From the fewest connections on, the cost grows by {most:+.2} % at most ({}: {}).",
            case.module, case.what
        ));
    }
    let full = report.environment.iter();
    for (name, count) in full.filter(|(name, _)| name.starts_with("connections when")) {
        let count = count.parse().unwrap_or(f64::NAN);
        text.push(format!("Held {name}: {}.", number(count)));
    }
    text
}

fn verdict(report: &Report) -> String {
    let targets = report.cases.iter().filter(|case| case.limit.is_some());
    match (targets.count(), report.missed.as_slice()) {
        (0, _) => "No target is set.".to_owned(),
        (count, []) => format!("Targets: {count}, all met."),
        (count, missed) => format!("Targets: {count}, of which MISSED: {}.", missed.join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Limit;

    fn report(bench: &str, figures: &[(&str, &str, f64)]) -> Report {
        let mut report = Report::new(bench, "units");
        for (module, what, figure) in figures {
            let mut case = Case::counted((*module).to_owned(), *what, vec![*figure]);
            if *module != "absent" {
                case.against = Some(("absent".to_owned(), (*what).to_owned()));
            }
            report.cases.push(case);
        }
        report
    }

    #[test]
    fn what_follows_changes_with_the_figures() {
        let cases = |figure| [("absent", "x", 100.0), ("loaded", "x", figure)];
        let more = of(&report("datapath", &cases(101.0)), |_| true);
        assert!(
            more.contains(&"loaded: +1.0 % (x against absent).".to_owned()),
            "{more:?}"
        );
        let less = of(&report("datapath", &cases(80.0)), |_| true);
        assert!(
            less.contains(&"loaded: -20.0 % (x against absent).".to_owned()),
            "{less:?}"
        );
    }

    #[test]
    fn what_was_missed_is_said() {
        let mut report = report("table", &[("absent", "x", 1.0)]);
        assert_eq!(verdict(&report), "No target is set.");
        report.cases[0].limit = Some(Limit::Least(1.0));
        report.judge();
        assert_eq!(verdict(&report), "Targets: 1, all met.");
        report.cases[0].limit = Some(Limit::Least(2.0));
        report.judge();
        assert!(verdict(&report).ends_with("MISSED: absent: x."));
    }

    #[test]
    fn the_pair_is_as_cheap_as_measured() {
        let found = core(&report("core", &[("absent", name::PAIR, 25.0)]));
        assert!(found[0].ends_with("4.0 times as cheap."), "{found:?}");
    }
}
