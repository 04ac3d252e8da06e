// SPDX-License-Identifier: GPL-2.0

//! A peer without a TCP stack: this test builds every one of its segments.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{bail, Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::capture::Capture;
use crate::netns::{Netns, Pair, CLIENT_DEV, RAW_CLIENT, RAW_SERVER, SERVER_DEV};
use crate::wire::{build_v4, Segment, ACK, RST, SYN};

/// The initial sequence number of every raw peer.
pub const ISN: u32 = 0x1000_0000;

/// Both ends of a subflow, the one first that a segment is to be from.
pub type Flow = [SocketAddrV4; 2];

/// The subflow between these.
pub fn flow(from: SocketAddr, to: SocketAddr) -> Result<Flow> {
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => Ok([from, to]),
        _ => bail!("a subflow of another family"),
    }
}

/// A peer at an address of nobody; or of somebody, whose own kernel had better not answer for it.
pub struct RawPeer {
    pub address: Ipv4Addr,
    socket: Socket,
    fences: u16,
    pub capture: Capture,
}

impl RawPeer {
    /// On the client's side.
    pub fn client(pair: &Pair) -> Result<Self> {
        Self::at(&pair.client, CLIENT_DEV, RAW_CLIENT)
    }

    /// On the server's side.
    pub fn server(pair: &Pair) -> Result<Self> {
        Self::at(&pair.server, SERVER_DEV, RAW_SERVER)
    }

    /// One in this namespace, that sees what passes this interface.
    pub fn at(netns: &Netns, dev: &str, address: Ipv4Addr) -> Result<Self> {
        let socket = netns
            .enter(|| {
                Socket::new(
                    Domain::IPV4,
                    Type::RAW,
                    Some(Protocol::from(libc::IPPROTO_RAW)),
                )
            })
            .context("raw socket")?;
        let capture = Capture::start(netns, dev)?;
        Ok(Self {
            address,
            socket,
            fences: 0,
            capture,
        })
    }

    /// Sends a segment from `port`.
    pub fn send(
        &self,
        port: u16,
        to: SocketAddrV4,
        flags: u8,
        (seq, ack): (u32, u32),
        options: &[u8],
        payload: &[u8],
    ) -> Result<()> {
        let far = (*to.ip(), to.port());
        let packet = build_v4((self.address, port), far, seq, ack, flags, options, payload)?;
        self.socket
            .send_to(&packet, &SocketAddrV4::new(*to.ip(), 0).into())
            .context("raw send")?;
        Ok(())
    }

    /// Sends a SYN with these options; the SYN/ACK.
    pub fn syn(&mut self, port: u16, to: SocketAddrV4, options: &[u8]) -> Result<Segment> {
        self.syn_with(port, to, ISN, options)
    }

    /// The same with this initial sequence number.
    pub fn syn_with(
        &mut self,
        port: u16,
        to: SocketAddrV4,
        isn: u32,
        options: &[u8],
    ) -> Result<Segment> {
        self.capture.clear()?;
        self.send(port, to, SYN, (isn, 0), options, &[])?;
        let own = SocketAddr::from((self.address, port));
        self.capture
            .wait_for(Duration::from_secs(20), |s| s.to == own && s.is(SYN | ACK))?
            .context("no SYN/ACK came")
    }

    /// Returns when `far` has dealt with all that was sent before: a closed port of it has answered.
    pub fn fence(&mut self, far: Ipv4Addr) -> Result<()> {
        const CLOSED: u16 = 9;
        self.fences = self.fences % 1_000 + 1;
        let port = 60_000 + self.fences;
        self.send(
            port,
            SocketAddrV4::new(far, CLOSED),
            SYN,
            (ISN, 0),
            &[],
            &[],
        )?;
        self.capture
            .wait_for(Duration::from_secs(20), |s| {
                s.to.port() == port && s.flags & RST != 0
            })?
            .context("no answer of a closed port")
            .map(drop)
    }

    /// Sequence number and acknowledgement of what the flow's first end would send next. Waits until all is quiet.
    pub fn numbers(&mut self, [from, to]: Flow) -> Result<(u32, u32)> {
        /// Longer than any ACK is delayed.
        const QUIET: Duration = Duration::from_millis(400);

        let mut seen = self.capture.segments()?.len();
        loop {
            std::thread::sleep(QUIET);
            let now = self.capture.segments()?.len();
            if now == seen {
                break;
            }
            seen = now;
        }
        let is_its =
            |s: &&Segment| (s.from, s.to) == (from.into(), to.into()) && s.flags & (SYN | RST) == 0;
        let last = self.capture.segments()?.iter().filter(is_its).last();
        let last = last.context("the end said nothing on the subflow")?;
        Ok((last.seq.wrapping_add(last.payload.len() as u32), last.ack))
    }

    /// Sends the first segment after a SYN/ACK.
    pub fn third_ack(
        &self,
        port: u16,
        to: SocketAddrV4,
        syn_ack: &Segment,
        options: &[u8],
        payload: &[u8],
    ) -> Result<()> {
        self.send(port, to, ACK, (ISN + 1, syn_ack.seq + 1), options, payload)
    }

    /// Ends a connection of which the peer has `sent` bytes.
    pub fn reset(&self, port: u16, to: SocketAddrV4, sent: u32) -> Result<()> {
        self.send(port, to, RST, (ISN + 1 + sent, 0), &[], &[])
    }
}
