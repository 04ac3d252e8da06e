// SPDX-License-Identifier: GPL-2.0

//! SYNs as bytes, and what their answers carry.

use std::net::Ipv4Addr;

use anyhow::{ensure, Context, Result};
use etherparse::{
    PacketBuilder, PacketBuilderStep, SlicedPacket, TcpHeader, TcpSlice, TransportSlice,
};

/// The option kind of MPTCP (RFC 8684, section 3).
pub const MPTCP: u8 = 30;
/// MP_JOIN, in the high half of the option's third byte.
pub const MP_JOIN: u8 = 0x10;
/// The address ID in all joins here.
pub const ADDRESS_ID: u8 = 7;
/// `Rand_A`, likewise.
pub const NONCE: [u8; 4] = [0x9a, 0x3c, 0x71, 0x0e];
/// The option kind of time stamps (RFC 7323, section 3.2).
const TIMESTAMPS: u8 = 8;
/// The time stamp of all segments here.
const TIME: [u8; 4] = [0, 0x12, 0x34, 0x56];

/// What a SYN carries besides MPTCP's option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A maximum segment size.
    Mss,
    /// What a Linux client sends: MSS, SACK permitted, timestamps, window scale.
    Linux,
}

impl Form {
    fn bytes(self) -> &'static [u8] {
        const LINUX: &[u8] = &[
            2, 4, 0x05, 0xb4, 4, 2, TIMESTAMPS, 10, TIME[0], TIME[1], TIME[2], TIME[3], 0, 0, 0, 0,
            1, 3, 3, 7,
        ];
        match self {
            Self::Mss => &LINUX[..4],
            Self::Linux => LINUX,
        }
    }
}

/// The MPTCP option of a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Option_ {
    /// None.
    None,
    /// MP_CAPABLE, version 1.
    Capable,
    /// MP_CAPABLE, version 15, without token.
    Compact,
    /// MP_CAPABLE, version 15, with token and random part.
    Full,
    /// MP_CAPABLE, version 15, with B: external keys.
    External,
    /// MP_JOIN of RFC 8684 or with an external key, which begin alike, for a connection with this token.
    Join(u32),
    /// Low-overhead MP_JOIN, for a connection with this token.
    BareJoin(u32),
}

impl Option_ {
    fn bytes(self) -> Vec<u8> {
        // Flag H: HMAC-SHA256, the one algorithm of RFC 8684.
        match self {
            Self::None => vec![],
            Self::Capable => vec![MPTCP, 4, 0x01, 0x01],
            Self::Compact => vec![MPTCP, 4, 0x0f, 0x01],
            Self::External => vec![MPTCP, 4, 0x0f, 0x41],
            Self::Full => vec![MPTCP, 12, 0x0f, 0x01, 1, 2, 3, 4, 5, 6, 7, 8],
            Self::Join(token) => [
                &[MPTCP, 12, MP_JOIN, ADDRESS_ID][..],
                &token.to_be_bytes(),
                &NONCE,
            ]
            .concat(),
            Self::BareJoin(token) => {
                [&[MPTCP, 8, MP_JOIN, ADDRESS_ID][..], &token.to_be_bytes()].concat()
            }
        }
    }

    /// What a server's MPTCP option begins with that took this one: length, and subtype and version (MP_CAPABLE)
    /// or only subtype.
    pub fn answer(self) -> Option<(u8, u8)> {
        match self {
            Self::None => None,
            Self::Capable => Some((12, 0x01)),
            Self::Compact | Self::Full | Self::External => Some((12, 0x0f)),
            Self::Join(_) => Some((16, 0x10)),
            Self::BareJoin(_) => Some((4, 0x10)),
        }
    }
}

/// One end, as its frames name it.
#[derive(Clone, Copy)]
pub struct Host {
    pub mac: [u8; 6],
    pub addr: Ipv4Addr,
}

/// A SYN with its Ethernet header.
pub fn syn(
    from: Host,
    to: Host,
    ports: (u16, u16),
    seq: u32,
    form: Form,
    option: Option_,
) -> Result<Vec<u8>> {
    let options = [form.bytes(), &option.bytes()].concat();
    whole(start(from, to, ports, seq).syn(), &options)
}

/// The ACK of a handshake that `answer` belongs to, with this MPTCP option.
pub fn ack(
    from: Host,
    to: Host,
    ports: (u16, u16),
    answer: &SynAck,
    option: &[u8],
) -> Result<Vec<u8>> {
    let head = [&[1, 1, TIMESTAMPS, 10], &TIME[..], &answer.time].concat();
    let packet = start(from, to, ports, answer.ack).ack(answer.seq.wrapping_add(1));
    whole(packet, &[&head, option].concat())
}

/// A reset of what became of it.
pub fn reset(from: Host, to: Host, ports: (u16, u16), answer: &SynAck) -> Result<Vec<u8>> {
    whole(start(from, to, ports, answer.ack).rst(), &[])
}

fn start(
    from: Host,
    to: Host,
    (source, destination): (u16, u16),
    seq: u32,
) -> PacketBuilderStep<TcpHeader> {
    PacketBuilder::ethernet2(from.mac, to.mac)
        .ipv4(from.addr.octets(), to.addr.octets(), 64)
        .tcp(source, destination, seq, 64240)
}

fn whole(packet: PacketBuilderStep<TcpHeader>, options: &[u8]) -> Result<Vec<u8>> {
    let packet = packet.options_raw(options).context("TCP options")?;
    let mut frame = Vec::with_capacity(packet.size(0));
    packet.write(&mut frame, &[])?;
    Ok(frame)
}

/// Gives a SYN of [`syn`] a source address in 10.0.0.0/8, a port and a sequence number. No two numbers give the same.
pub fn disguise(frame: &mut [u8], number: u32) -> Result<()> {
    const ETHERNET: usize = 14;
    const IP: usize = 20;
    let [high, a, b, c] = number.wrapping_mul(0x9e37_79b1).to_be_bytes();
    let (ip, tcp) = frame
        .get_mut(ETHERNET..)
        .and_then(|packet| packet.split_at_mut_checked(IP))
        .context("no IPv4 packet")?;
    ensure!(ip[0] == 0x45 && tcp.len() >= 20, "no TCP behind IPv4");
    ip[12..16].copy_from_slice(&[10, a, b, c]);
    tcp[0..2].copy_from_slice(&[0x80 | high, a]);
    tcp[4..8].copy_from_slice(&number.to_be_bytes());
    ip[10..12].fill(0);
    let sum = checksum(0, ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    tcp[16..18].fill(0);
    // The pseudo header: both addresses, the protocol, the length.
    let pseudo = !checksum(6 + tcp.len() as u32, &ip[12..20]);
    let sum = checksum(pseudo.into(), tcp);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// The Internet checksum (RFC 1071) of an even number of bytes and of what was summed before.
fn checksum(before: u32, bytes: &[u8]) -> u16 {
    let mut sum = before;
    for pair in bytes.chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The TCP segment in a frame.
fn segment(frame: &[u8]) -> Result<TcpSlice<'_>> {
    let packet = SlicedPacket::from_ethernet(frame).context("no Ethernet frame")?;
    match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => Ok(tcp),
        _ => anyhow::bail!("it is not TCP"),
    }
}

/// The first option of this kind among a segment's.
fn option(mut options: &[u8], kind: u8) -> Result<Option<&[u8]>> {
    loop {
        options = match *options {
            [] | [0, ..] => return Ok(None),
            [1, ref rest @ ..] => rest,
            [found, length, ..] => {
                let (option, rest) = options
                    .split_at_checked(length.max(2).into())
                    .context("an option is cut")?;
                if found == kind {
                    return Ok(Some(option));
                }
                rest
            }
            [_] => anyhow::bail!("an option is cut"),
        };
    }
}

/// The front of some bytes.
fn front<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.first_chunk().copied().context("an option is short")
}

/// Length and third byte of a SYN/ACK's MPTCP option, if it has one.
pub fn answer(frame: &[u8]) -> Result<Option<(u8, u8)>> {
    let tcp = segment(frame)?;
    ensure!(tcp.syn() && tcp.ack(), "the answer is no SYN/ACK");
    let option = option(tcp.options(), MPTCP)?;
    option
        .map(|option| front(option).map(|[_, length, third]| (length, third)))
        .transpose()
}

/// A SYN/ACK that answers an MP_JOIN.
pub struct SynAck {
    seq: u32,
    /// The sequence number that it acknowledges.
    ack: u32,
    /// Its time stamp.
    time: [u8; 4],
    /// `Rand_B`; without HMAC there is none.
    pub nonce: Option<[u8; 4]>,
}

impl SynAck {
    pub fn of(frame: &[u8]) -> Result<Self> {
        let tcp = segment(frame)?;
        ensure!(tcp.syn() && tcp.ack(), "the answer is no SYN/ACK");
        let join = option(tcp.options(), MPTCP)?.context("the answer has no MP_JOIN")?;
        let times = option(tcp.options(), TIMESTAMPS)?.context("the answer has no time stamp")?;
        ensure!(
            join.get(2).is_some_and(|third| third & 0xf0 == MP_JOIN),
            "the answer's option is {join:02x?}"
        );
        Ok(Self {
            seq: tcp.sequence_number(),
            ack: tcp.acknowledgment_number(),
            time: front(times.get(2..).unwrap_or_default())?,
            nonce: join.get(12..).map(front).transpose()?,
        })
    }
}

/// Both key fields, the sender's first, of an MP_CAPABLE that has both.
pub fn keys(frame: &[u8]) -> Result<Option<[u8; 16]>> {
    const MP_CAPABLE: u8 = 0;

    let tcp = segment(frame)?;
    let keys = match option(tcp.options(), MPTCP)? {
        Some([_, 20..=u8::MAX, third, _, keys @ ..]) if third >> 4 == MP_CAPABLE => {
            Some(front(keys)?)
        }
        _ => None,
    };
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host {
        mac: [2, 0, 0, 0, 0, 1],
        addr: Ipv4Addr::new(192, 0, 2, 1),
    };

    #[test]
    fn a_syn_is_whole() {
        let frame = syn(HOST, HOST, (1, 2), 3, Form::Linux, Option_::Full).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("no TCP");
        };
        assert!(tcp.syn() && !tcp.ack());
        assert_eq!(tcp.options()[..20], *Form::Linux.bytes());
        assert_eq!(tcp.options()[20..], Option_::Full.bytes());
        assert!(answer(&frame).is_err(), "a SYN is no answer");
    }

    #[test]
    fn an_ack_follows_its_syn_ack() {
        let answer = SynAck {
            seq: 7,
            ack: 9,
            time: [4, 3, 2, 1],
            nonce: None,
        };
        let option = [&[MPTCP, 28, MP_JOIN, ADDRESS_ID][..], &[5; 24]].concat();
        let frame = ack(HOST, HOST, (1, 2), &answer, &option).unwrap();
        let tcp = segment(&frame).unwrap();
        assert_eq!((tcp.sequence_number(), tcp.acknowledgment_number()), (9, 8));
        assert_eq!(tcp.options().len(), 40);
        assert_eq!(tcp.options()[8..12], answer.time);
        assert_eq!(
            super::option(tcp.options(), MPTCP).unwrap(),
            Some(&option[..])
        );
        assert!(keys(&frame).unwrap().is_none(), "an MP_JOIN has no keys");
        assert!(SynAck::of(&frame).is_err(), "an ACK is no SYN/ACK");
    }

    #[test]
    fn keys_are_found() {
        let bytes: Vec<u8> = (0..16).collect();
        let option = [&[MPTCP, 20, 0x01, 0x01][..], &bytes].concat();
        let packet = start(HOST, HOST, (1, 2), 3).ack(4);
        let frame = whole(packet, &option).unwrap();
        assert_eq!(keys(&frame).unwrap().map(Vec::from), Some(bytes));
    }

    #[test]
    fn a_disguised_syn_has_its_checksums() {
        let mut frame = syn(HOST, HOST, (1, 2), 3, Form::Linux, Option_::BareJoin(7)).unwrap();
        disguise(&mut frame, 12_345).unwrap();
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
            panic!("no TCP");
        };
        let Some(etherparse::NetSlice::Ipv4(ip)) = packet.net else {
            panic!("no IPv4");
        };
        assert_eq!(ip.header().source()[0], 10);
        assert_eq!(
            ip.header().header_checksum(),
            ip.header().to_header().calc_header_checksum()
        );
        assert_eq!(
            Ok(tcp.checksum()),
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination())
        );
        assert_eq!(tcp.sequence_number(), 12_345);
    }
}
