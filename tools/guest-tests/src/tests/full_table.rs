// SPDX-License-Identifier: GPL-2.0

//! What happens when the host's table of tokens is full (Documentation/design.rst, "A full table").

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::mptcp::{self, Info};
use crate::netns::{output, Family, Mode, Pair};
use crate::{Scale, Test};

/// Tokens in a bucket of the stack's table.
const BUCKET: usize = 4;

pub fn tests(scale: Scale) -> Vec<Test> {
    if scale == Scale::Quick {
        return vec![];
    }
    [1, 2]
        .into_iter()
        .map(|cookies| {
            Test::with_note(
                format!("full table, tcp_syncookies={cookies}: connections are plain TCP until there is room again"),
                Duration::from_secs(900),
                move || run(cookies),
            )
        })
        .collect()
}

/// So many connections in a row that find no token: there is none.
const PLAIN: u32 = 20;

type Ends = (TcpStream, TcpStream);

fn connect(pair: &Pair, listener: &TcpListener) -> Result<Ends> {
    let client = mptcp::connect(&pair.client, listener.local_addr()?)?;
    let server = mptcp::accept(listener)?;
    mptcp::send(&client, 1, 100)?;
    mptcp::receive(&server, 1, 100)?;
    mptcp::send(&server, 2, 100)?;
    mptcp::receive(&client, 2, 100)?;
    Ok((client, server))
}

fn is_mptcp((client, server): &Ends) -> Result<bool> {
    Ok(Info::of(client)?.is_some() && Info::of(server)?.is_some())
}

/// How many tokens the stack's table has room for.
fn capacity() -> Result<usize> {
    let log = output(&mut Command::new("dmesg"))?;
    let buckets: usize = log
        .lines()
        .find_map(|line| {
            let (_, rest) = line.split_once("MPTCP token hash table entries: ")?;
            rest.split(' ').next()?.parse().ok()
        })
        .context("the kernel log doesn't tell the size of the token table")?;
    Ok(BUCKET * buckets)
}

/// Lets this process open that many files.
pub fn allow_files(count: usize) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: count as u64,
        rlim_max: count as u64,
    };
    // SAFETY: The kernel reads one rlimit.
    let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    ensure!(
        status == 0,
        "RLIMIT_NOFILE: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

fn run(cookies: u8) -> Result<String> {
    let capacity = capacity()?;
    allow_files(4 * capacity)?;
    let pair = Pair::with_mode(Mode::Offer)?;
    pair.server.set("ipv4/tcp_syncookies", cookies)?;
    let listener = mptcp::listen(
        &pair.server,
        SocketAddr::new(Pair::server_addr(Family::V4), 0),
    )?;
    let fallbacks = || -> Result<u64> {
        let [client, server] = pair.ends().map(|end| end.counters());
        Ok(client?.get("TokenFallback")? + server?.get("TokenFallback")?)
    };

    // A connection has a token at each end.
    let mut open = Vec::new();
    while fallbacks()? == 0 {
        ensure!(open.len() <= capacity / 2, "the table never was full");
        open.push(connect(&pair, &listener)?);
    }
    let last = open.last().context("no connection")?;
    ensure!(!is_mptcp(last)?, "the last connection found a token");
    let used = 2 * (open.len() - 1);
    ensure!(
        used * 100 >= capacity * 98,
        "full with {used} of {capacity} tokens"
    );

    // The last free ones are found now and then; when they are gone, nobody searches for long.
    let mut in_a_row = 0;
    let mut start = Instant::now();
    while in_a_row < PLAIN {
        ensure!(open.len() <= capacity, "some connections still find tokens");
        let ends = connect(&pair, &listener)?;
        if is_mptcp(&ends)? {
            in_a_row = 0;
            start = Instant::now();
        } else {
            in_a_row += 1;
        }
        open.push(ends);
    }
    let spent = start.elapsed();
    let told = fallbacks()?;
    let stock = pair.client.mib()?.get("MPFallbackTokenInit")?
        + pair.server.mib()?.get("MPFallbackTokenInit")?;
    ensure!(
        told == stock,
        "{told} fallbacks counted by the module, {stock} by the stack"
    );

    let half = open.split_off(open.len() / 2);
    for (client, server) in half {
        // Ended by a reset: no TIME-WAIT holds the tokens.
        for end in [&client, &server] {
            socket2::SockRef::from(end).set_linger(Some(Duration::ZERO))?;
        }
    }
    thread::sleep(Duration::from_secs(2));
    for _ in 0..PLAIN {
        let ends = connect(&pair, &listener)?;
        ensure!(is_mptcp(&ends)?, "plain TCP, though there is room again");
    }
    Ok(format!(
        "first fallback with {used} of {capacity} tokens in use; {:.0} ms a connection while full",
        spent.as_secs_f64() * 1000.0 / f64::from(PLAIN)
    ))
}
