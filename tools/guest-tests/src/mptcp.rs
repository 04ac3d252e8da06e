// SPDX-License-Identifier: GPL-2.0

//! MPTCP sockets, what the kernel tells about them, and data to send through them.

use std::io::{self, Read, Write};
use std::mem::{size_of, zeroed};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;

/// No single step of a healthy connection takes longer, not even under TCG on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A socket that doesn't wait for ever.
pub fn socket(netns: &Netns, family: SocketAddr) -> Result<Socket> {
    let socket = netns
        .enter(|| {
            Socket::new(
                Domain::for_address(family),
                Type::STREAM,
                Some(Protocol::MPTCP),
            )
        })
        .context("MPTCP socket")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// A listener on a port of the kernel's choice, if `at` has port 0.
pub fn listen(netns: &Netns, at: SocketAddr) -> Result<TcpListener> {
    listen_with(netns, at, |_| Ok(()))
}

/// A listener that `prepare` has set up before it was bound.
pub fn listen_with(
    netns: &Netns,
    at: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<TcpListener> {
    let socket = socket(netns, at)?;
    prepare(&socket).context("socket option")?;
    socket.set_reuse_address(true)?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket
        .bind(&at.into())
        .with_context(|| format!("bind to {at}"))?;
    socket.listen(512)?;
    Ok(socket.into())
}

pub fn connect(netns: &Netns, to: SocketAddr) -> Result<TcpStream> {
    connect_with(netns, to, |_| Ok(()))
}

/// Connects a socket that `prepare` has set up.
pub fn connect_with(
    netns: &Netns,
    to: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<TcpStream> {
    let socket = socket(netns, to)?;
    prepare(&socket).context("socket option")?;
    socket
        .connect(&SockAddr::from(to))
        .with_context(|| format!("connect to {to}"))?;
    Ok(socket.into())
}

/// Sets an integer option of level `IPPROTO_TCP`.
pub fn set_tcp(socket: &impl AsRawFd, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: An int.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Accepts one connection, which is given the same patience.
pub fn accept(listener: &TcpListener) -> Result<TcpStream> {
    accept_within(listener, PATIENCE)?.context("nothing to accept")
}

/// As [`accept`]; `None` if none comes in `limit`. (`SO_RCVTIMEO` doesn't reach the accept() of an MPTCP socket.)
pub fn accept_within(listener: &TcpListener, limit: Duration) -> Result<Option<TcpStream>> {
    let mut poll = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: One pollfd.
    let ready = unsafe { libc::poll(&mut poll, 1, limit.as_millis() as i32) };
    ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
    if ready == 0 {
        return Ok(None);
    }
    let (stream, _) = listener.accept().context("accept")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Some(stream))
}

/// `struct mptcp_info` of include/uapi/linux/mptcp.h, as far as these tests look.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Info {
    pub subflows: u8,
    add_addr_signal: u8,
    add_addr_accepted: u8,
    subflows_max: u8,
    add_addr_signal_max: u8,
    add_addr_accepted_max: u8,
    pub flags: u32,
    pub token: u32,
    pub write_seq: u64,
    pub snd_una: u64,
    pub rcv_nxt: u64,
    local_addr_used: u8,
    local_addr_max: u8,
    pub csum_enabled: u8,
}

/// Level of MPTCP's socket options.
pub const SOL_MPTCP: i32 = 284;
const MPTCP_INFO: i32 = 1;
const MPTCP_FULL_INFO: i32 = 4;
const FLAG_FALLBACK: u32 = 1;
const FLAG_REMOTE_KEY: u32 = 2;

impl Info {
    /// What `MPTCP_INFO` says; `None` for a connection that is plain TCP.
    pub fn of(socket: &impl AsRawFd) -> Result<Option<Self>> {
        // SAFETY: All zeroes is a valid value.
        let mut info: Self = unsafe { zeroed() };
        match get_option(socket.as_raw_fd(), MPTCP_INFO, &mut info) {
            Ok(_) if info.flags & FLAG_FALLBACK != 0 => Ok(None),
            Ok(_) => Ok(Some(info)),
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EOPNOTSUPP | libc::ENOPROTOOPT)
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("MPTCP_INFO"),
        }
    }

    /// As [`Self::of`], from `MPTCP_FULL_INFO`.
    pub fn full(socket: &impl AsRawFd) -> Result<Self> {
        /// `struct mptcp_full_info`, with an area that is larger than its last member.
        #[repr(C)]
        struct Full {
            size_tcpinfo_kernel: u32,
            size_tcpinfo_user: u32,
            size_sfinfo_kernel: u32,
            size_sfinfo_user: u32,
            num_subflows: u32,
            size_arrays_user: u32,
            subflow_info: u64,
            tcp_info: u64,
            info: Info,
            rest: [u8; 256],
        }
        // SAFETY: All zeroes is a valid value: no room for arrays.
        let mut full: Full = unsafe { zeroed() };
        get_option(socket.as_raw_fd(), MPTCP_FULL_INFO, &mut full).context("MPTCP_FULL_INFO")?;
        Ok(full.info)
    }

    /// Whether the peer's key is known.
    pub fn knows_peer(&self) -> bool {
        self.flags & FLAG_REMOTE_KEY != 0
    }
}

/// Sets an option of level `SOL_MPTCP` to these bytes.
pub fn set_bytes(socket: &impl AsRawFd, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: The kernel reads so many bytes.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_MPTCP,
            name,
            value.as_ptr().cast(),
            value.len() as u32,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads one into `room`; how many bytes the kernel says that it has filled.
pub fn get_bytes<const N: usize>(
    socket: &impl AsRawFd,
    name: i32,
    room: &mut [u8; N],
) -> io::Result<usize> {
    Ok(get_option(socket.as_raw_fd(), name, room)? as usize)
}

/// Reads an option of level `SOL_MPTCP` into `value`, a C structure that may be filled in part.
fn get_option<T>(fd: RawFd, name: i32, value: &mut T) -> io::Result<u32> {
    let mut length = size_of::<T>() as u32;
    // SAFETY: `value` has that size, and any bytes are a valid value of the integers it is made of.
    let status = unsafe {
        libc::getsockopt(
            fd,
            SOL_MPTCP,
            name,
            std::ptr::from_mut(value).cast(),
            &mut length,
        )
    };
    if status == 0 {
        Ok(length)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A stream of bytes that repeats late and shows where a mistake is. Different seeds, different streams.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Sends the pattern.
pub fn send(mut stream: &TcpStream, seed: u64, length: usize) -> Result<()> {
    stream
        .write_all(&pattern(seed, length))
        .with_context(|| format!("sending {length} bytes"))
}

/// Receives exactly the pattern.
pub fn receive(mut stream: &TcpStream, seed: u64, length: usize) -> Result<()> {
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        match stream.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| format!("after {got} of {length} bytes"))
            }
        }
    }
    ensure!(
        got == length,
        "the peer ended after {got} of {length} bytes"
    );
    let expected = pattern(seed, length);
    if let Some(at) = bytes.iter().zip(&expected).position(|(a, b)| a != b) {
        anyhow::bail!("byte {at} of {length} is wrong");
    }
    Ok(())
}

/// The peer has ended its half, and sent nothing more.
pub fn receive_end(mut stream: &TcpStream) -> Result<()> {
    let n = stream.read(&mut [0; 16]).context("waiting for the end")?;
    ensure!(n == 0, "{n} bytes more than the peer should have sent");
    Ok(())
}
