// SPDX-License-Identifier: GPL-2.0

//! What stands in for random numbers.
//!
//! The slides take keys and nonces as RFC 6528 takes TCP's initial sequence numbers: from a keyed
//! hash of the connection. `Key = Hash(5-tuple + secret + counter)`, `Join-Nonce = Hash(5-tuple +
//! secret + seqNo)`. A server can make them again and need not store them.
//!
//! # What is hashed
//!
//! One byte string per value, SipHash-2-4 over it:
//!
//! | bytes | what |
//! |---|---|
//! | 4 + 4, or 16 + 16 | local address, remote address, as in the IP header |
//! | 2 + 2 | local port, remote port, as in the TCP header |
//! | 4 | counter, sequence number or client ISN, little endian |
//! | 8 + 8 | only for [`Flow::join_cookie`]: `Rand_A` and `Tok_B` (4 + 4), time epoch; little endian |
//! | 1 | what the hash is for |
//! | 6 | network namespace cookie, the low 48 bits, little endian |
//!
//! The two IP versions and the two message kinds differ in length, which SipHash hashes as well. The
//! protocol number, the fifth of the 5-tuple, is always TCP. IPv6-mapped IPv4 addresses count as IPv4,
//! because one connection shows up in both forms in the kernel.

use core::num::{NonZeroU32, NonZeroU64};

use crate::siphash::{HashKey, Tail};
use crate::token::{Counter, Token};

/// What a hash is for; keeps hashes of the same connection and number apart.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Purpose {
    RandomPart = 1,
    StandardKey = 2,
    JoinNonce = 3,
    JoinCookie = 4,
}

/// One end of a TCP connection, bytes as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End<const N: usize> {
    /// IP address, in network byte order.
    pub addr: [u8; N],
    /// TCP port, in network byte order.
    pub port: [u8; 2],
}

/// A TCP connection as this host sees it: network namespace and 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    addrs: Addrs,
    /// Local port, remote port: wire bytes read little endian.
    ports: u32,
    /// Cookie of the network namespace; the low 48 bits count.
    netns: u64,
}

/// Addresses: wire bytes read little endian, so that a little-endian host just loads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Addrs {
    /// Local in the low half, remote in the high half.
    V4(u64),
    /// Two words local, two words remote.
    V6([u64; 4]),
}

#[inline]
fn ports(local: [u8; 2], remote: [u8; 2]) -> u32 {
    let [local, remote] = [local, remote].map(u16::from_le_bytes);
    (u32::from(remote) << 16) | u32::from(local)
}

/// Two 32-bit numbers in the order of their bytes, little endian.
#[inline]
fn pair(first: u32, second: u32) -> u64 {
    (u64::from(second) << 32) | u64::from(first)
}

impl Flow {
    /// A connection over IPv4.
    #[inline]
    pub fn v4(netns: u64, local: End<4>, remote: End<4>) -> Self {
        Self {
            addrs: Addrs::V4(pair(
                u32::from_le_bytes(local.addr),
                u32::from_le_bytes(remote.addr),
            )),
            ports: ports(local.port, remote.port),
            netns,
        }
    }

    /// A connection over IPv6, or over IPv4 with both addresses in mapped form.
    #[inline]
    pub fn v6(netns: u64, local: End<16>, remote: End<16>) -> Self {
        let [l, r] = [local.addr, remote.addr].map(u128::from_le_bytes);
        let addrs = match (mapped(l), mapped(r)) {
            (Some(l), Some(r)) => Addrs::V4(pair(l, r)),
            _ => Addrs::V6([l as u64, (l >> 64) as u64, r as u64, (r >> 64) as u64]),
        };
        Self {
            addrs,
            ports: ports(local.port, remote.port),
            netns,
        }
    }

    /// `Rnd`: the random part of this host's key field on the connection.
    #[inline]
    pub fn random_part(&self, key: &HashKey, counter: Counter) -> u32 {
        self.hash(key, Purpose::RandomPart, counter.0) as u32
    }

    /// `Key`: what standard MPTCP with `derived_nonces=1` takes for this host's random key.
    ///
    /// The stack reads 0 as "no key", so the hash 0 becomes 1.
    #[inline]
    pub fn standard_key(&self, key: &HashKey, counter: Counter) -> NonZeroU64 {
        NonZeroU64::new(self.hash(key, Purpose::StandardKey, counter.0)).unwrap_or(NonZeroU64::MIN)
    }

    /// `Join-Nonce`: this host's nonce of an MP_JOIN on a subflow whose initial TCP sequence
    /// number (for a server, the client's) is `seq`.
    ///
    /// The stack's client never uses 0, so the hash 0 becomes 1.
    #[inline]
    pub fn join_nonce(&self, key: &HashKey, seq: u32) -> NonZeroU32 {
        NonZeroU32::new(self.hash(key, Purpose::JoinNonce, seq) as u32).unwrap_or(NonZeroU32::MIN)
    }

    /// `Rand_B`: the nonce that a server of stateless joins answers to the SYN with `client_isn`,
    /// `rand_a` and `tok_b`, and makes again when the ACK comes. `epoch` is a coarse clock.
    #[inline]
    pub fn join_cookie(
        &self,
        key: &HashKey,
        client_isn: u32,
        rand_a: u32,
        tok_b: Token,
        epoch: u64,
    ) -> u32 {
        let tail = self.tail(Purpose::JoinCookie);
        let number = pair(self.ports, client_isn);
        let join = pair(rand_a, tok_b.get());
        let hash = match self.addrs {
            Addrs::V4(addrs) => key.hash([addrs, number, join, epoch], tail),
            Addrs::V6([a, b, c, d]) => key.hash([a, b, c, d, number, join, epoch], tail),
        };
        hash as u32
    }

    // A call would cost a tenth of it.
    #[inline(always)]
    fn hash(&self, key: &HashKey, purpose: Purpose, number: u32) -> u64 {
        let tail = self.tail(purpose);
        let number = pair(self.ports, number);
        match self.addrs {
            Addrs::V4(addrs) => key.hash([addrs, number], tail),
            Addrs::V6(addrs) => hash_v6(key, addrs, number, tail),
        }
    }

    #[inline]
    fn tail(&self, purpose: Purpose) -> Tail {
        Tail::seven((self.netns << 8) | purpose as u64)
    }
}

/// In one place, as it is long.
#[inline(never)]
fn hash_v6(key: &HashKey, [a, b, c, d]: [u64; 4], number: u64, tail: Tail) -> u64 {
    key.hash([a, b, c, d, number], tail)
}

/// The IPv4 address in a mapped IPv6 address `::ffff:a.b.c.d`; both as wire bytes read little
/// endian.
#[inline]
fn mapped(addr: u128) -> Option<u32> {
    (addr as u64 == 0 && (addr >> 64) as u32 == 0xffff_0000).then_some((addr >> 96) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::hash::Hasher;

    const KEY: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    const NETNS: u64 = 0xff00_0605_0403_0201;

    /// SipHash-2-4 of a byte string, by the standard library.
    fn reference(bytes: &[u8]) -> u64 {
        #[expect(deprecated, reason = "the library's only SipHash-2-4")]
        let mut hasher =
            core::hash::SipHasher::new_with_keys(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        hasher.write(bytes);
        hasher.finish()
    }

    fn v4() -> Flow {
        let local = End {
            addr: [192, 0, 2, 1],
            port: [0x1f, 0x90],
        };
        let remote = End {
            addr: [198, 51, 100, 7],
            port: [0xc0, 0x01],
        };
        Flow::v4(NETNS, local, remote)
    }

    const LOCAL6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const REMOTE6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    fn v6() -> Flow {
        let local = End {
            addr: LOCAL6,
            port: [0x1f, 0x90],
        };
        let remote = End {
            addr: REMOTE6,
            port: [0xc0, 0x01],
        };
        Flow::v6(NETNS, local, remote)
    }

    /// The message as the table at the top of the module has it.
    fn message(addrs: &[&[u8]], number: u32, join: &[&[u8]], purpose: u8) -> Vec<u8> {
        let mut bytes = addrs.concat();
        bytes.extend([0x1f, 0x90, 0xc0, 0x01]);
        bytes.extend(number.to_le_bytes());
        bytes.extend(join.concat());
        bytes.extend([purpose, 1, 2, 3, 4, 5, 6]);
        bytes
    }

    #[test]
    fn every_hash_is_siphash_of_the_documented_bytes() {
        let key = HashKey::new(&KEY);
        let token = Token::new(0x8877_6655).unwrap();
        let join: &[&[u8]] = &[
            &0x4433_2211_u32.to_le_bytes(),
            &token.get().to_le_bytes(),
            &77_u64.to_le_bytes(),
        ];
        let four: &[&[u8]] = &[&[192, 0, 2, 1], &[198, 51, 100, 7]];
        let six: &[&[u8]] = &[&LOCAL6, &REMOTE6];
        for (flow, addrs) in [(v4(), four), (v6(), six)] {
            let of = |join, purpose| reference(&message(addrs, 0xdead_beef, join, purpose));
            let n = 0xdead_beef;
            assert_eq!(flow.random_part(&key, Counter(n)), of(&[], 1) as u32);
            assert_eq!(flow.standard_key(&key, Counter(n)).get(), of(&[], 2));
            assert_eq!(flow.join_nonce(&key, n).get(), of(&[], 3) as u32);
            let cookie = flow.join_cookie(&key, n, 0x4433_2211, token, 77);
            assert_eq!(cookie, of(join, 4) as u32);
        }
    }

    #[test]
    fn a_mapped_connection_is_the_ipv4_connection() {
        let mapped = |a, b, c, d| [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
        let local = End {
            addr: mapped(192, 0, 2, 1),
            port: [0x1f, 0x90],
        };
        let remote = End {
            addr: mapped(198, 51, 100, 7),
            port: [0xc0, 0x01],
        };
        assert_eq!(Flow::v6(NETNS, local, remote), v4());
        let half = End {
            addr: REMOTE6,
            port: remote.port,
        };
        assert_ne!(Flow::v6(NETNS, local, half), Flow::v6(NETNS, half, local));
    }

    #[test]
    fn direction_and_namespace_count() {
        let (a, b) = (
            End {
                addr: [10, 0, 0, 1],
                port: [0, 1],
            },
            End {
                addr: [10, 0, 0, 2],
                port: [0, 2],
            },
        );
        let key = HashKey::new(&KEY);
        let of = |flow: Flow| flow.random_part(&key, Counter(1));
        assert_ne!(of(Flow::v4(1, a, b)), of(Flow::v4(1, b, a)));
        assert_ne!(of(Flow::v4(1, a, b)), of(Flow::v4(2, a, b)));
    }
}
