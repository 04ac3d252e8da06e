// SPDX-License-Identifier: GPL-2.0

//! The life of external keys: when either end sets them, who inherits what, how they are replaced, and what is left when
//! their sockets are closed.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mptcp_dc::{KeyState, LowOverhead, Mode as DcMode};
use socket2::Socket;

use super::eventually;
use crate::capture::Capture;
use crate::joinable::{limit_all, Joinable};
use crate::kernel;
use crate::mptcp::{self, Info};
use crate::netns::{output, Family, Mode, Pair, CLIENT_DEV, RAW_SERVER, SECOND_V4, SERVER_DEV};
use crate::wire::{Segment, MP_JOIN, RST, SYN};
use crate::{Scale, Test};

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    let families = match scale {
        Scale::Quick => &[Family::V6][..],
        _ => &Family::ALL,
    };
    for &family in families {
        for order in ORDERS {
            tests.push(Test::new(
                format!("keys, {}: {}, then the subflow", family.name(), order.name),
                move || order.run(family),
            ));
        }
    }
    for (name, run) in [
        (
            "keys: a join before the key gets no answer, and succeeds when it comes again",
            early_join as fn() -> Result<()>,
        ),
        (
            "keys: set at one end only, no subflow, no address; then at the other",
            one_end,
        ),
        (
            "keys: if they differ there is no subflow, and data flows; until they are the same",
            differing,
        ),
        (
            "keys: a listener's children inherit what it asked for, and outlive it",
            inheritance,
        ),
        (
            "keys: taken back before connect() and listen(), it is standard MPTCP",
            taken_back,
        ),
        (
            "keys: set by a forked process, and kept when it ends",
            forked,
        ),
        (
            "keys: what connects again after a disconnect has no key yet",
            reconnected,
        ),
        (
            "keys: unloaded, connections carry on, and nobody joins them",
            unloaded,
        ),
    ] {
        tests.push(Test::new(name, run));
    }
    tests.push(Test::new(
        "keys: sockets closed in every state leave no hook on segments",
        move || closed(scale),
    ));
    let joins = scale.of(5, 15, 100);
    tests.push(Test::with_note(
        format!("keys: replaced all the time, all of {joins} joins or more succeed"),
        Duration::from_secs(600),
        move || replaced(joins),
    ));
    let connections = scale.of(30, 1_000, 1_000);
    tests.push(Test::with_note(
        format!("keys: {connections} connections set them in any order within 3 s, and all get their subflows"),
        Duration::from_secs(900),
        move || any_order(connections),
    ));
    let sockets = scale.of(400, 2_000, 100_000);
    tests.push(Test::with_note(
        format!("keys: {sockets} sockets with keys, opened and closed, leave no memory in use"),
        Duration::from_secs(2_400),
        move || memory(sockets),
    ));
    let keys = scale.of(1_000, 10_000, 100_000);
    tests.push(Test::with_note(
        format!("keys: {keys} keys for one connection, one after another, leave no memory in use"),
        Duration::from_secs(900),
        move || replacing_memory(keys),
    ));
    // The test kernel has no control groups for memory.
    if scale != Scale::Quick {
        tests.push(Test::with_note(
            "keys: what they take is charged to the control group of who sets them",
            Duration::from_secs(300),
            charged,
        ));
    }
    tests
}

const KEY: &[u8] = b"a key that both ends have";
const OTHER_KEY: &[u8] = b"a key that only one end has";

/// Addresses for more subflows.
const SERVER_SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 21);
const CLIENT_SECOND_V6: &str = "fd09::11";

/// A pair whose client opens one subflow for each connection that may have one.
fn scene(family: Family) -> Result<Pair> {
    let pair = Pair::new()?;
    for end in pair.ends() {
        limit_all(end, 4, 4)?;
        end.set("mptcp/add_addr_timeout", 2)?;
    }
    let second = match family {
        Family::V4 => format!("{SECOND_V4}/24 dev {CLIENT_DEV}"),
        // Not for the first subflow, for which IPv6 else takes the newest.
        Family::V6 => format!("{CLIENT_SECOND_V6}/64 dev {CLIENT_DEV} nodad preferred_lft 0"),
    };
    pair.client.ip([format!("addr add {second}")])?;
    pair.client.wait_for_v6()?;
    endpoint(&pair, family, "add")?;
    Ok(pair)
}

/// Adds or deletes the client's endpoint.
fn endpoint(pair: &Pair, family: Family, verb: &str) -> Result<()> {
    let address = match family {
        Family::V4 => SECOND_V4.to_string(),
        Family::V6 => CLIENT_SECOND_V6.to_owned(),
    };
    pair.client.ip([match verb {
        "add" => format!("mptcp endpoint add {address} dev {CLIENT_DEV} id 7 subflow"),
        _ => "mptcp endpoint del id 7".to_owned(),
    }])
}

/// Lets the server announce another address.
fn announce(pair: &Pair) -> Result<()> {
    pair.server.ip([
        format!("addr add {SERVER_SECOND}/24 dev {SERVER_DEV}"),
        format!("mptcp endpoint add {SERVER_SECOND} dev {SERVER_DEV} signal"),
    ])
}

/// What asks a socket for external keys.
fn ask(socket: &Socket) -> io::Result<()> {
    Ok(mptcp_dc::enable_app_key(socket, true)?)
}

/// A listener for external keys, at all of the server's addresses.
fn listen(pair: &Pair, family: Family) -> Result<TcpListener> {
    mptcp::listen_with(&pair.server, (any(family), 0).into(), ask)
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Where such a listener is to be found.
fn addr(listener: &TcpListener, family: Family) -> Result<SocketAddr> {
    let port = listener.local_addr()?.port();
    Ok(SocketAddr::new(Pair::server_addr(family), port))
}

/// A connection with external keys that has none yet.
fn connect(pair: &Pair, family: Family) -> Result<Joinable> {
    let to = Pair::server_addr(family);
    Joinable::with(pair, (any(family), 0).into(), to, ask)
}

/// One with the key at both ends, and its subflow.
fn joined(pair: &Pair, family: Family) -> Result<Joinable> {
    let ends = connect(pair, family)?;
    mptcp_dc::set_key(&ends.server, KEY)?;
    mptcp_dc::set_key(&ends.client, KEY)?;
    ends.wait_for_subflows(1)?;
    Ok(ends)
}

/// Subflows beside the first, of the end with this socket.
fn subflows(end: &TcpStream) -> Result<u8> {
    Ok(Info::of(end)?.context("plain TCP")?.subflows)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Accept,
    ClientKey,
    ServerKey,
}

struct Order {
    name: &'static str,
    steps: [Step; 3],
}

static ORDERS: &[Order] = &[
    Order {
        name: "accepted, the client's key, the server's",
        steps: [Step::Accept, Step::ClientKey, Step::ServerKey],
    },
    Order {
        name: "accepted, the server's key, the client's",
        steps: [Step::Accept, Step::ServerKey, Step::ClientKey],
    },
    Order {
        name: "the client's key, accepted, the server's",
        steps: [Step::ClientKey, Step::Accept, Step::ServerKey],
    },
];

impl Order {
    fn run(&self, family: Family) -> Result<()> {
        let pair = scene(family)?;
        for (cookies, stateless) in [(0, 0), (2, 0), (1, 1)] {
            pair.server.set("ipv4/tcp_syncookies", cookies)?;
            pair.server.set("mptcp_dc/stateless_join", stateless)?;
            self.steps(&pair, family)
                .with_context(|| format!("tcp_syncookies={cookies}, stateless_join={stateless}"))?;
        }
        Ok(())
    }

    fn steps(&self, pair: &Pair, family: Family) -> Result<()> {
        let listener = listen(pair, family)?;
        let client = mptcp::connect_with(&pair.client, addr(&listener, family)?, ask)?;
        mptcp::send(&client, 1, 100)?;
        let mut server = None;
        let mut keys = 0;
        for step in self.steps {
            match step {
                Step::Accept => server = Some(mptcp::accept(&listener)?),
                Step::ClientKey => mptcp_dc::set_key(&client, KEY)?,
                Step::ServerKey => {
                    mptcp_dc::set_key(server.as_ref().context("not accepted")?, KEY)?;
                }
            }
            keys += usize::from(step != Step::Accept);
            thread::sleep(Duration::from_millis(200));
            // A client counts a join that it only asked for.
            if let (Some(server), true) = (&server, keys < 2) {
                let early = subflows(server)?;
                ensure!(early == 0, "{early} subflows after {step:?}");
            }
        }
        let ends = Joinable {
            server: server.context("not accepted")?,
            listener,
            client,
        };
        mptcp::receive(&ends.server, 1, 100)?;
        ends.wait_for_subflows(1)?;
        ends.exchange()?;
        ensure!(
            subflows(&ends.client)? == 1,
            "the client has another number"
        );
        Ok(())
    }
}

fn early_join() -> Result<()> {
    let pair = scene(Family::V4)?;
    let ends = connect(&pair, Family::V4)?;
    let mut capture = Capture::start(&pair.server, SERVER_DEV)?;
    let before = pair.server.counters()?;
    mptcp_dc::set_key(&ends.client, KEY)?;
    let soon = Duration::from_secs(10);
    let syn = capture
        .wait_for(soon, |s| s.is(SYN) && s.mptcp(MP_JOIN).next().is_some())?
        .context("no SYN")?;
    // Until it comes again.
    let again = |s: &&Segment| s.is(SYN) && s.from == syn.from;
    let start = Instant::now();
    while capture.segments()?.iter().filter(again).count() < 2 {
        ensure!(start.elapsed() < soon, "the SYN doesn't come again");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(300));
    let seen = capture.segments()?.to_vec();
    if let Some(answer) = seen.iter().find(|s| s.to == syn.from) {
        anyhow::bail!("the SYN is answered: {answer}");
    }
    ensure!(ends.subflows()? == 0, "there is a subflow");

    mptcp_dc::set_key(&ends.server, KEY)?;
    ends.wait_for_subflows(1)?;
    let all = capture.segments()?.to_vec();
    let syns: Vec<_> = all.iter().filter(again).collect();
    let of = |s: &Segment| (s.seq, s.mptcp(MP_JOIN).next().map(<[u8]>::to_vec));
    ensure!(
        syns.iter().all(|s| of(s) == of(&syn)),
        "the SYNs differ: {syns:?}"
    );
    let dropped = pair.server.counters()?.since(&before, "MPJoinNoKey")?;
    ensure!(
        dropped + 1 == syns.len() as u64,
        "of {} SYNs, {dropped} were dropped",
        syns.len()
    );
    let reset = all.iter().find(|s| s.flags & RST != 0);
    ensure!(reset.is_none(), "a reset: {reset:?}");
    ends.exchange()
}

fn one_end() -> Result<()> {
    let pair = scene(Family::V4)?;
    announce(&pair)?;
    for by_client in [true, false] {
        let what = if by_client {
            "the client's"
        } else {
            "the server's"
        };
        let ends = connect(&pair, Family::V4)?;
        let (first, second) = if by_client {
            (&ends.client, &ends.server)
        } else {
            (&ends.server, &ends.client)
        };
        let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
        mptcp_dc::set_key(first, KEY)?;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(3) {
            ends.exchange().context(what)?;
            for end in [&ends.client, &ends.server] {
                let info = mptcp_dc::info(end)?;
                ensure!(info.mode == DcMode::ExternalKey, "{what}: {info:?}");
            }
            ensure!(ends.subflows()? == 0, "{what}: a subflow joined");
            thread::sleep(Duration::from_millis(200));
        }
        // Joins only ever come from who has the key, and it takes no answer for one.
        for segment in capture.segments()? {
            let joins = segment.mptcp(MP_JOIN).next().is_some();
            ensure!(
                !joins || by_client && segment.is(SYN),
                "with {what} alone: {segment}"
            );
            let reset = segment.flags & RST != 0;
            ensure!(!reset, "with {what} alone: {segment}");
        }
        let states =
            [&ends.client, &ends.server].map(|end| mptcp_dc::info(end).map(|i| i.key_state));
        let [client, server] = states;
        let (client, server) = (client?, server?);
        let (has, has_not) = if by_client {
            (client, server)
        } else {
            (server, client)
        };
        ensure!(
            (has, has_not) == (KeyState::Set, KeyState::Missing),
            "with {what} alone the keys are {has:?}, {has_not:?}"
        );
        mptcp_dc::set_key(second, KEY)?;
        // The client's endpoint, and the server's announced address.
        ends.wait_for_subflows(2)?;
        ends.exchange()?;
    }
    Ok(())
}

fn differing() -> Result<()> {
    let pair = scene(Family::V4)?;
    for stateless in [0, 1] {
        pair.server.set("mptcp_dc/stateless_join", stateless)?;
        let ends = connect(&pair, Family::V4)?;
        let before = pair.client.counters()?;
        mptcp_dc::set_key(&ends.server, KEY)?;
        mptcp_dc::set_key(&ends.client, OTHER_KEY)?;
        eventually("the client refused the server's HMAC", || {
            let now = pair.client.counters()?;
            Ok(now.since(&before, "MPJoinSYNACKBad")? == 1)
        })?;
        for _ in 0..3 {
            ends.exchange()?;
            ensure!(
                ends.subflows()? == 0 && subflows(&ends.client)? == 0,
                "a subflow joined"
            );
            thread::sleep(Duration::from_millis(100));
        }
        mptcp_dc::set_key(&ends.client, KEY)?;
        endpoint(&pair, Family::V4, "del")?;
        endpoint(&pair, Family::V4, "add")?;
        ends.wait_for_subflows(1)?;
        ends.exchange()?;
    }
    Ok(())
}

fn inheritance() -> Result<()> {
    let pair = scene(Family::V4)?;
    let listener = listen(&pair, Family::V4)?;
    let to = addr(&listener, Family::V4)?;
    let clients = (0..3)
        .map(|_| mptcp::connect_with(&pair.client, to, ask))
        .collect::<Result<Vec<_>>>()?;
    let mut ends = Vec::new();
    for client in clients {
        mptcp::send(&client, 1, 100)?;
        let server = mptcp::accept(&listener)?;
        mptcp::receive(&server, 1, 100)?;
        for end in [&client, &server] {
            let info = mptcp_dc::info(end)?;
            ensure!(
                (info.mode, info.key_state) == (DcMode::ExternalKey, KeyState::Missing),
                "{info:?}"
            );
        }
        ends.push((client, server));
    }
    // A key is its connection's alone.
    mptcp_dc::set_key(&ends[0].1, KEY)?;
    let state = mptcp_dc::info(&ends[1].1)?.key_state;
    ensure!(
        state == KeyState::Missing,
        "another child's key is {state:?}"
    );
    drop(listener);
    for (client, server) in &ends {
        mptcp_dc::set_key(server, KEY)?;
        mptcp_dc::set_key(client, KEY)?;
        mptcp::send(client, 2, 1_000)?;
        mptcp::receive(server, 2, 1_000)?;
        let state = mptcp_dc::info(server)?.key_state;
        ensure!(state == KeyState::Set, "the key is {state:?}");
    }

    // What a listener says about low overhead is its children's, too, and overrides the namespace.
    for end in pair.ends() {
        Mode::Offer.apply(end)?;
    }
    for (listens, mode) in [
        (LowOverhead::Off, DcMode::Standard),
        (LowOverhead::Accept, DcMode::LowOverhead),
        (LowOverhead::Offer, DcMode::LowOverhead),
    ] {
        let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
        let listener = mptcp::listen_with(&pair.server, at, |socket| {
            Ok(mptcp_dc::set_low_overhead(socket, listens)?)
        })?;
        let client = mptcp::connect(&pair.client, listener.local_addr()?)?;
        mptcp::send(&client, 1, 100)?;
        let server = mptcp::accept(&listener)?;
        mptcp::receive(&server, 1, 100)?;
        for end in [&client, &server] {
            let info = mptcp_dc::info(end)?;
            ensure!(info.mode == mode, "a listener with {listens:?}: {info:?}");
        }
    }
    Ok(())
}

fn taken_back() -> Result<()> {
    let pair = scene(Family::V4)?;
    let at = Pair::server_addr(Family::V4);
    let ends = Joinable::with(&pair, SocketAddr::new(at, 0), at, |socket| {
        ask(socket)?;
        Ok(mptcp_dc::enable_app_key(socket, false)?)
    })?;
    for end in [&ends.client, &ends.server] {
        let info = mptcp_dc::info(end)?;
        ensure!(info.mode == DcMode::Standard, "{info:?}");
    }
    ends.wait_for_subflows(1)
}

fn forked() -> Result<()> {
    let pair = scene(Family::V4)?;
    let ends = connect(&pair, Family::V4)?;
    mptcp_dc::set_key(&ends.client, KEY)?;
    let server = ends.server.as_fd();
    // SAFETY: The child calls setsockopt() and _exit() alone, which may be called after a fork.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = i32::from(mptcp_dc::set_key(server, KEY).is_err());
        // SAFETY: It ends the child.
        unsafe { libc::_exit(status) }
    }
    ensure!(child > 0, "fork: {}", io::Error::last_os_error());
    let mut status = -1;
    // SAFETY: An int is written.
    let ended = unsafe { libc::waitpid(child, &mut status, 0) };
    ensure!(
        ended == child && status == 0,
        "the child ended with {status:#x}"
    );
    let state = mptcp_dc::info(&ends.server)?.key_state;
    ensure!(state == KeyState::Set, "the key is {state:?}");
    ends.wait_for_subflows(1)?;
    ends.exchange()
}

fn reconnected() -> Result<()> {
    let pair = scene(Family::V4)?;
    let listener = listen(&pair, Family::V4)?;
    let to = addr(&listener, Family::V4)?;
    let client = mptcp::socket(&pair.client, to)?;
    ask(&client)?;
    for round in 0..3 {
        client.connect(&to.into()).context("connect")?;
        let stream = TcpStream::from(client.try_clone()?);
        mptcp::send(&stream, round, 100)?;
        let server = mptcp::accept(&listener)?;
        mptcp::receive(&server, round, 100)?;
        let info = mptcp_dc::info(&client)?;
        ensure!(
            (info.mode, info.key_state) == (DcMode::ExternalKey, KeyState::Missing),
            "connection {round}: {info:?}"
        );
        mptcp_dc::set_key(&server, KEY)?;
        mptcp_dc::set_key(&client, KEY)?;
        eventually("its subflow has joined", || Ok(subflows(&server)? == 1))?;
        // SAFETY: All zeroes is a valid address, of family AF_UNSPEC.
        let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
        let length = size_of::<libc::sockaddr>() as u32;
        // SAFETY: An address of that length.
        let status = unsafe { libc::connect(client.as_raw_fd(), &nobody, length) };
        ensure!(status == 0, "disconnect: {}", io::Error::last_os_error());
    }
    Ok(())
}

/// What only external keys need, and every segment passes.
const EXTERNAL: [&str; 1] = ["mptcp_established_options"];

fn closed(scale: Scale) -> Result<()> {
    kernel::wait_until_unhooked(&EXTERNAL).context("earlier tests")?;
    let family = Family::V4;
    let pair = scene(family)?;
    type Close = fn(&Pair) -> Result<()>;
    let states: [(&str, Close); 11] = [
        ("new", |pair| {
            ask(&mptcp::socket(
                &pair.client,
                SocketAddr::new(Pair::server_addr(Family::V4), 0),
            )?)?;
            Ok(())
        }),
        ("listening", |pair| listen(pair, Family::V4).map(drop)),
        ("listening, with what nobody accepted", |pair| {
            let listener = listen(pair, Family::V4)?;
            let to = addr(&listener, Family::V4)?;
            let client = mptcp::connect_with(&pair.client, to, ask)?;
            mptcp::send(&client, 1, 100)?;
            mptcp_dc::set_key(&client, KEY)?;
            thread::sleep(Duration::from_millis(100));
            drop(listener);
            Ok(())
        }),
        ("connecting", |pair| {
            let to = SocketAddr::from((RAW_SERVER, 9));
            let socket = mptcp::socket(&pair.client, to)?;
            ask(&socket)?;
            socket.set_nonblocking(true)?;
            let _ = socket.connect(&to.into());
            Ok(())
        }),
        ("refused by nobody's port", |pair| {
            let to = SocketAddr::new(Pair::server_addr(Family::V4), 9);
            let refused = mptcp::connect_with(&pair.client, to, ask);
            ensure!(refused.is_err(), "somebody listens there");
            Ok(())
        }),
        ("connected without keys", |pair| {
            connect(pair, Family::V4).map(drop)
        }),
        ("connected, one key", |pair| {
            let ends = connect(pair, Family::V4)?;
            mptcp_dc::set_key(&ends.client, KEY)?;
            Ok(())
        }),
        ("joining", |pair| {
            let ends = connect(pair, Family::V4)?;
            mptcp_dc::set_key(&ends.client, KEY)?;
            mptcp_dc::set_key(&ends.server, KEY)?;
            Ok(())
        }),
        ("joined", |pair| joined(pair, Family::V4).map(drop)),
        ("half closed", |pair| {
            let ends = joined(pair, Family::V4)?;
            ends.client.shutdown(Shutdown::Write)?;
            mptcp::receive_end(&ends.server)?;
            mptcp_dc::set_key(&ends.server, OTHER_KEY)?;
            Ok(())
        }),
        ("plain TCP, because the server refused", |pair| {
            let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
            let listener = mptcp::listen(&pair.server, at)?;
            let client = mptcp::connect_with(&pair.client, listener.local_addr()?, ask)?;
            ensure!(mptcp_dc::set_key(&client, KEY).is_err(), "it took a key");
            Ok(())
        }),
    ];
    let gone = |what: &str| {
        kernel::wait_until_unhooked(&EXTERNAL).with_context(|| format!("closed when {what}"))
    };
    let open = listen(&pair, family)?;
    let hooked = kernel::hooked_functions()?;
    ensure!(
        hooked.iter().any(|name| name == EXTERNAL[0]),
        "no hook while a socket lives: {hooked:?}"
    );
    drop(open);
    for (state, close) in states {
        close(&pair).context(state)?;
        // They go some time later, so all together take less of it.
        if scale == Scale::Long {
            gone(state)?;
        }
    }
    gone("in one of these states")
}

fn unloaded() -> Result<()> {
    let pair = scene(Family::V4)?;
    let ends = joined(&pair, Family::V4)?;
    kernel::unload()?;
    let checked = (|| -> Result<()> {
        ends.exchange()?;
        ensure!(ends.subflows()? == 1, "the subflow is gone");
        let before = pair.server.mib()?;
        endpoint(&pair, Family::V4, "del")?;
        endpoint(&pair, Family::V4, "add")?;
        thread::sleep(Duration::from_secs(2));
        ends.exchange()?;
        let joined = pair.server.mib()?.since(&before, "MPJoinAckRx")?;
        ensure!(
            joined == 0,
            "{joined} joins under keys that crossed the wire"
        );
        Ok(())
    })();
    kernel::load()?;
    checked?;
    ends.exchange()?;
    // It has no key anymore, nor the mode.
    ensure!(
        mptcp_dc::set_key(&ends.client, KEY).is_err(),
        "it takes a key"
    );
    ends.exchange()
}

/// The key number `n`.
fn key(n: u64) -> Vec<u8> {
    mptcp::pattern(n + 100, 32)
}

fn replaced(joins: usize) -> Result<String> {
    // A join never takes as long as two of these.
    const STEP: Duration = Duration::from_millis(250);
    /// There may be more joins, so that as many are set while they are made.
    const KEYS: u64 = 3;

    let pair = scene(Family::V4)?;
    let ends = joined(&pair, Family::V4)?;
    let done = AtomicBool::new(false);
    let keys = AtomicU64::new(0);
    thread::scope(|scope| {
        let replacer = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                let n = keys.fetch_add(1, Ordering::Relaxed);
                // The client takes an answer under the key before; the server has no newer one than the client.
                mptcp_dc::set_key(&ends.client, &key(n))?;
                thread::sleep(STEP);
                mptcp_dc::set_key(&ends.server, &key(n))?;
                thread::sleep(STEP);
            }
            Ok(())
        });
        let joined = (|| -> Result<usize> {
            let mut number = 0;
            let more = |number| number < joins || keys.load(Ordering::Relaxed) < KEYS;
            while more(number) && !replacer.is_finished() {
                endpoint(&pair, Family::V4, "del")?;
                ends.wait_for_subflows(0)?;
                endpoint(&pair, Family::V4, "add")?;
                ends.wait_for_subflows(1)
                    .with_context(|| format!("join {number}"))?;
                ends.exchange()?;
                number += 1;
            }
            Ok(number)
        })();
        done.store(true, Ordering::Relaxed);
        replacer.join().map_err(|_| anyhow::anyhow!("panicked"))??;
        let keys = keys.load(Ordering::Relaxed);
        Ok(format!("{} joins, {keys} keys at either end", joined?))
    })
}

/// Random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

fn any_order(count: usize) -> Result<String> {
    const BATCH: usize = 250;
    const SEED: u64 = 0x6d70_7463_705f_6463;
    const LONGEST: u64 = 3_000;

    let pair = scene(Family::V4)?;
    announce(&pair)?;
    let mut random = Random(SEED);
    let mut slowest = Duration::ZERO;
    let before = pair.server.counters()?;
    let mut left = count;
    while left > 0 {
        let listener = listen(&pair, Family::V4)?;
        let to = addr(&listener, Family::V4)?;
        let mut ends = Vec::new();
        for seed in 0..left.min(BATCH) as u64 {
            let client = mptcp::connect_with(&pair.client, to, ask)?;
            mptcp::send(&client, seed, 100)?;
            let server = mptcp::accept(&listener)?;
            mptcp::receive(&server, seed, 100)?;
            ends.push([client, server]);
        }
        let mut due: Vec<(u64, usize, usize)> = (0..ends.len())
            .flat_map(|at| [(at, 0), (at, 1)])
            .map(|(at, end)| (random.below(LONGEST), at, end))
            .collect();
        due.sort_unstable();
        let start = Instant::now();
        for (delay, at, end) in due {
            thread::sleep(Duration::from_millis(delay).saturating_sub(start.elapsed()));
            mptcp_dc::set_key(&ends[at][end], &key(at as u64))?;
        }
        // One by the client's endpoint, one by the server's.
        let has_all = |pair: &[TcpStream; 2]| -> Result<bool> {
            Ok(subflows(&pair[0])? == 2 && subflows(&pair[1])? == 2)
        };
        loop {
            let mut lacking = 0;
            for pair in &ends {
                lacking += usize::from(!has_all(pair)?);
            }
            if lacking == 0 {
                break;
            }
            ensure!(
                start.elapsed() < Duration::from_secs(60),
                "{lacking} of {} connections have not their subflows",
                ends.len()
            );
            thread::sleep(Duration::from_millis(100));
        }
        slowest = slowest.max(start.elapsed());
        for [client, server] in &ends {
            mptcp::send(server, 3, 100)?;
            mptcp::receive(client, 3, 100)?;
        }
        left -= ends.len();
    }
    let dropped = pair.server.counters()?.since(&before, "MPJoinNoKey")?;
    ensure!(dropped > 0, "no join came before its key");
    Ok(format!(
        "all subflows {:.1} s after the first key, {dropped} SYNs dropped, seed {SEED:#x}",
        slowest.as_secs_f64()
    ))
}

/// Objects in use of each cache of the slab allocator that this module or the stack's sockets are in; nothing if the kernel
/// doesn't tell.
fn slabs() -> Vec<(String, i64)> {
    fs::read_to_string("/proc/slabinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
        })
        .filter(|(name, _)| name.starts_with("kmalloc") || name.contains("TCP"))
        .collect()
}

/// Waits until no cache has more objects than `before`, but for a few that others took, or an eighth of the `count` that came
/// and went. The test kernel can't tell, as KASAN keeps what was freed for a while; it looks for leaks by itself (kmemleak).
fn settle(before: &[(String, i64)], count: usize) -> Result<String> {
    /// CPUs keep some at hand that count as in use.
    const OTHERS: i64 = 600;

    let most = OTHERS.max(count as i64 / 8);
    if fs::exists("/sys/kernel/debug/kmemleak")? {
        return Ok("to be told by kmemleak".to_owned());
    }
    ensure!(!before.is_empty(), "neither /proc/slabinfo nor kmemleak");
    let start = Instant::now();
    loop {
        let now = slabs();
        let all = before.iter().zip(&now).filter(|(was, is)| was.0 == is.0);
        let (more, name) = all
            .map(|(was, is)| (is.1 - was.1, &was.0))
            .max()
            .context("no cache")?;
        if more <= most {
            return Ok(format!("at most {more} objects more in a cache, {name}"));
        }
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "{more} objects more than before in {name}"
        );
        thread::sleep(Duration::from_millis(500));
    }
}

/// Opens and closes connections with keys at both ends, some of them with a subflow.
fn open_and_close(pair: &Pair, sockets: usize) -> Result<()> {
    let listener = listen(pair, Family::V4)?;
    let to = addr(&listener, Family::V4)?;
    for number in 0..sockets / 2 {
        let client = mptcp::connect_with(&pair.client, to, ask)?;
        mptcp::send(&client, 1, 10)?;
        let server = mptcp::accept(&listener)?;
        mptcp_dc::set_key(&server, &key(number as u64))?;
        mptcp_dc::set_key(&client, &key(number as u64))?;
        if number % 16 == 0 {
            mptcp_dc::set_key(&client, &key(number as u64 + 1))?;
        }
        mptcp::receive(&server, 1, 10)?;
        if number % 2 == 0 {
            eventually("its subflow has joined", || Ok(subflows(&server)? == 1))?;
        }
        // With resets, nothing is left in TIME-WAIT.
        for end in [client, server] {
            Socket::from(end).set_linger(Some(Duration::ZERO))?;
        }
    }
    Ok(())
}

fn memory(sockets: usize) -> Result<String> {
    let pair = scene(Family::V4)?;
    open_and_close(&pair, 300)?;
    thread::sleep(Duration::from_secs(2));
    let before = slabs();
    let keys = pair.server.counters()?;
    open_and_close(&pair, sockets)?;
    let set = pair.server.counters()?.since(&keys, "ExternalKeySet")?;
    ensure!(set == sockets as u64 / 2, "only {set} keys were set");
    settle(&before, sockets)
}

fn replacing_memory(keys: usize) -> Result<String> {
    let pair = scene(Family::V4)?;
    let ends = joined(&pair, Family::V4)?;
    thread::sleep(Duration::from_secs(1));
    let before = slabs();
    for n in 0..keys {
        mptcp_dc::set_key(&ends.server, &key(n as u64))?;
    }
    let note = settle(&before, keys)?;
    ends.exchange()?;
    Ok(note)
}

/// A control group that this process is in as long as this lives.
struct Group(String);

impl Group {
    const ROOT: &str = "/sys/fs/cgroup";

    fn enter(name: &str) -> Result<Self> {
        if !fs::exists(format!("{}/cgroup.controllers", Self::ROOT))? {
            output(Command::new("mount").args(["-t", "cgroup2", "cgroup2", Self::ROOT]))?;
        }
        fs::write(format!("{}/cgroup.subtree_control", Self::ROOT), "+memory")
            .context("no memory controller")?;
        let group = Self(format!("{}/{name}", Self::ROOT));
        fs::create_dir_all(&group.0)?;
        fs::write(format!("{}/cgroup.procs", group.0), "0").context("cgroup.procs")?;
        Ok(group)
    }

    /// Bytes of the kernel's that are charged to it.
    fn slab(&self) -> Result<u64> {
        /// CPUs' counts are added up every two seconds, not by who reads (`FLUSH_TIME` in mm/memcontrol.c).
        const FLUSHED: Duration = Duration::from_secs(3);

        thread::sleep(FLUSHED);
        let text = fs::read_to_string(format!("{}/memory.stat", self.0))?;
        text.lines()
            .find_map(|line| line.strip_prefix("slab_unreclaimable ")?.parse().ok())
            .context("no slab_unreclaimable")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(format!("{}/cgroup.procs", Self::ROOT), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

fn charged() -> Result<String> {
    const CONNECTIONS: usize = 300;
    // An entry and two keys, hashed, at each end (struct dc_app, struct dc_app_keys); the listener has an entry, too.
    const LEAST: u64 = 2 * (96 + 192);
    // Each of two CPUs keeps up to a page of what is charged and uncharged for itself (struct obj_stock_pcp), at each of
    // three readings; the second counts twice.
    const KEPT: u64 = 2 * 4 * 4096;

    // A listener and both ends of each, of either kind.
    super::full_table::allow_files(3 * 2 * CONNECTIONS + 1_000)?;
    let pair = Pair::new()?;
    let group = Group::enter("dc-test")?;
    // What the first ever takes is no connection's own.
    let warm_up = [connect(&pair, Family::V4)?, connect_standard(&pair)?];
    let mut all = Vec::new();
    let start = group.slab()?;
    for _ in 0..CONNECTIONS {
        all.push(connect_standard(&pair)?);
    }
    let standard = group.slab()? - start;
    for _ in 0..CONNECTIONS {
        let ends = connect(&pair, Family::V4)?;
        mptcp_dc::set_key(&ends.server, KEY)?;
        mptcp_dc::set_key(&ends.client, KEY)?;
        all.push(ends);
    }
    let external = group.slab()? - start - standard;
    drop((all, warm_up));
    let more = external.saturating_sub(standard) / CONNECTIONS as u64;
    ensure!(
        more >= LEAST - KEPT / CONNECTIONS as u64,
        "a connection with keys is charged {more} bytes more, not {LEAST}"
    );
    Ok(format!(
        "a connection with keys is charged {more} bytes more than one without"
    ))
}

/// One without external keys, and without a subflow.
fn connect_standard(pair: &Pair) -> Result<Joinable> {
    let at = Pair::server_addr(Family::V4);
    Joinable::new(pair, SocketAddr::new(at, 0), at)
}
