// SPDX-License-Identifier: GPL-2.0

//! Two network namespaces and what is done in them.
//!
//! ```text
//!  client ── veth ── server
//!    .2                .1     192.0.2.0/24
//! ```
//!
//! A third address, .3, belongs to nobody; the server takes it for a neighbour with a MAC address that the client
//! doesn't have. A SYN in its name is answered, and the client drops the answer on sight.

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use rustix::net::netdevice::name_to_index;
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::frame::Host;

pub const SERVER: Host = host(1);
pub const CLIENT: Host = host(2);
/// Whose SYNs are sent.
pub const NOBODY: Host = host(3);

const fn host(n: u8) -> Host {
    Host {
        mac: [2, 0, 0, 0, 0, n],
        addr: Ipv4Addr::new(192, 0, 2, n),
    }
}

/// A network namespace.
pub struct Netns {
    name: &'static str,
    file: File,
}

impl Netns {
    fn new(name: &'static str) -> Result<Self> {
        // Of a run that was ended.
        let _ = Command::new("ip").args(["netns", "del", name]).output();
        run(&["ip", "netns", "add", name])?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).context(path)?;
        Ok(Self { name, file })
    }

    /// Goes there: sockets are made, `/proc/sys/net` and `/proc/thread-self/net` are read in it.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("entering {}", self.name))
    }

    /// Sets a sysctl below `net`.
    pub fn set(&self, sysctl: &str, value: u32) -> Result<()> {
        self.enter()?;
        let path = format!("/proc/sys/net/{sysctl}");
        fs::write(&path, value.to_string()).context(path)
    }

    /// A counter of the module, by its name in `/proc/net/mptcp_dc`.
    pub fn counter(&self, name: &str) -> Result<u64> {
        self.enter()?;
        let path = "/proc/thread-self/net/mptcp_dc";
        let text = fs::read_to_string(path).context(path)?;
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
            .with_context(|| format!("{path} has no {name}"))
    }

    /// Frames that came in over the veth.
    pub fn received(&self) -> Result<u64> {
        self.enter()?;
        let path = "/proc/thread-self/net/dev";
        let text = fs::read_to_string(path).context(path)?;
        text.lines()
            .find_map(|line| {
                let (name, fields) = line.trim().split_once(':')?;
                (name == VETH).then(|| fields.split_whitespace().nth(1)?.parse().ok())?
            })
            .with_context(|| format!("{path} has no {VETH}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", self.name])
            .status();
    }
}

/// The veth's name, at both ends.
const VETH: &str = "veth0";

/// The two namespaces.
pub struct Net {
    pub client: Netns,
    pub server: Netns,
}

impl Net {
    /// Makes both and connects them.
    pub fn new() -> Result<Self> {
        let net = Self {
            client: Netns::new("dc-bench-client")?,
            server: Netns::new("dc-bench-server")?,
        };
        for netns in [&net.client, &net.server] {
            // Its solicitations would mingle with what is measured.
            netns.set("ipv6/conf/default/disable_ipv6", 1)?;
        }
        let (client, server) = (net.client.name, net.server.name);
        let mac = |host: Host| host.mac.map(|byte| format!("{byte:02x}")).join(":");
        run(&[
            "ip",
            "-n",
            client,
            "link",
            "add",
            VETH,
            "address",
            &mac(CLIENT),
            "type",
            "veth",
            "peer",
            "name",
            VETH,
            "address",
            &mac(SERVER),
            "netns",
            server,
        ])?;
        for (name, host) in [(client, CLIENT), (server, SERVER)] {
            let addr = format!("{}/24", host.addr);
            run(&["ip", "-n", name, "link", "set", "lo", "up"])?;
            run(&["ip", "-n", name, "addr", "add", &addr, "dev", VETH])?;
            run(&["ip", "-n", name, "link", "set", VETH, "up"])?;
        }
        for (name, host) in [(client, SERVER), (server, CLIENT), (server, NOBODY)] {
            run(&[
                "ip",
                "-n",
                name,
                "neigh",
                "replace",
                &host.addr.to_string(),
                "lladdr",
                &mac(host),
                "nud",
                "permanent",
                "dev",
                VETH,
            ])?;
        }
        for name in [client, server] {
            run(&[
                "ip",
                "-n",
                name,
                "mptcp",
                "limits",
                "set",
                "subflows",
                "8",
                "add_addr_accepted",
                "8",
            ])?;
        }
        Ok(net)
    }
}

fn run(command: &[&str]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "{}: {}",
        command.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Loads the module.
pub fn load_module() -> Result<()> {
    run(&["modprobe", "mptcp_dc"])
}

/// Unloads the module.
pub fn unload_module() -> Result<()> {
    run(&["modprobe", "--remove", "mptcp_dc"])
}

/// Whether the module is loaded.
pub fn module_is_loaded() -> bool {
    fs::exists("/sys/module/mptcp_dc").unwrap_or(false)
}

/// A listening socket in the present namespace.
pub fn listen(protocol: Protocol, port: u16) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(128)?;
    Ok(socket)
}

/// A connection from client to server, over MPTCP and past its handshake; the client's end comes first.
pub fn connect(net: &Net, listener: &Socket, port: u16) -> Result<(Socket, Socket)> {
    net.client.enter()?;
    let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP))?;
    client.connect(&SocketAddr::from((SERVER.addr, port)).into())?;
    client.set_tcp_nodelay(true)?;
    let (server, _) = listener.accept()?;
    server.set_tcp_nodelay(true)?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    for _ in 0..4 {
        transfer(&client, &server, b"ping")?;
        transfer(&server, &client, b"pong")?;
    }
    Ok((client, server))
}

/// Sends bytes from one end and takes them at the other.
pub fn transfer(from: &Socket, to: &Socket, bytes: &[u8]) -> Result<()> {
    let sent = from.send(bytes).context("send")?;
    ensure!(sent == bytes.len(), "a short send");
    let mut left = sent;
    let mut buffer = [0; 2048];
    while left > 0 {
        let got = (&mut { to }).read(&mut buffer).context("receive")?;
        ensure!(got > 0 && got <= left, "the connection ended");
        left -= got;
    }
    Ok(())
}

/// The token of this end of an MPTCP connection.
pub fn token(socket: &Socket) -> Result<u32> {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    /// Offset of `mptcpi_token` in `struct mptcp_info` (include/uapi/linux/mptcp.h).
    const TOKEN: usize = 12;
    let mut info = [0_u8; 128];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: The kernel writes at most `length` bytes to `info`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_MPTCP,
            MPTCP_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    ensure!(
        result == 0,
        "MPTCP_INFO: {}; is this plain TCP?",
        io::Error::last_os_error()
    );
    ensure!(length as usize >= TOKEN + 4, "MPTCP_INFO is too short");
    let bytes: [u8; 4] = info[TOKEN..TOKEN + 4].try_into()?;
    Ok(u32::from_ne_bytes(bytes))
}

/// Sends and receives whole frames on the present namespace's veth.
pub struct Wire(Socket);

impl Wire {
    /// One that only sends: the kernel hands it no frame.
    pub fn sender() -> Result<Self> {
        Self::new(0)
    }

    /// One that also gets every IPv4 frame that comes in.
    pub fn receiver() -> Result<Self> {
        let wire = Self::new(libc::ETH_P_IP as u16)?;
        wire.0.set_read_timeout(Some(Duration::from_secs(2)))?;
        Ok(wire)
    }

    fn new(protocol: u16) -> Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        let index = name_to_index(&socket, VETH).context(VETH)?;
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: The storage is large enough for, and aligned as, every kind of socket address; all zeroes
        // are a valid one of this kind.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: The storage holds an address of that length.
        socket.bind(&unsafe { SockAddr::new(storage, length) })?;
        Ok(Self(socket))
    }

    /// Sends a frame.
    #[inline]
    pub fn send(&self, frame: &[u8]) -> io::Result<usize> {
        self.0.send(frame)
    }

    /// The next frame.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        let length = (&self.0).read(&mut buffer).context("no frame came")?;
        buffer.truncate(length);
        Ok(buffer)
    }
}
