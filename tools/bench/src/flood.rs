// SPDX-License-Identifier: GPL-2.0

//! A flood of MP_JOIN SYNs, and what it leaves of the joins of others.
//!
//! ```text
//!                  ┌─ veth ─ client 0      192.0.2.2, .3; 10 ms each way
//!  attacker ─ veth ─ server ─ veth ─ client 1      192.0.2.18, .19
//!  203.0.113.2       .1  └─ …              9      192.0.2.146, .147
//! ```
//!
//! Each client has 100 connections, made before. The attacker has one, so it knows a valid token, and sends SYNs with it
//! from all over 10.0.0.0/8; their answers reach nobody. While it sends, the clients get a second
//! address, one after another, and with it each of their connections opens a second subflow.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};
use socket2::{Protocol, Socket};

use crate::frame::{self, Form, Host, Option_};
use crate::measure::{Amount, State};
use crate::net::{self, Netns, Wire, VETH};
use crate::report::{Case, Limit, Report};

const PORT: u16 = 5005;
/// Requests that the listener has room for: the kernel's largest by default (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
const CLIENTS: usize = 10;
const CONNECTIONS: usize = 100;
/// Bytes in a page, and in a slab of requests.
const PAGE: u64 = 4096;
/// SYNs in one system call.
const BATCH: u32 = 64;

const SERVER: Host = Host {
    mac: [2, 0, 0, 0, 1, 1],
    addr: std::net::Ipv4Addr::new(203, 0, 113, 1),
};
const ATTACKER: Host = Host {
    mac: [2, 0, 0, 0, 1, 2],
    addr: std::net::Ipv4Addr::new(203, 0, 113, 2),
};
/// Whom the server takes for the way to 10.0.0.0/8. No interface has it.
const NOBODY: Host = Host {
    mac: [2, 0, 0, 0, 1, 3],
    addr: std::net::Ipv4Addr::new(203, 0, 113, 3),
};

fn mac(host: Host) -> String {
    host.mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The namespaces.
struct Net {
    server: Netns,
    attacker: Netns,
    clients: Vec<Netns>,
}

impl Net {
    fn new() -> Result<Self> {
        let server = Netns::new("dc-flood-server")?;
        let attacker = Netns::new("dc-flood-attacker")?;
        server.set("ipv6/conf/default/disable_ipv6", 1)?;
        server.set("ipv4/conf/all/rp_filter", 0)?;
        server.set("ipv4/conf/default/rp_filter", 0)?;
        attacker.set("ipv6/conf/default/disable_ipv6", 1)?;
        let net = Self {
            clients: vec![],
            server,
            attacker,
        };
        let (at_server, far) = (mac(SERVER), mac(ATTACKER));
        net.attacker.ip(&format!(
            "link add {VETH} address {far} type veth peer name attack address {at_server} netns dc-flood-server"
        ))?;
        net.attacker
            .ip(&format!("addr add {}/24 dev {VETH}", ATTACKER.addr))?;
        net.attacker.ip(&format!("link set {VETH} up"))?;
        net.server
            .ip(&format!("addr add {}/24 dev attack", SERVER.addr))?;
        net.server.ip("link set attack up")?;
        net.server.ip(&format!(
            "neigh replace {} lladdr {} nud permanent dev attack",
            NOBODY.addr,
            mac(NOBODY)
        ))?;
        net.server
            .ip(&format!("route add 10.0.0.0/8 via {}", NOBODY.addr))?;
        let mut net = net;
        for number in 0..CLIENTS {
            net.clients.push(net.client(number)?);
        }
        for netns in net.all() {
            netns.ip("mptcp limits set subflows 8 add_addr_accepted 0")?;
        }
        Ok(net)
    }

    /// A client, connected to the server.
    fn client(&self, number: usize) -> Result<Netns> {
        let client = Netns::new(&format!("dc-flood-client{number}"))?;
        client.set("ipv6/conf/default/disable_ipv6", 1)?;
        let [own, second, far] = Self::addresses(number);
        client.ip(&format!(
            "link add {VETH} type veth peer name client{number} netns dc-flood-server"
        ))?;
        client.ip(&format!("addr add {own}/28 dev {VETH}"))?;
        client.ip(&format!("addr add {second}/28 dev {VETH}"))?;
        client.ip(&format!("link set {VETH} up"))?;
        self.server
            .ip(&format!("addr add {far}/28 dev client{number}"))?;
        self.server.ip(&format!("link set client{number} up"))?;
        Ok(client)
    }

    /// Makes the way between clients and server long.
    fn delay(&self) -> Result<()> {
        const NETEM: &str = "root netem limit 100000 delay 10ms";
        for (number, client) in self.clients.iter().enumerate() {
            client.run(&format!("tc qdisc add dev {VETH} {NETEM}"))?;
            self.server
                .run(&format!("tc qdisc add dev client{number} {NETEM}"))?;
        }
        Ok(())
    }

    /// A client's two addresses and the server's for it.
    fn addresses(number: usize) -> [std::net::Ipv4Addr; 3] {
        let base = 16 * number as u8;
        [2, 3, 1].map(|host| std::net::Ipv4Addr::new(192, 0, 2, base + host))
    }

    fn all(&self) -> impl Iterator<Item = &Netns> {
        [&self.server, &self.attacker]
            .into_iter()
            .chain(&self.clients)
    }
}

/// What is in use at a moment.
#[derive(Clone, Copy, Default)]
struct Use {
    /// Request sockets of the server.
    requests: u64,
    /// Bytes of the slabs that requests are in.
    slabs: u64,
    /// `MemAvailable` in bytes.
    available: u64,
}

impl Use {
    /// Looks at the server, from the present namespace.
    fn now() -> Result<Self> {
        /// `TCP_NEW_SYN_RECV` is shown as `TCP_SYN_RECV`.
        const SYN_RECV: &str = "03";
        let tcp = read("/proc/thread-self/net/tcp")?;
        let requests = tcp
            .lines()
            .filter(|line| line.split_whitespace().nth(3) == Some(SYN_RECV))
            .count();
        let slabs = read("/proc/slabinfo")?
            .lines()
            .filter(|line| line.starts_with("request_sock_"))
            .map(|line| -> Result<u64> {
                // name, objects in use, objects, bytes each; then, behind two colons, slabs in use, slabs
                let fields: Vec<_> = line.split_whitespace().collect();
                let number = |at: usize| -> Result<u64> {
                    Ok(fields.get(at).context("slabinfo is cut")?.parse()?)
                };
                let pages = number(5)?;
                Ok(number(14)? * pages * PAGE)
            })
            .sum::<Result<u64>>()?;
        let available = read("/proc/meminfo")?
            .lines()
            .find_map(|line| {
                line.strip_prefix("MemAvailable:")?
                    .split_whitespace()
                    .next()?
                    .parse::<u64>()
                    .ok()
            })
            .context("no MemAvailable")?;
        Ok(Self {
            requests: requests as u64,
            slabs,
            available: available * 1024,
        })
    }

    /// The most of both.
    fn most(self, other: Self) -> Self {
        Self {
            requests: self.requests.max(other.requests),
            slabs: self.slabs.max(other.slabs),
            available: self.available.min(other.available),
        }
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).context(path.to_owned())
}

/// The connections and the joins, those of the flood as well.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Standard ones, without the module.
    Standard,
    LowOverhead,
    ExternalKey,
}

impl Mode {
    /// The server's part, as a column of the table.
    fn name(self) -> String {
        match self {
            Self::Standard => State::Absent.name(),
            Self::LowOverhead => "stateless_join=1".to_owned(),
            Self::ExternalKey => "stateless_join=1, external keys".to_owned(),
        }
    }

    fn is_ours(self) -> bool {
        self != Self::Standard
    }

    /// Sets up the module, if there is to be one.
    fn establish(self, net: &Net) -> Result<()> {
        if self == Self::LowOverhead {
            for netns in net.all() {
                netns.set("mptcp_dc/lowoverhead", 2)?;
            }
        }
        if self.is_ours() {
            net.server.set("mptcp_dc/stateless_join", 1)?;
        }
        Ok(())
    }

    /// A socket in the present namespace.
    fn socket(self) -> Result<Socket> {
        match self {
            Self::ExternalKey => net::stream_external(),
            _ => net::stream(Protocol::MPTCP),
        }
    }

    /// The MP_JOIN of the flood.
    fn join(self, token: u32) -> Option_ {
        match self {
            Self::LowOverhead => Option_::BareJoin(token),
            _ => Option_::Join(token),
        }
    }
}

/// Floods a stock server, then one with `stateless_join=1`, of low-overhead connections and of those with external keys;
/// without a module, only the first.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    let mut report = Report::new("flood", "as each case says");
    net::allow_files(10_000)?;
    let modes: &[Mode] = if module {
        &[Mode::Standard, Mode::LowOverhead, Mode::ExternalKey]
    } else {
        &[Mode::Standard]
    };
    for &mode in modes {
        flood(mode, amount.syns, &mut report.cases)?;
    }
    report.judge();
    Ok(report)
}

fn flood(mode: Mode, syns: u32, cases: &mut Vec<Case>) -> Result<()> {
    let name = mode.name();
    if mode.is_ours() {
        net::load_module()?;
    }
    let net = Net::new()?;
    mode.establish(&net)?;
    net.server.enter()?;
    let listener = net::listen_on(mode.socket()?, PORT, BACKLOG)?;
    let (_known, victim) = connect(mode, &net.attacker, SERVER.addr, &listener)?;
    let mut connections = vec![];
    for (number, client) in net.clients.iter().enumerate() {
        let [_, _, far] = Net::addresses(number);
        for _ in 0..CONNECTIONS {
            connections.push(connect(mode, client, far, &listener)?);
        }
    }
    net.delay()?;
    let join = mode.join(net::token(&victim)?);
    let frame = frame::syn(ATTACKER, SERVER, (1024, PORT), 0, Form::Linux, join)?;
    eprintln!("dc-bench: {name}: {} connections stand", connections.len());

    thread::sleep(Duration::from_secs(3));
    net.server.enter()?;
    let before = Use::now()?;
    let sent = AtomicU32::new(0);
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (alone, peak) = thread::scope(|scope| -> Result<(Use, Use)> {
        let watcher = scope.spawn(|| watch(&net.server, &done));
        let joiner = scope.spawn(|| let_join(&net, &sent, syns, &done));
        let flooded = net
            .attacker
            .enter()
            .and_then(|()| send(&frame, syns, &sent));
        done.store(true, Ordering::Relaxed);
        let joined = joiner.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
        let peak = watcher.join().unwrap_or_else(|_| Err(anyhow!("panicked")));
        flooded?;
        Ok((joined?, peak?))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let joined = connections
        .iter()
        .filter(|(_, server)| net::info(server).is_ok_and(|info| info.subflows > 0))
        .count();
    let arrived = net.server.mib("MPJoinSynRx")?;
    ensure!(
        arrived >= u64::from(syns),
        "{syns} SYNs were sent, {arrived} came to a listener"
    );
    if mode.is_ours() {
        let answered = net.server.counter("MPJoinSYNStateless")?;
        ensure!(
            answered >= u64::from(syns),
            "{syns} SYNs were sent, {answered} answered without state"
        );
    }
    eprintln!("dc-bench: {name}: {joined} joined; {syns} SYNs in {seconds:.0} s");

    let mut add = |what: &str, value: f64, limit: Option<Limit>| {
        let mut case = Case::counted(name.clone(), what, vec![value]);
        if mode.is_ours() {
            case.against = Some((State::Absent.name(), what.to_owned()));
            case.limit = limit;
        }
        cases.push(case);
    };
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    let cpus = thread::available_parallelism()?.get();
    let all = connections.len();
    add(
        "joins that succeeded during the flood, %",
        joined as f64 * 100.0 / all as f64,
        Some(Limit::Least(100.0)),
    );
    add(
        "request sockets, most",
        peak.requests as f64,
        Some(Limit::Most(0.0)),
    );
    add(
        "slabs of request sockets, growth, KiB",
        kib(peak.slabs.saturating_sub(before.slabs)),
        // A CPU that has none at hand yet takes one.
        Some(Limit::Most(kib(PAGE) * cpus as f64)),
    );
    add(
        "MemAvailable, decrease before the first client joins, KiB",
        kib(before.available.saturating_sub(alone.available)),
        None,
    );
    add("SYNs a second", f64::from(syns) / seconds, None);
    Ok(())
}

/// A connection from `client` that can be joined.
fn connect(
    mode: Mode,
    client: &Netns,
    to: std::net::Ipv4Addr,
    listener: &Socket,
) -> Result<(Socket, Socket)> {
    client.enter()?;
    let (client, server) = net::open_from(mode.socket()?, (to, PORT).into(), listener)?;
    if mode == Mode::ExternalKey {
        net::set_key(&client, &server)?;
    }
    for _ in 0..2 {
        net::transfer(&client, &server, b"ping")?;
        net::transfer(&server, &client, b"pong")?;
    }
    net::token(&server)?;
    Ok((client, server))
}

/// Sends the SYNs, each from another address, port and sequence number.
fn send(frame: &[u8], syns: u32, sent: &AtomicU32) -> Result<()> {
    let wire = Wire::sender()?;
    let mut frames = vec![frame.to_vec(); BATCH as usize];
    let mut next = 0;
    while next < syns {
        let count = BATCH.min(syns - next);
        let frames = &mut frames[..count as usize];
        for (number, frame) in (next..).zip(frames.iter_mut()) {
            frame::disguise(frame, number)?;
        }
        wire.send_all(frames)?;
        next += count;
        sent.store(next, Ordering::Relaxed);
    }
    Ok(())
}

/// Lets one client after another join, spread over the flood, which has begun and doesn't end yet; what was in use before
/// the first did.
fn let_join(net: &Net, sent: &AtomicU32, syns: u32, done: &AtomicBool) -> Result<Use> {
    let mut before = None;
    for (number, client) in net.clients.iter().enumerate() {
        let share = 0.1 + 0.06 * number as f64;
        while f64::from(sent.load(Ordering::Relaxed)) < share * f64::from(syns) {
            ensure!(
                !done.load(Ordering::Relaxed),
                "the flood ended before client {number} could join"
            );
            thread::sleep(Duration::from_millis(10));
        }
        if before.is_none() {
            before = Some(Use::now()?);
        }
        let [_, second, _] = Net::addresses(number);
        client.ip(&format!("mptcp endpoint add {second} dev {VETH} subflow"))?;
    }
    before.context("no client")
}

/// Looks at the server until all is done; the most that was in use.
fn watch(server: &Netns, done: &AtomicBool) -> Result<Use> {
    server.enter()?;
    let mut most = Use::now()?;
    while !done.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(500));
        most = most.most(Use::now()?);
    }
    Ok(most)
}
