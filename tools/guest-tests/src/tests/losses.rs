// SPDX-License-Identifier: GPL-2.0

//! Many connections over a bad network: none gets stuck, every byte arrives, and all are low-overhead unless a
//! handshake was lost so often that the stack gave MPTCP up.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::mptcp::{self, Info};
use crate::netns::{output, Family, Mode, Netns, Pair, CLIENT_DEV, SERVER_DEV};
use crate::{Scale, Test};

/// Connections at a time.
const WORKERS: usize = 25;
/// Bytes each way.
const LENGTH: usize = 20_000;
/// A connection that takes longer is stuck. Ten retransmissions of one segment, at most, are less.
const DEADLINE: Duration = Duration::from_secs(60);

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    let each_way = scale.of(25, 125, 500);
    for (mode, loss) in [
        (Mode::Stock, "2%"),
        (Mode::Offer, "0.5%"),
        (Mode::OfferFull, "2%"),
        (Mode::Offer, "5%"),
    ] {
        let name = format!(
            "losses: {each_way} connections each way, {}, {loss} lost, some reordered or twice",
            mode.name()
        );
        tests.push(Test::with_note(
            name,
            Duration::from_secs(1200),
            move || run(mode, loss, each_way),
        ));
    }
    tests
}

fn run(mode: Mode, loss: &str, each_way: usize) -> Result<String> {
    let pair = Pair::with_mode(mode)?;
    for (end, dev) in [(&pair.client, CLIENT_DEV), (&pair.server, SERVER_DEV)] {
        // With cookies, TCP itself resets a connection whose third ACK and first data are lost.
        end.set("ipv4/tcp_syncookies", 0)?;
        // One connection that had to give MPTCP up must not switch it off for all that follow.
        end.set("mptcp/blackhole_timeout", 0)?;
        let netem = [
            "delay",
            "2ms",
            "reorder",
            "2%",
            "duplicate",
            "1%",
            "loss",
            loss,
        ];
        output(
            end.command("tc")
                .args([
                    "qdisc", "add", "dev", dev, "root", "netem", "limit", "10000",
                ])
                .args(netem),
        )?;
    }
    let mut note = String::new();
    for (from, to, at, name) in [
        (
            &pair.client,
            &pair.server,
            Pair::server_addr(Family::V4),
            "there",
        ),
        (
            &pair.server,
            &pair.client,
            Pair::client_addr(Family::V4),
            "back",
        ),
    ] {
        let tally = many(from, to, SocketAddr::new(at, 0), each_way)?;
        let fell_back = tally.client_tcp.load(Ordering::Relaxed);
        note += &format!(
            "{name}: {} MPTCP, {fell_back} plain TCP at the client, {} at the server; slowest {:.1} s\n",
            each_way - fell_back,
            tally.server_tcp.load(Ordering::Relaxed),
            tally.slowest.lock().map_or(0.0, |slowest| slowest.as_secs_f64()),
        );
        let (mib, dc) = (from.mib()?, from.counters()?);
        let allowed = mib.get("MPCapableSYNTXDrop")? + to.mib()?.get("MPCapableFallbackACK")?;
        for name in [
            "MPCapableSYNTXDrop",
            "MPCapableFallbackACK",
            "MPCapableFallbackSYNACK",
        ] {
            note += &format!("{name}: {} and {}\n", mib.get(name)?, to.mib()?.get(name)?);
        }
        ensure!(
            fell_back as u64 <= allowed,
            "{fell_back} clients fell back, which {allowed} may:\n{note}"
        );
        for name in [
            "MPCapableSYNACKStandard",
            "MPCapableSYNACKBad",
            "MPCapableCookieNotOwn",
            "TokenFallback",
        ] {
            let value = dc.get(name)?;
            ensure!(value == 0, "{name} is {value}\n{note}");
        }
    }
    Ok(note)
}

/// What the threads of a run share.
#[derive(Default)]
struct Tally {
    next: AtomicUsize,
    served: AtomicUsize,
    client_tcp: AtomicUsize,
    server_tcp: AtomicUsize,
    slowest: Mutex<Duration>,
    failure: Mutex<Option<anyhow::Error>>,
}

impl Tally {
    /// The first failure counts. It ends the run.
    fn fail(&self, error: anyhow::Error) {
        if let Ok(mut failure) = self.failure.lock() {
            failure.get_or_insert(error);
        }
    }

    fn has_failed(&self) -> bool {
        self.failure
            .lock()
            .map_or(true, |failure| failure.is_some())
    }
}

/// Makes `total` connections, some at a time.
fn many(from: &Netns, to: &Netns, at: SocketAddr, total: usize) -> Result<Tally> {
    let listener = mptcp::listen(to, at)?;
    let at = listener.local_addr()?;
    let mut tally = Tally::default();
    thread::scope(|scope| {
        let (listener, tally) = (&listener, &tally);
        scope.spawn(move || {
            while tally.served.load(Ordering::Relaxed) < total && !tally.has_failed() {
                match mptcp::accept_within(listener, Duration::from_millis(200)) {
                    Ok(None) => {}
                    Ok(Some(stream)) => {
                        scope.spawn(move || {
                            let served = serve(&stream, tally).context("server");
                            served.unwrap_or_else(|error| tally.fail(error));
                            tally.served.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                    Err(error) => tally.fail(error),
                }
            }
        });
        for _ in 0..WORKERS {
            scope.spawn(move || loop {
                let number = tally.next.fetch_add(1, Ordering::Relaxed);
                if number >= total || tally.has_failed() {
                    return;
                }
                let start = Instant::now();
                if let Err(error) = talk(from, at, number as u64, tally) {
                    let spent = start.elapsed().as_secs_f64();
                    tally.fail(error.context(format!("connection {number}, after {spent:.1} s")));
                }
                if let Ok(mut slowest) = tally.slowest.lock() {
                    *slowest = (*slowest).max(start.elapsed());
                }
            });
        }
    });
    match tally.failure.get_mut() {
        Ok(None) => Ok(tally),
        Ok(failure) => Err(failure.take().context("a failure")?),
        Err(_) => bail!("a thread panicked"),
    }
}

fn patient(stream: &TcpStream) -> Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(())
}

fn talk(netns: &Netns, at: SocketAddr, seed: u64, tally: &Tally) -> Result<()> {
    let stream = mptcp::connect_with(netns, at, |socket| socket.set_write_timeout(Some(DEADLINE)))?;
    patient(&stream)?;
    // The seed goes first, so the server knows what will come.
    std::io::Write::write_all(&mut &stream, &seed.to_be_bytes())?;
    mptcp::send(&stream, seed, LENGTH)?;
    mptcp::receive(&stream, !seed, LENGTH)?;
    if Info::of(&stream)?.is_none() {
        tally.client_tcp.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn serve(mut stream: &TcpStream, tally: &Tally) -> Result<()> {
    patient(stream)?;
    let mut seed = [0; 8];
    std::io::Read::read_exact(&mut stream, &mut seed).context("the seed")?;
    let seed = u64::from_be_bytes(seed);
    mptcp::receive(stream, seed, LENGTH).with_context(|| format!("connection {seed}"))?;
    mptcp::send(stream, !seed, LENGTH).with_context(|| format!("connection {seed}"))?;
    if Info::of(stream)?.is_none() {
        tally.server_tcp.fetch_add(1, Ordering::Relaxed);
    }
    mptcp::receive_end(stream).with_context(|| format!("connection {seed}"))
}
