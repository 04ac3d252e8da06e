// SPDX-License-Identifier: GPL-2.0

//! Firewalls that drop SYNs of version 15, or all of MPTCP: an offer is given up, and standard MPTCP isn't made to pay for it.

use std::net::SocketAddr;

use anyhow::{ensure, Context, Result};
use mptcp_dc::Mode as DcMode;

use crate::capture::Capture;
use crate::joinable::Joinable;
use crate::mptcp::Info;
use crate::netns::{output, Counters, Family, Mode, Netns, Pair, CLIENT_DEV};
use crate::wire::{Segment, SYN, V1, V15};
use crate::{Scale, Test};

pub fn tests(_scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    for mode in [Mode::Offer, Mode::OfferFull] {
        tests.push(Test::new(
            format!(
                "firewall, {}: where version 15 is dropped, the connection is standard MPTCP, and so is the next",
                mode.name()
            ),
            move || drops_ours(mode, false),
        ));
    }
    tests.push(Test::new(
        "firewall: where version 15 is dropped, a connection with external keys is plain TCP, the next standard MPTCP",
        || drops_ours(Mode::Stock, true),
    ));
    for retransmissions in [1, 0] {
        tests.push(Test::new(
            format!("firewall: where version 15 is dropped, standard MPTCP stays on with syn_retrans_before_tcp_fallback={retransmissions}"),
            move || drops_ours_early(retransmissions),
        ));
    }
    for (what, mode, external) in [
        ("the stock kernel's", Mode::Stock, false),
        ("a low-overhead", Mode::Offer, false),
        ("an external-key", Mode::Stock, true),
    ] {
        tests.push(Test::new(
            format!("firewall: where all of MPTCP is dropped, {what} connection is plain TCP"),
            move || drops_all(mode, external),
        ));
    }
    tests
}

/// What SYNs with an MP_CAPABLE of version 15 match: subtype and version are the option's third byte.
const OURS: &str = "tcp option @30,16,8 0x0f";
/// What all SYNs with an MPTCP option match.
const ALL: &str = "tcp option mptcp exists";
/// How many SYNs are offers of ours. The stack sends three with MP_CAPABLE before one without.
const OFFERS: usize = 2;

/// Drops the SYNs that match as they come to this end.
fn drop_syns(end: &Netns, matching: &str) -> Result<()> {
    let commands = [
        "add table ip firewall".to_owned(),
        "add chain ip firewall input { type filter hook input priority 0; }".to_owned(),
        format!("add rule ip firewall input tcp flags & (syn|ack) == syn {matching} counter drop"),
    ];
    output(end.command("nft").arg(commands.join("; "))).map(drop)
}

/// A connection, and the MP_CAPABLE versions of its SYNs, in order.
fn connect(pair: &Pair, external: bool) -> Result<(Joinable, Vec<Option<u8>>)> {
    let at = Pair::server_addr(Family::V4);
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    let ends = Joinable::with(pair, SocketAddr::new(at, 0), at, |socket| {
        Ok(mptcp_dc::enable_app_key(socket, external)?)
    })?;
    let segments = capture.connection(ends.client.local_addr()?)?;
    let version = |s: &Segment| -> Result<_> { Ok(s.mp_capable()?.map(|c| c.version)) };
    let syns = segments
        .iter()
        .filter(|s| s.is(SYN))
        .map(version)
        .collect::<Result<_>>()?;
    Ok((ends, syns))
}

/// The mode that both ends tell of; plain TCP, too, if the socket knows no such option.
fn mode_of(ends: &Joinable) -> Result<DcMode> {
    let told = [&ends.client, &ends.server].map(|end| {
        let info = mptcp_dc::info(end).map(|info| info.mode);
        info.unwrap_or(DcMode::Tcp)
    });
    ensure!(told[0] == told[1], "the ends say {told:?}");
    Ok(told[0])
}

/// What the client counted: (offers given up, connections that the stack takes for blackholed).
fn counted(pair: &Pair, before: &(Counters, Counters)) -> Result<(u64, u64)> {
    let after = (pair.client.counters()?, pair.client.mib()?);
    let given_up =
        after.0.get("OfferGivenUp").unwrap_or(0) - before.0.get("OfferGivenUp").unwrap_or(0);
    Ok((given_up, after.1.since(&before.1, "Blackhole")?))
}

fn drops_ours(mode: Mode, external: bool) -> Result<()> {
    let pair = Pair::new()?;
    for end in pair.ends() {
        mode.apply(end)?;
    }
    drop_syns(&pair.server, OURS)?;
    let before = (pair.client.counters()?, pair.client.mib()?);
    let (ends, syns) = connect(&pair, external)?;
    let (last, expected) = if external {
        (None, DcMode::Tcp)
    } else {
        (Some(V1), DcMode::Standard)
    };
    let counts = counted(&pair, &before)?;
    ensure!(
        syns.len() == OFFERS + 1
            && syns[..OFFERS].iter().all(|version| *version == Some(V15))
            && syns[OFFERS] == last,
        "the SYNs had MP_CAPABLE of versions {syns:?}; (given up, blackholed): {counts:?}"
    );
    let told = mode_of(&ends)?;
    ensure!(told == expected, "{told:?}");
    ensure!(
        counts == (1, 0),
        "offers given up and blackholes: {counts:?}"
    );

    check_standard(&pair)?;
    ends.exchange()
}

/// Standard MPTCP is still offered in the client's namespace.
fn check_standard(pair: &Pair) -> Result<()> {
    Mode::Stock.apply(&pair.client)?;
    let (next, syns) = connect(pair, false)?;
    ensure!(syns == [Some(V1)], "the next connection's SYNs: {syns:?}");
    Info::of(&next.client)?.context("the next connection is plain TCP")?;
    let told = mode_of(&next)?;
    ensure!(told == DcMode::Standard, "the next is {told:?}");
    Ok(())
}

/// The stack loses patience before an offer was made twice.
fn drops_ours_early(retransmissions: u8) -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    pair.client
        .set("mptcp/syn_retrans_before_tcp_fallback", retransmissions)?;
    drop_syns(&pair.server, OURS)?;
    let before = (pair.client.counters()?, pair.client.mib()?);
    let (ends, syns) = connect(&pair, false)?;
    let (_, blackholes) = counted(&pair, &before)?;
    ensure!(blackholes == 0, "a blackhole, with SYNs of {syns:?}");
    check_standard(&pair)?;
    ends.exchange()
}

fn drops_all(mode: Mode, external: bool) -> Result<()> {
    let pair = Pair::new()?;
    for end in pair.ends() {
        mode.apply(end)?;
    }
    drop_syns(&pair.server, ALL)?;
    let before = (pair.client.counters()?, pair.client.mib()?);
    let (ends, syns) = connect(&pair, external)?;
    let (given_up, blackholes) = counted(&pair, &before)?;
    let expected = match (external, mode.offers()) {
        (true, _) => [Some(V15), Some(V15), None].as_slice(),
        (_, true) => &[Some(V15), Some(V15), Some(V1), None],
        _ => &[Some(V1), Some(V1), Some(V1), None],
    };
    let told = mode_of(&ends)?;
    ensure!(told == DcMode::Tcp, "{told:?} with SYNs of {syns:?}");
    ensure!(syns == expected, "SYNs of {syns:?}, not of {expected:?}");
    // Standard MPTCP was tried, and only then is held to be dropped; external keys never try it.
    let offers = mode.offers() || external;
    ensure!(
        (given_up, blackholes) == (u64::from(offers), u64::from(!external)),
        "offers given up: {given_up}, blackholes: {blackholes}, SYNs of {syns:?}"
    );
    ends.exchange()
}
