// SPDX-License-Identifier: GPL-2.0

//! TCP segments from a capture of the wire.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;

use anyhow::{ensure, Context, Result};
use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use pcap_file::pcap::PcapReader;
use pcap_file::DataLink;

/// A TCP segment over IPv4, as it crossed the wire.
#[derive(Clone, Debug)]
pub struct Segment {
    pub from: SocketAddrV4,
    pub to: SocketAddrV4,
    pub syn: bool,
    pub ack: bool,
    /// All TCP options, padding included.
    pub options: Vec<u8>,
    /// Bytes of the IP packet, headers included.
    pub length: usize,
    /// Bytes of payload.
    pub payload: usize,
}

/// Reads what tcpdump wrote of TCP over IPv4 over Ethernet.
pub fn read(path: &Path) -> Result<Vec<Segment>> {
    let context = || format!("capture {}", path.display());
    let mut reader =
        PcapReader::new(File::open(path).with_context(context)?).with_context(context)?;
    ensure!(
        reader.header().datalink == DataLink::ETHERNET,
        "{}: not of an Ethernet interface",
        path.display()
    );
    let mut segments = Vec::new();
    while let Some(packet) = reader.next_packet() {
        segments.extend(segment(&packet.with_context(context)?.data));
    }
    Ok(segments)
}

/// The TCP segment in an Ethernet frame, if there is one.
fn segment(frame: &[u8]) -> Option<Segment> {
    let packet = LaxSlicedPacket::from_ethernet(frame).ok()?;
    let (Some(LaxNetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
        (packet.net, packet.transport)
    else {
        return None;
    };
    let ip = ip.header();
    let length = usize::from(ip.total_len());
    let headers = usize::from(ip.ihl()) * 4 + usize::from(tcp.data_offset()) * 4;
    let end = |addr: Ipv4Addr, port| SocketAddrV4::new(addr, port);
    Some(Segment {
        from: end(ip.source_addr(), tcp.source_port()),
        to: end(ip.destination_addr(), tcp.destination_port()),
        syn: tcp.syn(),
        ack: tcp.ack(),
        options: tcp.options().to_vec(),
        length,
        payload: length.saturating_sub(headers),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{PacketBuilder, TcpOptionElement};

    #[test]
    fn a_segment_cut_off_behind_its_header_keeps_its_true_length() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 1, 1], [10, 0, 1, 2], 64)
            .tcp(40000, 80, 7, 1000)
            .ack(9)
            .options(&[TcpOptionElement::WindowScale(7)])
            .unwrap()
            .write(&mut frame, &[0; 500])
            .unwrap();
        for end in [frame.len(), frame.len() - 500] {
            let found = segment(&frame[..end]).unwrap();
            assert_eq!(found.from, "10.0.1.1:40000".parse().unwrap());
            assert_eq!(found.to, "10.0.1.2:80".parse().unwrap());
            assert!(found.ack && !found.syn);
            assert_eq!(found.options, [3, 3, 7, 0]);
            assert_eq!((found.payload, found.length), (500, 544));
        }
    }

    #[test]
    fn other_packets_are_passed_over() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 1, 1], [10, 0, 1, 2], 64)
            .udp(1, 2)
            .write(&mut frame, &[0; 50])
            .unwrap();
        assert!(segment(&frame).is_none());
        assert!(segment(&frame[..20]).is_none());
        assert!(segment(&[]).is_none());
    }
}
