// SPDX-License-Identifier: GPL-2.0

//! How full the host's table of tokens is when a connection first falls back to TCP because no token could be had.
//! Connections are opened one after another and stay open. Each takes two tokens, one at each end: both ends are on
//! this host, and all its namespaces share the table.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use socket2::{Protocol, Socket};

use crate::measure::{Amount, State};
use crate::net::{self, Net, SERVER};
use crate::report::{Case, Limit, Report};

const PORT: u16 = 5004;

/// Tokens in a bucket (`TOKEN_MAX_CHAIN_LEN` of net/mptcp/token.c).
const BUCKET: u64 = 4;

/// The least part of the table that must be in use before the first low-overhead connection falls back, in percent.
const TARGET: u64 = 99;

/// Fills the table with standard connections, then with low-overhead ones; without a module, only with the first.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    let size = BUCKET * buckets()?;
    let mut report = Report::new("table", &format!("tokens in use, of {size}"));
    net::allow_files(4 * size)?;
    let net = Net::new()?;
    net.server.enter()?;
    let listener = net::listen(Protocol::MPTCP, PORT)?;
    let states: &[State] = if module {
        &[State::Absent, State::Loaded(2)]
    } else {
        &[State::Absent]
    };
    for &state in states {
        state.establish(&net)?;
        let mut rounds = vec![];
        for _ in 0..amount.rounds {
            let used = fill(&net, &listener, size)?;
            eprintln!("dc-bench: {:14} {used} of {size}", state.name());
            rounds.push(used as f64);
        }
        let mut case = Case::counted(state.name(), "before the first fallback", rounds);
        if state != State::Absent {
            case.against = Some((State::Absent.name(), case.what.clone()));
            case.limit = Some(Limit::Least((size * TARGET).div_ceil(100) as f64));
        }
        report.cases.push(case);
    }
    report.judge();
    Ok(report)
}

/// Buckets of the table, as the kernel said at boot.
fn buckets() -> Result<u64> {
    let output = Command::new("dmesg").output().context("dmesg")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find_map(|line| {
            let (_, rest) = line.split_once("MPTCP token hash table entries: ")?;
            rest.split(' ').next()?.parse().ok()
        })
        .context("the kernel log doesn't tell the size of the token table")
}

/// How often either end got no token.
fn fallbacks(net: &Net) -> Result<[u64; 2]> {
    const NAME: &str = "MPFallbackTokenInit";
    Ok([net.client.mib(NAME)?, net.server.mib(NAME)?])
}

/// Tokens in use by connections.
fn in_use(net: &Net) -> Result<u64> {
    // The listener is counted, too.
    Ok(net.client.mptcp_sockets()? + net.server.mptcp_sockets()? - 1)
}

/// Opens connections until one falls back, and closes them all; how many tokens were in use just before.
fn fill(net: &Net, listener: &Socket, size: u64) -> Result<u64> {
    let before = fallbacks(net)?;
    let mut open = vec![];
    let used = loop {
        ensure!(open.len() as u64 <= size, "the table never was full");
        net.client.enter()?;
        let (client, server) = net::open((SERVER.addr, PORT).into(), listener)?;
        let is_mptcp = net::transfer(&client, &server, b"?")
            .and_then(|()| net::transfer(&server, &client, b"!"))
            .map(|()| net::info(&client).is_ok() && net::info(&server).is_ok())?;
        if is_mptcp {
            open.push((client, server));
            continue;
        }
        let used = 2 * open.len() as u64;
        let [at_client, at_server] = fallbacks(net)?;
        ensure!(
            [at_client, at_server] != before,
            "a connection fell back, but not for want of a token"
        );
        // The client takes its token first.
        let used = used + u64::from(at_client == before[0]);
        open.push((client, server));
        break used;
    };
    let counted = in_use(net)?;
    ensure!(
        counted.abs_diff(used) <= 2,
        "{used} tokens in use; the kernel says {counted}"
    );
    for (client, server) in open {
        // No TIME-WAIT.
        client.set_linger(Some(Duration::ZERO))?;
        server.set_linger(Some(Duration::ZERO))?;
    }
    let start = Instant::now();
    while in_use(net)? > 0 {
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "{} tokens are still in use",
            in_use(net)?
        );
        sleep(Duration::from_millis(100));
    }
    Ok(used)
}
