// SPDX-License-Identifier: GPL-2.0

//! How a connection began: its handshake, the first data in each direction, and the second subflow.

use anyhow::{Context, Result};
use proto::key::KeyField;
use sha2::{Digest, Sha256};

use crate::capture::Segment;
use crate::option::{dss, mp_capable, mp_join, Capable, Dss, Host, Mapping, Shortened};

/// A segment with its MP_CAPABLE.
pub struct Message {
    pub segment: Segment,
    pub option: Capable,
}

impl Message {
    fn of(segment: &Segment) -> Option<Self> {
        Some(Self {
            segment: segment.clone(),
            option: mp_capable(&segment.options)?,
        })
    }
}

/// The beginning of a connection, segment by segment.
pub struct Opening {
    pub syn: Message,
    pub syn_ack: Message,
    pub ack: Message,
    /// The client's first data. Its MP_CAPABLE maps it.
    pub request: Message,
    /// The server's data ACKs, in order.
    pub server_data_acks: Vec<Shortened>,
    /// The signal of the server's first data, with its mapping.
    pub response_dss: (Dss, Mapping),
    /// The first mapping of the client that has a data sequence number: behind the request.
    pub next_dss: (Dss, Mapping),
}

impl Opening {
    /// Finds the first connection in a capture.
    pub fn find(segments: &[Segment]) -> Result<Self> {
        let syn = segments
            .iter()
            .find(|segment| segment.syn && !segment.ack)
            .context("the capture has no SYN")?;
        let (client, server) = (syn.from, syn.to);
        let from = |host| {
            let (from, to) = match host {
                Host::A => (client, server),
                Host::B => (server, client),
            };
            segments
                .iter()
                .filter(move |s| s.from == from && s.to == to)
        };
        let mapping = |segment: &Segment| {
            let dss = dss(&segment.options)?;
            let mapping = dss.mapping?;
            Some((dss, mapping))
        };
        let syn_ack = from(Host::B)
            .find(|segment| segment.syn && segment.ack)
            .context("the SYN was not answered")?;
        let response = from(Host::B)
            .find(|segment| segment.payload > 0)
            .context("the server sent no data")?;
        Ok(Self {
            syn: Message::of(syn).context("the SYN carries no MP_CAPABLE")?,
            syn_ack: Message::of(syn_ack).context("the SYN/ACK carries no MP_CAPABLE")?,
            ack: from(Host::A)
                .find(|segment| !segment.syn)
                .and_then(Message::of)
                .context("the third ACK carries no MP_CAPABLE")?,
            request: from(Host::A)
                .find(|segment| segment.payload > 0)
                .and_then(Message::of)
                .context("the client's first data carries no MP_CAPABLE")?,
            server_data_acks: from(Host::B)
                .filter_map(|segment| dss(&segment.options)?.data_ack)
                .collect(),
            response_dss: mapping(response).context("the server's first data has no mapping")?,
            next_dss: from(Host::A)
                .find_map(mapping)
                .context("the client sent no data sequence number")?,
        })
    }

    /// The key field of a host in a low-overhead handshake.
    pub fn key_field(&self, host: Host) -> Result<KeyField> {
        let x = host.letter();
        let key = self
            .key(host)
            .with_context(|| format!("host {x} sent no token"))?;
        KeyField::from_raw(key).with_context(|| format!("host {x} sent the token 0"))
    }

    /// The key field, or key, that a host sent first.
    pub fn key(&self, host: Host) -> Option<u64> {
        match host {
            Host::A => self.ack.option.view.sender(),
            Host::B => self.syn_ack.option.view.sender(),
        }
    }
}

/// The MP_JOIN options of a new subflow's handshake.
pub struct Joining {
    pub syn: Vec<u8>,
    pub syn_ack: Vec<u8>,
    pub ack: Vec<u8>,
}

impl Joining {
    /// Finds the first handshake with MP_JOIN in a capture. The client joins.
    pub fn find(segments: &[Segment]) -> Result<Self> {
        let syn = segments
            .iter()
            .find(|segment| segment.syn && !segment.ack)
            .context("there is no SYN on path 2: the path manager added no subflow")?;
        let find = |of_client: bool, syn_flag: bool| {
            segments
                .iter()
                .filter(|s| (s.from == syn.from) == of_client && s.syn == syn_flag)
                .find_map(|segment| mp_join(&segment.options))
        };
        Ok(Self {
            syn: find(true, true).context("the SYN on path 2 carries no MP_JOIN")?,
            syn_ack: find(false, true).context("the SYN/ACK on path 2 carries no MP_JOIN")?,
            ack: find(true, false).context("the ACK on path 2 carries no MP_JOIN")?,
        })
    }
}

/// Token and initial data sequence number of a key in standard MPTCP (RFC 8684, section 3.1).
pub fn standard_token_and_idsn(key: u64) -> (u32, u64) {
    let hash: [u8; 32] = Sha256::digest(key.to_be_bytes()).into();
    let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| (n << 8) | u64::from(*byte));
    (number(&hash[..4]) as u32, number(&hash[24..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '\x01\x02\x03\x04\x05\x06\x07\x08' | sha256sum`.
    #[test]
    fn token_and_idsn_are_the_ends_of_the_hash() {
        let (token, idsn) = standard_token_and_idsn(0x0102_0304_0506_0708);
        assert_eq!(token, 0x6684_0dda);
        assert_eq!(idsn, 0xf5a1_01d3_d29d_6f72);
    }

    #[test]
    fn a_capture_without_a_handshake_says_what_is_missing() {
        let error = Opening::find(&[]).err().unwrap();
        assert_eq!(error.to_string(), "the capture has no SYN");
    }
}
