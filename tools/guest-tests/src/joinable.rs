// SPDX-License-Identifier: GPL-2.0

//! Connections that others join.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mptcp_pm::PathManager;
use socket2::Socket;

use crate::mptcp::{self, Info};
use crate::netns::{Counters, Family, Netns, Pair, SERVER_V4};
use crate::wire::{MPTCP, MP_JOIN};

/// Length of a low-overhead MP_JOIN in SYN and ACK, and in the SYN/ACK.
pub const JOIN: u8 = 8;
pub const JOIN_ANSWER: u8 = 4;

/// A low-overhead MP_JOIN for a SYN or an ACK.
pub fn mp_join(token: u32) -> Vec<u8> {
    [&[MPTCP, JOIN, MP_JOIN << 4, 9][..], &token.to_be_bytes()].concat()
}

/// An established connection, for others to join.
pub struct Joinable {
    pub listener: TcpListener,
    pub client: TcpStream,
    pub server: TcpStream,
}

impl Joinable {
    pub fn new(pair: &Pair, listen: SocketAddr, to: IpAddr) -> Result<Self> {
        Self::with(pair, listen, to, |_| Ok(()))
    }

    /// One whose sockets, the listener and the client's, `prepare` has set up.
    pub fn with(
        pair: &Pair,
        listen: SocketAddr,
        to: IpAddr,
        prepare: impl Fn(&Socket) -> io::Result<()>,
    ) -> Result<Self> {
        let listener = mptcp::listen_with(&pair.server, listen, &prepare)?;
        let to = SocketAddr::new(to, listener.local_addr()?.port());
        let client = mptcp::connect_with(&pair.client, to, &prepare)?;
        let server = mptcp::accept(&listener)?;
        let this = Self {
            listener,
            client,
            server,
        };
        this.exchange()?;
        Ok(this)
    }

    /// One to the server's IPv4 address, and that with its port.
    pub fn v4(pair: &Pair) -> Result<(Self, SocketAddrV4)> {
        let at = Pair::server_addr(Family::V4);
        let this = Self::new(pair, SocketAddr::new(at, 0), at)?;
        let to = this.v4_addr()?;
        Ok((this, to))
    }

    /// The server's IPv4 address and port.
    pub fn v4_addr(&self) -> Result<SocketAddrV4> {
        let port = self.listener.local_addr()?.port();
        Ok(SocketAddrV4::new(SERVER_V4, port))
    }

    pub fn exchange(&self) -> Result<()> {
        for seed in 0..3 {
            mptcp::send(&self.client, seed, 20_000)?;
            mptcp::receive(&self.server, seed, 20_000)?;
            mptcp::send(&self.server, seed + 10, 20_000)?;
            mptcp::receive(&self.client, seed + 10, 20_000)?;
        }
        Ok(())
    }

    /// The server's token.
    pub fn token(&self) -> Result<u32> {
        Ok(Info::of(&self.server)?
            .context("the connection is plain TCP")?
            .token)
    }

    /// How many subflows have joined, as the server sees it.
    pub fn subflows(&self) -> Result<u8> {
        Ok(Info::of(&self.server)?
            .context("the connection is plain TCP")?
            .subflows)
    }

    /// Waits until so many have.
    pub fn wait_for_subflows(&self, count: u8) -> Result<()> {
        let start = Instant::now();
        while self.subflows()? != count {
            ensure!(
                start.elapsed() < Duration::from_secs(20),
                "{} subflows joined, not {count}",
                self.subflows()?
            );
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// How many subflows the path manager allows beside the first.
pub fn limit_subflows(netns: &Netns, limit: u32) -> Result<()> {
    limit_all(netns, limit, 0)
}

/// The same, and how many announced addresses it heeds.
pub fn limit_all(netns: &Netns, subflows: u32, addresses: u32) -> Result<()> {
    netns.enter(|| PathManager::open()?.set_limits(subflows, addresses))
}

/// Checks how much counters of the module grew.
pub fn check_growth(netns: &Netns, before: &Counters, expected: &[(&str, u64)]) -> Result<()> {
    let after = netns.counters()?;
    for (name, growth) in expected {
        let grew = after.since(before, name)?;
        ensure!(grew == *growth, "{name} grew by {grew}, not {growth}");
    }
    Ok(())
}
