// SPDX-License-Identifier: GPL-2.0

//! The same requests as [`http`], in real time, which is only good for ratios: requests a second of CPU, and what of it is each
//! host's. The client has the guest's first CPU, the server the second: their programs run there, and so does what comes in from
//! the other (RPS). All that is compared is measured in turn, within a round.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::http::{self, Counts, Mode, Server, PARALLEL, SUBFLOWS};
use crate::measure::{idle, Amount};
use crate::net::Net;
use crate::report::{Case, Report};

const CLIENT_CPU: usize = 0;
const SERVER_CPU: usize = 1;

/// How often something is measured before it is given up.
const TRIES: u32 = 5;

/// What is compared, in percent of regular MPTCP's.
const RATE: &str = "requests a second of CPU";
const CLIENT: &str = "client's CPU for a request";
const SERVER: &str = "server's CPU for a request";

/// Measures plain TCP, the stock kernel's MPTCP and low overhead; without a module, the first two.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    let mut report = Report::new("http-sides", "percent of regular MPTCP");
    let dir = http::tempdir()?;
    let net = http::scene()?;
    for (netns, cpu) in [(&net.client, CLIENT_CPU), (&net.server, SERVER_CPU)] {
        netns.receive_on(cpu)?;
    }
    let modes = [Mode::Regular, Mode::Tcp, Mode::LowOverhead];
    let modes = &modes[..if module { 3 } else { 2 }];
    let mut cases: Vec<Case> = vec![];
    for round in 1..=amount.rounds.clamp(1, 3) {
        for subflows in SUBFLOWS {
            let mut base = None;
            for &mode in modes {
                if mode == Mode::Tcp && subflows > 1 {
                    continue;
                }
                // A reading of idle time that can't be is thrown away with all that was taken with it.
                let mut tries = (0..TRIES).map(|_| measure(&net, &dir, mode, subflows, amount));
                let cost = tries.find_map(Result::transpose).context(
                    "the host has too little CPU for the guest to tell how long it was idle",
                )??;
                let base = *base.get_or_insert(cost);
                eprintln!(
                    "dc-bench: round {round}: {:14} {:12} client {:.2} ms, server {:.2} ms a request",
                    mode.name(),
                    http::what(subflows),
                    cost.client * 1e3,
                    cost.server * 1e3
                );
                for (what, share) in [
                    (RATE, base.both() / cost.both()),
                    (CLIENT, cost.client / base.client),
                    (SERVER, cost.server / base.server),
                ] {
                    let what = format!("{what}, {}", http::what(subflows));
                    let key = (mode.name().to_owned(), what.clone());
                    match cases.iter_mut().find(|case| case.key() == key) {
                        Some(case) => case.rounds.push(share * 100.0),
                        None => cases.push(Case::counted(key.0, what, vec![share * 100.0])),
                    }
                }
            }
        }
    }
    for case in cases {
        let regular = (Mode::Regular.name().to_owned(), case.what.clone());
        let against = (case.module != regular.0).then_some(regular);
        report.cases.push(Case {
            against,
            ..Case::counted(case.module, case.what, case.rounds)
        });
    }
    report.judge();
    fs::remove_dir_all(&dir).ok();
    Ok(report)
}

/// Seconds of CPU that a request takes.
#[derive(Clone, Copy)]
struct Cost {
    client: f64,
    server: f64,
}

impl Cost {
    fn both(self) -> f64 {
        self.client + self.server
    }
}

/// `None` if idle time and clock don't agree.
fn measure(
    net: &Net,
    dir: &str,
    mode: Mode,
    subflows: usize,
    amount: Amount,
) -> Result<Option<Cost>> {
    let requests = (amount.samples / 2).max(PARALLEL);
    mode.establish(net)?;
    http::set_subflows(&net.client, subflows)?;
    let _server = Server::start(&net.server, dir, mode != Mode::Tcp, Some(SERVER_CPU))?;
    let fetch = |requests| http::fetch(&net.client, requests, mode != Mode::Tcp, Some(CLIENT_CPU));
    fetch(PARALLEL)?;
    idle(1);
    let before = Counts::of(net)?;
    // ab itself costs something to start, and so does one request.
    let [one, all] = [1, 1 + requests].map(|requests| -> Result<Option<[f64; 2]>> {
        let start = Busy::now()?;
        fetch(requests)?;
        // What the last ones still do.
        idle(1);
        Ok(start.until(Busy::now()?))
    });
    let (one, all) = (one?, all?);
    let after = Counts::of(net)?;
    after.check_since(&before, mode, subflows, requests)?;
    let (Some(one), Some(all)) = (one, all) else {
        return Ok(None);
    };
    let [client, server] =
        [CLIENT_CPU, SERVER_CPU].map(|cpu| (all[cpu] - one[cpu]) / requests as f64);
    Ok(Some(Cost { client, server }))
}

/// How long both CPUs have been idle at a time.
struct Busy {
    at: Instant,
    idle: [f64; 2],
}

impl Busy {
    fn now() -> Result<Self> {
        /// `idle` and `iowait` (proc_stat(5)), in hundredths of a second.
        const IDLE: [usize; 2] = [4, 5];
        /// If it takes longer to read, it is not known when it was true: the host takes the CPU away at times.
        const AT_ONCE: Duration = Duration::from_millis(20);
        const READS: u32 = 100;
        let read = || -> Result<_> {
            let start = Instant::now();
            let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
            let took = start.elapsed();
            Ok((took < AT_ONCE).then_some((start + took / 2, text)))
        };
        let mut tries = (0..READS).map(|_| read());
        let (at, text) = tries
            .find_map(Result::transpose)
            .context("the host has no CPU for the guest: /proc/stat is never read at once")??;
        let idle = |cpu: usize| -> Result<f64> {
            let name = format!("cpu{cpu} ");
            let line = text.lines().find(|line| line.starts_with(&name));
            let words: Vec<_> = line
                .with_context(|| format!("the guest has no CPU {cpu}"))?
                .split_ascii_whitespace()
                .collect();
            let mut sum = 0.0;
            for at in IDLE {
                let word = words.get(at).context("/proc/stat tells no idle time")?;
                sum += word.parse::<f64>()? / 100.0;
            }
            Ok(sum)
        };
        Ok(Self {
            at,
            idle: [idle(0)?, idle(1)?],
        })
    }

    /// Seconds that each CPU was busy meanwhile; `None` if it was idle for longer than that.
    fn until(&self, end: Self) -> Option<[f64; 2]> {
        let elapsed = (end.at - self.at).as_secs_f64();
        let busy = [0, 1].map(|cpu| elapsed - (end.idle[cpu] - self.idle[cpu]));
        if busy.iter().all(|busy| *busy > -0.1) {
            return Some(busy);
        }
        eprintln!(
            "dc-bench: CPUs were busy for {busy:.3?} of {elapsed:.3} seconds: measured again"
        );
        None
    }
}
