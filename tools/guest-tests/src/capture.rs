// SPDX-License-Identifier: GPL-2.0

//! What passes a network interface, in both directions.

use std::ffi::CString;
use std::io::{self, Read};
use std::mem::size_of;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use socket2::{Domain, Socket, Type};

use crate::netns::Netns;
use crate::wire::Segment;

/// Bytes of packets that may wait to be read.
const BUFFER: usize = 32 << 20;

/// A running capture. It sees packets in the order in which they pass.
pub struct Capture {
    socket: Socket,
    segments: Vec<Segment>,
}

impl Capture {
    /// Starts one on the interface `dev` of `netns`.
    pub fn start(netns: &Netns, dev: &str) -> Result<Self> {
        netns.enter(|| Self::start_here(dev))
    }

    fn start_here(dev: &str) -> Result<Self> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // Without a protocol nothing comes in before the bind.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, None).context("packet socket")?;
        let name = CString::new(dev)?;
        // SAFETY: A C string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(index != 0, "no interface {dev}");
        force_receive_buffer(&socket, BUFFER)?;
        // SAFETY: All zeroes is a valid address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index as i32;
        // SAFETY: The address has that size.
        let status = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        ensure!(status == 0, "bind to {dev}: {}", io::Error::last_os_error());
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            segments: Vec::new(),
        })
    }

    /// Takes in what has passed since.
    fn drain(&mut self) -> Result<()> {
        let mut buffer = vec![0; 1 << 17];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(n) => self
                    .segments
                    .extend(Segment::parse(&buffer[..n]).ok().flatten()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("capture"),
            }
        }
        let dropped = self.dropped()?;
        ensure!(dropped == 0, "the capture lost {dropped} packets");
        Ok(())
    }

    fn dropped(&self) -> Result<u32> {
        let mut stats = [0_u32; 2]; // struct tpacket_stats
        let mut length = size_of_val(&stats) as u32;
        // SAFETY: The buffer has that length.
        let status = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                stats.as_mut_ptr().cast(),
                &mut length,
            )
        };
        ensure!(
            status == 0,
            "packet statistics: {}",
            io::Error::last_os_error()
        );
        Ok(stats[1])
    }

    /// All TCP segments so far.
    pub fn segments(&mut self) -> Result<&[Segment]> {
        self.drain()?;
        Ok(&self.segments)
    }

    /// Those of the connection of the end `client`, both ways.
    pub fn connection(&mut self, client: SocketAddr) -> Result<Vec<Segment>> {
        let of = |s: &&Segment| s.from == client || s.to == client;
        Ok(self.segments()?.iter().filter(of).cloned().collect())
    }

    /// Forgets what has passed.
    pub fn clear(&mut self) -> Result<()> {
        self.drain()?;
        self.segments.clear();
        Ok(())
    }

    /// The first segment for which `wanted` is true, if one comes in `limit`.
    pub fn wait_for(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Option<Segment>> {
        let start = Instant::now();
        loop {
            if let Some(found) = self.segments()?.iter().find(|s| wanted(s)) {
                return Ok(Some(found.clone()));
            }
            if start.elapsed() > limit {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Sets the receive buffer, beyond the limit for users.
fn force_receive_buffer(socket: &Socket, bytes: usize) -> Result<()> {
    let bytes = i32::try_from(bytes)?;
    // SAFETY: An int.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            size_of::<i32>() as u32,
        )
    };
    if status != 0 {
        bail!("receive buffer: {}", io::Error::last_os_error());
    }
    Ok(())
}
