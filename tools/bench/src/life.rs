// SPDX-License-Identifier: GPL-2.0

//! The whole life of a connection: it is made, carries 1 KB there and back, gets its other subflows from the kernel's path
//! manager, and is closed; and the memory that it takes meanwhile. Both hosts together.
//!
//! The subflows are made by a worker, so the guest's thread waits for them. What is counted is the time in which the CPU
//! was not idle: [`clock::busy`].

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use socket2::{Protocol, Socket};

use crate::clock;
use crate::http::{address, set_subflows, what, SUBFLOWS};
use crate::measure::{idle, Amount, State};
use crate::net::{self, Net, SERVER, VETH};
use crate::report::{Case, Report};

const TCP_PORT: u16 = 5010;
const MPTCP_PORT: u16 = 5011;
const EXTERNAL_PORT: u16 = 5012;

/// Bytes there, and back.
const SIZE: usize = 1024;
/// Connections that are held while memory is looked at.
const HELD: usize = 400;
/// The most that subflows may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a connection is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tcp,
    Mptcp,
    External,
}

/// Counts instructions.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    clock::check()?;
    let report = Report::new("life", "guest instructions for one connection, both hosts");
    measure_all(report, amount, module, |scene| scene.cost(amount))
}

/// Counts bytes of slab.
pub fn run_memory(amount: Amount, module: bool) -> Result<Report> {
    let report = Report::new("memory", "bytes of slab for one connection, both hosts");
    measure_all(report, amount, module, |scene| scene.memory(amount))
}

fn measure_all(
    mut report: Report,
    amount: Amount,
    module: bool,
    measure: impl Fn(&Scene<'_>) -> Result<Vec<f64>>,
) -> Result<Report> {
    net::allow_files(8192)?;
    let net = Net::new()?;
    for number in 1..SUBFLOWS[SUBFLOWS.len() - 1] {
        let command = format!("addr add {}/24 dev {VETH}", address(number));
        net.client.ip(&command)?;
    }
    net.server.enter()?;
    let tcp = net::listen(Protocol::TCP, TCP_PORT)?;
    let mptcp = net::listen(Protocol::MPTCP, MPTCP_PORT)?;
    idle(amount.idle);
    for (state, kind) in [
        (State::Absent, Kind::Tcp),
        (State::Absent, Kind::Mptcp),
        (State::Derived, Kind::Mptcp),
        (State::Loaded(2), Kind::Mptcp),
        (State::Loaded(2), Kind::External),
    ] {
        if state != State::Absent && !module {
            continue;
        }
        state.establish(&net)?;
        net.server.enter()?;
        let external = match kind {
            Kind::External => Some(net::listen_external(EXTERNAL_PORT)?),
            _ => None,
        };
        for subflows in SUBFLOWS {
            if kind == Kind::Tcp && subflows > 1 {
                continue;
            }
            set_subflows(&net.client, subflows)?;
            let (listener, port) = match kind {
                Kind::Tcp => (&tcp, TCP_PORT),
                Kind::Mptcp => (&mptcp, MPTCP_PORT),
                Kind::External => (external.as_ref().context("no listener")?, EXTERNAL_PORT),
            };
            let scene = Scene {
                net: &net,
                listener,
                port,
                kind,
                subflows,
            };
            let name = match kind {
                Kind::Tcp => "plain TCP".to_owned(),
                Kind::External => "external key".to_owned(),
                Kind::Mptcp if state == State::Absent => "regular MPTCP".to_owned(),
                Kind::Mptcp => state.name(),
            };
            let ours = scene.ours(state)?;
            let rounds = measure(&scene).with_context(|| format!("{name}, {subflows}"))?;
            let is_ours = scene.ours(state)? > ours;
            ensure!(
                is_ours == (state == State::Loaded(2)),
                "{name}: the connections are {}the module's",
                if is_ours { "" } else { "not " }
            );
            let mut case = Case::counted(name, what(subflows), rounds);
            case.against = match kind {
                Kind::Tcp => None,
                _ if state == State::Absent => Some(("plain TCP".to_owned(), what(1))),
                _ => Some(("regular MPTCP".to_owned(), what(subflows))),
            };
            eprintln!(
                "dc-bench: {:16} {:10} {:9.0}, spread {:.2} %",
                case.module,
                case.what,
                case.figure(),
                case.spread()
            );
            report.cases.push(case);
        }
    }
    report.judge();
    Ok(report)
}

/// Where connections of one kind are made.
struct Scene<'a> {
    net: &'a Net,
    listener: &'a Socket,
    port: u16,
    kind: Kind,
    subflows: usize,
}

impl Scene<'_> {
    /// How many answers of the module's own handshake the client has had.
    fn ours(&self, state: State) -> Result<u64> {
        match state {
            State::Loaded(_) => self.net.client.counter("MPCapableSYNACKRX"),
            _ => Ok(0),
        }
    }

    /// A connection that has all its subflows, and has carried its data.
    fn connection(&self) -> Result<(Socket, Socket)> {
        self.net.client.enter()?;
        let to = (SERVER.addr, self.port).into();
        let socket = match self.kind {
            Kind::Tcp => net::stream(Protocol::TCP)?,
            Kind::Mptcp => net::stream(Protocol::MPTCP)?,
            Kind::External => net::stream_external()?,
        };
        let (client, server) = net::open_from(socket, to, self.listener)?;
        if self.kind == Kind::External {
            for end in [&client, &server] {
                mptcp_dc::set_key(end, b"the same key at both ends").context("MPTCP_KEY")?;
            }
        }
        net::transfer(&client, &server, &[0x5a; SIZE])?;
        net::transfer(&server, &client, &[0x5a; SIZE])?;
        let start = Instant::now();
        while self.kind != Kind::Tcp && !self.is_complete(&client, &server)? {
            ensure!(
                start.elapsed() < PATIENCE,
                "the connection doesn't get its subflows"
            );
            sleep(Duration::from_millis(1));
        }
        Ok((client, server))
    }

    fn is_complete(&self, client: &Socket, server: &Socket) -> Result<bool> {
        let additional = |end| Ok::<_, anyhow::Error>(usize::from(net::info(end)?.subflows));
        Ok(additional(client)? + 1 >= self.subflows && additional(server)? + 1 >= self.subflows)
    }

    /// Instructions of a life, for each round.
    fn cost(&self, amount: Amount) -> Result<Vec<f64>> {
        let lives = (amount.samples / 20).max(4);
        // What is done for the first time costs more.
        for _ in 0..lives / 4 {
            drop(self.connection()?);
        }
        let mut rounds = vec![];
        for _ in 0..amount.rounds.clamp(1, 3) {
            // Until what was closed is forgotten.
            idle(70);
            let before = clock::busy()?;
            for _ in 0..lives {
                drop(self.connection()?);
            }
            // What is still to come of the last ones.
            idle(1);
            rounds.push((clock::busy()? - before) / lives as f64);
        }
        Ok(rounds)
    }

    /// Bytes of slab that a connection holds, for each round.
    fn memory(&self, amount: Amount) -> Result<Vec<f64>> {
        let mut rounds = vec![];
        for _ in 0..amount.rounds.clamp(1, 3) {
            // As many more keep what the slabs have at hand out of it.
            let mut held = vec![];
            for _ in 0..HELD / 4 {
                held.push(self.connection()?);
            }
            idle(2);
            let before = slab()?;
            for _ in 0..HELD {
                held.push(self.connection()?);
            }
            idle(2);
            rounds.push((slab()? - before) / HELD as f64);
            for (client, server) in held {
                // No TIME-WAIT.
                client.set_linger(Some(Duration::ZERO))?;
                server.set_linger(Some(Duration::ZERO))?;
            }
            idle(5);
        }
        Ok(rounds)
    }
}

/// Bytes of slab in use by the kernel.
fn slab() -> Result<f64> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).context(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib: f64 = line
        .and_then(|rest| rest.trim().split(' ').next()?.parse().ok())
        .context("/proc/meminfo has no Slab")?;
    Ok(kib * 1024.0)
}
