// SPDX-License-Identifier: GPL-2.0

//! A peer's abort, MP_FASTCLOSE, is seen at once; nobody else can abort a connection with external keys, whatever he saw.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use mptcp_dc::Mode as DcMode;
use socket2::Socket;

use super::attacks::{endpoint, first, hmac, keys_of, victim, Scene, Server, KEY};
use crate::capture::Capture;
use crate::handshake::{Keys, Trace};
use crate::joinable::{limit_subflows, Joinable};
use crate::kernel;
use crate::mptcp;
use crate::netns::{Family, Mode, Netns, Pair, Tapped, RAW_CLIENT, TO_SERVER_DEV};
use crate::raw::{flow, Flow, RawPeer};
use crate::wire::{self, ACK, DSS, MPTCP, MP_FASTCLOSE, RST};
use crate::{Scale, Test};

pub fn tests(_scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    for to in [End::Server, End::Client] {
        tests.push(Test::new(
            format!(
                "aborts: with external keys the {} heeds an MP_FASTCLOSE under the key, and no other",
                to.name()
            ),
            move || forged(to),
        ));
    }
    for (name, run) in [
        (
            "aborts: with external keys a reset with the peer's key field ends one subflow, under the key all",
            forged_resets as fn() -> Result<()>,
        ),
        (
            "aborts: under a key just replaced the peer can still abort",
            under_the_previous_key,
        ),
        (
            "aborts: before the key no ACK aborts, but a reset with the peer's key field does",
            before_the_key,
        ),
        (
            "aborts: low overhead heeds the key field, as RFC 8684 says",
            low_overhead,
        ),
        (
            "aborts: in each mode, of either end, are seen at once by the other",
            real,
        ),
        (
            "aborts: while only one end has its key, are seen at once by the other",
            with_one_key,
        ),
        (
            "aborts: unloaded, those of either end are seen at once, and forged ones aren't heeded",
            unloaded,
        ),
    ] {
        tests.push(Test::new(name, run));
    }
    tests
}

/// When an abort has surely been seen. Without it, the stack gives a connection without subflows up after a minute.
const AT_ONCE: Duration = Duration::from_secs(10);
const OTHER_KEY: &[u8] = b"another key that both ends have";

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Client,
    Server,
}

impl End {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    pub(super) fn netns(self, pair: &Pair) -> &Netns {
        match self {
            Self::Client => &pair.client,
            Self::Server => &pair.server,
        }
    }

    pub(super) fn socket(self, ends: &Joinable) -> &TcpStream {
        match self {
            Self::Client => &ends.client,
            Self::Server => &ends.server,
        }
    }

    fn key_field(self, keys: Keys) -> u64 {
        match self {
            Self::Client => keys.client,
            Self::Server => keys.server,
        }
    }
}

/// An MP_FASTCLOSE.
fn fastclose(value: [u8; 8]) -> Vec<u8> {
    [&[MPTCP, 12, MP_FASTCLOSE << 4, 0][..], &value].concat()
}

/// What the end `by` puts into one under a key.
fn signed(key: &[u8], keys: Keys, by: End) -> Result<[u8; 8]> {
    let own = by.key_field(keys).to_be_bytes();
    let peer = by.other().key_field(keys).to_be_bytes();
    first(&hmac(key, &[&own, &peer, &[7]])?)
}

/// The subflow that joined, from the end that isn't `to`.
fn joined_flow(scene: &Scene, to: End) -> Result<Flow> {
    let syn = &scene.seen.syn;
    match to {
        End::Server => flow(syn.from, syn.to),
        End::Client => flow(syn.to, syn.from),
    }
}

/// The first subflow, from the end that isn't `to`.
pub(super) fn first_flow(ends: &Joinable, to: End) -> Result<Flow> {
    let (client, server) = (ends.client.local_addr()?, ends.client.peer_addr()?);
    match to {
        End::Server => flow(client, server),
        End::Client => flow(server, client),
    }
}

/// What became of a forged MP_FASTCLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The module counted it as a bad one.
    Ignored,
    /// The stack counted it as a good one.
    Heeded,
}

/// Sends a segment with these options in the name of the flow's first end, in sequence; what `to` makes of it.
fn send(
    attacker: &mut RawPeer,
    at: &Netns,
    flow: Flow,
    flags: u8,
    options: &[u8],
) -> Result<Verdict> {
    let at_numbers = attacker.numbers(flow)?;
    let [from, to] = flow;
    attacker.address = *from.ip();
    let counters = || -> Result<[u64; 2]> {
        Ok([
            // Before this counter was there, each was heeded that had the key field.
            at.counters()?.get("MPFastcloseBad").unwrap_or(0),
            at.mib()?.get("MPFastcloseRx")?,
        ])
    };
    let [bad, good] = counters()?;
    attacker.send(from.port(), to, flags, at_numbers, options, &[])?;
    let start = Instant::now();
    loop {
        let [bad_now, good_now] = counters()?;
        match (bad_now > bad, good_now > good) {
            (_, true) => return Ok(Verdict::Heeded),
            (true, false) => return Ok(Verdict::Ignored),
            _ => {}
        }
        ensure!(
            start.elapsed() < AT_ONCE,
            "neither MPFastcloseBad nor MPFastcloseRx grew"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

/// The connection of this end is reset at once.
fn check_aborted(mut end: &TcpStream) -> Result<()> {
    end.set_read_timeout(Some(AT_ONCE))?;
    let start = Instant::now();
    let mut buffer = [0; 4096];
    let error = loop {
        match end.read(&mut buffer) {
            Ok(0) => bail!("an orderly end"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    ensure!(
        error.kind() == ErrorKind::ConnectionReset,
        "after {:?}: {error}",
        start.elapsed()
    );
    Ok(())
}

/// The host's key field, as somebody who sees only the joined path finds it: the token in the join's SYN, the random part
/// in the high half of a data sequence number.
fn guessed_key_field(scene: &mut Scene) -> Result<u64> {
    let join = scene.seen.syn.mptcp(wire::MP_JOIN).next();
    let token: [u8; 4] = first(&join.context("no MP_JOIN")?[4..])?;
    let server = SocketAddr::V4(scene.to);
    let segments = scene.attacker.capture.segments()?;
    let mut dss = segments
        .iter()
        .filter(|s| s.from == server)
        .filter_map(|s| s.dss().ok()??.map);
    let map = dss.next().context("no mapping from the server")?;
    let guessed = (u64::from(u32::from_be_bytes(token)) << 32) | (map.data_seq >> 32);
    ensure!(
        guessed == scene.keys.server,
        "{guessed:#x} isn't the server's key field {:#x}: this shows nothing",
        scene.keys.server
    );
    Ok(guessed)
}

/// A DSS that says nothing.
fn empty_dss() -> Vec<u8> {
    vec![MPTCP, 4, DSS << 4, 0]
}

fn forged(to: End) -> Result<()> {
    let mut scene = Scene::new(Server::Stateful)?;
    let by = to.other();
    let keys = scene.keys;
    let guessed = guessed_key_field(&mut scene)?;
    let (own, peer) = (to.key_field(keys), by.key_field(keys));
    let field = |value: u64| fastclose(value.to_be_bytes());
    let right = signed(KEY, keys, by)?;
    let nearly = |bit: u32| fastclose((u64::from_be_bytes(right) ^ (1 << bit)).to_be_bytes());
    let mut bad = vec![
        ("the receiver's key field", field(own)),
        ("the sender's key field", field(peer)),
        ("nothing", field(0)),
        ("any value", field(0x0123_4567_89ab_cdef)),
        ("its own HMAC", fastclose(signed(KEY, keys, to)?)),
        (
            "another key's HMAC",
            fastclose(signed(OTHER_KEY, keys, by)?),
        ),
        ("no key's HMAC", fastclose(signed(b"", keys, by)?)),
        ("an HMAC with its last bit wrong", nearly(0)),
        ("an HMAC with its first bit wrong", nearly(63)),
        (
            "the key field, behind a DSS",
            [empty_dss(), field(own)].concat(),
        ),
        ("the key field, twice", [field(own), field(own)].concat()),
        (
            "the key field, behind any value",
            [field(1), field(own)].concat(),
        ),
        (
            "the key field, before any value",
            [field(own), field(1)].concat(),
        ),
    ];
    if to == End::Server {
        bad.insert(0, ("what the joined path shows", field(guessed)));
    }
    let joined = joined_flow(&scene, to)?;
    for (what, options) in bad {
        let at = to.netns(&scene.tapped.pair);
        let verdict = send(&mut scene.attacker, at, joined, ACK, &options)
            .with_context(|| what.to_owned())?;
        ensure!(verdict == Verdict::Ignored, "{what} aborts the connection");
        scene.check_victim().with_context(|| what.to_owned())?;
    }
    let at = to.netns(&scene.tapped.pair);
    let on_first = first_flow(&scene.victim, to)?;
    let verdict = send(&mut scene.attacker, at, on_first, ACK, &field(own))?;
    ensure!(
        verdict == Verdict::Ignored,
        "the key field on the first subflow aborts the connection"
    );
    scene.check_victim()?;
    let verdict = send(&mut scene.attacker, at, joined, ACK, &fastclose(right))?;
    ensure!(verdict == Verdict::Heeded, "the right HMAC was ignored");
    check_aborted(to.socket(&scene.victim))
}

fn forged_resets() -> Result<()> {
    let mut scene = Scene::new(Server::Stateful)?;
    let keys = scene.keys;
    let joined = joined_flow(&scene, End::Server)?;
    let on_first = first_flow(&scene.victim, End::Server)?;
    let server = &scene.tapped.pair.server;
    let bare = fastclose(keys.server.to_be_bytes());
    let verdict = send(&mut scene.attacker, server, joined, RST | ACK, &bare)?;
    ensure!(
        verdict == Verdict::Ignored,
        "the key field in a reset aborts the connection"
    );
    scene.victim.wait_for_subflows(0)?;
    scene.victim.exchange()?;
    let right = fastclose(signed(KEY, keys, End::Client)?);
    let verdict = send(&mut scene.attacker, server, on_first, RST | ACK, &right)?;
    ensure!(verdict == Verdict::Heeded, "the right HMAC was ignored");
    check_aborted(&scene.victim.server)
}

fn under_the_previous_key() -> Result<()> {
    let mut scene = Scene::new(Server::Stateful)?;
    let keys = scene.keys;
    let joined = joined_flow(&scene, End::Server)?;
    // The peer hasn't got the new one yet.
    mptcp_dc::set_key(&scene.victim.server, OTHER_KEY)?;
    let server = &scene.tapped.pair.server;
    let bare = fastclose(keys.server.to_be_bytes());
    let verdict = send(&mut scene.attacker, server, joined, ACK, &bare)?;
    ensure!(verdict == Verdict::Ignored, "the key field aborts");
    let before = fastclose(signed(KEY, keys, End::Client)?);
    let verdict = send(&mut scene.attacker, server, joined, ACK, &before)?;
    ensure!(
        verdict == Verdict::Heeded,
        "the key before was forgotten at once"
    );
    check_aborted(&scene.victim.server)
}

/// An attacker between two ends that do nothing yet.
pub(super) fn tapped() -> Result<(Tapped, RawPeer)> {
    let tapped = Tapped::new()?;
    for end in tapped.pair.ends() {
        limit_subflows(end, 4)?;
    }
    let attacker = RawPeer::at(&tapped.attacker, TO_SERVER_DEV, RAW_CLIENT)?;
    Ok((tapped, attacker))
}

/// A connection with external keys that has none yet.
fn keyless(pair: &Pair) -> Result<Joinable> {
    let at = Pair::server_addr(Family::V4);
    Joinable::with(pair, SocketAddr::new(at, 0), at, |socket| {
        Ok(mptcp_dc::enable_app_key(socket, true)?)
    })
}

fn before_the_key() -> Result<()> {
    let (tapped, mut attacker) = tapped()?;
    for to in [End::Server, End::Client] {
        let ends = keyless(&tapped.pair)?;
        let keys = keys_of(&mut attacker.capture, &ends)?;
        let (at, on) = (to.netns(&tapped.pair), first_flow(&ends, to)?);
        let bare = fastclose(to.key_field(keys).to_be_bytes());
        let verdict = send(&mut attacker, at, on, ACK, &bare)?;
        ensure!(verdict == Verdict::Ignored, "{to:?}: an ACK aborts");
        ends.exchange()?;
        let verdict = send(&mut attacker, at, on, RST | ACK, &bare)?;
        ensure!(verdict == Verdict::Heeded, "{to:?}: a reset doesn't abort");
        check_aborted(to.socket(&ends))?;
    }
    Ok(())
}

fn low_overhead() -> Result<()> {
    let (tapped, mut attacker) = tapped()?;
    for end in tapped.pair.ends() {
        Mode::Offer.apply(end)?;
    }
    let (ends, _) = Joinable::v4(&tapped.pair)?;
    let trace = Trace::take(&mut attacker.capture, ends.client.local_addr()?)?;
    let ack = trace.third_ack()?.mp_capable()?.context("no MP_CAPABLE")?;
    let own = ack.receiver.context("no key field")?;
    let on = first_flow(&ends, End::Server)?;
    let bare = fastclose(own.to_be_bytes());
    let verdict = send(&mut attacker, &tapped.pair.server, on, ACK, &bare)?;
    ensure!(verdict == Verdict::Heeded, "the key field doesn't abort");
    check_aborted(&ends.server)
}

/// How an application aborts a connection.
#[derive(Clone, Copy, Debug)]
enum How {
    /// `SO_LINGER` with no time.
    Linger,
    /// It closes with data unread.
    Unread,
}

/// Aborts the connection at the end `by`, and checks that the other sees it at once. What stood in the MP_FASTCLOSE.
fn abort(capture: &mut Capture, ends: Joinable, by: End, how: How) -> Result<[u8; 8]> {
    let Joinable {
        listener: _listener,
        client,
        server,
    } = ends;
    let port = client.local_addr()?.port();
    let (closing, other) = match by {
        End::Client => (client, server),
        End::Server => (server, client),
    };
    match how {
        How::Linger => Socket::from(closing).set_linger(Some(Duration::ZERO))?,
        How::Unread => {
            mptcp::send(&other, 5, 1_000)?;
            closing.peek(&mut [0])?;
            drop(closing);
        }
    }
    check_aborted(&other)?;
    let is_server = by == End::Server;
    let segment = capture
        .wait_for(AT_ONCE, |s| {
            let (client, from_server) = if s.from.port() == port {
                (true, false)
            } else {
                (s.to.port() == port, true)
            };
            client && from_server == is_server && s.mptcp(MP_FASTCLOSE).next().is_some()
        })?
        .context("no MP_FASTCLOSE")?;
    ensure!(segment.flags & RST != 0, "no reset: {segment}");
    let option = segment.mptcp(MP_FASTCLOSE).next();
    first(&option.context("no MP_FASTCLOSE")?[4..])
}

fn real() -> Result<()> {
    let (tapped, mut attacker) = tapped()?;
    let pair = &tapped.pair;
    endpoint(pair, "add")?;
    for mode in [DcMode::Standard, DcMode::LowOverhead, DcMode::ExternalKey] {
        let level = match mode {
            DcMode::LowOverhead => Mode::Offer,
            _ => Mode::Stock,
        };
        for end in pair.ends() {
            level.apply(end)?;
        }
        for by in [End::Client, End::Server] {
            for how in [How::Linger, How::Unread] {
                (|| -> Result<()> {
                    let ends = match mode {
                        DcMode::ExternalKey => victim(pair)?,
                        _ => Joinable::v4(pair)?.0,
                    };
                    ends.wait_for_subflows(1)?;
                    let info = mptcp_dc::info(&ends.client)?;
                    ensure!(info.mode == mode, "{info:?}");
                    let trace = Trace::take(&mut attacker.capture, ends.client.local_addr()?)?;
                    let ack = trace.third_ack()?.mp_capable()?.context("no MP_CAPABLE")?;
                    let (client, server) = ack.sender.zip(ack.receiver).context("no keys")?;
                    let keys = Keys { client, server };
                    let right = match mode {
                        DcMode::ExternalKey => signed(KEY, keys, by)?,
                        _ => by.other().key_field(keys).to_be_bytes(),
                    };
                    let said = abort(&mut attacker.capture, ends, by, how)?;
                    ensure!(
                        said == right,
                        "MP_FASTCLOSE has {said:02x?}, not {right:02x?}"
                    );
                    Ok(())
                })()
                .with_context(|| format!("{mode:?}, by the {}, {how:?}", by.name()))?;
            }
        }
    }
    Ok(())
}

fn with_one_key() -> Result<()> {
    let (tapped, mut attacker) = tapped()?;
    for holder in [None, Some(End::Client), Some(End::Server)] {
        for by in [End::Client, End::Server] {
            let ends = keyless(&tapped.pair)?;
            if let Some(holder) = holder {
                mptcp_dc::set_key(holder.socket(&ends), KEY)?;
            }
            abort(&mut attacker.capture, ends, by, How::Linger)
                .with_context(|| format!("the key at {holder:?}, aborted by the {}", by.name()))?;
        }
    }
    Ok(())
}

fn unloaded() -> Result<()> {
    let (tapped, mut attacker) = tapped()?;
    let pair = &tapped.pair;
    endpoint(pair, "add")?;
    let mut make = || -> Result<(Joinable, Keys)> {
        let ends = victim(pair)?;
        ends.wait_for_subflows(1)?;
        ends.exchange()?;
        let keys = keys_of(&mut attacker.capture, &ends)?;
        Ok((ends, keys))
    };
    let closed = [
        (make()?, End::Client, How::Linger),
        (make()?, End::Server, How::Linger),
        (make()?, End::Client, How::Unread),
        (make()?, End::Server, How::Unread),
    ];
    let forged = [(make()?, End::Server), (make()?, End::Client)];

    kernel::unload()?;
    let checked = (|| -> Result<()> {
        for ((ends, keys), by, how) in closed {
            let what = || format!("by the {}, {how:?}", by.name());
            ends.exchange().with_context(what)?;
            let said = abort(&mut attacker.capture, ends, by, how).with_context(what)?;
            // So a peer that still has the module sees it, too.
            let right = signed(KEY, keys, by)?;
            ensure!(
                said == right,
                "{}: MP_FASTCLOSE has {said:02x?}, not {right:02x?}",
                what()
            );
        }
        for ((ends, keys), to) in forged {
            let by = to.other();
            let on = first_flow(&ends, to)?;
            let mut send = |value: [u8; 8]| -> Result<()> {
                let at_numbers = attacker.numbers(on)?;
                let [from, far] = on;
                attacker.address = *from.ip();
                attacker.send(from.port(), far, ACK, at_numbers, &fastclose(value), &[])
            };
            for value in [
                to.key_field(keys).to_be_bytes(),
                by.key_field(keys).to_be_bytes(),
                signed(KEY, keys, to)?,
                [0; 8],
            ] {
                send(value)?;
                // What is sent behind it comes behind it.
                ends.exchange()
                    .with_context(|| format!("{to:?}: forged, {value:02x?}"))?;
            }
            send(signed(KEY, keys, by)?)?;
            check_aborted(to.socket(&ends)).with_context(|| format!("{to:?}: under the key"))?;
        }
        Ok(())
    })();
    kernel::load()?;
    checked
}
