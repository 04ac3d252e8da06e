// SPDX-License-Identifier: GPL-2.0

//! Reads and builds TCP segments, byte by byte, from RFC 9293, RFC 8684 and Documentation/protocol.rst.
//!
//! It shares nothing with the `proto` crate on purpose: what the module writes is judged by other code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{bail, ensure, Context, Result};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;

/// Kind of the MPTCP option.
pub const MPTCP: u8 = 30;

/// MPTCP subtypes.
pub const MP_CAPABLE: u8 = 0;
pub const MP_JOIN: u8 = 1;
pub const DSS: u8 = 2;
pub const MP_PRIO: u8 = 5;
pub const MP_FASTCLOSE: u8 = 7;
pub const MP_TCPRST: u8 = 8;

/// Flag byte of MP_CAPABLE.
pub const FLAG_A: u8 = 0x80;
pub const FLAG_B: u8 = 0x40;
pub const FLAG_C: u8 = 0x20;
pub const FLAG_H: u8 = 0x01;

/// Version nibbles.
pub const V1: u8 = 1;
pub const V15: u8 = 15;

/// A TCP segment as captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    /// Kind and whole option, in order; NOP and end left out.
    pub options: Vec<Vec<u8>>,
    /// The options as they stood in the header.
    pub raw_options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Segment {
    /// Reads an IPv4 or IPv6 packet; `None` if it is not TCP.
    pub fn parse(packet: &[u8]) -> Result<Option<Self>> {
        let version = packet.first().context("empty packet")? >> 4;
        let (from, to, protocol, tcp): (IpAddr, IpAddr, u8, &[u8]) = match version {
            4 => {
                let header = usize::from(packet[0] & 0x0f) * 4;
                ensure!(packet.len() >= header && header >= 20, "short IPv4 header");
                let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
                // A packet too large for the field (GRO, GSO) has 0 there.
                let end = if total == 0 { packet.len() } else { total };
                ensure!(packet.len() >= end && end >= header, "short IPv4 packet");
                let address = |at: usize| -> IpAddr {
                    Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]).into()
                };
                (address(12), address(16), packet[9], &packet[header..end])
            }
            6 => {
                ensure!(packet.len() >= 40, "short IPv6 header");
                let address = |at: usize| -> IpAddr {
                    let mut bytes = [0; 16];
                    bytes.copy_from_slice(&packet[at..at + 16]);
                    Ipv6Addr::from(bytes).into()
                };
                (address(8), address(24), packet[6], &packet[40..])
            }
            _ => return Ok(None),
        };
        if protocol != 6 {
            return Ok(None);
        }
        ensure!(tcp.len() >= 20, "short TCP header");
        let header = usize::from(tcp[12] >> 4) * 4;
        ensure!(header >= 20 && tcp.len() >= header, "bad data offset");
        let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
        let raw_options = tcp[20..header].to_vec();
        Ok(Some(Self {
            from: SocketAddr::new(from, port(0)),
            to: SocketAddr::new(to, port(2)),
            seq: be32(&tcp[4..]),
            ack: be32(&tcp[8..]),
            flags: tcp[13],
            options: split_options(&raw_options)?,
            raw_options,
            payload: tcp[header..].to_vec(),
        }))
    }

    /// Whether of SYN, ACK, RST and FIN exactly `flags` are set.
    pub fn is(&self, flags: u8) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == flags
    }

    /// The MPTCP options of a subtype.
    pub fn mptcp(&self, subtype: u8) -> impl Iterator<Item = &[u8]> {
        self.options
            .iter()
            .filter(move |o| o[0] == MPTCP && o.len() > 2 && o[2] >> 4 == subtype)
            .map(Vec::as_slice)
    }

    /// The MP_CAPABLE option; an error if there are several.
    pub fn mp_capable(&self) -> Result<Option<MpCapable>> {
        let mut all = self.mptcp(MP_CAPABLE);
        let first = all.next().map(MpCapable::parse).transpose()?;
        ensure!(all.next().is_none(), "two MP_CAPABLE in {self}");
        Ok(first)
    }

    /// The DSS option.
    pub fn dss(&self) -> Result<Option<Dss>> {
        self.mptcp(DSS).next().map(Dss::parse).transpose()
    }
}

impl std::fmt::Display for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: String = [(SYN, 'S'), (FIN, 'F'), (RST, 'R'), (PSH, 'P'), (ACK, 'A')]
            .iter()
            .filter(|(flag, _)| self.flags & flag != 0)
            .map(|(_, name)| name)
            .collect();
        write!(
            f,
            "{} > {} [{names}] seq {:#x} ack {:#x} {} bytes, options",
            self.from,
            self.to,
            self.seq,
            self.ack,
            self.payload.len()
        )?;
        self.raw_options
            .iter()
            .try_for_each(|byte| write!(f, " {byte:02x}"))
    }
}

/// The first segments as text.
pub fn list(segments: &[Segment]) -> String {
    let lines: Vec<_> = segments
        .iter()
        .take(20)
        .map(|s| format!("  {s}\n"))
        .collect();
    lines.concat()
}

/// An address as it stands on the wire: IPv4 where a socket sees it mapped into IPv6, and no scope.
pub fn on_wire(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn be64(bytes: &[u8]) -> u64 {
    (u64::from(be32(bytes)) << 32) | u64::from(be32(&bytes[4..]))
}

fn split_options(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut options = Vec::new();
    loop {
        match *bytes {
            [] | [0, ..] => return Ok(options),
            [1, ref rest @ ..] => bytes = rest,
            [_, length, ..] if length >= 2 && usize::from(length) <= bytes.len() => {
                let (option, rest) = bytes.split_at(length.into());
                options.push(option.to_vec());
                bytes = rest;
            }
            _ => bail!("options don't parse: {bytes:02x?}"),
        }
    }
}

/// MP_CAPABLE (RFC 8684, section 3.1), of any version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MpCapable {
    pub length: u8,
    pub version: u8,
    pub flags: u8,
    /// Keys, or Tok ‖ Rnd.
    pub sender: Option<u64>,
    pub receiver: Option<u64>,
    pub data_len: Option<u16>,
    pub checksum: Option<u16>,
}

impl MpCapable {
    fn parse(option: &[u8]) -> Result<Self> {
        ensure!(
            matches!(option.len(), 4 | 12 | 20 | 22 | 24),
            "MP_CAPABLE of length {}",
            option.len()
        );
        Ok(Self {
            length: option[1],
            version: option[2] & 0x0f,
            flags: option[3],
            sender: option.get(4..12).map(be64),
            receiver: option.get(12..20).map(be64),
            data_len: option.get(20..22).map(be16),
            checksum: option.get(22..24).map(be16),
        })
    }

    /// Version, length and flags: what says which form this is.
    pub fn form(&self) -> (u8, u8, u8) {
        (self.version, self.length, self.flags)
    }
}

/// DSS (RFC 8684, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dss {
    pub data_fin: bool,
    pub data_ack: Option<u64>,
    pub map: Option<Map>,
}

/// The mapping of a DSS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    pub data_seq: u64,
    /// Relative: the first byte of the subflow is 1.
    pub subflow_seq: u32,
    pub length: u16,
    pub checksum: Option<u16>,
}

impl Dss {
    fn parse(option: &[u8]) -> Result<Self> {
        let flags = *option.get(3).context("DSS without flags")?;
        let mut rest = &option[4..];
        let mut take = |n: usize| -> Result<u64> {
            ensure!(rest.len() >= n, "DSS too short: {option:02x?}");
            let (field, tail) = rest.split_at(n);
            rest = tail;
            Ok(field
                .iter()
                .fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
        };
        let data_ack = match flags & 0x03 {
            0x01 => Some(take(4)?),
            0x03 => Some(take(8)?),
            _ => None,
        };
        let map = match flags & 0x0c {
            0x04 | 0x0c => {
                ensure!(
                    flags & 0x08 != 0,
                    "a DSS with a data sequence number of 4 bytes"
                );
                Some((take(8)?, take(4)?, take(2)?))
            }
            _ => None,
        };
        let checksum = if rest_len(option, flags) == 2 {
            Some(take(2)?)
        } else {
            None
        };
        Ok(Self {
            data_fin: flags & 0x10 != 0,
            data_ack,
            map: map.map(|(data_seq, subflow_seq, length)| Map {
                data_seq,
                subflow_seq: subflow_seq as u32,
                length: length as u16,
                checksum: checksum.map(|sum| sum as u16),
            }),
        })
    }
}

/// Bytes of a DSS that are left after ack and mapping.
fn rest_len(option: &[u8], flags: u8) -> usize {
    let ack = match flags & 0x03 {
        0x01 => 4,
        0x03 => 8,
        _ => 0,
    };
    let map = if flags & 0x04 != 0 { 14 } else { 0 };
    option.len().saturating_sub(4 + ack + map)
}

/// The data sequence number before the first byte, as protocol.rst makes it of a key field.
pub fn idsn(key_field: u64) -> u64 {
    key_field.rotate_left(32)
}

/// The token in a key field.
pub fn token(key_field: u64) -> u32 {
    (key_field >> 32) as u32
}

/// An MP_CAPABLE option: version, flags and what follows them.
pub fn mp_capable(version: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut option = vec![
        MPTCP,
        (4 + body.len()) as u8,
        (MP_CAPABLE << 4) | version,
        flags,
    ];
    option.extend_from_slice(body);
    option
}

/// An IPv4 packet with a TCP segment. The kernel fills in what a raw socket leaves to it.
pub fn build_v4(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    seq: u32,
    ack: u32,
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Result<Vec<u8>> {
    ensure!(options.len() <= 40, "{} bytes of options", options.len());
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let header = 20 + options.len();

    let mut tcp = Vec::with_capacity(header + payload.len());
    tcp.extend(from.1.to_be_bytes());
    tcp.extend(to.1.to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([((header / 4) << 4) as u8, flags]);
    tcp.extend(u16::MAX.to_be_bytes()); // window
    tcp.extend([0; 4]); // checksum, urgent pointer
    tcp.extend(&options);
    tcp.extend(payload);

    let mut pseudo = Vec::new();
    pseudo.extend(from.0.octets());
    pseudo.extend(to.0.octets());
    pseudo.extend([0, 6]);
    pseudo.extend((tcp.len() as u16).to_be_bytes());
    let sum = internet_checksum(&[&pseudo, &tcp]);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());

    let mut packet = vec![0x45, 0];
    packet.extend(((20 + tcp.len()) as u16).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    packet.extend(tcp);
    Ok(packet)
}

/// RFC 1071 over the concatenation of `parts`, of which all but the last have an even length.
fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum: u32 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            sum += (u32::from(pair[0]) << 8) | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 1), 1000);
    const B: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 0, 0, 2), 80);

    #[test]
    fn what_is_built_reads_back() {
        let mut body = Vec::new();
        body.extend(0x1122_3344_5566_7788_u64.to_be_bytes());
        body.extend(0x99aa_bbcc_ddee_ff00_u64.to_be_bytes());
        body.extend([0, 3]);
        let option = mp_capable(V15, FLAG_A, &body);
        let packet = build_v4(A, B, 7, 8, ACK | PSH, &option, b"abc").unwrap();
        let segment = Segment::parse(&packet).unwrap().unwrap();
        assert_eq!(
            (segment.seq, segment.ack, segment.payload.as_slice()),
            (7, 8, b"abc".as_slice())
        );
        let capable = segment.mp_capable().unwrap().unwrap();
        assert_eq!(capable.form(), (V15, 22, FLAG_A));
        assert_eq!(capable.sender, Some(0x1122_3344_5566_7788));
        assert_eq!(capable.receiver, Some(0x99aa_bbcc_ddee_ff00));
        assert_eq!((capable.data_len, capable.checksum), (Some(3), None));
        assert_eq!(
            internet_checksum(&[&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 47], &packet[20..]]),
            0
        );
    }

    #[test]
    fn dss_forms_read() {
        let full: Vec<u8> = [vec![MPTCP, 28, DSS << 4, 0x0f], (1..=24).collect()].concat();
        let dss = Dss::parse(&full).unwrap();
        assert_eq!(dss.data_ack, Some(0x0102_0304_0506_0708));
        let map = dss.map.unwrap();
        assert_eq!(
            (map.data_seq, map.subflow_seq),
            (0x090a_0b0c_0d0e_0f10, 0x1112_1314)
        );
        assert_eq!((map.length, map.checksum), (0x1516, Some(0x1718)));
        let ack_only = Dss::parse(&[MPTCP, 8, DSS << 4, 0x01, 0, 0, 0, 9]).unwrap();
        assert_eq!((ack_only.data_ack, ack_only.map), (Some(9), None));
        assert!(Dss::parse(&[MPTCP, 6, DSS << 4, 0x01, 0, 0]).is_err());
    }

    #[test]
    fn halves_swap() {
        assert_eq!(idsn(0x1111_1111_2222_2222), 0x2222_2222_1111_1111);
        assert_eq!(token(0x1111_1111_2222_2222), 0x1111_1111);
    }
}
