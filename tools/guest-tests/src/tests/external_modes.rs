// SPDX-License-Identifier: GPL-2.0

//! Ways in which a handshake of ours can come about or be feigned: TCP Fast Open, echoes, equal pairs. And what an
//! application is told when the first subflow is gone.

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use mptcp_dc::Mode as DcMode;

use super::aborts::{first_flow, tapped, End};
use super::attacks::{endpoint, victim, KEY, SOON};
use crate::capture::Capture;
use crate::handshake::Trace;
use crate::joinable::{check_growth, limit_subflows, Joinable};
use crate::mptcp;
use crate::netns::{Family, Mode, Pair, CLIENT_DEV, RAW_SERVER, SECOND_V4};
use crate::raw::{flow, RawPeer, ISN};
use crate::wire::{
    self, mp_capable, Segment, ACK, FLAG_B, FLAG_H, MPTCP, MP_CAPABLE, RST, SYN, V15,
};
use crate::{Scale, Test};

pub fn tests(_scale: Scale) -> Vec<Test> {
    [
        (
            "external keys: with TCP Fast Open, too, both ends have them, and their subflow joins",
            fast_open as fn() -> Result<()>,
        ),
        (
            "MPTCP_DC_INFO: mode and tokens stay when the first subflow is reset",
            first_subflow_gone,
        ),
        (
            "a client whose own SYN option comes back is plain TCP at once",
            echoed,
        ),
        (
            "a server that gets its own pair for the client's has no connection of ours",
            equal_pairs,
        ),
    ]
    .into_iter()
    .map(|(name, run)| Test::new(name, run))
    .collect()
}

fn fast_open() -> Result<()> {
    const LENGTH: usize = 1_000;
    const CONNECTIONS: usize = 3;
    /// Where socket2 and libc have no name: include/uapi/linux/tcp.h.
    const TCP_FASTOPEN_CONNECT: i32 = 30;

    let pair = Pair::new()?;
    for end in pair.ends() {
        end.set("ipv4/tcp_fastopen", 3)?;
        limit_subflows(end, 4)?;
    }
    pair.client
        .ip([format!("addr add {SECOND_V4}/24 dev {CLIENT_DEV}")])?;
    endpoint(&pair, "add")?;
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let listener = mptcp::listen_with(&pair.server, at, |socket| {
        mptcp_dc::enable_app_key(socket, true)?;
        mptcp::set_tcp(socket, libc::TCP_FASTOPEN, 16)
    })?;
    let to = listener.local_addr()?;
    let before = [pair.client.counters()?, pair.server.counters()?];
    let mut early = 0;
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    for number in 0..CONNECTIONS {
        let client = mptcp::connect_with(&pair.client, to, |socket| {
            mptcp_dc::enable_app_key(socket, true)?;
            mptcp::set_tcp(socket, TCP_FASTOPEN_CONNECT, 1)
        })?;
        mptcp::send(&client, 7, LENGTH)?;
        let server = mptcp::accept(&listener)?;
        mptcp::receive(&server, 7, LENGTH)?;
        // The stock kernel never pushes a reply that is written before the third ACK came.
        thread::sleep(Duration::from_millis(200));
        mptcp::send(&server, 8, LENGTH)?;
        let trace = |capture: &mut Capture| Trace::take(capture, client.local_addr()?);
        mptcp::receive(&client, 8, LENGTH).with_context(|| {
            let segments = capture.segments().map(wire::list).unwrap_or_default();
            format!("connection {number}; the segments were\n{segments}")
        })?;
        let all = trace(&mut capture)?;
        let with_data = !all.syn()?.payload.is_empty();
        early += usize::from(with_data);
        for (name, end) in [("client", &client), ("server", &server)] {
            // What was accepted as plain TCP knows no such option.
            let mode = mptcp_dc::info(end).map(|info| info.mode);
            ensure!(
                matches!(mode, Ok(DcMode::ExternalKey)),
                "connection {number}, {} data in its SYN: the {name} says {mode:?}, with\n{}",
                if with_data { "with" } else { "without" },
                wire::list(&all.segments)
            );
            mptcp_dc::set_key(end, KEY)?;
        }
        let ends = Joinable {
            listener: listener.try_clone()?,
            client,
            server,
        };
        ends.wait_for_subflows(1)?;
        ends.exchange()?;
    }
    ensure!(early >= CONNECTIONS - 1, "only {early} SYNs carried data");
    for (end, before) in pair.ends().into_iter().zip(&before) {
        check_growth(end, before, &[("ExternalKeyRefused", 0)])?;
    }
    Ok(())
}

fn first_subflow_gone() -> Result<()> {
    for mode in [DcMode::LowOverhead, DcMode::ExternalKey] {
        let (tapped, mut attacker) = tapped()?;
        let pair = &tapped.pair;
        for end in pair.ends() {
            Mode::Offer.apply(end)?;
        }
        let ends = match mode {
            DcMode::ExternalKey => victim(pair)?,
            _ => Joinable::v4(pair)?.0,
        };
        endpoint(pair, "add")?;
        ends.wait_for_subflows(1)?;
        ends.exchange()?;
        let told = |ends: &Joinable| -> Result<_> {
            Ok((mptcp_dc::info(&ends.client)?, mptcp_dc::info(&ends.server)?))
        };
        let before = told(&ends)?;
        ensure!(before.0.mode == mode, "{:?}", before.0);
        for to in [End::Server, End::Client] {
            let [from, far] = first_flow(&ends, to)?;
            let numbers = attacker.numbers([from, far])?;
            attacker.address = *from.ip();
            attacker.send(from.port(), far, RST | ACK, numbers, &[], &[])?;
        }
        let client = ends.client.local_addr()?;
        // Over the other one, for the first says no more.
        ends.exchange()?;
        let segments = attacker.capture.connection(client)?;
        let resets = segments.iter().position(|s| s.flags & RST != 0);
        let behind = &segments[resets.context("no reset")?..];
        let data = behind.iter().find(|s| !s.payload.is_empty());
        ensure!(
            data.is_none(),
            "the first subflow lives: {}",
            data.context("")?
        );
        let after = told(&ends)?;
        ensure!(
            after == before,
            "{mode:?}: told {before:x?}, then {after:x?}"
        );
    }
    Ok(())
}

/// A client's SYN to a server that is the attacker.
fn ask(pair: &Pair, peer: &mut RawPeer, port: u16, external: bool) -> Result<(TcpStream, Segment)> {
    let to = SocketAddr::from((RAW_SERVER, port));
    let socket = mptcp::socket(&pair.client, to)?;
    if external {
        mptcp_dc::enable_app_key(&socket, true)?;
    }
    socket.set_nonblocking(true)?;
    let _ = socket.connect(&to.into());
    let syn = peer
        .capture
        .wait_for(SOON, |s| s.to == to && s.is(SYN))?
        .context("no SYN")?;
    Ok((socket.into(), syn))
}

fn echoed() -> Result<()> {
    let pair = Pair::new()?;
    let mut peer = RawPeer::server(&pair)?;
    for (port, (mode, external, refused)) in (6_000..).zip([
        (Mode::OfferFull, true, "ExternalKeyRefused"),
        (Mode::Offer, true, "ExternalKeyRefused"),
        // H isn't set in an answer of that mode, so it can't be read.
        (Mode::OfferFull, false, "MPCapableSYNACKNone"),
        (Mode::Offer, false, "MPCapableSYNACKNone"),
    ]) {
        let what = || format!("{}, external keys: {external}", mode.name());
        mode.apply(&pair.client)?;
        let before = (pair.client.counters()?, pair.client.mib()?);
        let (stream, syn) = ask(&pair, &mut peer, port, external)?;
        let option = syn.mptcp(MP_CAPABLE).next().context("no MP_CAPABLE")?;
        let full = mode == Mode::OfferFull;
        ensure!(option.len() == if full { 12 } else { 4 }, "{syn}");
        let [client, server] = flow(syn.from, syn.to)?;
        let numbers = (ISN, syn.seq.wrapping_add(1));
        peer.send(port, client, SYN | ACK, numbers, option, &[])?;
        let to = SocketAddr::from(server);
        peer.capture
            .wait_for(SOON, |s| s.to == to && s.flags & SYN == 0)?
            .context("no ACK")?;
        stream.set_nonblocking(false)?;
        mptcp::send(&stream, 1, 100)?;
        peer.capture
            .wait_for(SOON, |s| s.to == to && !s.payload.is_empty())?
            .context("no data")?;
        let segments = peer.capture.connection(client.into())?;
        let goes_on = segments
            .iter()
            .find(|s| s.to == to && s.flags & SYN == 0 && s.options.iter().any(|o| o[0] == MPTCP));
        ensure!(
            goes_on.is_none(),
            "{}: MPTCP goes on: {}",
            what(),
            goes_on.context("")?
        );
        let info = mptcp_dc::info(&stream)?;
        ensure!(info.mode == DcMode::Tcp, "{}: {info:?}", what());
        let expected = [(refused, 1), ("MPCapableSYNACKRX", 0)];
        check_growth(&pair.client, &before.0, &expected).with_context(what)?;
        let after = pair.client.mib()?;
        for later in ["DssFallback", "MPCapableDataFallback", "FallbackFailed"] {
            let grew = after.since(&before.1, later)?;
            ensure!(grew == 0, "{}: {later} grew by {grew}", what());
        }
        peer.send(port, client, RST | ACK, (ISN + 1, numbers.1), &[], &[])?;
    }
    Ok(())
}

fn equal_pairs() -> Result<()> {
    /// Whose pair the client says is its own.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Whose {
        Own,
        Servers,
    }

    let pair = Pair::new()?;
    Mode::Accept.apply(&pair.server)?;
    let mut peer = RawPeer::client(&pair)?;
    let mut port = 7_000;
    for external in [true, false] {
        let (syn_flags, flags, mode) = if external {
            (FLAG_B | FLAG_H, FLAG_B | FLAG_H, DcMode::ExternalKey)
        } else {
            (FLAG_H, 0, DcMode::LowOverhead)
        };
        for cookies in [0, 1, 2] {
            pair.server.set("ipv4/tcp_syncookies", cookies)?;
            let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
            let listener = mptcp::listen_with(&pair.server, at, |socket| {
                Ok(mptcp_dc::enable_app_key(socket, external)?)
            })?;
            let SocketAddr::V4(to) = listener.local_addr()? else {
                bail!("a listener of another family");
            };
            for (whose, data) in [
                (Whose::Own, false),
                (Whose::Servers, false),
                (Whose::Servers, true),
            ] {
                let what =
                    || format!("{mode:?}, tcp_syncookies={cookies}, {whose:?} pair, data: {data}");
                port += 1;
                let syn_ack = peer.syn(port, to, &mp_capable(V15, syn_flags, &[]))?;
                let answer = syn_ack.mp_capable()?.context("no MP_CAPABLE")?;
                ensure!(answer.form() == (V15, 12, flags), "{answer:x?}");
                let own = answer.sender.context("no key field")?.to_be_bytes();
                let sender = match whose {
                    Whose::Own => [0x0a, 0x0b, 0x0c, 0x0d, 1, 2, 3, 5],
                    Whose::Servers => own,
                };
                let mut body = [sender, own].concat();
                let payload: &[u8] = if data { &[7; 16] } else { &[] };
                if data {
                    body.extend([0, payload.len() as u8]);
                }
                let option = mp_capable(V15, flags, &body);
                peer.third_ack(port, to, &syn_ack, &option, payload)?;
                let stream =
                    mptcp::accept_within(&listener, Duration::from_secs(5)).with_context(what)?;
                // What is plain TCP from the start knows no such option.
                let told = stream
                    .as_ref()
                    .and_then(|stream| mptcp_dc::info(stream).ok())
                    .map(|info| info.mode);
                match whose {
                    Whose::Own => ensure!(told == Some(mode), "{}: {told:?}", what()),
                    Whose::Servers => ensure!(
                        matches!(told, None | Some(DcMode::Tcp)),
                        "{}: {told:?}",
                        what()
                    ),
                }
                peer.reset(port, to, payload.len() as u32)?;
            }
        }
    }
    Ok(())
}
