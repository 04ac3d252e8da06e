// SPDX-License-Identifier: GPL-2.0

//! How a server's work on SYNs, and the making of tokens, grow with the CPUs that take part. Time is only good for ratios, and
//! another load on the machine moves it: all that is compared is measured in turn, within a round.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{anyhow, ensure, Context, Result};
use proto::nonce::{End, Flow};
use proto::secret::Secret;
use proto::token::{Counter, Slices};
use rustix::thread::{sched_setaffinity, CpuSet};
use socket2::Protocol;

use crate::frame::{self, Form, Option_};
use crate::measure::{Amount, State};
use crate::net::{self, Net, Wire, NOBODY, SERVER};
use crate::report::{Case, Report};

const PORT: u16 = 5011;
const PLAIN_PORT: u16 = 5012;
/// SYNs of a thread for each sample of `--samples`, so that a measurement takes a good part of a second.
const SYNS: usize = 10;
/// Tokens of a thread, likewise.
const TOKENS: usize = 5_000;

/// 1, 2, 4 and so on, up to all.
fn counts() -> Result<Vec<usize>> {
    let all = thread::available_parallelism()?.get();
    let powers = std::iter::successors(Some(1), |count| Some(count * 2));
    let mut counts: Vec<_> = powers.take_while(|count| *count < all).collect();
    counts.push(all);
    Ok(counts)
}

/// Has so many CPUs prepare, each given its number, and then all at once `work`, which returns how much it did; that a
/// second, all together.
fn rate<P>(
    cpus: usize,
    prepare: impl Fn(usize) -> Result<P> + Sync,
    work: impl Fn(P) -> Result<usize> + Sync,
) -> Result<f64> {
    let ready = Barrier::new(cpus);
    let run = |cpu| -> Result<(Instant, Instant, usize)> {
        let mut set = CpuSet::new();
        set.set(cpu);
        let prepared = sched_setaffinity(None, &set)
            .context("sched_setaffinity")
            .and_then(|()| prepare(cpu));
        // Whoever fails must not leave the others waiting.
        ready.wait();
        let prepared = prepared?;
        let begun = Instant::now();
        let done = work(prepared)?;
        Ok((begun, Instant::now(), done))
    };
    let all = thread::scope(|scope| {
        let run = &run;
        let workers: Vec<_> = (0..cpus).map(|cpu| scope.spawn(move || run(cpu))).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| anyhow!("a thread panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    let begun = all.iter().map(|run| run.0).min().context("no CPU")?;
    let ended = all.iter().map(|run| run.1).max().context("no CPU")?;
    let done: usize = all.iter().map(|run| run.2).sum();
    Ok(done as f64 / (ended - begun).as_secs_f64())
}

fn plural(cpus: usize) -> String {
    format!("{cpus} CPU{}", if cpus == 1 { "" } else { "s" })
}

/// Rates of things that are measured in turn, and what the first of each round makes of them.
struct Rates {
    /// Name, and the rate of each round.
    all: Vec<(String, Vec<f64>)>,
}

impl Rates {
    fn new() -> Self {
        Self { all: vec![] }
    }

    fn add(&mut self, what: String, rate: f64) {
        match self.all.iter_mut().find(|(name, _)| *name == what) {
            Some((_, rates)) => rates.push(rate),
            None => self.all.push((what, vec![rate])),
        }
    }

    /// Cases; each rate in percent of the first in its round.
    fn cases(self, module: &str) -> Vec<Case> {
        let base = self.all.first().map_or(vec![], |(_, rates)| rates.clone());
        let case = |(what, rates): (String, Vec<f64>)| {
            let rounds = rates
                .iter()
                .zip(&base)
                .map(|(rate, base)| rate / base * 100.0);
            Case::counted(module.to_owned(), what, rounds.collect())
        };
        self.all.into_iter().map(case).collect()
    }
}

/// SYNs a second from one to all CPUs of a guest, to one listener: plain, standard and low-overhead.
pub fn run_syns(amount: Amount, module: bool) -> Result<Report> {
    let mut report = Report::new(
        "scale-cpus",
        "SYNs a second, in percent of plain ones from one CPU",
    );
    let net = Net::new()?;
    for netns in [&net.client, &net.server] {
        netns.set("ipv4/tcp_syncookies", 2)?;
    }
    net.server.enter()?;
    let _plain = net::listen(Protocol::TCP, PLAIN_PORT)?;
    let _listener = net::listen(Protocol::MPTCP, PORT)?;
    let states: &[State] = if module {
        &[State::Absent, State::Loaded(2)]
    } else {
        &[State::Absent]
    };
    for &state in states {
        state.establish(&net)?;
        let mut rates = Rates::new();
        let capable = match state {
            State::Absent => Option_::Capable,
            _ => Option_::Compact,
        };
        let kinds = [
            ("plain", PLAIN_PORT, Option_::None),
            ("MP_CAPABLE", PORT, capable),
        ];
        for round in 0..amount.rounds {
            for (what, port, option) in kinds {
                for cpus in counts()? {
                    let rate = syns(&net, cpus, port, option, SYNS * amount.samples)?;
                    eprintln!(
                        "dc-bench: {:14} round {round}: {what}, {}: {rate:.0} a second",
                        state.name(),
                        plural(cpus)
                    );
                    rates.add(format!("{what}, {}", plural(cpus)), rate);
                }
            }
        }
        report.cases.extend(rates.cases(&state.name()));
    }
    for at in 0..report.cases.len() {
        let case = &report.cases[at];
        if case.module != State::Absent.name() {
            let stock = (State::Absent.name(), case.what.clone());
            report.cases[at].against = Some(stock);
        }
    }
    report.judge();
    Ok(report)
}

fn syns(net: &Net, cpus: usize, port: u16, option: Option_, count: usize) -> Result<f64> {
    let before = net.client.received()?;
    let prepare = |cpu| {
        net.client.enter()?;
        let frames = (0..256)
            .map(|n| {
                let ports = (10_000 + (256 * cpu + n) as u16, port);
                let seq = (n as u32).wrapping_mul(0x9e37_79b9);
                frame::syn(NOBODY, SERVER, ports, seq, Form::Mss, option)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok((Wire::sender()?, frames))
    };
    let rate = rate(cpus, prepare, |(wire, frames)| {
        for frame in frames.iter().cycle().take(count) {
            wire.send(frame)?;
        }
        Ok(count)
    })?;
    let answers = net.client.received()? - before;
    let sent = (cpus * count) as u64;
    ensure!(answers == sent, "{sent} SYNs got {answers} answers");
    Ok(rate)
}

/// Pairs of token and key a second from one to all CPUs of this machine: each CPU from its own slice of the counters,
/// and all from one counter.
pub fn run_tokens(amount: Amount, _module: bool) -> Result<Report> {
    let mut report = Report::new(
        "scale-tokens",
        "pairs of token and key a second, in percent of those of one CPU from its slice",
    );
    report.columns = "counters".to_owned();
    report.forget_guest();
    let secret = Secret::new(b"0123456789abcdef", b"fedcba9876543210");
    let all = counts()?;
    let most = u32::try_from(all[all.len() - 1])?;
    let slices = Slices::for_cpus(NonZeroU32::new(most).context("no CPU")?);
    let count = TOKENS * amount.samples;
    let mut rates = Rates::new();
    let issue = |counter| {
        let end = |last, port: u16| End {
            addr: [192, 0, 2, last],
            port: port.to_be_bytes(),
        };
        let flow = Flow::v4(1, end(1, 80), end(2, black_box(4000)));
        black_box(secret.issue(&flow, counter, false));
    };
    for _ in 0..amount.rounds {
        for &cpus in &all {
            let slice = |cpu| Ok(slices.stretch(cpu as u32));
            let own = rate(cpus, slice, |stretch| {
                for cursor in 0..count as u32 {
                    issue(stretch.counter(cursor).context("the slice is used up")?);
                }
                Ok(count)
            })?;
            rates.add(format!("slices, {}", plural(cpus)), own);
            let next = AtomicU32::new(0);
            let nothing = |_| Ok(());
            let shared = rate(cpus, nothing, |()| {
                for _ in 0..count {
                    issue(Counter(next.fetch_add(1, Relaxed)));
                }
                Ok(count)
            })?;
            rates.add(format!("one counter, {}", plural(cpus)), shared);
        }
    }
    for mut case in rates.cases("") {
        if let Some((counters, cpus)) = case.what.clone().split_once(", ") {
            (case.module, case.what) = (counters.to_owned(), cpus.to_owned());
        }
        report.cases.push(case);
    }
    for at in 0..report.cases.len() {
        let case = &report.cases[at];
        if case.what != plural(1) {
            report.cases[at].against = Some((case.module.clone(), plural(1)));
        }
    }
    report.judge();
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_relative_to_the_first_of_their_round() {
        let mut rates = Rates::new();
        for (one, two) in [(10.0, 19.0), (20.0, 36.0)] {
            rates.add("one".to_owned(), one);
            rates.add("two".to_owned(), two);
        }
        let cases = rates.cases("m");
        assert_eq!(cases[0].rounds, [100.0, 100.0]);
        assert_eq!(cases[1].rounds, [190.0, 180.0]);
    }

    #[test]
    fn all_work_is_counted() {
        let done = AtomicU32::new(0);
        let rate = rate(2, Ok, |_| {
            done.fetch_add(1, Relaxed);
            Ok(1)
        });
        // A machine of one CPU can't bind the second thread.
        if let Ok(rate) = rate {
            assert!(rate > 0.0);
            assert_eq!(done.load(Relaxed), 2);
        }
    }
}
