// SPDX-License-Identifier: GPL-2.0

//! Low-overhead joins with `stateless_join=1`: between SYN and ACK the server keeps nothing, whatever its backlog.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};

use crate::joinable::{check_growth, limit_subflows, mp_join, Joinable, JOIN_ANSWER};
use crate::netns::{output, Family, Mode, Netns, Pair, CLIENT_DEV, SERVER_DEV};
use crate::raw::{RawPeer, ISN};
use crate::wire::{Segment, ACK, MP_JOIN, MP_TCPRST, RST, SYN};
use crate::Test;

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for (to, at) in [
        ("IPv4", ListenAt::V4),
        ("IPv6", ListenAt::V6),
        ("IPv4 to an IPv6 listener", ListenAt::Any),
    ] {
        for timestamps in [1, 0] {
            tests.push(Test::new(
                format!("stateless joins: {to}, tcp_timestamps={timestamps}: a subflow joins and carries data"),
                move || joins(at, timestamps),
            ));
        }
    }
    for (name, run) in [
        (
            "stateless joins: SYNs without ACK leave no request socket, and do where it is 0",
            syns_leave_nothing as fn() -> Result<()>,
        ),
        (
            "stateless joins: they go on where the backlog is full",
            full_backlog,
        ),
        (
            "stateless joins: with tcp_syncookies=0 a SYN has a request socket, as ever",
            without_cookies,
        ),
        (
            "stateless joins: SYN and ACK twice make one subflow",
            duplicates,
        ),
        (
            "stateless joins: a SYN with a wrong token gets the stock answer",
            wrong_syn_token,
        ),
        (
            "stateless joins: an ACK with a wrong token makes no subflow",
            wrong_ack_token,
        ),
        (
            "stateless joins: an ACK without the cookie makes no subflow",
            no_cookie,
        ),
        (
            "stateless joins: a connection that takes no subflow answers with a reset",
            refused,
        ),
        (
            "stateless joins: other SYNs are the stack's own",
            other_syns,
        ),
    ] {
        tests.push(Test::new(name, run));
    }
    tests.push(Test::with_note(
        "stateless joins: all get through where SYNs and ACKs are lost, doubled and reordered",
        Duration::from_secs(600),
        bad_network,
    ));
    tests
}

/// Where the listener is, and so by what protocol the client comes.
#[derive(Clone, Copy)]
enum ListenAt {
    V4,
    V6,
    /// IPv6's wildcard; the client comes by IPv4.
    Any,
}

/// A pair of which the server answers joins without state, and takes some.
fn stateless_pair() -> Result<Pair> {
    let pair = Pair::with_mode(Mode::Offer)?;
    pair.server.set("mptcp_dc/stateless_join", 1)?;
    for end in pair.ends() {
        limit_subflows(end, 4)?;
    }
    Ok(pair)
}

/// Request sockets of the namespace.
fn requests(netns: &Netns) -> Result<usize> {
    let text = output(netns.command("ss").args(["-Htan", "state", "syn-recv"]))?;
    Ok(text.lines().count())
}

/// The MP_JOIN of a SYN/ACK has its length, and nothing but MP_JOIN's.
fn check_answer(syn_ack: &Segment) -> Result<()> {
    let joins: Vec<_> = syn_ack.mptcp(MP_JOIN).collect();
    ensure!(
        matches!(joins.as_slice(), [join] if join.len() == usize::from(JOIN_ANSWER)),
        "the SYN/ACK is {syn_ack}"
    );
    Ok(())
}

fn joins(at: ListenAt, timestamps: u8) -> Result<()> {
    let pair = stateless_pair()?;
    for end in pair.ends() {
        end.set("ipv4/tcp_timestamps", timestamps)?;
    }
    let family = match at {
        ListenAt::V6 => Family::V6,
        ListenAt::V4 | ListenAt::Any => Family::V4,
    };
    let to = Pair::server_addr(family);
    let listen = match at {
        ListenAt::V4 | ListenAt::V6 => to,
        ListenAt::Any => IpAddr::from([0_u16; 8]),
    };
    let before = pair.server.counters()?;
    let joinable = Joinable::new(&pair, SocketAddr::new(listen, 0), to)?;
    let (address, prefix) = match family {
        Family::V4 => ("10.9.0.11", "24"),
        Family::V6 => ("fd09::11", "64"),
    };
    let add = format!("addr add {address}/{prefix} dev {CLIENT_DEV}");
    let nodad = if family == Family::V6 { " nodad" } else { "" };
    pair.client.ip([format!("{add}{nodad}")])?;
    pair.client.wait_for_v6()?;
    pair.client.ip([format!(
        "mptcp endpoint add {address} dev {CLIENT_DEV} subflow"
    )])?;
    joinable.wait_for_subflows(1)?;
    joinable.exchange()?;
    check_growth(
        &pair.server,
        &before,
        &[
            ("MPJoinSYNRX", 1),
            ("MPJoinSYNStateless", 1),
            ("MPJoinCookieACKRX", 1),
            ("MPJoinACKRX", 1),
            ("MPJoinACKBad", 0),
        ],
    )?;
    // The rest of the connection goes on over the new subflow alone.
    let old = match family {
        Family::V4 => "10.9.0.1/24",
        Family::V6 => "fd09::1/64",
    };
    pair.client
        .ip([format!("addr del {old} dev {CLIENT_DEV}")])?;
    if family == Family::V4 {
        // It went with the primary address.
        let _ = pair.client.ip([add]);
    }
    joinable.exchange()
}

/// Connections in a bad network.
const MANY: usize = 40;

fn bad_network() -> Result<String> {
    let pair = stateless_pair()?;
    let joinables = (0..MANY)
        .map(|_| Ok(Joinable::v4(&pair)?.0))
        .collect::<Result<Vec<_>>>()?;
    for (end, dev) in [(&pair.client, CLIENT_DEV), (&pair.server, SERVER_DEV)] {
        output(end.command("tc").args([
            "qdisc",
            "add",
            "dev",
            dev,
            "root",
            "netem",
            "limit",
            "10000",
            "delay",
            "5ms",
            "reorder",
            "10%",
            "duplicate",
            "10%",
            "loss",
            "10%",
        ]))?;
    }
    let before = pair.server.counters()?;
    let start = Instant::now();
    pair.client.ip([
        format!("addr add 10.9.0.11/24 dev {CLIENT_DEV}"),
        format!("mptcp endpoint add 10.9.0.11 dev {CLIENT_DEV} subflow"),
    ])?;
    let joined = || -> Result<usize> {
        joinables.iter().try_fold(0, |sum, joinable| {
            Ok(sum + usize::from(joinable.subflows()? == 1))
        })
    };
    while joined()? < MANY {
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "only {} of {MANY} joined: {:?}",
            joined()?,
            pair.server.counters()?
        );
        thread::sleep(Duration::from_millis(100));
    }
    let spent = start.elapsed().as_secs_f64();
    for joinable in &joinables {
        joinable.exchange()?;
    }
    let after = pair.server.counters()?;
    let syns = after.since(&before, "MPJoinSYNStateless")?;
    ensure!(
        syns == after.since(&before, "MPJoinSYNRX")? && syns >= MANY as u64,
        "{syns} SYNs were answered without state"
    );
    Ok(format!("{syns} SYNs for {MANY} subflows, in {spent:.1} s"))
}

const SYNS: u16 = 50;

/// Sends SYNs of joins with a token; each is answered as a join.
fn send_syns(
    peer: &mut RawPeer,
    to: SocketAddrV4,
    token: u32,
    ports: std::ops::Range<u16>,
) -> Result<()> {
    for port in ports {
        check_answer(&peer.syn(port, to, &mp_join(token))?)?;
    }
    Ok(())
}

fn syns_leave_nothing() -> Result<()> {
    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let token = joinable.token()?;
    let mut peer = RawPeer::client(&pair)?;
    let before = pair.server.counters()?;
    send_syns(&mut peer, to, token, 2_000..2_000 + SYNS)?;
    let left = requests(&pair.server)?;
    ensure!(left == 0, "{left} request sockets after {SYNS} SYNs");
    check_growth(
        &pair.server,
        &before,
        &[
            ("MPJoinSYNStateless", SYNS.into()),
            ("MPJoinSYNRX", SYNS.into()),
        ],
    )?;
    pair.server.set("mptcp_dc/stateless_join", 0)?;
    send_syns(&mut peer, to, token, 3_000..3_000 + SYNS)?;
    let left = requests(&pair.server)?;
    ensure!(
        left == usize::from(SYNS),
        "{left} request sockets after {SYNS} SYNs with stateless_join=0"
    );
    check_growth(
        &pair.server,
        &before,
        &[("MPJoinSYNStateless", SYNS.into())],
    )
}

fn full_backlog() -> Result<()> {
    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let mut peer = RawPeer::client(&pair)?;
    // Plain SYNs fill it. The listener's backlog is 512.
    let mut full = 0;
    // A slow machine loses some.
    for round in 0..5 {
        for port in 10_000..10_600 {
            peer.send(port + round * 1_000, to, SYN, (ISN, 0), &[], &[])?;
        }
        full = requests(&pair.server)?;
        if full > 500 {
            break;
        }
    }
    ensure!(full > 500, "{full} request sockets: the backlog isn't full");
    let token = joinable.token()?;
    send_syns(&mut peer, to, token, 2_000..2_000 + SYNS)?;
    let now = requests(&pair.server)?;
    ensure!(now <= full, "{full} request sockets, then {now}");
    let syn_ack = peer.syn(5_000, to, &mp_join(token))?;
    peer.third_ack(5_000, to, &syn_ack, &mp_join(token), &[])?;
    joinable.wait_for_subflows(1)
}

fn without_cookies() -> Result<()> {
    let pair = stateless_pair()?;
    pair.server.set("ipv4/tcp_syncookies", 0)?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let token = joinable.token()?;
    let mut peer = RawPeer::client(&pair)?;
    let before = pair.server.counters()?;
    let syn_ack = peer.syn(2_000, to, &mp_join(token))?;
    check_answer(&syn_ack)?;
    let kept = requests(&pair.server)?;
    ensure!(kept == 1, "{kept} request sockets");
    peer.third_ack(2_000, to, &syn_ack, &mp_join(token), &[])?;
    joinable.wait_for_subflows(1)?;
    check_growth(
        &pair.server,
        &before,
        &[("MPJoinSYNStateless", 0), ("MPJoinACKRX", 1)],
    )
}

fn duplicates() -> Result<()> {
    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let token = joinable.token()?;
    let mut peer = RawPeer::client(&pair)?;
    let before = pair.server.counters()?;
    let first = peer.syn(2_000, to, &mp_join(token))?;
    let syn_ack = peer.syn(2_000, to, &mp_join(token))?;
    ensure!(
        // A cookie changes once a minute at most.
        syn_ack.seq == first.seq || syn_ack.seq >> 24 != first.seq >> 24,
        "two cookies: {first} and {syn_ack}"
    );
    for _ in 0..3 {
        peer.third_ack(2_000, to, &syn_ack, &mp_join(token), &[])?;
    }
    joinable.wait_for_subflows(1)?;
    // A SYN that comes late.
    peer.send(2_000, to, SYN, (ISN, 0), &mp_join(token), &[])?;
    peer.third_ack(2_000, to, &syn_ack, &mp_join(token), &[])?;
    joinable.exchange()?;
    joinable.wait_for_subflows(1)?;
    check_growth(
        &pair.server,
        &before,
        &[("MPJoinSYNStateless", 2), ("MPJoinACKRX", 1)],
    )
}

/// The first segment that answers one of `port`.
fn answer(peer: &mut RawPeer, port: u16, limit: Duration) -> Result<Option<Segment>> {
    peer.capture
        .wait_for(limit, |s| s.to.port() == port && s.flags & ACK != 0)
}

const SOON: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_millis(500);

/// The reason in a reset.
fn reset_reason(segment: &Segment) -> Option<&[u8]> {
    segment.mptcp(MP_TCPRST).next()
}

fn wrong_syn_token() -> Result<()> {
    let stock = Pair::with_mode(Mode::Stock)?;
    let (joinable, to) = Joinable::v4(&stock)?;
    let mut peer = RawPeer::client(&stock)?;
    let mut standard = mp_join(joinable.token()? ^ 1);
    standard.extend([1, 2, 3, 4]);
    standard[1] = 12;
    peer.capture.clear()?;
    peer.send(2_000, to, SYN, (ISN, 0), &standard, &[])?;
    let expected = answer(&mut peer, 2_000, SOON)?.context("stock is silent")?;
    ensure!(expected.flags & RST != 0, "stock answers {expected}");

    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let mut peer = RawPeer::client(&pair)?;
    let before = pair.server.counters()?;
    let token = joinable.token()? ^ 1;
    peer.capture.clear()?;
    peer.send(2_000, to, SYN, (ISN, 0), &mp_join(token), &[])?;
    let segment = answer(&mut peer, 2_000, SOON)?.context("silence")?;
    ensure!(
        segment.flags == expected.flags && reset_reason(&segment) == reset_reason(&expected),
        "{segment}; stock: {expected}"
    );
    check_growth(
        &pair.server,
        &before,
        &[("MPJoinSYNStateless", 0), ("MPJoinNoToken", 1)],
    )
}

fn wrong_ack_token() -> Result<()> {
    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let token = joinable.token()?;
    let mut peer = RawPeer::client(&pair)?;
    let before = pair.server.counters()?;
    let syn_ack = peer.syn(2_000, to, &mp_join(token))?;
    peer.capture.clear()?;
    peer.third_ack(2_000, to, &syn_ack, &mp_join(token ^ 1), &[])?;
    // So does stock, if the ACK of a join finds no entry in its table.
    let segment = answer(&mut peer, 2_000, NEVER)?;
    ensure!(segment.is_none(), "an answer: {segment:?}");
    ensure!(joinable.subflows()? == 0, "a subflow joined");
    check_growth(
        &pair.server,
        &before,
        &[("MPJoinNoToken", 1), ("MPJoinACKRX", 0)],
    )?;
    peer.third_ack(2_000, to, &syn_ack, &mp_join(token), &[])?;
    joinable.wait_for_subflows(1)
}

fn no_cookie() -> Result<()> {
    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let token = joinable.token()?;
    let mut peer = RawPeer::client(&pair)?;
    let syn_ack = peer.syn(2_000, to, &mp_join(token))?;
    let before = pair.server.counters()?;
    for (port, ack) in [
        (2_000, syn_ack.seq.wrapping_add(77)),
        (2_001, syn_ack.seq + 1),
    ] {
        peer.capture.clear()?;
        peer.send(port, to, ACK, (ISN + 1, ack), &mp_join(token), &[])?;
        let segment = peer
            .capture
            .wait_for(SOON, |s| s.to.port() == port)?
            .context("silence")?;
        ensure!(segment.flags & RST != 0, "not reset: {segment}");
    }
    ensure!(joinable.subflows()? == 0, "a subflow joined");
    check_growth(&pair.server, &before, &[("MPJoinCookieACKRX", 0)])
}

fn refused() -> Result<()> {
    let pair = stateless_pair()?;
    limit_subflows(&pair.server, 0)?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let token = joinable.token()?;
    let mut peer = RawPeer::client(&pair)?;
    peer.capture.clear()?;
    peer.send(2_000, to, SYN, (ISN, 0), &mp_join(token), &[])?;
    let segment = answer(&mut peer, 2_000, SOON)?.context("silence")?;
    ensure!(segment.flags & RST != 0, "not reset: {segment}");
    ensure!(requests(&pair.server)? == 0, "a request socket is left");
    joinable.exchange()
}

fn other_syns() -> Result<()> {
    let pair = stateless_pair()?;
    let (joinable, to) = Joinable::v4(&pair)?;
    let mut peer = RawPeer::client(&pair)?;
    let before = pair.server.counters()?;
    let mut short = mp_join(joinable.token()?);
    short.truncate(6);
    short[1] = 6;
    let capable = crate::wire::mp_capable(crate::wire::V15, crate::wire::FLAG_H, &[]);
    for (port, options) in (2_000..).zip([vec![], capable, short]) {
        peer.syn(port, to, &options)?;
    }
    let kept = requests(&pair.server)?;
    ensure!(kept == 3, "{kept} request sockets");
    check_growth(&pair.server, &before, &[("MPJoinSYNStateless", 0)])?;
    // Where low overhead is off, joins are none of ours.
    pair.server.set("mptcp_dc/lowoverhead", 0)?;
    peer.capture.clear()?;
    peer.send(3_000, to, SYN, (ISN, 0), &mp_join(joinable.token()?), &[])?;
    answer(&mut peer, 3_000, SOON)?.context("silence")?;
    check_growth(&pair.server, &before, &[("MPJoinSYNStateless", 0)])
}
