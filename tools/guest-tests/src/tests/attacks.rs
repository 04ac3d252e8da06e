// SPDX-License-Identifier: GPL-2.0

//! External keys against an attacker between the two hosts, who saw every segment and can send any, in anybody's name,
//! but has not the key.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::external_joins::replaced_long_ago;
use crate::capture::Capture;
use crate::handshake::{Keys, Trace};
use crate::joinable::{check_growth, limit_subflows, Joinable};
use crate::mptcp::{self, Info};
use crate::netns::{
    Counters, Family, Pair, Tapped, CLIENT_DEV, RAW_CLIENT, SECOND_V4, SERVER_V4, TO_CLIENT_DEV,
    TO_SERVER_DEV,
};
use crate::raw::{RawPeer, ISN};
use crate::wire::{self, mp_capable, Segment, ACK, FLAG_B, FLAG_H, MPTCP, MP_JOIN, SYN, V1, V15};
use crate::{Scale, Test};

/// How the server answers SYNs of joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Server {
    /// With a request socket.
    Stateful,
    /// With a SYN cookie.
    Stateless,
}

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    for (server, state) in [
        (Server::Stateful, "with a request socket"),
        (Server::Stateless, "without state"),
    ] {
        for (what, run) in [
            (
                "with the key, segments like theirs join",
                the_key_joins as fn(Server) -> Result<()>,
            ),
            ("what it saw makes no join", nothing_seen_joins),
            (
                "a JOIN ACK repeated while its subflow lives changes nothing",
                replay_on_the_living,
            ),
            (
                "a JOIN repeated when its subflow is gone makes no other",
                replay_after_the_end,
            ),
            (
                "of many JOINs repeated when their subflows are gone none makes another",
                many_replays,
            ),
            ("a reflected HMAC makes no join", reflection),
            (
                "a JOIN of one connection makes none on another with the same key",
                other_connection,
            ),
            (
                "a key replaced before the ACK still makes the join, one replaced twice doesn't",
                replaced_key,
            ),
        ] {
            let name = format!("attacker, {state}: {what}");
            tests.push(Test::new(name, move || run(server)));
        }
        if scale == Scale::Long && server == Server::Stateless {
            tests.push(Test::with_note(
                format!(
                    "attacker, {state}: a join whose time ends before its ACK comes still succeeds"
                ),
                Duration::from_secs(200),
                epoch_before,
            ));
        }
        let guesses = match server {
            Server::Stateful => scale.of(200, 500, 5_000),
            Server::Stateless => scale.of(10_000, 100_000, 1_000_000),
        };
        tests.push(Test::with_note(
            format!("attacker, {state}: {guesses} guessed HMACs make no join"),
            Duration::from_secs(1_500),
            move || guessing(server, guesses),
        ));
    }
    if scale != Scale::Quick {
        tests.push(Test::with_note(
            "attacker, with and without a request socket: a JOIN repeated when its time is over makes no other, \
             nor does one under a key replaced before",
            Duration::from_secs(400),
            replays_after_the_epoch,
        ));
    }
    for (name, run) in [
        (
            "attacker: a client that joins takes no server without the key",
            forged_answer as fn() -> Result<()>,
        ),
        (
            "attacker: a client heeds no address without the key",
            forged_address,
        ),
        (
            "attacker: a client whose B is stripped is plain TCP",
            downgraded_client,
        ),
        (
            "attacker: a server whose client's B is stripped takes no keys in clear",
            downgraded_server,
        ),
    ] {
        tests.push(Test::new(name, run));
    }
    tests
}

pub(super) const KEY: &[u8] = b"what only the two ends know";
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Lengths of MP_JOIN with external keys.
pub(super) const JOIN_SYN: usize = 12;
pub(super) const JOIN_SYN_ACK: usize = 16;
const JOIN_ACK: usize = 28;

/// HMAC-SHA256 of the concatenation of `parts`.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    parts.iter().for_each(|part| mac.update(part));
    Ok(mac.finalize().into_bytes().into())
}

/// The front of an array.
pub(super) fn first<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.first_chunk().copied().context("too short")
}

/// The MP_JOIN of a segment, if it has this length.
pub(super) fn join_of(segment: &Segment, length: usize) -> Option<&[u8]> {
    segment.mptcp(MP_JOIN).find(|join| join.len() == length)
}

/// A join as it crossed the wire.
#[derive(Clone)]
pub(super) struct Seen {
    pub(super) syn: Segment,
    pub(super) syn_ack: Segment,
    pub(super) ack: Segment,
}

impl Seen {
    /// The first one in a capture.
    fn wait_for(capture: &mut Capture) -> Result<Self> {
        let mut find = |flags: u8, length: usize, to: Option<SocketAddr>| {
            capture
                .wait_for(SOON, |s| {
                    s.is(flags)
                        && join_of(s, length).is_some()
                        && to.is_none_or(|to| s.to == to || s.from == to)
                })?
                .with_context(|| format!("no MP_JOIN of {length} bytes"))
        };
        let syn = find(SYN, JOIN_SYN, None)?;
        let client = Some(syn.from);
        Ok(Self {
            syn_ack: find(SYN | ACK, JOIN_SYN_ACK, client)?,
            ack: find(ACK, JOIN_ACK, client)?,
            syn,
        })
    }

    fn of_syn(&self) -> Result<&[u8]> {
        join_of(&self.syn, JOIN_SYN).context("no MP_JOIN")
    }

    /// `Rand_A`.
    pub(super) fn client_nonce(&self) -> Result<[u8; 4]> {
        first(&self.of_syn()?[8..])
    }

    /// `Rand_B`.
    pub(super) fn server_nonce(&self) -> Result<[u8; 4]> {
        nonce_of(&self.syn_ack)
    }

    /// `HMAC_A`, as far as it crossed the wire.
    fn hmac(&self) -> Result<[u8; 16]> {
        first(&join_of(&self.ack, JOIN_ACK).context("no MP_JOIN")?[12..])
    }
}

/// `Rand_B` in a SYN/ACK.
pub(super) fn nonce_of(syn_ack: &Segment) -> Result<[u8; 4]> {
    let join = join_of(syn_ack, JOIN_SYN_ACK)
        .with_context(|| format!("a SYN/ACK without HMAC: {syn_ack}"))?;
    first(&join[12..])
}

/// What the attacker puts into SYN and ACK of a join.
pub(super) struct Forged {
    pub(super) from: SocketAddrV4,
    pub(super) isn: u32,
    pub(super) token: u32,
    pub(super) nonce: [u8; 4],
}

impl Forged {
    pub(super) fn syn(&self) -> Vec<u8> {
        self.option(JOIN_SYN, &[])
    }

    pub(super) fn ack(&self, hmac: &[u8; 16]) -> Vec<u8> {
        self.option(JOIN_ACK, hmac)
    }

    fn option(&self, length: usize, hmac: &[u8]) -> Vec<u8> {
        let head = [MPTCP, length as u8, MP_JOIN << 4, 9];
        [&head, &self.token.to_be_bytes()[..], &self.nonce, hmac].concat()
    }
}

/// Two ends with a subflow beside the first, and who watched it come.
pub(super) struct Scene {
    pub(super) victim: Joinable,
    pub(super) to: SocketAddrV4,
    pub(super) keys: Keys,
    pub(super) seen: Seen,
    pub(super) attacker: RawPeer,
    pub(super) tapped: Tapped,
}

impl Scene {
    pub(super) fn new(server: Server) -> Result<Self> {
        let tapped = Tapped::new()?;
        let pair = &tapped.pair;
        if server == Server::Stateless {
            pair.server.set("mptcp_dc/stateless_join", 1)?;
        }
        for end in pair.ends() {
            limit_subflows(end, 4)?;
        }
        let mut attacker = RawPeer::at(&tapped.attacker, TO_SERVER_DEV, RAW_CLIENT)?;
        let victim = victim(pair)?;
        endpoint(pair, "add")?;
        let seen = Seen::wait_for(&mut attacker.capture)?;
        victim.wait_for_subflows(1)?;
        let SocketAddr::V4(to) = victim.listener.local_addr()? else {
            bail!("a listener of another family");
        };
        let keys = keys_of(&mut attacker.capture, &victim)?;
        let this = Self {
            victim,
            to,
            keys,
            seen,
            attacker,
            tapped,
        };
        this.check_victim()?;
        Ok(this)
    }

    /// The victim is as it was: it carries data, and the subflows are the two that it made itself.
    pub(super) fn check_victim(&self) -> Result<()> {
        self.victim.exchange()?;
        let subflows = self.victim.subflows()?;
        ensure!(subflows == 1, "the victim has {subflows} subflows more");
        let client = Info::of(&self.victim.client)?.context("plain TCP")?;
        ensure!(client.subflows == 1, "the client says {client:x?}");
        Ok(())
    }

    pub(super) fn counters(&self) -> Result<Counters> {
        self.tapped.pair.server.counters()
    }

    /// A join from nobody's address, with this nonce.
    pub(super) fn forged(&self, port: u16, nonce: [u8; 4]) -> Forged {
        Forged {
            from: SocketAddrV4::new(RAW_CLIENT, port),
            isn: ISN,
            token: wire::token(self.keys.server),
            nonce,
        }
    }

    /// The join that was seen, once more.
    fn replayed(&self) -> Result<Forged> {
        let SocketAddr::V4(from) = self.seen.syn.from else {
            bail!("a join of another family");
        };
        Ok(Forged {
            from,
            isn: self.seen.syn.seq,
            token: wire::token(self.keys.server),
            nonce: self.seen.client_nonce()?,
        })
    }

    /// Sends SYN and ACK of a join, the ACK with what `sign` makes of the SYN/ACK; whether the server took it.
    pub(super) fn join(
        &mut self,
        forged: &Forged,
        sign: impl FnOnce(&Segment) -> Result<[u8; 16]>,
    ) -> Result<bool> {
        let (to, port) = (self.to, forged.from.port());
        self.attacker.address = *forged.from.ip();
        let syn_ack = self
            .attacker
            .syn_with(port, to, forged.isn, &forged.syn())?;
        let before = self.counters()?;
        let numbers = (forged.isn.wrapping_add(1), syn_ack.seq.wrapping_add(1));
        let ack = forged.ack(&sign(&syn_ack)?);
        self.attacker.send(port, to, ACK, numbers, &ack, &[])?;
        let start = Instant::now();
        loop {
            let now = self.counters()?;
            if now.since(&before, "MPJoinACKBad")? == 1 {
                return Ok(false);
            }
            if now.since(&before, "MPJoinACKRX")? == 1 {
                return Ok(true);
            }
            ensure!(start.elapsed() < SOON, "no counter moved");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Checks that such a join is refused.
    fn check_refused(
        &mut self,
        what: &str,
        forged: &Forged,
        sign: impl FnOnce(&Segment) -> Result<[u8; 16]>,
    ) -> Result<()> {
        ensure!(!self.join(forged, sign)?, "a subflow joined: {what}");
        Ok(())
    }
}

/// A connection with external keys, and with one set.
pub(super) fn victim(pair: &Pair) -> Result<Joinable> {
    let at = Pair::server_addr(Family::V4);
    let victim = Joinable::with(pair, SocketAddr::new(at, 0), at, |socket| {
        Ok(mptcp_dc::enable_app_key(socket, true)?)
    })?;
    mptcp_dc::set_key(&victim.server, KEY)?;
    mptcp_dc::set_key(&victim.client, KEY)?;
    Ok(victim)
}

/// Adds or deletes the client's endpoint for a second subflow.
pub(super) fn endpoint(pair: &Pair, verb: &str) -> Result<()> {
    pair.client.ip([match verb {
        "add" => format!("mptcp endpoint add {SECOND_V4} dev {CLIENT_DEV} id 7 subflow"),
        _ => "mptcp endpoint del id 7".to_owned(),
    }])
}

/// Both key fields, from the third ACK.
pub(super) fn keys_of(capture: &mut Capture, victim: &Joinable) -> Result<Keys> {
    let trace = Trace::take(capture, victim.client.local_addr()?)?;
    let ack = trace.third_ack()?.mp_capable()?.context("no MP_CAPABLE")?;
    ensure!(
        ack.form() == (V15, 20, FLAG_B | FLAG_H),
        "the third ACK has {ack:x?}"
    );
    let (client, server) = ack.sender.zip(ack.receiver).context("no keys")?;
    Ok(Keys { client, server })
}

/// What the client signs.
pub(super) fn client_hmac(key: &[u8], keys: Keys, nonces: [[u8; 4]; 2]) -> Result<[u8; 16]> {
    let (a, b) = (keys.client.to_be_bytes(), keys.server.to_be_bytes());
    first(&hmac(key, &[&a, &b, &nonces[0], &nonces[1]])?)
}

fn the_key_joins(server: Server) -> Result<()> {
    let mut scene = Scene::new(server)?;
    let (keys, nonce) = (scene.keys, [1, 2, 3, 4]);
    let joined = scene.join(&scene.forged(2_000, nonce), |syn_ack| {
        client_hmac(KEY, keys, [nonce, nonce_of(syn_ack)?])
    })?;
    ensure!(joined, "a join with the right HMAC was refused");
    scene.victim.wait_for_subflows(2)
}

fn nothing_seen_joins(server: Server) -> Result<()> {
    let mut scene = Scene::new(server)?;
    let (keys, seen) = (scene.keys, scene.seen.clone());
    let (nonce, hmac_a) = (seen.client_nonce()?, seen.hmac()?);
    let (a, b) = (keys.client.to_be_bytes(), keys.server.to_be_bytes());
    let from_elsewhere = |scene: &Scene, port| Forged {
        from: SocketAddrV4::new(RAW_CLIENT, port),
        ..scene
            .replayed()
            .unwrap_or_else(|_| scene.forged(port, nonce))
    };
    let forged = from_elsewhere(&scene, 2_000);
    scene.check_refused("its HMAC from elsewhere", &forged, |_| Ok(hmac_a))?;
    let forged = from_elsewhere(&scene, scene.seen.syn.from.port());
    scene.check_refused("its HMAC from its port elsewhere", &forged, |_| Ok(hmac_a))?;
    let forged = from_elsewhere(&scene, 2_001);
    scene.check_refused("no HMAC", &forged, |_| Ok([0; 16]))?;
    // As RFC 8684 has it: the key fields for a key.
    for (port, standard) in [(2_002, [a, b]), (2_003, [b, a])] {
        let forged = from_elsewhere(&scene, port);
        scene.check_refused("RFC 8684's HMAC", &forged, |syn_ack| {
            let nonces = [&nonce[..], &nonce_of(syn_ack)?].concat();
            first(&hmac(&standard.concat(), &[&nonces])?)
        })?;
    }
    for (port, key) in [
        (2_004, &b""[..]),
        (2_005, &[0; 32]),
        (2_006, &a),
        (2_007, &b),
    ] {
        let forged = from_elsewhere(&scene, port);
        scene.check_refused("an HMAC under a key that all know", &forged, |syn_ack| {
            client_hmac(key, keys, [nonce, nonce_of(syn_ack)?])
        })?;
    }
    // One bit of the right HMAC is wrong.
    for bit in [0, 127] {
        let forged = from_elsewhere(&scene, 2_100 + bit);
        scene.check_refused("an HMAC with a wrong bit", &forged, |syn_ack| {
            let right = client_hmac(KEY, keys, [nonce, nonce_of(syn_ack)?])?;
            Ok((u128::from_be_bytes(right) ^ (1 << bit)).to_be_bytes())
        })?;
    }

    // The low-overhead form, which has no HMAC.
    let before = scene.counters()?;
    let token = wire::token(keys.server).to_be_bytes();
    let bare = [&[MPTCP, 8, MP_JOIN << 4, 9], &token[..]].concat();
    scene.tapped.pair.server.set("mptcp_dc/lowoverhead", 1)?;
    scene.attacker.capture.clear()?;
    scene
        .attacker
        .send(3_000, scene.to, SYN, (ISN, 0), &bare, &[])?;
    let answer = scene
        .attacker
        .capture
        .wait_for(SOON, |s| s.to.port() == 3_000)?
        .context("silence")?;
    ensure!(
        answer.flags & wire::RST != 0,
        "a join without HMAC is answered: {answer}"
    );
    check_growth(
        &scene.tapped.pair.server,
        &before,
        &[("MPJoinNoToken", 1), ("MPJoinACKRX", 0)],
    )?;
    scene.check_victim()
}

fn replay_on_the_living(server: Server) -> Result<()> {
    let mut scene = Scene::new(server)?;
    let replayed = scene.replayed()?;
    let before = scene.counters()?;
    let netstat = |scene: &Scene| scene.tapped.pair.server.netstat("TcpExt");
    let challenged = netstat(&scene)?;
    scene.attacker.address = *replayed.from.ip();
    let port = replayed.from.port();
    let Seen { syn, ack, .. } = scene.seen.clone();
    for _ in 0..3 {
        for segment in [&syn, &ack] {
            scene.attacker.send(
                port,
                scene.to,
                segment.flags,
                (segment.seq, segment.ack),
                &segment.raw_options,
                &[],
            )?;
        }
    }
    let start = Instant::now();
    while netstat(&scene)?.since(&challenged, "TCPSYNChallenge")? == 0 {
        ensure!(start.elapsed() < SOON, "no SYN was challenged");
        thread::sleep(Duration::from_millis(5));
    }
    scene.check_victim()?;
    check_growth(
        &scene.tapped.pair.server,
        &before,
        &[("MPJoinACKRX", 0), ("MPJoinACKBad", 0)],
    )
}

/// Resets the server's end of the subflow that was seen, and lets nothing come to the client anymore, which would reset
/// what it doesn't know.
fn end_the_seen(scene: &mut Scene) -> Result<()> {
    let SocketAddr::V4(client) = scene.seen.syn.from else {
        bail!("a join of another family");
    };
    scene.tapped.forward(false)?;
    thread::sleep(Duration::from_millis(200));
    let last = scene
        .attacker
        .capture
        .segments()?
        .iter()
        .rfind(|s| s.to == SocketAddr::V4(client))
        .context("the server said nothing on the subflow")?
        .ack;
    scene.attacker.address = *client.ip();
    scene
        .attacker
        .send(client.port(), scene.to, wire::RST, (last, 0), &[], &[])?;
    scene.victim.wait_for_subflows(0)
}

fn check_rest(scene: &Scene) -> Result<()> {
    scene.tapped.forward(true)?;
    scene.victim.exchange()?;
    let subflows = scene.victim.subflows()?;
    ensure!(subflows == 0, "the victim has {subflows} subflows more");
    Ok(())
}

fn replay_after_the_end(server: Server) -> Result<()> {
    /// The server's nonce changes once in 64 seconds.
    const TRIES: usize = 4;

    for _ in 0..TRIES {
        let mut scene = Scene::new(server)?;
        end_the_seen(&mut scene)?;
        let (hmac, nonce) = (scene.seen.hmac()?, scene.seen.server_nonce()?);
        let replayed = scene.replayed()?;
        let mut is_same = false;
        scene.check_refused("the very same join", &replayed, |syn_ack| {
            is_same = nonce_of(syn_ack)? == nonce;
            Ok(hmac)
        })?;
        check_rest(&scene)?;
        if is_same {
            return Ok(());
        }
    }
    bail!("the server never used its nonce again: this shows nothing");
}

/// As many joins as make the server's list of those that came grow twice; then each of them again.
fn many_replays(server: Server) -> Result<()> {
    /// The list has places for 6, then for 12 (`DC_APP_JOINS_FIRST`).
    const JOINS: u16 = 14;
    /// The server's nonce changes once in 64 seconds, which lets the joins before go.
    const TRIES: usize = 4;

    for _ in 0..TRIES {
        let mut scene = Scene::new(server)?;
        let keys = scene.keys;
        let forged = |scene: &Scene, n: u16| scene.forged(2_000 + n, [1, 2, 3, n as u8]);
        let mut came = vec![];
        for n in 0..JOINS {
            let forged = forged(&scene, n);
            let mut seen = None;
            let joined = scene.join(&forged, |syn_ack| {
                let nonce = nonce_of(syn_ack)?;
                let hmac = client_hmac(KEY, keys, [forged.nonce, nonce])?;
                seen = Some((nonce, hmac));
                Ok(hmac)
            })?;
            ensure!(joined, "join {n} with the right HMAC was refused");
            scene.victim.wait_for_subflows(2)?;
            scene.attacker.reset(2_000 + n, scene.to, 0)?;
            scene.victim.wait_for_subflows(1)?;
            came.extend(seen.map(|(nonce, hmac)| (n, nonce, hmac)));
        }
        let mut are_same = true;
        for (n, nonce, hmac) in came {
            let forged = forged(&scene, n);
            scene.check_refused(&format!("join {n} once more"), &forged, |syn_ack| {
                are_same &= nonce_of(syn_ack)? == nonce;
                Ok(hmac)
            })?;
        }
        scene.check_victim()?;
        if are_same {
            return Ok(());
        }
    }
    bail!("the server never used its nonces again: this shows nothing");
}

/// All at once, as what it takes is time.
fn replays_after_the_epoch() -> Result<String> {
    thread::scope(|scope| {
        let all = [Server::Stateful, Server::Stateless]
            .map(|server| (server, scope.spawn(move || replay_after_the_epoch(server))));
        // This waits as long.
        let key = scope.spawn(|| replaced_long_ago(Server::Stateful));
        for (server, replay) in all {
            let result = replay.join().map_err(|_| anyhow!("panicked"))?;
            result.with_context(|| format!("{server:?}"))?;
        }
        let result = key.join().map_err(|_| anyhow!("panicked"))?;
        result.context("under a key replaced before")?;
        Ok(String::new())
    })
}

fn replay_after_the_epoch(server: Server) -> Result<()> {
    /// Two steps of the clock that the server's nonce depends on, and some.
    const WAIT: Duration = Duration::from_secs(130);

    let mut scene = Scene::new(server)?;
    end_the_seen(&mut scene)?;
    thread::sleep(WAIT);
    let (hmac, nonce) = (scene.seen.hmac()?, scene.seen.server_nonce()?);
    let replayed = scene.replayed()?;

    // The ACK alone.
    let before = scene.counters()?;
    let ack = scene.seen.ack.clone();
    scene.attacker.address = *replayed.from.ip();
    scene.attacker.capture.clear()?;
    scene.attacker.send(
        replayed.from.port(),
        scene.to,
        ACK,
        (ack.seq, ack.ack),
        &ack.raw_options,
        &[],
    )?;
    let answer = scene
        .attacker
        .capture
        .wait_for(SOON, |s| s.to == ack.from)?
        .context("silence")?;
    ensure!(
        answer.flags & wire::RST != 0,
        "the ACK alone is answered: {answer}"
    );
    check_growth(&scene.tapped.pair.server, &before, &[("MPJoinACKRX", 0)])?;

    let mut other = [0; 4];
    scene.check_refused("the very same join", &replayed, |syn_ack| {
        other = nonce_of(syn_ack)?;
        Ok(hmac)
    })?;
    ensure!(other != nonce, "the server's nonce is that of long ago");
    check_rest(&scene)?;
    Ok(())
}

/// The server's nonce is made again, of the time before.
fn epoch_before() -> Result<String> {
    let mut scene = Scene::new(Server::Stateless)?;
    let (keys, nonce) = (scene.keys, [1, 2, 3, 4]);
    // A step of the clock that the nonce depends on is 64 seconds.
    let seconds = || -> Result<f64> {
        let uptime = fs::read_to_string("/proc/uptime")?;
        Ok(uptime.split(' ').next().context("no uptime")?.parse()?)
    };
    while seconds()? % 64.0 < 63.0 {
        thread::sleep(Duration::from_millis(20));
    }
    let mut nonces = vec![];
    let joined = scene.join(&scene.forged(2_000, nonce), |syn_ack| {
        nonces.push(nonce_of(syn_ack)?);
        while seconds()? % 64.0 > 2.0 {
            thread::sleep(Duration::from_millis(20));
        }
        client_hmac(KEY, keys, [nonce, nonces[0]])
    })?;
    ensure!(joined, "the join was refused");
    scene.victim.wait_for_subflows(2)?;
    // The same SYN again: its nonce is of another time now, or nothing was tested.
    scene.attacker.reset(2_000, scene.to, 0)?;
    scene.victim.wait_for_subflows(1)?;
    let forged = scene.forged(2_000, nonce);
    scene.check_refused("no HMAC", &forged, |syn_ack| {
        nonces.push(nonce_of(syn_ack)?);
        Ok([0; 16])
    })?;
    ensure!(
        nonces[0] != nonces[1],
        "the time has no part in {nonces:02x?}"
    );
    Ok(String::new())
}

fn reflection(server: Server) -> Result<()> {
    let mut scene = Scene::new(server)?;
    let (keys, seen) = (scene.keys, scene.seen.clone());
    let (b, a) = (keys.server.to_be_bytes(), keys.client.to_be_bytes());
    let hmac_of = |syn_ack: &Segment| -> Result<[u8; 8]> {
        first(&join_of(syn_ack, JOIN_SYN_ACK).context("no HMAC")?[4..])
    };
    // The server's nonce as one's own, then any; the server's HMAC as one's own.
    for (port, nonce) in [
        (2_000, seen.server_nonce()?),
        (2_001, seen.client_nonce()?),
        (2_002, [0; 4]),
    ] {
        let forged = scene.forged(port, nonce);
        scene.check_refused("the server's HMAC", &forged, |syn_ack| {
            let its = hmac_of(syn_ack)?;
            first(&[its, its].concat())
        })?;
        let forged = scene.forged(port + 100, nonce);
        scene.check_refused("the HMAC of the join before", &forged, |_| {
            first(&[hmac_of(&seen.syn_ack)?, hmac_of(&seen.syn_ack)?].concat())
        })?;
        // All 16 bytes of what the server signs, which it never sends.
        let forged = scene.forged(port + 200, nonce);
        scene.check_refused("the whole of the server's HMAC", &forged, |syn_ack| {
            first(&hmac(KEY, &[&b, &a, &nonce_of(syn_ack)?, &nonce])?)
        })?;
    }
    scene.check_victim()
}

fn other_connection(server: Server) -> Result<()> {
    let mut scene = Scene::new(server)?;
    // Another with the same key, from and to the same addresses.
    let other = victim(&scene.tapped.pair)?;
    // Its subflow comes by itself.
    other.wait_for_subflows(1)?;
    let SocketAddr::V4(to) = other.listener.local_addr()? else {
        bail!("a listener of another family");
    };
    let (hmac_a, nonces) = (
        scene.seen.hmac()?,
        [scene.seen.client_nonce()?, scene.seen.server_nonce()?],
    );
    let keys = scene.keys;
    let other_keys = Keys {
        server: (u64::from(other.token()?) << 32) | keys.server & 0xffff_ffff,
        ..keys
    };
    let first_to = std::mem::replace(&mut scene.to, to);
    let forged = |port| Forged {
        from: SocketAddrV4::new(RAW_CLIENT, port),
        token: wire::token(other_keys.server),
        isn: scene.seen.syn.seq,
        nonce: nonces[0],
    };
    let all = [2_000, 2_001, 2_002].map(forged);
    scene.check_refused("as it was", &all[0], |_| Ok(hmac_a))?;
    scene.check_refused("signed for the other", &all[1], |syn_ack| {
        client_hmac(KEY, keys, [nonces[0], nonce_of(syn_ack)?])
    })?;
    scene.check_refused("signed for neither", &all[2], |syn_ack| {
        client_hmac(KEY, other_keys, [nonces[0], nonce_of(syn_ack)?])
    })?;
    ensure!(other.subflows()? == 1, "a subflow joined the other");
    other.exchange()?;
    scene.to = first_to;
    scene.check_victim()
}

fn replaced_key(server: Server) -> Result<()> {
    const MORE_KEYS: [&[u8]; 3] = [&[2; 16], &[3; 32], &[4; 64]];

    let mut scene = Scene::new(server)?;
    let (keys, nonce) = (scene.keys, [1, 2, 3, 4]);
    let end = scene.victim.server.try_clone()?;
    let joined = scene.join(&scene.forged(2_000, nonce), |syn_ack| {
        mptcp_dc::set_key(&end, MORE_KEYS[0])?;
        client_hmac(KEY, keys, [nonce, nonce_of(syn_ack)?])
    })?;
    ensure!(joined, "a join under the key before was refused");
    scene.victim.wait_for_subflows(2)?;
    let forged = scene.forged(2_001, nonce);
    scene.check_refused("under a key replaced twice", &forged, |syn_ack| {
        mptcp_dc::set_key(&end, MORE_KEYS[1])?;
        mptcp_dc::set_key(&end, MORE_KEYS[2])?;
        client_hmac(MORE_KEYS[0], keys, [nonce, nonce_of(syn_ack)?])
    })?;
    let joined = scene.join(&scene.forged(2_002, nonce), |syn_ack| {
        client_hmac(MORE_KEYS[2], keys, [nonce, nonce_of(syn_ack)?])
    })?;
    ensure!(joined, "a join under the new key was refused");
    scene.victim.wait_for_subflows(3)?;
    scene.victim.exchange()
}

/// Guesses that are never right. (One is in 2^128.)
fn guess(number: usize) -> [u8; 16] {
    let pattern = mptcp::pattern(number as u64 + 1, 16);
    first(&pattern).unwrap_or_default()
}

fn guessing(server: Server, count: usize) -> Result<String> {
    let mut scene = Scene::new(server)?;
    let before = scene.counters()?;
    let start = Instant::now();
    let mut sent = 0;
    match server {
        // A request is gone with its first wrong ACK.
        Server::Stateful => {
            while sent < count {
                let forged = scene.forged(2_000 + sent as u16, [5; 4]);
                scene.check_refused("a guess", &forged, |_| Ok(guess(sent)))?;
                sent += 1;
            }
        }
        Server::Stateless => {
            while sent < count {
                // A cookie is good for a minute or two.
                let forged = scene.forged(2_000 + (sent / 20_000) as u16, [5; 4]);
                let (to, port) = (scene.to, forged.from.port());
                let syn_ack = scene.attacker.syn_with(port, to, ISN, &forged.syn())?;
                for _ in 0..20_000.min(count - sent) {
                    let ack = forged.ack(&guess(sent));
                    let numbers = (ISN + 1, syn_ack.seq.wrapping_add(1));
                    scene.attacker.send(port, to, ACK, numbers, &ack, &[])?;
                    sent += 1;
                }
                scene.attacker.capture.clear()?;
            }
        }
    }
    let refused = loop {
        let refused = scene.counters()?.since(&before, "MPJoinACKBad")?;
        if refused == sent as u64 {
            break refused;
        }
        ensure!(
            start.elapsed() < Duration::from_secs(1_200),
            "{sent} guesses, of which {refused} were refused"
        );
        thread::sleep(Duration::from_millis(100));
    };
    check_growth(&scene.tapped.pair.server, &before, &[("MPJoinACKRX", 0)])?;
    scene.check_victim()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(format!("{refused} guesses in {seconds:.1} s"))
}

/// The SYN of a join that the client makes now, to an attacker that lets nothing pass anymore.
fn forged_answer() -> Result<()> {
    let scene = Scene::new(Server::Stateful)?;
    let pair = &scene.tapped.pair;
    let seen = &scene.seen;
    let hmac_b = first::<8>(&join_of(&seen.syn_ack, JOIN_SYN_ACK).context("no HMAC")?[4..])?;
    let hmac_a = first::<8>(&seen.hmac()?)?;
    let mut impostor = RawPeer::at(&scene.tapped.attacker, TO_CLIENT_DEV, SERVER_V4)?;
    let (a, b) = (
        scene.keys.client.to_be_bytes(),
        scene.keys.server.to_be_bytes(),
    );
    type Sign = fn(&[[u8; 8]; 4], [u8; 4]) -> Result<([u8; 8], [u8; 4])>;
    let answers: [(&str, Sign); 5] = [
        ("the HMAC of before", |[_, _, hmac_b, _], _| {
            Ok((*hmac_b, [1; 4]))
        }),
        ("the client's HMAC and nonce", |[_, _, _, hmac_a], nonce| {
            Ok((*hmac_a, nonce))
        }),
        ("no HMAC", |_, nonce| Ok(([0; 8], nonce))),
        ("RFC 8684's HMAC", |[a, b, ..], nonce| {
            let key = [*b, *a].concat();
            Ok((first(&hmac(&key, &[&[1; 4], &nonce])?)?, [1; 4]))
        }),
        ("what the client will sign", |[a, b, ..], nonce| {
            let reflected = hmac(KEY, &[a, b, &nonce, &[1; 4]])?;
            Ok((first(&reflected)?, [1; 4]))
        }),
    ];
    for (number, (what, sign)) in answers.into_iter().enumerate() {
        endpoint(pair, "del")?;
        scene.victim.wait_for_subflows(0)?;
        thread::sleep(Duration::from_millis(50));
        scene.tapped.forward(false)?;
        impostor.capture.clear()?;
        let before = pair.client.counters()?;
        endpoint(pair, "add")?;
        let syn = impostor
            .capture
            .wait_for(SOON, |s| s.is(SYN) && join_of(s, JOIN_SYN).is_some())?
            .context("no SYN")?;
        let nonce = first(&join_of(&syn, JOIN_SYN).context("no MP_JOIN")?[8..])?;
        let (hmac, own_nonce) = sign(&[a, b, hmac_b, hmac_a], nonce)?;
        let head = [MPTCP, JOIN_SYN_ACK as u8, MP_JOIN << 4, 0];
        let option = [&head, &hmac[..], &own_nonce].concat();
        let SocketAddr::V4(client) = syn.from else {
            bail!("a SYN of another family");
        };
        let numbers = (ISN + number as u32, syn.seq.wrapping_add(1));
        let port = scene.to.port();
        impostor.send(port, client, SYN | ACK, numbers, &option, &[])?;
        let reset = impostor
            .capture
            .wait_for(SOON, |s| s.from == syn.from && s.flags & SYN == 0)?
            .context("silence")?;
        ensure!(
            reset.flags & wire::RST != 0,
            "{what}: the client goes on with {reset}"
        );
        check_growth(
            &pair.client,
            &before,
            &[("MPJoinSYNACKBad", 1), ("MPJoinSYNACKRX", 0)],
        )?;
        scene.tapped.forward(true)?;
        scene.victim.exchange()?;
    }
    endpoint(pair, "del")?;
    endpoint(pair, "add")?;
    scene.victim.wait_for_subflows(1)?;
    scene.check_victim()
}

/// An ADD_ADDR of IPv4 with this HMAC.
pub(super) fn add_addr(id: u8, address: Ipv4Addr, hmac: &[u8; 32]) -> Vec<u8> {
    const ADD_ADDR: u8 = 3;
    let head = [MPTCP, 16, ADD_ADDR << 4, id];
    [&head, &address.octets()[..], &hmac[24..]].concat()
}

fn forged_address() -> Result<()> {
    const ID: u8 = 33;

    let mut scene = Scene::new(Server::Stateful)?;
    let pair = &scene.tapped.pair;
    pair.client.ip(["mptcp limits set add_addr_accepted 4"])?;
    let address = Ipv4Addr::new(10, 9, 1, 1);
    let message = [&[ID], &address.octets()[..], &[0, 0]].concat();
    let (a, b) = (
        scene.keys.client.to_be_bytes(),
        scene.keys.server.to_be_bytes(),
    );
    // In the name of the server, on the first subflow.
    let impostor = RawPeer::at(&scene.tapped.attacker, TO_CLIENT_DEV, SERVER_V4)?;
    let SocketAddr::V4(client) = scene.victim.client.local_addr()? else {
        bail!("a client of another family");
    };
    let heard = |pair: &Pair| pair.client.mib();
    for (what, hmac, heeded) in [
        ("RFC 8684's HMAC", hmac(&[b, a].concat(), &[&message])?, 0),
        ("no HMAC", [0x11; 32], 0),
        ("the client's own HMAC", hmac(KEY, &[&a, &b, &message])?, 0),
        ("the key's HMAC", hmac(KEY, &[&b, &a, &message])?, 1),
    ] {
        scene.attacker.capture.clear()?;
        scene.victim.exchange()?;
        thread::sleep(Duration::from_millis(200));
        let last = scene
            .attacker
            .capture
            .segments()?
            .iter()
            .rfind(|s| s.to == SocketAddr::V4(client))
            .cloned()
            .context("nothing came to the client")?;
        let next = last.seq.wrapping_add(last.payload.len() as u32);
        let before = heard(pair)?;
        let option = add_addr(ID, address, &hmac);
        impostor.send(scene.to.port(), client, ACK, (next, last.ack), &option, &[])?;
        thread::sleep(Duration::from_millis(300));
        let grew = heard(pair)?.since(&before, "AddAddr")?;
        ensure!(grew == heeded, "{what}: AddAddr grew by {grew}");
    }
    Ok(())
}

/// What an attacker makes of an option with B.
fn stripped() -> Vec<(&'static str, u8, u8)> {
    vec![
        ("version 15 without B", V15, 0),
        ("version 15 without B, with H", V15, FLAG_H),
        ("version 1", V1, FLAG_H),
        ("version 1 with B", V1, FLAG_H | FLAG_B),
        ("version 15, B without H", V15, FLAG_B),
    ]
}

/// No MP_CAPABLE but version 15's with B, neither of them with a key of standard MPTCP.
fn check_no_other(segments: &[Segment], end: SocketAddr) -> Result<()> {
    for segment in segments.iter().filter(|s| s.from == end) {
        if let Some(capable) = segment.mp_capable()? {
            ensure!(
                capable.version == V15 && capable.flags & FLAG_B != 0,
                "it says {capable:x?} in {segment}"
            );
        }
        ensure!(
            segment.is(SYN) || !segment.options.iter().any(|o| o[0] == MPTCP),
            "MPTCP goes on: {segment}"
        );
    }
    Ok(())
}

fn downgraded_client() -> Result<()> {
    let pair = Pair::new()?;
    let mut peer = RawPeer::server(&pair)?;
    let mut answers: Vec<(&str, Vec<u8>)> = stripped()
        .into_iter()
        .map(|(what, version, flags)| (what, mp_capable(version, flags, &[7; 8])))
        .collect();
    answers.push(("nothing", vec![]));
    for (port, (what, option)) in (6_000..).zip(answers) {
        let before = pair.client.counters()?;
        let to = SocketAddr::from((crate::netns::RAW_SERVER, port));
        let socket = mptcp::socket(&pair.client, to)?;
        mptcp_dc::enable_app_key(&socket, true)?;
        socket.set_nonblocking(true)?;
        let _ = socket.connect(&to.into());
        let syn = peer
            .capture
            .wait_for(SOON, |s| s.to == to && s.is(SYN))?
            .context("no SYN")?;
        let SocketAddr::V4(client) = syn.from else {
            bail!("a SYN of another family");
        };
        let numbers = (ISN, syn.seq.wrapping_add(1));
        peer.send(port, client, SYN | ACK, numbers, &option, &[])?;
        peer.capture
            .wait_for(SOON, |s| s.to == to && s.flags & SYN == 0)?
            .context("no ACK")?;
        socket.set_nonblocking(false)?;
        socket.send(b"what is left").context(what)?;
        peer.capture
            .wait_for(SOON, |s| s.to == to && !s.payload.is_empty())?
            .context("no data")?;
        check_no_other(peer.capture.segments()?, syn.from).context(what)?;
        check_growth(
            &pair.client,
            &before,
            &[("ExternalKeyRefused", 1), ("MPCapableSYNACKStandard", 0)],
        )
        .context(what)?;
        let info = mptcp_dc::info(&socket)?;
        ensure!(info.mode == mptcp_dc::Mode::Tcp, "{what}: {info:?}");
        let refused = mptcp_dc::set_key(&socket, KEY);
        ensure!(
            matches!(refused, Err(mptcp_dc::Error::Refused)),
            "{what}: {refused:?}"
        );
    }
    Ok(())
}

fn downgraded_server() -> Result<()> {
    const KEY_FIELD: [u8; 8] = [0x0a, 0x0b, 0x0c, 0x0d, 1, 2, 3, 5];

    let pair = Pair::new()?;
    let mut port = 7_000;
    for cookies in [0, 1, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
        let listener = mptcp::listen_with(&pair.server, at, |socket| {
            Ok(mptcp_dc::enable_app_key(socket, true)?)
        })?;
        let SocketAddr::V4(to) = listener.local_addr()? else {
            bail!("a listener of another family");
        };
        let with_b = mp_capable(V15, FLAG_B | FLAG_H, &[]);
        let mut peer = RawPeer::client(&pair)?;

        // In the SYN; the client's ACK is its own.
        for (what, version, flags) in stripped() {
            let before = pair.server.counters()?;
            port += 1;
            let syn_ack = peer.syn(port, to, &mp_capable(version, flags, &[]))?;
            ensure!(
                syn_ack.mp_capable()?.is_none(),
                "{what} in the SYN is answered: {syn_ack}"
            );
            let body = [KEY_FIELD, KEY_FIELD].concat();
            for (version, flags) in [(V15, FLAG_B | FLAG_H), (version, flags)] {
                peer.third_ack(port, to, &syn_ack, &mp_capable(version, flags, &body), &[])?;
            }
            check_no_clear_keys(&listener).with_context(|| format!("{what} in the SYN"))?;
            let refused = pair
                .server
                .counters()?
                .since(&before, "ExternalKeyRefused")?;
            // An option that such a SYN can't have is none.
            ensure!(
                refused >= 1 || flags != FLAG_H,
                "{what} in the SYN: no counter moved"
            );
            check_no_other(peer.capture.segments()?, to.into())?;
            peer.reset(port, to, 0)?;
        }

        // In the ACK.
        let acks = stripped().into_iter().map(Some).chain([None]);
        for ack in acks {
            port += 1;
            let syn_ack = peer.syn(port, to, &with_b)?;
            let capable = syn_ack.mp_capable()?.context("no MP_CAPABLE")?;
            ensure!(
                capable.form() == (V15, 12, FLAG_B | FLAG_H),
                "the SYN/ACK has {capable:x?}"
            );
            let own = capable.sender.context("no key field")?.to_be_bytes();
            let option = ack.map_or(vec![], |(_, version, flags)| {
                mp_capable(version, flags, &[KEY_FIELD, own].concat())
            });
            let what = ack.map_or("nothing", |(what, ..)| what);
            peer.third_ack(port, to, &syn_ack, &option, &[])?;
            check_no_clear_keys(&listener)
                .with_context(|| format!("{what} in the ACK, tcp_syncookies={cookies}"))?;
            peer.reset(port, to, 0)?;
        }
    }
    Ok(())
}

/// What is accepted next is plain TCP, and takes no key; or has external keys after all, because with a request socket
/// the stack doesn't look at the version in an ACK. An ACK that is no good at all may leave nothing to accept.
fn check_no_clear_keys(listener: &std::net::TcpListener) -> Result<()> {
    let Some(stream) = mptcp::accept_within(listener, Duration::from_millis(500))? else {
        return Ok(());
    };
    if Info::of(&stream)?.is_some() {
        let info = mptcp_dc::info(&stream)?;
        ensure!(info.mode == mptcp_dc::Mode::ExternalKey, "{info:?}");
        return Ok(());
    }
    let refused = mptcp_dc::set_key(&stream, KEY);
    ensure!(refused.is_err(), "it took a key");
    Ok(())
}
