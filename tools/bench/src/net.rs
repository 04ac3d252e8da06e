// SPDX-License-Identifier: GPL-2.0

//! Two network namespaces and what is done in them.
//!
//! ```text
//!  client ── veth ── server
//!    .2                .1     192.0.2.0/24
//! ```
//!
//! Two more addresses, .3 and .4, belong to nobody; the server takes them for neighbours with MAC addresses that the client
//! doesn't have. A SYN in their name is answered, and the client drops the answer on sight.

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem::size_of;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use rustix::net::netdevice::name_to_index;
use rustix::thread::{move_into_link_name_space, LinkNameSpaceType};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::frame::Host;

pub const SERVER: Host = host(1);
pub const CLIENT: Host = host(2);
/// Whose SYNs are sent.
pub const NOBODY: Host = host(3);
/// As [`NOBODY`], for whom the ports of one address are not enough.
pub const NOBODIES: [Host; 2] = [NOBODY, host(4)];

const fn host(n: u8) -> Host {
    Host {
        mac: [2, 0, 0, 0, 0, n],
        addr: Ipv4Addr::new(192, 0, 2, n),
    }
}

/// A network namespace.
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// Makes one.
    pub fn new(name: &str) -> Result<Self> {
        // Of a run that was ended.
        let _ = Command::new("ip").args(["netns", "del", name]).output();
        run(&["ip", "netns", "add", name])?;
        let path = format!("/run/netns/{name}");
        let file = File::open(&path).context(path)?;
        let name = name.to_owned();
        Ok(Self { name, file })
    }

    /// Runs a command of `ip` in it, words apart by blanks.
    pub fn ip(&self, command: &str) -> Result<()> {
        let words: Vec<_> = ["ip", "-n", &self.name]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        run(&words)
    }

    /// Runs a program in it, words apart by blanks.
    pub fn run(&self, command: &str) -> Result<()> {
        self.output(command).map(drop)
    }

    /// Runs a program in it, words apart by blanks; gives what it printed.
    pub fn output(&self, command: &str) -> Result<String> {
        let words: Vec<_> = ["ip", "netns", "exec", &self.name]
            .into_iter()
            .chain(command.split(' '))
            .collect();
        output(&words)
    }

    /// Has what comes in over the veth handled by one CPU (Documentation/networking/scaling.rst, RPS).
    pub fn receive_on(&self, cpu: usize) -> Result<()> {
        let queue = format!("/sys/class/net/{VETH}/queues/rx-0/rps_cpus");
        let script = format!("echo {:x} > {queue}", 1 << cpu);
        run(&["ip", "netns", "exec", &self.name, "sh", "-c", &script])
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

    /// A counter of the stack's MPTCP, by its name in `/proc/net/netstat`.
    pub fn mib(&self, name: &str) -> Result<u64> {
        self.enter()?;
        let path = "/proc/thread-self/net/netstat";
        let text = fs::read_to_string(path).context(path)?;
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("MPTcpExt: "));
        let (names, values) = lines.next().zip(lines.next()).context("no MPTcpExt")?;
        let at = names.split(' ').position(|word| word == name);
        at.and_then(|at| values.split(' ').nth(at)?.parse().ok())
            .with_context(|| format!("{path} has no {name}"))
    }

    /// Connections and listeners of IPv4 that MPTCP counts here; a connection is one while it holds a token.
    pub fn mptcp_sockets(&self) -> Result<u64> {
        self.enter()?;
        let path = "/proc/thread-self/net/protocols";
        let text = fs::read_to_string(path).context(path)?;
        text.lines()
            .find_map(|line| {
                let mut fields = line.split_whitespace();
                (fields.next() == Some("MPTCP")).then(|| fields.nth(1)?.parse().ok())?
            })
            .with_context(|| format!("{path} has no MPTCP"))
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
            .args(["netns", "del", &self.name])
            .status();
    }
}

/// The veth's name, at both ends.
pub const VETH: &str = "veth0";

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
        let (client, server) = (&*net.client.name, &*net.server.name);
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
        let nobodies = NOBODIES.map(|host| (server, host));
        for (name, host) in [(client, SERVER), (server, CLIENT)]
            .into_iter()
            .chain(nobodies)
        {
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

/// Runs a program.
pub fn run(command: &[&str]) -> Result<()> {
    output(command).map(drop)
}

/// Runs a program; gives what it printed.
fn output(command: &[&str]) -> Result<String> {
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
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

/// Where scripts/bench puts the live patch of tools/bench/emptied.
const PATCH: &str = "/usr/lib/dc_emptied.ko";
const PATCHED: &str = "/sys/kernel/livepatch/dc_emptied";

/// Puts next to nothing in the place of the stock kernel's hash functions.
pub fn empty_hashes() -> Result<()> {
    run(&["insmod", PATCH])?;
    settled(|| fs::read_to_string(format!("{PATCHED}/transition")).is_ok_and(|t| t == "0\n"))
}

/// Brings the hash functions back.
pub fn restore_hashes() -> Result<()> {
    fs::write(format!("{PATCHED}/enabled"), "0").context(PATCHED)?;
    settled(|| !hashes_are_emptied())?;
    run(&["rmmod", "dc_emptied"])
}

/// Whether the hash functions are emptied.
pub fn hashes_are_emptied() -> bool {
    fs::exists(PATCHED).unwrap_or(false)
}

/// Waits until livepatch is done.
fn settled(done: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(
            start.elapsed() < Duration::from_secs(120),
            "livepatch is not done after two minutes"
        );
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

/// A listening socket in the present namespace.
pub fn listen(protocol: Protocol, port: u16) -> Result<Socket> {
    listen_on(stream(protocol)?, port, 128)
}

/// As [`listen`], over MPTCP; what it accepts has external keys if the client asks for them.
pub fn listen_external(port: u16) -> Result<Socket> {
    listen_on(stream_external()?, port, 128)
}

/// A TCP or MPTCP socket in the present namespace.
pub fn stream(protocol: Protocol) -> Result<Socket> {
    Ok(Socket::new(Domain::IPV4, Type::STREAM, Some(protocol))?)
}

/// An MPTCP socket that asks for external keys.
pub fn stream_external() -> Result<Socket> {
    let socket = stream(Protocol::MPTCP)?;
    mptcp_dc::enable_app_key(&socket, true).context("MPTCP_ENABLE_APP_KEY")?;
    Ok(socket)
}

/// Binds a socket and lets it listen, with room for so many requests.
pub fn listen_on(socket: Socket, port: u16, backlog: i32) -> Result<Socket> {
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
    socket.listen(backlog)?;
    Ok(socket)
}

/// A connection from the present namespace, over MPTCP or what became of it; this end comes first.
pub fn open(to: SocketAddr, listener: &Socket) -> Result<(Socket, Socket)> {
    open_from(stream(Protocol::MPTCP)?, to, listener)
}

/// As [`open`], from a socket that there is already.
pub fn open_from(client: Socket, to: SocketAddr, listener: &Socket) -> Result<(Socket, Socket)> {
    client.connect(&to.into()).context("connect")?;
    client.set_tcp_nodelay(true)?;
    let (server, _) = listener.accept()?;
    server.set_tcp_nodelay(true)?;
    for end in [&client, &server] {
        end.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    Ok((client, server))
}

/// A connection from client to server, over MPTCP and past its handshake; the client's end comes first.
pub fn connect(net: &Net, listener: &Socket, port: u16) -> Result<(Socket, Socket)> {
    net.client.enter()?;
    let ends = open((SERVER.addr, port).into(), listener)?;
    finish_handshake(&ends)?;
    Ok(ends)
}

/// The external key of all connections here.
pub const APP_KEY: &[u8] = b"the same key at both ends";

/// As [`connect`], with an external key at both ends. The listener is one of [`listen_external`].
pub fn connect_external(net: &Net, listener: &Socket, port: u16) -> Result<(Socket, Socket)> {
    net.client.enter()?;
    let ends = open_from(stream_external()?, (SERVER.addr, port).into(), listener)?;
    set_key(&ends.0, &ends.1)?;
    finish_handshake(&ends)?;
    Ok(ends)
}

/// Gives both ends of a connection its key.
pub fn set_key(client: &Socket, server: &Socket) -> Result<()> {
    for end in [client, server] {
        mptcp_dc::set_key(end, APP_KEY).context("MPTCP_KEY")?;
    }
    Ok(())
}

fn finish_handshake((client, server): &(Socket, Socket)) -> Result<()> {
    for _ in 0..4 {
        transfer(client, server, b"ping")?;
        transfer(server, client, b"pong")?;
    }
    Ok(())
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

/// What `MPTCP_INFO` says of an MPTCP connection.
pub struct Info {
    /// Subflows besides the first.
    pub subflows: u8,
    /// The token of this end.
    pub token: u32,
}

/// Asks for it. Fails for what is plain TCP.
pub fn info(socket: &Socket) -> Result<Info> {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    /// Offsets of `mptcpi_flags` and `mptcpi_token` in `struct mptcp_info` (include/uapi/linux/mptcp.h).
    const FLAGS: usize = 8;
    const TOKEN: usize = 12;
    /// `MPTCP_INFO_FLAG_FALLBACK`
    const FALLBACK: u32 = 1;
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
    let word = |at: usize| -> Result<u32> { Ok(u32::from_ne_bytes(info[at..at + 4].try_into()?)) };
    ensure!(word(FLAGS)? & FALLBACK == 0, "the connection is plain TCP");
    Ok(Info {
        subflows: info[0],
        token: word(TOKEN)?,
    })
}

/// The token of this end of an MPTCP connection.
pub fn token(socket: &Socket) -> Result<u32> {
    Ok(info(socket)?.token)
}

/// Lets this process open that many files.
pub fn allow_files(count: u64) -> Result<()> {
    let limit = libc::rlimit {
        rlim_cur: count,
        rlim_max: count,
    };
    // SAFETY: The kernel reads one rlimit.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    ensure!(result == 0, "RLIMIT_NOFILE: {}", io::Error::last_os_error());
    Ok(())
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

    /// Sends frames, as many as fit into one call.
    pub fn send_all(&self, frames: &mut [Vec<u8>]) -> Result<()> {
        let mut parts: Vec<_> = frames
            .iter_mut()
            .map(|frame| libc::iovec {
                iov_base: frame.as_mut_ptr().cast(),
                iov_len: frame.len(),
            })
            .collect();
        let mut messages: Vec<_> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: All zeroes is a message to nobody, with nothing in it.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        let mut sent = 0;
        while sent < messages.len() {
            let left = &mut messages[sent..];
            // SAFETY: So many messages, each with one part that lives.
            let result = unsafe {
                libc::sendmmsg(self.0.as_raw_fd(), left.as_mut_ptr(), left.len() as u32, 0)
            };
            ensure!(result > 0, "sendmmsg: {}", io::Error::last_os_error());
            sent += result as usize;
        }
        Ok(())
    }

    /// The next frame.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        let length = (&self.0).read(&mut buffer).context("no frame came")?;
        buffer.truncate(length);
        Ok(buffer)
    }
}
