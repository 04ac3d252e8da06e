// SPDX-License-Identifier: GPL-2.0

//! Third ACKs that echo a pair (token, random part) which this host did not issue to this connection.

use std::net::{SocketAddr, SocketAddrV4, TcpListener};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use crate::mptcp::{self, Info};
use crate::netns::{Family, Mode, Pair, SERVER_V4};
use crate::raw::RawPeer;
use crate::wire::{self, mp_capable, FLAG_H, V15};
use crate::Test;

/// What the ACK echoes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    Right,
    Random,
    OtherConnection,
    WrongRandom,
    WrongToken,
    ZeroToken,
}

pub fn tests() -> Vec<Test> {
    let mut tests = Vec::new();
    for cookies in [2, 0] {
        for (echo, text) in [
            (Echo::Right, "the right pair opens an MPTCP connection"),
            (Echo::Random, "a random pair opens none"),
            (
                Echo::OtherConnection,
                "another connection's pair opens none",
            ),
            (
                Echo::WrongRandom,
                "the right token with a wrong random part opens none",
            ),
            (
                Echo::WrongToken,
                "a wrong token with the right random part opens none",
            ),
            (Echo::ZeroToken, "token 0 opens none"),
        ] {
            let name = format!("third ACK, tcp_syncookies={cookies}: {text}");
            tests.push(Test::new(name, move || run(cookies, echo)));
        }
    }
    tests
}

const SENDER: u64 = 0x0a0b_0c0d_1122_3344;

fn run(cookies: u8, echo: Echo) -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    pair.server.set("ipv4/tcp_syncookies", cookies)?;
    let listener = mptcp::listen(
        &pair.server,
        SocketAddr::new(Pair::server_addr(Family::V4), 0),
    )?;
    let to = SocketAddrV4::new(SERVER_V4, listener.local_addr()?.port());
    let mut peer = RawPeer::client(&pair)?;

    let mut port = 2000;
    // In the ACK itself, and in an ACK that carries data.
    for payload in [&b""[..], b"data"] {
        let other_port = port + 1;
        let syn = mp_capable(V15, FLAG_H, &[]);
        let other = peer.syn(other_port, to, &syn)?;
        let syn_ack = peer.syn(port, to, &syn)?;
        let pair_of = |segment: &wire::Segment| -> Result<u64> {
            let capable = segment
                .mp_capable()?
                .context("SYN/ACK without MP_CAPABLE")?;
            ensure!(capable.version == V15, "the SYN/ACK has {capable:x?}");
            capable.sender.context("no pair")
        };
        let right = pair_of(&syn_ack)?;
        let echoed = match echo {
            Echo::Right => right,
            Echo::Random => 0x5851_f42d_4c95_7f2d,
            Echo::OtherConnection => pair_of(&other)?,
            Echo::WrongRandom => right ^ 1,
            Echo::WrongToken => right ^ (1 << 63),
            Echo::ZeroToken => right & 0xffff_ffff,
        };
        let before = pair.server.counters()?;
        let mut body = [SENDER.to_be_bytes(), echoed.to_be_bytes()].concat();
        if !payload.is_empty() {
            body.extend((payload.len() as u16).to_be_bytes());
        }
        peer.third_ack(port, to, &syn_ack, &mp_capable(V15, 0, &body), payload)?;
        let opened = accepted(&listener)?;
        let after = pair.server.counters()?;
        let not_own = after.since(&before, "MPCapableCookieNotOwn")?;
        if echo == Echo::Right {
            let info =
                opened.with_context(|| format!("no MPTCP connection (payload {payload:?})"))?;
            ensure!(
                info.token == wire::token(right),
                "{info:x?} after {right:#x}"
            );
            ensure!(not_own == 0, "MPCapableCookieNotOwn grew by {not_own}");
        } else {
            if let Some(info) = opened {
                bail!("{echoed:#x} for {right:#x} opened an MPTCP connection: {info:x?} (payload {payload:?})");
            }
            let counts = cookies == 2 && echo != Echo::ZeroToken;
            ensure!(
                not_own == u64::from(counts),
                "MPCapableCookieNotOwn grew by {not_own}"
            );
        }
        peer.reset(port, to, payload.len() as u32)?;
        peer.reset(other_port, to, 0)?;
        port += 2;
    }
    Ok(())
}

/// What is accepted soon: an MPTCP connection, or plain TCP or nothing.
fn accepted(listener: &TcpListener) -> Result<Option<Info>> {
    match mptcp::accept_within(listener, Duration::from_millis(500))? {
        Some(stream) => Info::of(&stream),
        None => Ok(None),
    }
}
