// SPDX-License-Identifier: GPL-2.0

//! What a join costs the server, from its SYN to the established subflow: the SYN and its answer, and the ACK and its
//! own. The client is this program, whose frames come from nobody's address, as in [`crate::syn`]; what it takes to read
//! the answer and to sign the ACK isn't counted.

use std::thread::sleep;

use anyhow::{ensure, Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use socket2::Socket;

use crate::frame::{self, Form, Option_, SynAck, ADDRESS_ID, MPTCP, MP_JOIN, NONCE};
use crate::join::{JOIN_SEGMENTS, SETTLE};
use crate::measure::{measure_parts, Amount, State};
use crate::net::{self, Net, Wire, APP_KEY, NOBODY, SERVER};
use crate::report::{Case, Limit};

/// The most that a join with an external key may cost more than a standard one, in percent: it must cost less.
const TARGET: f64 = -5.0;

/// The kind that others are compared with, by its case's name.
const STANDARD: &str = "server's part of a join with HMAC";

/// A kind of join.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RFC 8684's.
    Standard,
    Bare,
    External,
    /// The same with `stateless_join=1`.
    ExternalStateless,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Standard => STANDARD,
            Self::Bare => "server's part of a join without HMAC",
            Self::External => "server's part of a join with an external key",
            Self::ExternalStateless => "server's part of a join with an external key, stateless",
        }
    }

    fn is_external(self) -> bool {
        matches!(self, Self::External | Self::ExternalStateless)
    }

    /// The SYN's option.
    fn syn(self, token: u32) -> Option_ {
        match self {
            Self::Bare => Option_::BareJoin(token),
            _ => Option_::Join(token),
        }
    }

    /// The ACK's option. The keys are those of MP_CAPABLE, the client's first.
    fn ack(self, token: u32, keys: [u8; 16], answer: &SynAck) -> Result<Vec<u8>> {
        let token = token.to_be_bytes();
        let head = |length| [MPTCP, length, MP_JOIN, ADDRESS_ID];
        if self == Self::Bare {
            return Ok([head(8), token].concat());
        }
        let nonces = [NONCE, answer.nonce.context("an answer without Rand_B")?].concat();
        let sign = |key: &[u8], message: &[u8]| -> Result<_> {
            let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
            mac.update(message);
            Ok(mac.finalize().into_bytes())
        };
        if self.is_external() {
            let hmac = sign(APP_KEY, &[&keys[..], &nonces].concat())?;
            return Ok([&head(28), &token[..], &NONCE, &hmac[..16]].concat());
        }
        let hmac = sign(&keys, &nonces)?;
        Ok([&head(24), &hmac[..20]].concat())
    }
}

/// Measures one kind. The listener at `port` is one of [`net::listen_external`] for those with external keys.
pub fn measure(
    net: &Net,
    state: State,
    amount: Amount,
    kind: Kind,
    (listener, port): (&Socket, u16),
) -> Result<Case> {
    if kind.is_external() {
        let stateless = u32::from(kind == Kind::ExternalStateless);
        net.server.set("mptcp_dc/stateless_join", stateless)?;
    }
    net.client.enter()?;
    let wire = Wire::sender()?;
    let frames = || -> Result<u64> { Ok(net.client.received()? + net.server.received()?) };
    let mut case = measure_parts(state, kind.name(), amount, |number, meter| {
        let (client, server, keys) = connect(net, kind, listener, port)?;
        let token = net::token(&server)?;
        let ports = (10_000 + (number % 50_000) as u16, port);
        let seq = (number as u32).wrapping_mul(0x9e37_79b9);
        let syn = frame::syn(NOBODY, SERVER, ports, seq, Form::Linux, kind.syn(token))?;
        // What is still to come of the connection, and of the one before.
        sleep(SETTLE);
        let before = frames()?;
        net.client.enter()?;
        let receiver = Wire::receiver()?;

        meter.count(|| wire.send(&syn))?;
        let answer = SynAck::of(&receiver.receive()?)?;
        let option = kind.ack(token, keys, &answer)?;
        let ack = frame::ack(NOBODY, SERVER, ports, &answer, &option)?;
        meter.count(|| wire.send(&ack))?;

        let passed = frames()? - before;
        ensure!(passed == JOIN_SEGMENTS, "{passed} segments passed");
        let subflows = net::info(&server)?.subflows;
        ensure!(subflows == 1, "the server has {subflows} subflows more");
        net.client.enter()?;
        wire.send(&frame::reset(NOBODY, SERVER, ports, &answer)?)?;
        drop((client, server));
        Ok(())
    })
    .with_context(|| kind.name())?;
    if kind == Kind::ExternalStateless {
        let answered = net.server.counter("MPJoinSYNStateless")?;
        let sent = (amount.samples * amount.rounds + amount.samples / 4) as u64;
        ensure!(answered == sent, "{answered} of {sent} SYNs left no state");
    }
    case.frames = Some(JOIN_SEGMENTS as f64);
    if kind != Kind::Standard {
        case.against = Some((State::Absent.name(), STANDARD.to_owned()));
    }
    if kind.is_external() {
        case.limit = Some(Limit::Percent(TARGET));
    }
    Ok(case)
}

/// A connection to join, and the keys that its third ACK showed.
fn connect(
    net: &Net,
    kind: Kind,
    listener: &Socket,
    port: u16,
) -> Result<(Socket, Socket, [u8; 16])> {
    net.server.enter()?;
    let receiver = Wire::receiver()?;
    let (client, server) = if kind.is_external() {
        net::connect_external(net, listener, port)?
    } else {
        net::connect(net, listener, port)?
    };
    loop {
        if let Some(keys) = frame::keys(&receiver.receive()?)? {
            return Ok((client, server, keys));
        }
    }
}
