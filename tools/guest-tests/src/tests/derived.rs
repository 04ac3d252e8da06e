// SPDX-License-Identifier: GPL-2.0

//! Standard MPTCP with `derived_nonces=1`: it is as ever on the wire, and draws no random numbers.

use std::collections::HashSet;
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::capture::Capture;
use crate::connection::Connection;
use crate::handshake::outcome;
use crate::kernel::Callers;
use crate::mptcp::{self, Info};
use crate::netns::{
    output, Counters, Family, Mode, Netns, Pair, CLIENT_DEV, SERVER_DEV, SERVER_V4,
};
use crate::raw::RawPeer;
use crate::wire::{self, mp_capable, Segment, ACK, FLAG_H, MPTCP, MP_JOIN, RST, SYN, V1};
use crate::Test;

/// Which end derives.
const ENDS: [(&str, bool, bool); 3] = [
    ("client", true, false),
    ("server", false, true),
    ("both", true, true),
];

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for (who, client, server) in ENDS {
        for family in Family::ALL {
            let name = format!(
                "derived: {who}, {}: connections and joins, whatever tcp_syncookies",
                family.name()
            );
            tests.push(Test::new(name, move || both_paths(client, server, family)));
        }
    }
    tests.extend([
        Test::new("derived: no key comes twice", keys),
        Test::new(
            "derived: the offer of low overhead that a stock server declines",
            declined,
        ),
        Test::new(
            "derived: a join's nonce follows from ports and sequence number",
            nonces,
        ),
        Test::new(
            "derived: a join's SYN sent again has the same nonce",
            sent_again,
        ),
        Test::new(
            "derived: connections and joins draw no random numbers, but for one of a joining client",
            draws_nothing,
        ),
    ]);
    tests
}

/// A pair whose ends derive or not, with a second address of the client, from which it joins.
fn pair(client: bool, server: bool) -> Result<Pair> {
    let pair = Pair::new()?;
    pair.client
        .set("mptcp_dc/derived_nonces", u8::from(client))?;
    pair.server
        .set("mptcp_dc/derived_nonces", u8::from(server))?;
    // IPv6 shall not take it for anything else.
    pair.client.ip([
        format!("addr add 10.9.0.3/24 dev {CLIENT_DEV}"),
        format!("addr add fd09::3/64 dev {CLIENT_DEV} nodad preferred_lft 0"),
    ])?;
    pair.client.wait_for_v6()?;
    for end in pair.ends() {
        end.ip(["mptcp limits set subflows 1"])?;
    }
    Ok(pair)
}

/// From now on the client joins its connections of this family.
fn join_from_now_on(pair: &Pair, family: Family) -> Result<()> {
    let address = match family {
        Family::V4 => "10.9.0.3",
        Family::V6 => "fd09::3",
    };
    pair.client
        .ip([format!("mptcp endpoint add {address} subflow")])
}

/// A connection past its handshake. Its listener still takes joins.
struct Connected {
    _listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Connected {
    fn new(pair: &Pair, family: Family) -> Result<Self> {
        let at = SocketAddr::new(Pair::server_addr(family), 0);
        let listener = mptcp::listen(&pair.server, at)?;
        let client = mptcp::connect(&pair.client, listener.local_addr()?)?;
        mptcp::send(&client, 1, 1_000)?;
        let server = mptcp::accept(&listener)?;
        mptcp::receive(&server, 1, 1_000)?;
        mptcp::send(&server, 2, 1_000)?;
        mptcp::receive(&client, 2, 1_000)?;
        Ok(Self {
            _listener: listener,
            client,
            server,
        })
    }

    /// Waits until both ends have a second subflow.
    fn wait_for_subflow(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            let (client, server) = (Info::of(&self.client)?, Info::of(&self.server)?);
            let counts = [client, server].map(|info| info.map(|info| info.subflows));
            if counts == [Some(1); 2] {
                return Ok(());
            }
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "additional subflows of client and server: {counts:?}"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The MP_JOIN of a segment.
fn join_option(segment: &Segment) -> Option<&[u8]> {
    segment.mptcp(MP_JOIN).next()
}

fn grew(netns: &Netns, before: &Counters) -> Result<(u64, u64)> {
    let after = netns.counters()?;
    Ok((
        after.since(before, "KeyDerived")?,
        after.since(before, "JoinNonceDerived")?,
    ))
}

fn both_paths(client: bool, server: bool, family: Family) -> Result<()> {
    let pair = pair(client, server)?;
    join_from_now_on(&pair, family)?;
    for cookies in [0, 1, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
        let before = [pair.client.counters()?, pair.server.counters()?];
        let mib = [pair.client.mib()?, pair.server.mib()?];

        let connected = Connected::new(&pair, family)?;
        connected.wait_for_subflow().with_context(|| {
            let segments = capture.segments().unwrap_or_default();
            format!("tcp_syncookies={cookies}, after\n{}", wire::list(segments))
        })?;
        mptcp::send(&connected.client, 3, 100_000)?;
        mptcp::receive(&connected.server, 3, 100_000)?;

        let lengths = |flags| {
            capture_lengths(&mut capture, flags)
                .with_context(|| format!("tcp_syncookies={cookies}"))
        };
        ensure!(
            [SYN, SYN | ACK, ACK]
                .map(lengths)
                .into_iter()
                .collect::<Result<Vec<_>>>()?
                == [12, 16, 24],
            "the MP_JOIN options have other lengths than RFC 8684 says"
        );
        for (end, derives, before) in [
            (&pair.client, client, &before[0]),
            (&pair.server, server, &before[1]),
        ] {
            let derives = u64::from(derives);
            let grew = grew(end, before)?;
            ensure!(
                grew == (derives, derives),
                "tcp_syncookies={cookies}: keys and nonces derived: {grew:?}"
            );
        }
        for (end, before, name) in [
            (&pair.client, &mib[0], "MPCapableSYNTX"),
            (&pair.server, &mib[1], "MPCapableSYNRX"),
            (&pair.server, &mib[1], "MPJoinSynRx"),
            (&pair.server, &mib[1], "MPJoinAckRx"),
        ] {
            let grew = end.mib()?.since(before, name)?;
            ensure!(grew == 1, "tcp_syncookies={cookies}: {name} grew by {grew}");
        }
    }
    Ok(())
}

/// The length of the MP_JOIN in the first segment with these flags that has one.
fn capture_lengths(capture: &mut Capture, flags: u8) -> Result<usize> {
    capture
        .segments()?
        .iter()
        .find_map(|s| join_option(s).filter(|_| s.is(flags)))
        .map(<[u8]>::len)
        .with_context(|| format!("no MP_JOIN with flags {flags:#x}"))
}

fn keys() -> Result<()> {
    let pair = pair(true, true)?;
    let mut seen = HashSet::new();
    for cookies in [0, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        for _ in 0..20 {
            let keys = Connection::run(&pair, Family::V4)?
                .check(&outcome(Mode::Stock, Mode::Stock))?
                .context("no MPTCP")?;
            for key in [keys.client, keys.server] {
                ensure!(key != 0 && seen.insert(key), "key {key:#x} a second time");
            }
        }
        // The same connection: only the counter makes the difference.
        let listener = mptcp::listen(&pair.server, (SERVER_V4, 0).into())?;
        let to = SocketAddrV4::new(SERVER_V4, listener.local_addr()?.port());
        let mut peer = RawPeer::client(&pair)?;
        for _ in 0..5 {
            let syn_ack = peer.syn(4_000, to, &mp_capable(V1, FLAG_H, &[]))?;
            let key = syn_ack.mp_capable()?.and_then(|option| option.sender);
            let key = key.context("no key in the SYN/ACK")?;
            ensure!(key != 0 && seen.insert(key), "key {key:#x} a second time");
            peer.send(4_000, to, RST, (crate::raw::ISN + 1, 0), &[], &[])?;
        }
    }
    Ok(())
}

/// Version 1 is what the client gets, so the key that it takes then is a derived one.
fn declined() -> Result<()> {
    let pair = pair(true, true)?;
    pair.client.set("mptcp_dc/lowoverhead", 2)?;
    let before = pair.client.counters()?;
    Connection::run(&pair, Family::V4)?.check(&outcome(Mode::Offer, Mode::Stock))?;
    let grew = grew(&pair.client, &before)?;
    ensure!(grew == (1, 0), "keys and nonces derived: {grew:?}");
    Ok(())
}

/// A SYN's MP_JOIN.
fn join(token: u32, nonce: u32) -> Vec<u8> {
    [
        &[MPTCP, 12, MP_JOIN << 4, 7][..],
        &token.to_be_bytes(),
        &nonce.to_be_bytes(),
    ]
    .concat()
}

fn nonces() -> Result<()> {
    let pair = pair(false, true)?;
    // Nothing is kept of a SYN, so one that is sent again is answered as if it were the first.
    pair.server.set("ipv4/tcp_syncookies", 2)?;
    let connected = Connected::new(&pair, Family::V4)?;
    let to = SocketAddrV4::new(SERVER_V4, connected.server.local_addr()?.port());
    let token = Info::of(&connected.server)?.context("plain TCP")?.token;

    let mut peer = RawPeer::client(&pair)?;
    let mut nonce = |port: u16, seq: u32| -> Result<u32> {
        peer.capture.clear()?;
        peer.send(port, to, SYN, (seq, 0), &join(token, 9), &[])?;
        let answer = peer
            .capture
            .wait_for(Duration::from_secs(20), |s| {
                s.to.port() == port && s.is(SYN | ACK)
            })?
            .context("no SYN/ACK")?;
        let option = join_option(&answer).context("no MP_JOIN")?;
        ensure!(option.len() == 16, "{option:02x?}");
        Ok(u32::from_be_bytes(option[12..].try_into()?))
    };
    let first = nonce(5_000, 1_000)?;
    ensure!(first != 0, "nonce 0");
    ensure!(nonce(5_000, 1_000)? == first, "the same SYN, another nonce");
    ensure!(
        nonce(5_000, 1_001)? != first,
        "another sequence number, the same nonce"
    );
    ensure!(
        nonce(5_001, 1_000)? != first,
        "another port, the same nonce"
    );
    Ok(())
}

fn sent_again() -> Result<()> {
    let pair = pair(true, true)?;
    let _connected = Connected::new(&pair, Family::V4)?;
    let before = pair.client.counters()?;
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    // No answer gets through.
    output(
        pair.server
            .command("tc")
            .args(["qdisc", "add", "dev", SERVER_DEV, "root"])
            .args(["netem", "loss", "100%"]),
    )?;
    join_from_now_on(&pair, Family::V4)?;
    let start = Instant::now();
    let nonces = loop {
        let nonces: Vec<Vec<u8>> = capture
            .segments()?
            .iter()
            .filter(|s| s.is(SYN))
            .filter_map(|s| Some(join_option(s)?[8..].to_vec()))
            .collect();
        if nonces.len() > 2 {
            break nonces;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "{} SYNs",
            nonces.len()
        );
        std::thread::sleep(Duration::from_millis(20));
    };
    ensure!(
        nonces.iter().all(|nonce| *nonce == nonces[0]),
        "{nonces:02x?}"
    );
    let grew = grew(&pair.client, &before)?;
    ensure!(grew == (0, 1), "keys and nonces derived: {grew:?}");
    Ok(())
}

/// Which functions of MPTCP call the random generator.
fn drawing(derive: bool, mode: Mode) -> Result<HashSet<String>> {
    let pair = pair(derive, derive)?;
    for end in pair.ends() {
        mode.apply(end)?;
    }
    join_from_now_on(&pair, Family::V4)?;
    let callers = Callers::of(&["get_random_bytes", "get_random_u32"])?;
    for cookies in [0, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        Connected::new(&pair, Family::V4)?.wait_for_subflow()?;
    }
    let mut names = callers.names()?;
    names.retain(|name| name.contains("mptcp") || name.contains("subflow"));
    Ok(names)
}

fn draws_nothing() -> Result<()> {
    const JOINING_CLIENT: &str = "__mptcp_subflow_connect";
    let stock = drawing(false, Mode::Stock)?;
    ensure!(
        stock.len() > 2,
        "stock code draws in {stock:?}: who can't see it there, can't miss it"
    );
    for (derive, mode) in [
        (true, Mode::Stock),
        (false, Mode::Offer),
        (true, Mode::Offer),
    ] {
        let drawing = drawing(derive, mode)?;
        ensure!(
            drawing.iter().all(|name| name == JOINING_CLIENT),
            "derived_nonces={derive}, {}: random numbers are drawn in {drawing:?}",
            mode.name()
        );
    }
    Ok(())
}
