// SPDX-License-Identifier: GPL-2.0

//! Subflows that the hosts themselves open, for every kind of endpoint and by either path manager, from one end or both
//! at a time. The stock kernel says how many there are to be: each case runs with `lowoverhead=0` first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mptcp_pm::{Address, PathManager, LAMINAR};

use crate::capture::Capture;
use crate::joinable::{limit_all, Joinable};
use crate::mptcp::Info;
use crate::netns::{
    output, Family, Mode, Netns, Pair, CLIENT_DEV, CLIENT_V4, SERVER_DEV, SERVER_V4,
};
use crate::wire::{self, Segment, ACK, MP_JOIN, RST, SYN};
use crate::{Scale, Test};

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests: Vec<Test> = CASES
        .iter()
        .map(|case| Test::new(format!("subflows: {}", case.name), || case.compare()))
        .collect();
    let settings: &[(u8, u8)] = match scale {
        Scale::Quick => &[(0, 0), (1, 1)],
        _ => &[(0, 0), (2, 0), (1, 1)],
    };
    for &setting in settings {
        for lost in LOST {
            let (cookies, stateless) = setting;
            tests.push(Test::new(
                format!(
                    "subflows: tcp_syncookies={cookies}, stateless_join={stateless}: {}",
                    lost.name
                ),
                move || lost.run(setting),
            ));
        }
    }
    tests.push(Test::new(
        "subflows: the first one closed, and opened again with address ID 0",
        first_again,
    ));
    tests.push(Test::new(
        "subflows: userspace path manager: opened, announced, withdrawn",
        userspace,
    ));
    tests
}

/// Addresses beside those of [`Pair`].
const CLIENT_MORE: [&str; 3] = ["10.9.0.11/24", "10.9.0.12/24", "fd09::11/64"];
const SERVER_MORE: [&str; 2] = ["10.9.0.21/24", "fd09::21/64"];

/// What endpoints there are, and what an end then does.
struct Case {
    name: &'static str,
    /// Arguments of `ip mptcp endpoint`.
    client: &'static [&'static str],
    server: &'static [&'static str],
    /// An endpoint that `ip` can't make.
    laminar: Option<Ipv4Addr>,
    /// How the client comes.
    by: By,
    /// More commands, once the subflows are there.
    then: &'static [(End, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    V4,
    V6,
    /// IPv4, with IPv6 sockets.
    Mapped,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Client,
    Server,
}

const PLAIN: Case = Case {
    name: "",
    client: &[],
    server: &[],
    laminar: None,
    by: By::V4,
    then: &[],
};

const CASES: &[Case] = &[
    Case {
        name: "endpoints subflow",
        client: &["add 10.9.0.11 subflow", "add 10.9.0.12 subflow"],
        ..PLAIN
    },
    Case {
        name: "endpoint signal",
        server: &["add 10.9.0.21 signal"],
        ..PLAIN
    },
    Case {
        name: "endpoint signal with a port",
        server: &["add 10.9.0.21 port 7777 signal"],
        ..PLAIN
    },
    Case {
        name: "endpoints fullmesh and signal",
        client: &[
            "add 10.9.0.11 subflow fullmesh",
            "add 10.9.0.12 subflow fullmesh",
        ],
        server: &["add 10.9.0.21 signal"],
        ..PLAIN
    },
    Case {
        name: "endpoints laminar and signal",
        server: &["add 10.9.0.21 signal"],
        laminar: Some(Ipv4Addr::new(10, 9, 0, 11)),
        ..PLAIN
    },
    Case {
        name: "endpoint backup, then not (MP_PRIO)",
        client: &["add 10.9.0.11 id 5 subflow backup"],
        then: &[(End::Client, "change id 5 nobackup")],
        ..PLAIN
    },
    Case {
        name: "endpoint subflow, then backup (MP_PRIO)",
        client: &["add 10.9.0.11 id 5 subflow"],
        then: &[(End::Client, "change id 5 backup")],
        ..PLAIN
    },
    Case {
        name: "endpoint subflow, then none (REMOVE_ADDR)",
        client: &["add 10.9.0.11 id 5 subflow", "add 10.9.0.12 id 6 subflow"],
        then: &[(End::Client, "delete id 5")],
        ..PLAIN
    },
    Case {
        name: "endpoint signal, then none (REMOVE_ADDR)",
        server: &["add 10.9.0.21 id 5 signal"],
        then: &[(End::Server, "delete id 5")],
        ..PLAIN
    },
    Case {
        name: "both ends at the same time",
        client: &["add 10.9.0.11 port 8888 signal", "add 10.9.0.12 subflow"],
        server: &["add 10.9.0.21 port 7777 signal"],
        ..PLAIN
    },
    Case {
        name: "both ends at the same time, IPv6",
        client: &["add fd09::11 port 8888 signal"],
        server: &["add fd09::21 port 7777 signal"],
        by: By::V6,
        ..PLAIN
    },
    Case {
        name: "IPv6",
        client: &["add fd09::11 subflow"],
        server: &["add fd09::21 signal"],
        by: By::V6,
        ..PLAIN
    },
    Case {
        name: "IPv4 subflows of an IPv6 connection",
        client: &["add 10.9.0.11 subflow fullmesh"],
        server: &["add 10.9.0.21 signal"],
        by: By::V6,
        ..PLAIN
    },
    Case {
        name: "IPv6 subflows of an IPv4 connection",
        client: &["add fd09::11 subflow fullmesh"],
        server: &["add fd09::21 signal"],
        by: By::Mapped,
        ..PLAIN
    },
];

/// What the sockets and the wire tell of a case.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Subflows beside the first, at client and server.
    subflows: (u8, u8),
    /// And after what came then.
    finally: (u8, u8),
    /// MP_JOINs in SYNs: of the client's side, of the server's, and with the backup bit.
    joins: (usize, usize, usize),
    /// MP_PRIO, ADD_ADDR and REMOVE_ADDR, received at client and server.
    others: [(u64, u64); 3],
}

impl Case {
    fn compare(&self) -> Result<()> {
        let stock = self.run(Mode::Stock).context("stock")?;
        let ours = self.run(Mode::Offer)?;
        ensure!(ours == stock, "{ours:?}, but with lowoverhead=0 {stock:?}");
        ensure!(stock.subflows.0 > 0, "no subflow: {stock:?}");
        Ok(())
    }

    fn run(&self, mode: Mode) -> Result<Seen> {
        let pair = scene(mode)?;
        // So that both ends' SYNs cross.
        if !self.client.is_empty() && !self.server.is_empty() {
            for (end, dev) in [(&pair.client, CLIENT_DEV), (&pair.server, SERVER_DEV)] {
                let delay = ["qdisc", "add", "dev", dev, "root", "netem", "delay", "5ms"];
                output(end.command("tc").args(delay))?;
            }
        }
        for (end, commands) in [(&pair.client, self.client), (&pair.server, self.server)] {
            end.ip(commands
                .iter()
                .map(|command| format!("mptcp endpoint {command}")))?;
        }
        if let Some(address) = self.laminar {
            let manager = pair.client.enter(PathManager::open)?;
            manager.add_endpoint(&Address::new(address, 0, LAMINAR))?;
        }
        let mut capture = Capture::start(&pair.server, SERVER_DEV)?;
        let any: IpAddr = Ipv6Addr::UNSPECIFIED.into();
        let (listen, to) = match self.by {
            By::V4 => (Ipv4Addr::UNSPECIFIED.into(), SERVER_V4.into()),
            By::V6 => (any, Pair::server_addr(Family::V6)),
            By::Mapped => (any, SERVER_V4.to_ipv6_mapped().into()),
        };
        let joinable = Joinable::new(&pair, SocketAddr::new(listen, 0), to)?;
        let subflows = settled(&joinable)?;
        joinable.exchange()?;
        for (end, command) in self.then {
            endpoint(end.of(&pair), command)?;
        }
        let finally = settled(&joinable)?;
        joinable.exchange()?;
        let segments = capture.segments()?;
        check_lengths(segments, mode).with_context(|| wire::list(segments))?;

        let mib = (pair.client.mib()?, pair.server.mib()?);
        let both = |name| Ok((mib.0.get(name)?, mib.1.get(name)?));
        let others = ["MPPrioRx", "AddAddr", "RmAddr"].map(both);
        let [prio, add, remove] = others.map(|counts: Result<_>| counts);
        Ok(Seen {
            subflows,
            finally,
            joins: joins(segments),
            others: [prio?, add?, remove?],
        })
    }
}

impl End {
    fn of(self, pair: &Pair) -> &Netns {
        match self {
            Self::Client => &pair.client,
            Self::Server => &pair.server,
        }
    }
}

/// A pair with more addresses, whose ends open and take whatever the other wants.
fn scene(mode: Mode) -> Result<Pair> {
    let pair = Pair::with_mode(mode)?;
    for (end, dev, addresses) in [
        (&pair.client, CLIENT_DEV, &CLIENT_MORE[..]),
        (&pair.server, SERVER_DEV, &SERVER_MORE[..]),
    ] {
        limit_all(end, 8, 8)?;
        let add = |address: &&str| {
            // IPv6 shall not take it for anything else.
            let flags = match address.contains(':') {
                true => " nodad preferred_lft 0",
                false => "",
            };
            format!("addr add {address} dev {dev}{flags}")
        };
        end.ip(addresses.iter().map(add))?;
        end.wait_for_v6()?;
    }
    Ok(pair)
}

/// Runs `ip mptcp endpoint`.
fn endpoint(netns: &Netns, command: &str) -> Result<()> {
    netns.ip([format!("mptcp endpoint {command}")])
}

/// The subflows that have joined at client and server, when nothing changes anymore.
fn settled(joinable: &Joinable) -> Result<(u8, u8)> {
    const QUIET: Duration = Duration::from_millis(600);
    let now = || -> Result<(u8, u8)> {
        let client = Info::of(&joinable.client)?.context("the client is plain TCP")?;
        Ok((client.subflows, joinable.subflows()?))
    };
    let (mut last, mut since, start) = (now()?, Instant::now(), Instant::now());
    while since.elapsed() < QUIET || last.0 != last.1 {
        ensure!(
            start.elapsed() < Duration::from_secs(20),
            "subflows at client and server: {last:?}"
        );
        sleep(Duration::from_millis(20));
        let next = now()?;
        if next != last {
            (last, since) = (next, Instant::now());
        }
    }
    Ok(last)
}

/// MP_JOINs in first SYNs.
fn joins(segments: &[Segment]) -> (usize, usize, usize) {
    let mut seen = Vec::new();
    let (mut client, mut server, mut backup) = (0, 0, 0);
    for segment in segments.iter().filter(|s| s.is(SYN)) {
        let Some(option) = segment.mptcp(MP_JOIN).next() else {
            continue;
        };
        if seen.contains(&(segment.from, segment.to)) {
            continue;
        }
        seen.push((segment.from, segment.to));
        // Addresses of the client's side end with 1 and 11 or 12, of the server's with 2 and 21.
        let last = match segment.from.ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        };
        match last {
            1 | 11 | 12 | 0x11 => client += 1,
            _ => server += 1,
        }
        backup += usize::from(option[2] & 1);
    }
    (client, server, backup)
}

/// Every MP_JOIN has the length of its kind, and its handshake has all three.
fn check_lengths(segments: &[Segment], mode: Mode) -> Result<()> {
    let lengths = match mode {
        Mode::Stock => [12, 16, 24],
        _ => [8, 4, 8],
    };
    let mut count = [0; 3];
    for segment in segments {
        let options: Vec<_> = segment.mptcp(MP_JOIN).collect();
        let [option] = options[..] else {
            ensure!(options.is_empty(), "two MP_JOINs in {segment}");
            continue;
        };
        let at = match () {
            () if segment.is(SYN) => 0,
            () if segment.is(SYN | ACK) => 1,
            () => 2,
        };
        ensure!(option.len() == lengths[at], "{segment}");
        count[at] += 1;
    }
    ensure!(count.iter().all(|count| *count > 0), "{count:?} MP_JOINs");
    Ok(())
}

/// A segment of the handshake that doesn't arrive at first, or all of which come twice.
#[derive(Clone, Copy)]
struct Lost {
    name: &'static str,
    from: End,
    /// Rules of nftables for the output of that end.
    rule: &'static str,
}

/// Of many packets, the first.
const LOST: [Lost; 5] = [
    Lost {
        name: "the SYN is lost",
        from: End::Client,
        rule:
            "ip saddr 10.9.0.11 tcp flags & (syn|ack|rst) == syn numgen inc mod 1000000 == 0 drop",
    },
    Lost {
        name: "the SYN/ACK is lost",
        from: End::Server,
        rule:
            "ip daddr 10.9.0.11 tcp flags & (syn|ack) == syn|ack numgen inc mod 1000000 == 0 drop",
    },
    Lost {
        name: "the third ACK is lost",
        from: End::Client,
        rule:
            "ip saddr 10.9.0.11 tcp flags & (syn|ack|rst) == ack numgen inc mod 1000000 == 0 drop",
    },
    Lost {
        name: "the fourth ACK is lost",
        from: End::Server,
        rule:
            "ip daddr 10.9.0.11 tcp flags & (syn|ack|rst) == ack numgen inc mod 1000000 == 0 drop",
    },
    Lost {
        name: "every segment comes twice",
        from: End::Client,
        rule: "",
    },
];

impl Lost {
    fn run(self, (cookies, stateless): (u8, u8)) -> Result<()> {
        let pair = scene(Mode::Offer)?;
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        pair.server.set("mptcp_dc/stateless_join", stateless)?;
        let (joinable, _) = Joinable::v4(&pair)?;
        if self.rule.is_empty() {
            for (end, dev) in [(&pair.client, CLIENT_DEV), (&pair.server, SERVER_DEV)] {
                let twice = ["qdisc", "add", "dev", dev, "root", "netem"];
                output(end.command("tc").args(twice).args(["duplicate", "100%"]))?;
            }
        } else {
            let end = self.from.of(&pair);
            let chain = "{ type filter hook output priority 0; }";
            let commands = [
                "add table ip lost".to_owned(),
                format!("add chain ip lost output {chain}"),
                format!("add rule ip lost output {}", self.rule),
            ];
            output(end.command("nft").arg(commands.join("; ")))?;
        }
        let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
        endpoint(&pair.client, "add 10.9.0.11 subflow")?;
        joinable.wait_for_subflows(1)?;
        let subflows = settled(&joinable)?;
        ensure!(
            subflows == (1, 1),
            "subflows at client and server: {subflows:?}"
        );
        joinable.exchange()?;
        let segments = capture.segments()?;
        check_lengths(segments, Mode::Offer)?;
        let reset = segments.iter().find(|s| s.flags & RST != 0);
        ensure!(reset.is_none(), "reset: {}", reset.context("")?);
        // All goes over the new subflow when the first is gone.
        endpoint(&pair.client, "delete id 0 10.9.0.1")?;
        joinable.exchange().context("over the new subflow")
    }
}

fn first_again() -> Result<()> {
    let pair = scene(Mode::Offer)?;
    endpoint(&pair.client, "add 10.9.0.11 id 5 subflow")?;
    let (joinable, _) = Joinable::v4(&pair)?;
    joinable.wait_for_subflows(1)?;
    endpoint(&pair.client, "delete id 0 10.9.0.1")?;
    let subflows = settled(&joinable)?;
    joinable.exchange().context("without the first subflow")?;
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    endpoint(&pair.client, "add 10.9.0.1 subflow")?;
    let again = capture.wait_for(Duration::from_secs(20), |s| s.is(SYN))?;
    let again = again.with_context(|| format!("no SYN; subflows before: {subflows:?}"))?;
    let join = again.mptcp(MP_JOIN).next().context("no MP_JOIN")?;
    ensure!(
        again.from.ip() == CLIENT_V4 && join.len() == 8 && join[3] == 0,
        "{again}"
    );
    settled(&joinable)?;
    joinable.exchange().context("with it again")?;
    endpoint(&pair.client, "delete id 5")?;
    settled(&joinable)?;
    joinable.exchange().context("over it alone")
}

/// A listener to a path manager's events, while it lives.
struct Monitor(Option<Child>);

impl Monitor {
    fn start(netns: &Netns) -> Self {
        let mut monitor = netns.command("ip");
        monitor.args(["mptcp", "monitor"]).stdout(Stdio::null());
        Self(monitor.spawn().ok())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn userspace() -> Result<()> {
    let pair = scene(Mode::Offer)?;
    for end in pair.ends() {
        end.set("mptcp/pm_type", 1)?;
    }
    // A path manager that nobody listens to takes no subflow.
    let _monitors = pair.ends().map(Monitor::start);
    sleep(Duration::from_secs(1));
    let mut capture = Capture::start(&pair.server, SERVER_DEV)?;
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let joinable = Joinable::new(&pair, at, SERVER_V4.into())?;
    let to = joinable.v4_addr()?;
    let [client, server] = pair.ends().map(|end| end.enter(PathManager::open));
    let (client, server) = (client?, server?);
    let token = Info::of(&joinable.client)?.context("plain TCP")?.token;

    // The server announces; the client's program hears of it and joins.
    server.announce(
        joinable.token()?,
        &Address::new([10, 9, 0, 21], 23, mptcp_pm::SIGNAL),
    )?;
    let start = Instant::now();
    while pair.client.mib()?.get("AddAddr")? == 0 {
        ensure!(
            start.elapsed() < Duration::from_secs(20),
            "no ADD_ADDR came"
        );
        sleep(Duration::from_millis(10));
    }
    for (local, id, remote) in [
        ([10, 9, 0, 11], 10, to.ip().octets()),
        ([10, 9, 0, 12], 11, [10, 9, 0, 21]),
    ] {
        let remote = Address {
            at: (remote, to.port()).into(),
            id: if remote == to.ip().octets() { 0 } else { 23 },
            flags: 0,
        };
        let request = client.subflow(token, &Address::new(local, id, 0), &remote);
        client.send(&request)?;
    }
    joinable.wait_for_subflows(2)?;
    joinable.exchange()?;
    client.announce(token, &Address::new([10, 9, 0, 12], 11, mptcp_pm::SIGNAL))?;
    client.remove(token, 10)?;
    joinable.wait_for_subflows(1)?;
    joinable.exchange()?;
    check_lengths(capture.segments()?, Mode::Offer)?;
    let (client, server, _) = joins(capture.segments()?);
    ensure!((client, server) == (2, 0), "{client} and {server} joins");
    Ok(())
}
