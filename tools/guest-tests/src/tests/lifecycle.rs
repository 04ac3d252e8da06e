// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading under traffic, what is hooked when, and the life of namespaces and sysctls.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};

use super::eventually;
use crate::connection::Connection;
use crate::handshake::outcome;
use crate::kernel;
use crate::mptcp::{self, Info};
use crate::netns::{Family, Mode, Pair};
use crate::{Scale, Test};

/// What every segment passes.
const HOT: [&str; 2] = ["mptcp_get_options", "mptcp_write_options"];

pub fn tests(scale: Scale) -> Vec<Test> {
    let cycles = scale.of(3, 10, 100);
    let hammered = scale.of(1, 2, 50);
    let mut tests = vec![
        Test::new(
            "off: no per-segment function is hooked before some namespace has lowoverhead",
            hot_hooks,
        ),
        Test::new(
            "off: no function that every SYN passes is hooked before some namespace has stateless_join",
            stateless_hooks,
        ),
        Test::new("off: the unloaded module leaves no hook", no_hooks_left),
        Test::new(
            "off: kernel.ftrace_enabled=0 is refused while hooks stand",
            ftrace_stays,
        ),
        Test::new(
            "sysctls: other values than those documented are refused",
            sysctl_values,
        ),
        Test::new(
            "sysctls: namespaces don't share them, and start at 0",
            sysctls_apart,
        ),
        Test::new(
            "counters: anyone may read them, and namespaces don't share them",
            counters,
        ),
        Test::new(
            "namespaces with live connections can be deleted",
            namespaces_go,
        ),
        Test::new(
            "sysctls and counters are read and written all the time while the module comes and goes",
            move || hammer(hammered),
        ),
    ];
    tests.push(Test::with_note(
        format!("{cycles} times loaded and unloaded while connections are made and carry data"),
        Duration::from_secs(3600),
        move || load_cycles(cycles),
    ));
    tests
}

fn hooked_hot() -> Result<usize> {
    let hooked = kernel::hooked_functions()?;
    Ok(HOT
        .iter()
        .filter(|name| hooked.iter().any(|h| h == *name))
        .count())
}

fn hot_hooks() -> Result<()> {
    let pair = Pair::new()?;
    // Of earlier tests.
    kernel::wait_until_unhooked(&HOT)?;
    for (client, server) in [(1, 0), (1, 2), (0, 2), (0, 0), (0, 1), (2, 0)] {
        pair.client.set("mptcp_dc/lowoverhead", client)?;
        pair.server.set("mptcp_dc/lowoverhead", server)?;
        if (client, server) == (0, 0) {
            kernel::wait_until_unhooked(&HOT)?;
            continue;
        }
        ensure!(
            hooked_hot()? == 2,
            "with {client} and {server}: {:?}",
            kernel::hooked_functions()?
        );
    }
    drop(pair);
    kernel::wait_until_unhooked(&HOT).context("the last namespace that needed them is gone")
}

fn stateless_hooks() -> Result<()> {
    const NAMES: [&str; 2] = ["subflow_v4_conn_request", "subflow_v6_conn_request"];
    let pair = Pair::with_mode(Mode::Offer)?;
    // Of earlier tests.
    kernel::wait_until_unhooked(&NAMES)?;
    for (client, server) in [(0, 1), (1, 1), (1, 0), (0, 0)] {
        pair.client.set("mptcp_dc/stateless_join", client)?;
        pair.server.set("mptcp_dc/stateless_join", server)?;
        if (client, server) == (0, 0) {
            kernel::wait_until_unhooked(&NAMES)?;
            continue;
        }
        let hooked = kernel::hooked_functions()?;
        let found = NAMES
            .iter()
            .filter(|name| hooked.iter().any(|h| h == *name));
        ensure!(found.count() == 2, "with {client} and {server}: {hooked:?}");
    }
    Ok(())
}

/// What is written lies in the namespace, which the module frees. On the test kernel KASAN would tell of whoever is late.
fn hammer(cycles: usize) -> Result<()> {
    const SYSCTLS: [&str; 5] = [
        "lowoverhead",
        "syn_token",
        "stateless_join",
        "derived_nonces",
        "app_key",
    ];
    let pair = Pair::new()?;
    let stop = AtomicBool::new(false);
    let done = AtomicUsize::new(0);
    let result = thread::scope(|scope| {
        for end in pair.ends().into_iter().chain(pair.ends()) {
            let (stop, done) = (&stop, &done);
            scope.spawn(move || {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    // While the module is away, there is none.
                    for name in SYSCTLS {
                        let name = format!("mptcp_dc/{name}");
                        let outcome = end.set(&name, round % 2).and(end.get(&name));
                        done.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
                    }
                    let _ = end.enter(|| fs::read("/proc/thread-self/net/mptcp_dc"));
                }
            });
        }
        let result = (0..cycles).try_for_each(|_| {
            let before = done.load(Ordering::Relaxed);
            eventually("sysctls are used", || {
                Ok(done.load(Ordering::Relaxed) > before + 50)
            })?;
            // Whoever reads the counters right now may be in it.
            eventually("it is unloaded", || Ok(kernel::unload().is_ok()))?;
            kernel::load()
        });
        stop.store(true, Ordering::Relaxed);
        result
    });
    kernel::load()?;
    result
}

fn no_hooks_left() -> Result<()> {
    let ours = || -> Result<Vec<String>> {
        let mut hooked = kernel::hooked_functions()?;
        hooked.retain(|name| name.contains("mptcp") || name.contains("subflow"));
        Ok(hooked)
    };
    let pair = Pair::with_mode(Mode::Offer)?;
    for end in pair.ends() {
        end.set("mptcp_dc/stateless_join", 1)?;
    }
    ensure!(ours()?.len() > HOT.len(), "hooked: {:?}", ours()?);
    kernel::unload()?;
    let left = ours();
    let proc_file = pair
        .client
        .enter(|| fs::metadata("/proc/thread-self/net/mptcp_dc"))
        .is_ok();
    let sysctl = pair.client.get("mptcp_dc/lowoverhead").is_ok();
    kernel::load()?;
    let left = left?;
    ensure!(left.is_empty(), "hooked without the module: {left:?}");
    ensure!(
        !proc_file && !sysctl,
        "counters or sysctls without the module"
    );
    Ok(())
}

fn ftrace_stays() -> Result<()> {
    const ENABLED: &str = "/proc/sys/kernel/ftrace_enabled";
    let _pair = Pair::with_mode(Mode::Offer)?;
    let result = fs::write(ENABLED, "0");
    let now = fs::read_to_string(ENABLED)?;
    if result.is_ok() {
        fs::write(ENABLED, "1")?;
        bail!("ftrace_enabled=0 was accepted, it is {now}");
    }
    ensure!(now.trim() == "1", "ftrace_enabled is {now}");
    ensure!(
        hooked_hot()? == 2,
        "hooked: {:?}",
        kernel::hooked_functions()?
    );
    Ok(())
}

fn sysctl_values() -> Result<()> {
    let pair = Pair::new()?;
    for (name, good, bad) in [
        (
            "mptcp_dc/lowoverhead",
            &["1", "2", "0"][..],
            &["3", "-1", "256", "x", "257"][..],
        ),
        ("mptcp_dc/syn_token", &["1", "0"], &["2", "-1", "256", "x"]),
        (
            "mptcp_dc/stateless_join",
            &["1", "0"],
            &["2", "-1", "256", "x"],
        ),
        (
            "mptcp_dc/derived_nonces",
            &["1", "0"],
            &["2", "-1", "256", "x"],
        ),
    ] {
        for value in good {
            pair.client.set(name, value)?;
            ensure!(
                pair.client.get(name)? == *value,
                "{name}={value} reads {}",
                pair.client.get(name)?
            );
        }
        for value in bad {
            let error = pair
                .client
                .set(name, value)
                .err()
                .with_context(|| format!("{name}={value} was accepted"))?;
            let errno = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error);
            ensure!(errno == Some(libc::EINVAL), "{name}={value}: {error:#}");
            ensure!(
                pair.client.get(name)? == "0",
                "{name} is {} after {value}",
                pair.client.get(name)?
            );
        }
    }
    Ok(())
}

fn sysctls_apart() -> Result<()> {
    let pair = Pair::new()?;
    for name in [
        "mptcp_dc/lowoverhead",
        "mptcp_dc/syn_token",
        "mptcp_dc/stateless_join",
        "mptcp_dc/derived_nonces",
    ] {
        for end in pair.ends() {
            ensure!(end.get(name)? == "0", "{name} starts at {}", end.get(name)?);
        }
        pair.client.set(name, 1)?;
        ensure!(
            pair.server.get(name)? == "0",
            "{name} of one namespace changed the other's"
        );
    }
    Ok(())
}

fn counters() -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    Connection::run(&pair, Family::V4)?.check(&outcome(Mode::Offer, Mode::Offer))?;
    let mode = pair
        .client
        .enter(|| fs::metadata("/proc/thread-self/net/mptcp_dc"))?
        .permissions()
        .mode();
    ensure!(mode & 0o777 == 0o444, "mode {mode:o}");
    let text = crate::netns::output(pair.client.command("setpriv").args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "cat",
        "/proc/net/mptcp_dc",
    ]))?;
    ensure!(text.contains("MPCapableSYNTX 1\n"), "nobody reads\n{text}");
    let (client, server) = (pair.client.counters()?, pair.server.counters()?);
    for (counters, end, name, expected) in [
        (&client, "client", "MPCapableSYNTX", 1),
        (&client, "client", "MPCapableSYNCompactRX", 0),
        (&server, "server", "MPCapableSYNTX", 0),
        (&server, "server", "MPCapableSYNCompactRX", 1),
    ] {
        let value = counters.get(name)?;
        ensure!(value == expected, "the {end}'s {name} is {value}");
    }
    Ok(())
}

fn namespaces_go() -> Result<()> {
    for first_client in [true, false] {
        let pair = Pair::with_mode(Mode::Offer)?;
        let listener = mptcp::listen(
            &pair.server,
            SocketAddr::new(Pair::server_addr(Family::V4), 0),
        )?;
        let mut streams = Vec::new();
        for seed in 0..10 {
            let client = mptcp::connect(&pair.client, listener.local_addr()?)?;
            mptcp::send(&client, seed, 1_000)?;
            let server = mptcp::accept(&listener)?;
            mptcp::receive(&server, seed, 1_000)?;
            streams.push((client, server));
        }
        // And one SYN that nobody will answer.
        let half = mptcp::socket(&pair.client, listener.local_addr()?)?;
        half.set_nonblocking(true)?;
        let _ = half.connect(&SocketAddr::from(([10, 9, 0, 200], 9)).into());
        let Pair { client, server } = pair;
        if first_client {
            drop(client);
            drop(server);
        } else {
            drop(server);
            drop(client);
        }
        // The sockets hold the namespaces until here.
        drop((half, streams, listener));
    }
    kernel::wait_until_unhooked(&HOT).context("the namespaces are gone")
}

/// Bytes each way of a connection that is made meanwhile.
const LENGTH: usize = 10_000;
/// Threads that make them.
const WORKERS: usize = 3;
/// Between two of them, so that the machine isn't busy with nothing else: unloading waits for every task.
const PAUSE: Duration = Duration::from_millis(20);

/// What the threads share.
#[derive(Default)]
struct Traffic {
    /// No new connections.
    stop: AtomicBool,
    /// None of them waits for the server anymore.
    done: AtomicBool,
    connections: AtomicUsize,
    mptcp: AtomicUsize,
}

fn load_cycles(cycles: usize) -> Result<String> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let listener = mptcp::listen(
        &pair.server,
        SocketAddr::new(Pair::server_addr(Family::V4), 0),
    )?;
    let at = listener.local_addr()?;
    let traffic = Traffic::default();
    let start = Instant::now();
    let result = thread::scope(|scope| {
        let server = scope.spawn(|| serve_all(&listener, &traffic));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (pair, traffic) = (&pair, &traffic);
                scope.spawn(move || make_connections(pair, at, worker as u64, traffic))
            })
            .collect();
        let cycles = cycle(&pair, at, cycles, &traffic);
        traffic.stop.store(true, Ordering::Relaxed);
        let mut errors = Vec::new();
        let mut join = |thread: thread::ScopedJoinHandle<Result<()>>| match thread.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => errors.push(error),
            Err(_) => errors.push(anyhow!("a thread panicked")),
        };
        workers.into_iter().for_each(&mut join);
        traffic.done.store(true, Ordering::Relaxed);
        join(server);
        errors.extend(cycles.err());
        match errors.as_slice() {
            [] => Ok(()),
            errors => {
                let lines: Vec<_> = errors.iter().map(|e| format!("{e:#}")).collect();
                bail!("{}", lines.join("\n"))
            }
        }
    });
    kernel::load()?;
    result?;
    let connections = traffic.connections.load(Ordering::Relaxed);
    Ok(format!(
        "{connections} connections, {} of them MPTCP; {:.2} s a cycle",
        traffic.mptcp.load(Ordering::Relaxed),
        start.elapsed().as_secs_f64() / cycles as f64
    ))
}

/// Loads and unloads. One connection made under each load lives on until the next unload has passed.
fn cycle(pair: &Pair, at: SocketAddr, cycles: usize, traffic: &Traffic) -> Result<()> {
    let mut old: Option<Echo> = None;
    for number in 0..cycles as u64 {
        kernel::load()?;
        for end in pair.ends() {
            Mode::Offer.apply(end)?;
        }
        if let Some(mut old) = old.take() {
            old.exchange()
                .with_context(|| format!("cycle {number}: a connection of the cycle before"))?;
        }
        let mut echo = Echo::open(pair, at, number)?;
        echo.exchange()?;
        ensure!(
            Info::of(&echo.stream)?.is_some(),
            "cycle {number}: plain TCP with the module loaded"
        );
        kernel::unload()?;
        ensure!(!kernel::is_loaded(), "still loaded");
        echo.exchange()
            .with_context(|| format!("cycle {number}: after the module was unloaded"))?;
        let mut stock = Echo::open(pair, at, number)?;
        stock
            .exchange()
            .with_context(|| format!("cycle {number}: a connection without the module"))?;
        old = Some(echo);
        if traffic.stop.load(Ordering::Relaxed) {
            bail!("stopped in cycle {number}");
        }
    }
    Ok(())
}

/// A connection that sends and gets back.
struct Echo {
    stream: TcpStream,
    seed: u64,
}

impl Echo {
    fn open(pair: &Pair, at: SocketAddr, seed: u64) -> Result<Self> {
        Ok(Self {
            stream: mptcp::connect(&pair.client, at)?,
            seed,
        })
    }

    fn exchange(&mut self) -> Result<()> {
        self.seed = self.seed.wrapping_add(1 << 32);
        mptcp::send(&self.stream, self.seed, LENGTH)?;
        mptcp::receive(&self.stream, self.seed, LENGTH)
    }
}

/// Connects, exchanges, ends, again and again.
fn make_connections(pair: &Pair, at: SocketAddr, worker: u64, traffic: &Traffic) -> Result<()> {
    let mut number = worker << 48;
    while !traffic.stop.load(Ordering::Relaxed) {
        number += 1;
        thread::sleep(PAUSE);
        let run = || -> Result<bool> {
            let mut echo = Echo::open(pair, at, number)?;
            let name = echo.stream.local_addr()?;
            echo.exchange()
                .with_context(|| format!("first exchange of {name}"))?;
            echo.exchange()
                .with_context(|| format!("second exchange of {name}"))?;
            Ok(Info::of(&echo.stream)?.is_some())
        };
        let is_mptcp = run().inspect_err(|_| traffic.stop.store(true, Ordering::Relaxed));
        let is_mptcp = is_mptcp.with_context(|| format!("connection {number:#x}"))?;
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        traffic
            .mptcp
            .fetch_add(usize::from(is_mptcp), Ordering::Relaxed);
    }
    Ok(())
}

/// Sends back whatever comes. Not by `std::io::copy()`: it would splice.
fn echo(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; LENGTH];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => stream.write_all(&buffer[..n])?,
            Err(error) => return Err(error),
        }
    }
}

/// Sends back whatever comes, on every connection.
fn serve_all(listener: &TcpListener, traffic: &Traffic) -> Result<()> {
    while !traffic.done.load(Ordering::Relaxed) {
        let Some(stream) = mptcp::accept_within(listener, Duration::from_millis(200))? else {
            continue;
        };
        // A failure shows at the other end.
        thread::spawn(move || echo(&stream));
    }
    Ok(())
}
