// SPDX-License-Identifier: GPL-2.0

//! Joins with external keys that come at a bad moment, when the module goes or the key changes, or in the stack's form.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::attacks::{
    add_addr, client_hmac, endpoint, first, hmac, join_of, nonce_of, Forged, Scene, Server,
    JOIN_SYN, JOIN_SYN_ACK, KEY, SOON,
};
use crate::kernel;
use crate::mptcp::Info;
use crate::netns::{RAW_CLIENT, SERVER_V4, TO_CLIENT_DEV};
use crate::raw::{flow, RawPeer, ISN};
use crate::wire::{Segment, ACK, DSS, MPTCP, MP_JOIN, RST, SYN};
use crate::{Scale, Test};

pub fn tests(_scale: Scale) -> Vec<Test> {
    let mut tests = vec![
        Test::new(
            "joins under way: when the module goes, none is given to whoever saw the handshake",
            unloaded_under_way,
        ),
        Test::new(
            "joins under way: an address announced under a key just replaced is heeded",
            announced_under_way,
        ),
    ];
    for (server, state) in [
        (Server::Stateful, "with a request socket"),
        (Server::Stateless, "without state"),
    ] {
        tests.push(Test::new(
            format!(
                "joins, {state}: an ACK of the stack's form ends none, though its HMAC is right"
            ),
            move || stacks_form(server),
        ));
    }
    tests
}

const OTHER_KEY: &[u8] = b"another key that both ends have";

/// Length of the stack's MP_JOIN in an ACK.
const STACKS_ACK: u8 = 24;

/// The stack's MP_JOIN of an ACK, with this HMAC.
fn stacks_ack(hmac: [u8; 32]) -> Vec<u8> {
    [&[MPTCP, STACKS_ACK, MP_JOIN << 4, 0][..], &hmac[..20]].concat()
}

/// Sends an ACK of a join with this option, and waits until the server has dealt with it.
fn send_ack(scene: &mut Scene, forged: &Forged, syn_ack: &Segment, option: &[u8]) -> Result<()> {
    let numbers = (forged.isn.wrapping_add(1), syn_ack.seq.wrapping_add(1));
    let (to, port) = (scene.to, forged.from.port());
    scene.attacker.address = *forged.from.ip();
    scene.attacker.send(port, to, ACK, numbers, option, &[])?;
    scene.attacker.address = RAW_CLIENT;
    scene.attacker.fence(*to.ip())
}

fn stacks_form(server: Server) -> Result<()> {
    /// The server's nonce changes once in 64 seconds.
    const TRIES: usize = 4;

    let mut scene = Scene::new(server)?;
    let keys = scene.keys;
    let (a, b) = (keys.client.to_be_bytes(), keys.server.to_be_bytes());
    let right = |nonces: [[u8; 4]; 2]| -> Result<Vec<u8>> {
        Ok(stacks_ack(hmac(KEY, &[&a, &b, &nonces[0], &nonces[1]])?))
    };
    let nonce = [1, 2, 3, 4];
    let forged = scene.forged(2_000, nonce);
    let syn_ack = scene
        .attacker
        .syn_with(2_000, scene.to, forged.isn, &forged.syn())?;
    let option = right([nonce, nonce_of(&syn_ack)?])?;
    send_ack(&mut scene, &forged, &syn_ack, &option)?;
    scene.check_victim().context("in the stack's form")?;

    for port in (2_001..).take(TRIES) {
        let forged = scene.forged(port, nonce);
        let mut nonces = vec![];
        let joined = scene.join(&forged, |syn_ack| {
            nonces.push(nonce_of(syn_ack)?);
            client_hmac(KEY, keys, [nonce, nonce_of(syn_ack)?])
        })?;
        ensure!(joined, "the join with the right HMAC was refused");
        scene.victim.wait_for_subflows(2)?;
        scene.attacker.reset(port, scene.to, 0)?;
        scene.victim.wait_for_subflows(1)?;
        let syn_ack = scene
            .attacker
            .syn_with(port, scene.to, forged.isn, &forged.syn())?;
        nonces.push(nonce_of(&syn_ack)?);
        let option = right([nonce, nonce_of(&syn_ack)?])?;
        send_ack(&mut scene, &forged, &syn_ack, &option)?;
        scene
            .check_victim()
            .context("in the stack's form, of a join that came before")?;
        if nonces[0] == nonces[1] {
            return Ok(());
        }
    }
    bail!("the server never used its nonce again: this shows nothing");
}

/// A DSS that maps the whole of a segment of `length` bytes, the first one of its subflow, and acknowledges nothing.
fn mapping(data_seq: u64, length: u16) -> Vec<u8> {
    /// A mapping, with a data sequence number of 8 bytes.
    const MAP: u8 = 0x0c;
    [
        &[MPTCP, 18, DSS << 4, MAP][..],
        &data_seq.to_be_bytes(),
        &1_u32.to_be_bytes(),
        &length.to_be_bytes(),
    ]
    .concat()
}

/// A join that the client asks for, whose SYN ends at the attacker.
struct Withheld {
    scene: Scene,
    impostor: RawPeer,
    syn: Segment,
}

impl Withheld {
    fn new() -> Result<Self> {
        let scene = Scene::new(Server::Stateful)?;
        let mut impostor = RawPeer::at(&scene.tapped.attacker, TO_CLIENT_DEV, SERVER_V4)?;
        endpoint(&scene.tapped.pair, "del")?;
        scene.victim.wait_for_subflows(0)?;
        thread::sleep(Duration::from_millis(50));
        scene.tapped.forward(false)?;
        impostor.capture.clear()?;
        endpoint(&scene.tapped.pair, "add")?;
        let syn = impostor
            .capture
            .wait_for(SOON, |s| s.is(SYN) && join_of(s, JOIN_SYN).is_some())?
            .context("no SYN")?;
        Ok(Self {
            scene,
            impostor,
            syn,
        })
    }

    /// Answers it as RFC 8684 says, under the key fields that the handshake showed; then sends data.
    fn answer(mut self) -> Result<()> {
        const OWN_NONCE: [u8; 4] = [1; 4];
        const BYTES: &[u8] = b"the attacker's bytes";

        let keys = self.scene.keys;
        let key = [keys.server.to_be_bytes(), keys.client.to_be_bytes()].concat();
        let nonce: [u8; 4] = first(&join_of(&self.syn, JOIN_SYN).context("no MP_JOIN")?[8..])?;
        let hmac: [u8; 8] = first(&hmac(&key, &[&OWN_NONCE, &nonce])?)?;
        let head = [MPTCP, JOIN_SYN_ACK as u8, MP_JOIN << 4, 0];
        let option = [&head, &hmac[..], &OWN_NONCE].concat();
        let [client, server] = flow(self.syn.from, self.syn.to)?;
        let (port, ack) = (server.port(), self.syn.seq.wrapping_add(1));
        self.impostor
            .send(port, client, SYN | ACK, (ISN, ack), &option, &[])?;
        let from = SocketAddr::from(client);
        let reply = self
            .impostor
            .capture
            .wait_for(SOON, |s| s.from == from && s.flags & SYN == 0)?;

        // Whatever the client made of it.
        let next = Info::of(&self.scene.victim.client)?.context("plain TCP")?;
        let option = mapping(next.rcv_nxt, BYTES.len() as u16);
        self.impostor
            .send(port, client, ACK, (ISN + 1, ack), &option, BYTES)?;
        self.scene.tapped.forward(true)?;
        self.scene
            .victim
            .exchange()
            .context("the client reads something else")?;
        let reply = reply.context("silence")?;
        ensure!(
            reply.flags & RST != 0,
            "the client takes the subflow: {reply}"
        );
        Ok(())
    }
}

fn unloaded_under_way() -> Result<()> {
    let withheld = Withheld::new()?;
    let mut servers = vec![];
    for server in [Server::Stateful, Server::Stateless] {
        let mut scene = Scene::new(server)?;
        let forged = scene.forged(2_000, [1, 2, 3, 4]);
        let syn_ack = scene
            .attacker
            .syn_with(2_000, scene.to, forged.isn, &forged.syn())?;
        servers.push((server, scene, forged, syn_ack));
    }

    kernel::unload()?;
    let checked = (|| -> Result<()> {
        withheld.answer().context("a client's")?;
        for (server, mut scene, forged, syn_ack) in servers {
            let (a, b) = (
                scene.keys.client.to_be_bytes(),
                scene.keys.server.to_be_bytes(),
            );
            let sign = |syn_ack: &Segment| -> Result<Vec<u8>> {
                let nonces = [forged.nonce, nonce_of(syn_ack)?].concat();
                Ok(stacks_ack(hmac(&[a, b].concat(), &[&nonces])?))
            };
            let option = sign(&syn_ack)?;
            send_ack(&mut scene, &forged, &syn_ack, &option)?;
            scene
                .check_victim()
                .with_context(|| format!("{server:?}, a SYN of before"))?;
            let later = scene.forged(2_001, forged.nonce);
            scene
                .attacker
                .send(2_001, scene.to, SYN, (ISN, 0), &later.syn(), &[])?;
            let to = SocketAddr::from(SocketAddrV4::new(RAW_CLIENT, 2_001));
            let answer = scene
                .attacker
                .capture
                .wait_for(SOON, |s| s.to == to)?
                .context("silence")?;
            // It may be a reset, or plain TCP's.
            if answer.is(SYN | ACK) && join_of(&answer, JOIN_SYN_ACK).is_some() {
                let option = sign(&answer)?;
                send_ack(&mut scene, &later, &answer, &option)?;
            }
            scene
                .check_victim()
                .with_context(|| format!("{server:?}, a SYN of later"))?;
        }
        Ok(())
    })();
    kernel::load()?;
    checked
}

fn announced_under_way() -> Result<()> {
    const ID: u8 = 33;

    let scene = Scene::new(Server::Stateful)?;
    let pair = &scene.tapped.pair;
    pair.client.ip(["mptcp limits set add_addr_accepted 4"])?;
    let address = Ipv4Addr::new(10, 9, 1, 1);
    let message = [&[ID], &address.octets()[..], &[0, 0]].concat();
    let [a, b] = [scene.keys.client, scene.keys.server].map(u64::to_be_bytes);
    let mut impostor = RawPeer::at(&scene.tapped.attacker, TO_CLIENT_DEV, SERVER_V4)?;
    let [client, server] = flow(
        scene.victim.client.local_addr()?,
        scene.victim.client.peer_addr()?,
    )?;
    // What was announced before that comes after it.
    for end in [&scene.victim.server, &scene.victim.client] {
        mptcp_dc::set_key(end, OTHER_KEY)?;
    }
    for (what, key, heeded) in [
        ("a key that it never had", &b"no key of theirs"[..], false),
        ("the key before", KEY, true),
    ] {
        scene.victim.exchange()?;
        let numbers = impostor.numbers([server, client])?;
        let before = pair.client.mib()?;
        let option = add_addr(ID, address, &hmac(key, &[&b, &a, &message])?);
        impostor.send(server.port(), client, ACK, numbers, &option, &[])?;
        let grew = || pair.client.mib()?.since(&before, "AddAddr");
        // What is sent behind it comes behind it.
        scene.victim.exchange()?;
        let start = Instant::now();
        while heeded && grew()? == 0 && start.elapsed() < SOON {
            thread::sleep(Duration::from_millis(5));
        }
        ensure!(
            grew()? == u64::from(heeded),
            "{what}: AddAddr grew by {}",
            grew()?
        );
    }
    Ok(())
}

/// A replaced key joins for a while, and then no more.
pub(super) fn replaced_long_ago(server: Server) -> Result<()> {
    /// Two steps of the clock, and some.
    const WAIT: Duration = Duration::from_secs(130);

    let mut scene = Scene::new(server)?;
    let (keys, nonce) = (scene.keys, [1, 2, 3, 4]);
    mptcp_dc::set_key(&scene.victim.server, OTHER_KEY)?;
    mptcp_dc::set_key(&scene.victim.client, OTHER_KEY)?;
    let under = |scene: &mut Scene, port: u16, key: &[u8]| {
        scene.join(&scene.forged(port, nonce), |syn_ack| {
            client_hmac(key, keys, [nonce, nonce_of(syn_ack)?])
        })
    };
    ensure!(
        under(&mut scene, 2_000, KEY)?,
        "the key before was forgotten at once"
    );
    scene.victim.wait_for_subflows(2)?;
    thread::sleep(WAIT);
    ensure!(
        !under(&mut scene, 2_001, KEY)?,
        "a key replaced {WAIT:?} ago still joins"
    );
    ensure!(
        under(&mut scene, 2_002, OTHER_KEY)?,
        "the key doesn't join anymore"
    );
    scene.victim.exchange()
}
