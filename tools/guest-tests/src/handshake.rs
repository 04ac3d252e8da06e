// SPDX-License-Identifier: GPL-2.0

//! What a first handshake looked like on the wire, and what it should look like.

use std::net::SocketAddr;

use anyhow::{ensure, Context, Result};

use crate::capture::Capture;
use crate::netns::Mode;
use crate::wire::{self, MpCapable, Segment, ACK, FIN, FLAG_A, FLAG_C, FLAG_H, RST, SYN, V1, V15};

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Standard,
    LowOverhead,
}

/// What a handshake should look like.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub protocol: Protocol,
    /// Version and length of the MP_CAPABLE in the SYN.
    pub syn: (u8, u8),
    /// The client's flags A and C in the SYN.
    pub client_flags: u8,
    /// The server's flags A and C in the SYN/ACK.
    pub server_flags: u8,
}

impl Expected {
    /// The flags in the third ACK: the client's, and A if either end asked for it.
    fn ack_flags(&self) -> u8 {
        self.client_flags | self.server_flags & FLAG_A
    }

    fn version(&self) -> u8 {
        match self.protocol {
            Protocol::LowOverhead => V15,
            Protocol::Standard | Protocol::Tcp => V1,
        }
    }

    /// H in the SYN/ACK and the third ACK.
    fn hmac_flag(&self) -> u8 {
        match self.protocol {
            Protocol::LowOverhead => 0,
            Protocol::Standard | Protocol::Tcp => FLAG_H,
        }
    }
}

/// The segments of a connection.
pub struct Trace {
    client: SocketAddr,
    pub segments: Vec<Segment>,
}

/// What the wire told of an MPTCP connection.
#[derive(Clone, Copy, Debug)]
pub struct Keys {
    pub client: u64,
    pub server: u64,
}

impl Trace {
    /// Takes the connection of the end `client` from a capture.
    pub fn take(capture: &mut Capture, client: SocketAddr) -> Result<Self> {
        Ok(Self {
            client,
            segments: capture.connection(client)?,
        })
    }

    /// Segments from the client, or from the server.
    pub fn from(&self, client: bool) -> impl Iterator<Item = &Segment> {
        self.segments
            .iter()
            .filter(move |s| (s.from == self.client) == client)
    }

    pub fn syn(&self) -> Result<&Segment> {
        self.from(true).find(|s| s.is(SYN)).context("no SYN")
    }

    pub fn syn_ack(&self) -> Result<&Segment> {
        self.from(false)
            .find(|s| s.is(SYN | ACK))
            .context("no SYN/ACK")
    }

    pub fn third_ack(&self) -> Result<&Segment> {
        self.from(true).find(|s| s.is(ACK)).context("no third ACK")
    }

    /// The first data segment of an end.
    pub fn first_data(&self, client: bool) -> Result<&Segment> {
        self.from(client)
            .find(|s| !s.payload.is_empty() && s.flags & SYN == 0)
            .with_context(|| {
                format!(
                    "no data from the {}",
                    if client { "client" } else { "server" }
                )
            })
    }

    /// Checks every byte of MP_CAPABLE and the first mappings of both directions; the keys of an MPTCP connection.
    pub fn check(&self, expected: &Expected) -> Result<Option<Keys>> {
        self.check_all(expected).with_context(|| {
            format!(
                "expected {expected:?}; the segments were\n{}",
                wire::list(&self.segments)
            )
        })
    }

    fn check_all(&self, expected: &Expected) -> Result<Option<Keys>> {
        let syn = self
            .syn()?
            .mp_capable()?
            .context("SYN without MP_CAPABLE")?;
        let (version, length) = expected.syn;
        ensure!(
            syn.form() == (version, length, expected.client_flags | FLAG_H),
            "the SYN's {syn:x?}"
        );

        let answer = self.syn_ack()?.mp_capable()?;
        if expected.protocol == Protocol::Tcp {
            ensure!(answer.is_none(), "the SYN/ACK has {answer:x?}");
            let other = self
                .segments
                .iter()
                .find(|s| s.flags & SYN == 0 && s.options.iter().any(|o| o[0] == wire::MPTCP));
            ensure!(
                other.is_none(),
                "plain TCP with an MPTCP option: {}",
                other.context("")?
            );
            return Ok(None);
        }
        let version = expected.version();
        let answer = answer.context("SYN/ACK without MP_CAPABLE")?;
        ensure!(
            answer.form() == (version, 12, expected.server_flags | expected.hmac_flag()),
            "the SYN/ACK's {answer:x?}"
        );
        let server = answer.sender.context("no key")?;

        let third = self.third_ack()?;
        let ack = third
            .mp_capable()?
            .context("third ACK without MP_CAPABLE")?;
        let flags = expected.ack_flags() | expected.hmac_flag();
        let length = if third.payload.is_empty() {
            20
        } else {
            self.data_length(expected)
        };
        ensure!(
            ack.form() == (version, length, flags),
            "the third ACK's {ack:x?}"
        );
        ensure!(
            ack.receiver == Some(server),
            "the third ACK's {ack:x?} doesn't echo {server:#x}"
        );
        let client = ack.sender.context("no key")?;
        if expected.syn.1 == 12 {
            ensure!(
                syn.sender == Some(client),
                "the SYN had {syn:x?}, the ACK {ack:x?}"
            );
        }
        let keys = Keys { client, server };
        if expected.protocol == Protocol::LowOverhead {
            for key in [client, server] {
                ensure!(wire::token(key) != 0, "token 0 in {key:#x}");
                ensure!(key as u32 != 0, "no random part in {key:#x}");
            }
        }
        self.check_first_data(expected, keys, flags)?;
        self.check_mappings(expected, keys)?;
        Ok(Some(keys))
    }

    /// Length of an MP_CAPABLE with data.
    fn data_length(&self, expected: &Expected) -> u8 {
        if expected.ack_flags() & FLAG_A != 0 {
            24
        } else {
            22
        }
    }

    /// The client's first data carries MP_CAPABLE, unless the server's data came first.
    fn check_first_data(&self, expected: &Expected, keys: Keys, flags: u8) -> Result<()> {
        let Ok(first) = self.first_data(true) else {
            return Ok(());
        };
        let Some(capable) = first.mp_capable()? else {
            let dss = first
                .dss()?
                .context("the client's first data has neither MP_CAPABLE nor DSS")?;
            let map = dss.map.context("the client's first data has no mapping")?;
            ensure!(map.subflow_seq == 1, "the client's first data has {map:x?}");
            return Ok(());
        };
        let length = self.data_length(expected);
        ensure!(
            capable.form() == (expected.version(), length, flags),
            "the first data's {capable:x?}"
        );
        let MpCapable {
            sender,
            receiver,
            data_len,
            ..
        } = capable;
        ensure!(
            (sender, receiver) == (Some(keys.client), Some(keys.server)),
            "the first data's {capable:x?}"
        );
        // The mapping may go on in the next segments, but the segment can't go beyond the mapping.
        ensure!(
            data_len.is_some_and(|length| usize::from(length) >= first.payload.len()),
            "the first data's {capable:x?} over {} bytes",
            first.payload.len()
        );
        Ok(())
    }

    /// Every mapping of either direction counts from IDSN + 1, and the first one of the server is that.
    fn check_mappings(&self, expected: &Expected, keys: Keys) -> Result<()> {
        let checksums = expected.ack_flags() & FLAG_A != 0;
        for (is_client, key) in [(true, keys.client), (false, keys.server)] {
            let mut base = None;
            // How far data was mapped, from there; and how far the subflow was.
            let (mut mapped, mut sent) = (0, 0);
            for segment in self.from(is_client).filter(|s| !s.payload.is_empty()) {
                let Some(map) = segment.dss()?.and_then(|dss| dss.map) else {
                    continue;
                };
                ensure!(map.checksum.is_some() == checksums, "{map:x?} in {segment}");
                // The first byte, relative number 1, has data sequence number IDSN + 1.
                let zero = map.data_seq.wrapping_sub(map.subflow_seq.into());
                let base = *base.get_or_insert(zero);
                let end = map.data_seq.wrapping_sub(base) + u64::from(map.length);
                // MPTCP sends again what a slow peer didn't acknowledge in time, further on in the subflow; so what is new
                // is further on from then, too.
                let goes_on = map.data_seq.wrapping_sub(base) == mapped && map.subflow_seq == sent;
                ensure!(
                    base == zero || end <= mapped || goes_on,
                    "mappings from {base:#x} and {zero:#x}"
                );
                mapped = mapped.max(end);
                sent = sent.max(map.subflow_seq.wrapping_add(map.length.into()));
            }
            let Some(base) = base else {
                continue;
            };
            let idsn = wire::idsn(key);
            let low_overhead = expected.protocol == Protocol::LowOverhead;
            ensure!(
                (base == idsn) == low_overhead,
                "data counts from {base:#x} + 1; the key field {key:#x} stands for {idsn:#x}"
            );
        }
        if let Some(map) = self
            .first_data(false)
            .ok()
            .map(Segment::dss)
            .transpose()?
            .flatten()
            .and_then(|d| d.map)
        {
            ensure!(map.subflow_seq == 1, "the server's first data has {map:x?}");
        }
        Ok(())
    }

    /// No end was reset.
    pub fn check_no_reset(&self) -> Result<()> {
        let mut numbers = 0..self.segments.len();
        let reset = numbers.find(|&n| self.segments[n].flags & RST != 0 && !self.is_after_all(n));
        ensure!(
            reset.is_none(),
            "reset, as segment {} of these:\n{}",
            reset.context("")?,
            self.segments
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        );
        Ok(())
    }

    /// Whether this reset is no end of the connection, but the host's answer to an ACK for a socket that is gone: both
    /// FINs were acknowledged, and the peer had sent an ACK after its own that asks for just this sequence number. The
    /// last ACK overtakes that one when they are sent on different CPUs, each of which has a queue of its own.
    fn is_after_all(&self, number: usize) -> bool {
        let reset = &self.segments[number];
        let earlier = &self.segments[..number];
        let end_of = |from: SocketAddr| {
            let mut sent = earlier.iter().filter(move |s| s.from == from);
            let fin = sent.find(|s| s.flags & FIN != 0)?;
            let length = u32::try_from(fin.payload.len()).ok()?;
            Some(fin.seq.wrapping_add(length).wrapping_add(1))
        };
        let (Some(here), Some(there)) = (end_of(reset.from), end_of(reset.to)) else {
            return false;
        };
        let is_bare = |s: &&Segment| s.from == reset.to && s.flags == ACK && s.payload.is_empty();
        let acked = |ack: u32| {
            let mut bare = earlier.iter().filter(is_bare);
            bare.any(|s| (s.seq, s.ack) == (there, ack))
        };
        let mut sent = earlier.iter().filter(|s| s.from == reset.from);
        reset.flags == RST
            && reset.seq != here
            && acked(here)
            && acked(reset.seq)
            && sent.any(|s| s.flags & ACK != 0 && s.ack == there)
    }
}

/// What a client and a server in these modes agree on (Documentation/protocol.rst).
pub fn outcome(client: Mode, server: Mode) -> Expected {
    let (syn, protocol) = match (client, server.accepts()) {
        (Mode::Stock | Mode::Accept, _) => ((V1, 4), Protocol::Standard),
        (Mode::Offer, false) => ((V15, 4), Protocol::Standard),
        (Mode::OfferFull, false) => ((V15, 12), Protocol::Tcp),
        (Mode::Offer, true) => ((V15, 4), Protocol::LowOverhead),
        (Mode::OfferFull, true) => ((V15, 12), Protocol::LowOverhead),
    };
    Expected {
        protocol,
        syn,
        client_flags: 0,
        server_flags: 0,
    }
}

/// The A and C flags that an end's sysctls stand for.
pub fn flags(checksum: bool, deny_join: bool) -> u8 {
    (if checksum { FLAG_A } else { 0 }) | if deny_join { FLAG_C } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u16 = 1;
    const B: u16 = 2;

    fn at(port: u16) -> SocketAddr {
        ([10, 9, 0, 1], port).into()
    }

    fn trace(segments: &[(u16, u8, u32, u32)]) -> Trace {
        let segment = |&(from, flags, seq, ack): &(u16, u8, u32, u32)| Segment {
            from: at(from),
            to: at(if from == A { B } else { A }),
            seq,
            ack,
            flags,
            options: vec![],
            raw_options: vec![],
            payload: vec![],
        };
        Trace {
            client: at(A),
            segments: segments.iter().map(segment).collect(),
        }
    }

    /// A closes, then B; the ACK in the middle comes last.
    const OVERTAKEN: [(u16, u8, u32, u32); 5] = [
        (A, FIN | ACK, 100, 50),
        (A, ACK, 101, 50),
        (B, FIN | ACK, 50, 101),
        (A, ACK, 101, 51),
        (B, RST, 50, 0),
    ];

    #[test]
    fn a_reset_for_an_overtaken_ack_is_none_of_the_connection() {
        trace(&OVERTAKEN).check_no_reset().unwrap();
    }

    #[test]
    fn any_other_reset_is_found() {
        for without in 0..OVERTAKEN.len() - 1 {
            let mut segments = OVERTAKEN.to_vec();
            segments.remove(without);
            assert!(trace(&segments).check_no_reset().is_err(), "{without}");
        }
        for reset in [
            (B, RST | ACK, 50, 101),
            (B, RST, 51, 0),
            (B, RST, 49, 0),
            (A, RST, 101, 0),
            (A, RST, 50, 0),
        ] {
            let mut segments = OVERTAKEN.to_vec();
            segments[4] = reset;
            assert!(trace(&segments).check_no_reset().is_err(), "{reset:?}");
        }
    }
}
