// SPDX-License-Identifier: GPL-2.0

//! Many connections at little expense: raw SYNs, and third ACKs with the keys that the SYN/ACKs had. Only the server has
//! sockets, which wait in the queue of a listener; nobody accepts them.

use anyhow::{bail, ensure, Context, Result};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use socket2::{Protocol, Socket};

use crate::frame::{self, Form, Option_, MPTCP};
use crate::net::{self, Net, Wire, NOBODIES, SERVER};

const PORT: u16 = 5010;
/// A client's first port; each connection has the next.
const FIRST: u32 = 1024;
/// So many a client.
const PORTS: u32 = 65_536 - FIRST;
/// As many as all have.
pub const MOST: u32 = PORTS * NOBODIES.len() as u32;

/// Connections from [`NOBODIES`] that live until this is dropped.
pub struct Held {
    listener: Socket,
    option: Option_,
    /// Those with MPTCP.
    count: u32,
    /// One has fallen back.
    is_full: bool,
}

impl Held {
    /// None yet. `option` is what their SYNs offer, [`Option_::Capable`] or [`Option_::Compact`].
    pub fn new(net: &Net, option: Option_) -> Result<Self> {
        net.server.set("core/somaxconn", MOST)?;
        net.server.enter()?;
        Ok(Self {
            listener: net::listen_on(net::stream(Protocol::MPTCP)?, PORT, MOST as i32)?,
            option,
            count: 0,
            is_full: false,
        })
    }

    /// Those that there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether one has fallen back, for want of a token. There won't be more.
    pub fn is_full(&self) -> bool {
        self.is_full
    }

    /// Opens more, until there are so many or one falls back.
    pub fn fill(&mut self, net: &Net, count: u32) -> Result<()> {
        ensure!(count <= MOST, "the clients have {MOST} ports");
        let before = net.server.mptcp_sockets()?;
        let had = self.count;
        for netns in [&net.client, &net.server] {
            // With cookies, that there is no token would come to light too late.
            netns.set("ipv4/tcp_syncookies", 1)?;
        }
        net.client.enter()?;
        let (sender, receiver) = (Wire::sender()?, Wire::receiver()?);
        while self.count < count && !self.is_full {
            match self.open(&sender, &receiver)? {
                true => self.count += 1,
                false => self.is_full = true,
            }
        }
        drop(receiver);
        for netns in [&net.client, &net.server] {
            netns.set("ipv4/tcp_syncookies", 2)?;
        }
        // One that fell back has a socket, too.
        let more = net.server.mptcp_sockets()? - before;
        let opened = u64::from(self.count - had);
        ensure!(
            more.abs_diff(opened) <= 1,
            "{opened} connections were opened, the kernel counts {more}"
        );
        Ok(())
    }

    /// Opens one; whether it has MPTCP.
    fn open(&self, sender: &Wire, receiver: &Wire) -> Result<bool> {
        let client = *NOBODIES
            .get((self.count / PORTS) as usize)
            .context("no client has a port left")?;
        let port = u16::try_from(FIRST + self.count % PORTS)?;
        let ports = (port, PORT);
        // The host's own keys: the token's half is not 0.
        let own = (u64::from(self.count + 1) << 32) | 0x9a3c_710e;
        let seq = self.count.wrapping_mul(0x9e37_79b9);
        sender.send(&frame::syn(
            client,
            SERVER,
            ports,
            seq,
            Form::Mss,
            self.option,
        )?)?;
        let answer = loop {
            let frame = receiver.receive()?;
            if let Some(answer) = Answer::to(port, &frame)? {
                break answer;
            }
        };
        let options = match answer.key {
            Some(peer) => {
                // The version of the SYN. Flag H is only RFC 8684's.
                let start: [u8; 4] = match self.option {
                    Option_::Capable => [MPTCP, 20, 0x01, 0x01],
                    Option_::Compact => [MPTCP, 20, 0x0f, 0x00],
                    _ => bail!("no connection begins with {:?}", self.option),
                };
                [&start[..], &own.to_be_bytes(), &peer].concat()
            }
            None => vec![],
        };
        let builder = PacketBuilder::ethernet2(client.mac, SERVER.mac)
            .ipv4(client.addr.octets(), SERVER.addr.octets(), 64)
            .tcp(port, PORT, seq.wrapping_add(1), 64240)
            .ack(answer.seq.wrapping_add(1))
            .options_raw(&options)
            .context("TCP options")?;
        let mut ack = Vec::with_capacity(builder.size(0));
        builder.write(&mut ack, &[])?;
        sender.send(&ack)?;
        Ok(answer.key.is_some())
    }

    /// Closes them, and waits until the kernel has no more than `left` MPTCP sockets.
    pub fn release(self, net: &Net, left: u64) -> Result<()> {
        drop(self.listener);
        for _ in 0..60 {
            if net.server.mptcp_sockets()? <= left {
                return Ok(());
            }
            crate::measure::idle(1);
        }
        bail!("connections are still there a minute after their listener was closed")
    }
}

/// What counts of a SYN/ACK.
struct Answer {
    seq: u32,
    /// MP_CAPABLE's, if there is one.
    key: Option<[u8; 8]>,
}

impl Answer {
    /// The frame, if it is a SYN/ACK for that port.
    fn to(port: u16, frame: &[u8]) -> Result<Option<Self>> {
        let packet = SlicedPacket::from_ethernet(frame).context("no Ethernet frame")?;
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            return Ok(None);
        };
        if !(tcp.syn() && tcp.ack() && tcp.destination_port() == port) {
            return Ok(None);
        }
        let is_capable = matches!(frame::answer(frame)?, Some((12, 0x01 | 0x0f)));
        // MPTCP's option comes last, padded with nothing.
        let key = tcp.options().last_chunk().filter(|_| is_capable).copied();
        let seq = tcp.sequence_number();
        Ok(Some(Self { seq, key }))
    }
}
