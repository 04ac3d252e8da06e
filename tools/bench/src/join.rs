// SPDX-License-Identifier: GPL-2.0

//! What a whole join costs both ends together, against one more plain TCP connection: from the system call that asks
//! for it to its return, less what asking costs. On one CPU all segments of the handshake pass within that call, the last
//! ACK of the server included. And what one costs the server alone: see [`serve`].
//!
//! With the stock kernel's hashes emptied, a join costs what no other handshake can save.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{ensure, Result};
use mptcp_pm::{Address, PathManager};
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock;
use crate::mark;
use crate::measure::{idle, measure_between, Amount, State};
use crate::net::{self, Net, CLIENT, SERVER};
use crate::report::{Case, Limit, Report};
use crate::serve::{self, Kind};

const TCP_PORT: u16 = 5004;
const MPTCP_PORT: u16 = 5005;
const EXTERNAL_PORT: u16 = 5006;

/// The most that a low-overhead join may cost more than a TCP connection, in percent.
const TARGET: f64 = 5.0;

/// Segments of a TCP handshake, and of a join's.
const TCP_SEGMENTS: u64 = 3;
pub const JOIN_SEGMENTS: u64 = 4;

/// Delayed ACKs go out, workers close what was closed.
pub const SETTLE: Duration = Duration::from_millis(300);

const TCP: &str = "TCP: socket(), bind(), connect()";
/// A join's server end is ready for data; so is TCP's only then.
const TCP_ACCEPTED: &str = "TCP: the same, and accept()";

/// Measures joins with the module absent, of a kernel without hashes, with derived nonces, and without HMAC.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    clock::check()?;
    let mut report = Report::new(
        "join",
        "guest instructions for one handshake, both ends together",
    );
    let net = Net::new()?;
    net.server.enter()?;
    let tcp = net::listen(Protocol::TCP, TCP_PORT)?;
    let mptcp = net::listen(Protocol::MPTCP, MPTCP_PORT)?;
    // Only the client's program says when to join.
    net.client.set("mptcp/pm_type", 1)?;
    net.client.enter()?;
    let manager = PathManager::open()?;

    idle(amount.idle);
    let mut states = vec![State::Absent];
    // `split` knows no function of the live patch, and has a column for the hashes.
    if !amount.symbols {
        states.push(State::Emptied);
    }
    if module {
        states.extend([State::Derived, State::Loaded(2)]);
    }
    for state in states {
        state.establish(&net)?;
        mark::note_symbols(state, amount, &mut report)?;
        let bench = Bench {
            net: &net,
            manager: &manager,
            state,
            amount: Amount {
                // Each join has a connection of its own.
                samples: (amount.samples / 10).max(4),
                ..amount
            },
        };
        if state != State::Emptied {
            bench.measure_tcp(TCP, &tcp, &mut report.cases)?;
            bench.measure_tcp(TCP_ACCEPTED, &tcp, &mut report.cases)?;
        }
        let request = bench.measure_requests(&mut report.cases)?;
        bench.measure_joins(&mptcp, request, &mut report.cases)?;
        bench.measure_server(&mptcp, &mut report.cases)?;
    }
    report.judge();
    Ok(report)
}

struct Bench<'a> {
    net: &'a Net,
    manager: &'a PathManager,
    state: State,
    amount: Amount,
}

impl Bench<'_> {
    /// Counts what passes `segments` segments, as is checked of every sample.
    fn count<B, A>(
        &self,
        what: &str,
        segments: u64,
        mut before: impl FnMut() -> Result<B>,
        sample: impl FnMut(&(B, u64)) -> Result<A>,
        mut after: impl FnMut(B, A) -> Result<()>,
    ) -> Result<Case> {
        let frames = || -> Result<u64> {
            let count = self.net.client.received()? + self.net.server.received()?;
            self.net.client.enter()?;
            Ok(count)
        };
        let mut case = measure_between(
            self.state,
            what,
            self.amount,
            |_| {
                let given = before()?;
                Ok((given, frames()?))
            },
            sample,
            |(given, start), result| {
                let passed = frames()? - start;
                ensure!(passed == segments, "{what}: {passed} segments passed");
                after(given, result)
            },
        )?;
        case.frames = Some(segments as f64);
        Ok(case)
    }

    fn measure_tcp(&self, what: &str, listener: &Socket, cases: &mut Vec<Case>) -> Result<()> {
        self.net.client.enter()?;
        let from = SocketAddr::from((CLIENT.addr, 0)).into();
        let to = SocketAddr::from((SERVER.addr, TCP_PORT)).into();
        let mut case = self.count(
            what,
            TCP_SEGMENTS,
            || Ok(()),
            |_| {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
                socket.bind(&from)?;
                socket.connect(&to)?;
                let server = match what {
                    TCP_ACCEPTED => Some(listener.accept()?.0),
                    _ => None,
                };
                Ok((socket, server))
            },
            |(), (client, server)| {
                let server = server.map_or_else(|| Ok(listener.accept()?.0), anyhow::Ok)?;
                // A reset: no socket waits for its port to be free again.
                client.set_linger(Some(Duration::ZERO))?;
                drop(client);
                drop(server);
                Ok(())
            },
        )?;
        if self.state != State::Absent {
            case.against = Some((State::Absent.name(), what.to_owned()));
        }
        cases.push(case);
        Ok(())
    }

    /// What asking costs, whatever is asked for.
    fn measure_requests(&self, cases: &mut Vec<Case>) -> Result<f64> {
        let (local, remote) = addresses();
        let request = self.manager.subflow(1, &local, &remote);
        let what = "request for a subflow of no connection";
        let case = self.count(
            what,
            0,
            || Ok(()),
            |_| {
                ensure!(self.manager.send(&request).is_err(), "token 1 exists");
                Ok(())
            },
            |(), ()| Ok(()),
        )?;
        let figure = case.figure();
        cases.push(case);
        Ok(figure)
    }

    fn measure_joins(&self, listener: &Socket, request: f64, cases: &mut Vec<Case>) -> Result<()> {
        let what = match self.state {
            State::Loaded(_) => "join without HMAC, less the request",
            State::Derived => "join with HMAC, derived nonces, less the request",
            State::Emptied => "join, less the request",
            _ => "join with HMAC, less the request",
        };
        let (local, remote) = addresses();
        let mut case = self.count(
            what,
            JOIN_SEGMENTS,
            || {
                let (client, server) = net::connect(self.net, listener, MPTCP_PORT)?;
                // What is still to come of it, and of the one before.
                sleep(SETTLE);
                let request = self.manager.subflow(net::token(&client)?, &local, &remote);
                Ok((client, server, request))
            },
            |((_, _, request), _)| self.manager.send(request).map(drop),
            |(client, server, _), ()| {
                for (end, socket) in [("client", &client), ("server", &server)] {
                    let subflows = net::info(socket)?.subflows;
                    ensure!(
                        subflows == 1,
                        "the {end} has {subflows} additional subflows"
                    );
                }
                drop(client);
                drop(server);
                Ok(())
            },
        )?;
        case.rounds.iter_mut().for_each(|round| *round -= request);
        case.mean -= request;
        case.against = Some((State::Absent.name(), TCP.to_owned()));
        if self.state == State::Loaded(2) {
            case.limit = Some(Limit::Percent(TARGET));
        }
        cases.push(case);
        Ok(())
    }

    /// What a join costs the server alone.
    fn measure_server(&self, listener: &Socket, cases: &mut Vec<Case>) -> Result<()> {
        let mut measure = |kind, at| -> Result<()> {
            cases.push(serve::measure(self.net, self.state, self.amount, kind, at)?);
            Ok(())
        };
        match self.state {
            State::Absent => measure(Kind::Standard, (listener, MPTCP_PORT))?,
            State::Loaded(_) => {
                measure(Kind::Bare, (listener, MPTCP_PORT))?;
                self.net.server.enter()?;
                let external = net::listen_external(EXTERNAL_PORT)?;
                for kind in [Kind::External, Kind::ExternalStateless] {
                    measure(kind, (&external, EXTERNAL_PORT))?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Both ends of a subflow: the addresses of the first, and any port.
fn addresses() -> (Address, Address) {
    let local = Address::new(CLIENT.addr, 7, 0);
    let remote = Address {
        at: (SERVER.addr, MPTCP_PORT).into(),
        ..Address::new(Ipv4Addr::UNSPECIFIED, 0, 0)
    };
    (local, remote)
}
