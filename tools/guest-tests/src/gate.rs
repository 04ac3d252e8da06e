// SPDX-License-Identifier: GPL-2.0

//! A switch between two hosts that lets frames through, withholds some of them, and delivers those later or never.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::io::{self, Read};
use std::mem::{size_of, size_of_val};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use socket2::{Domain, Socket, Type};

use crate::netns::{
    Netns, Pair, Tapped, CLIENT_DEV, CLIENT_V4, RAW_CLIENT, SECOND_V4, SERVER_DEV, SERVER_V4,
    TO_CLIENT_DEV, TO_SERVER_DEV,
};
use crate::wire::Segment;

/// Whether a segment is to be withheld. `true`: it goes to the server.
pub type Withheld = fn(segment: &Segment, to_server: bool) -> bool;

/// Linux's `struct virtio_net_hdr`, which stands before each frame: checksums and large segments are left as they are.
const VNET_HEADER: usize = 10;
const ETHERNET_HEADER: usize = 14;
const PACKET_VNET_HDR: libc::c_int = 15;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// Bytes of frames that may wait to be read.
const BUFFER: libc::c_int = 64 << 20;

/// What is done with the connections to one port of the server.
struct Rule {
    withheld: Withheld,
    frames: Vec<(bool, Vec<u8>)>,
    /// The client's ends of the connections from which something was withheld.
    ends: HashSet<SocketAddr>,
}

#[derive(Default)]
struct Shared {
    /// By the server's port.
    rules: Mutex<HashMap<u16, Rule>>,
    stop: AtomicBool,
    lost: Mutex<Option<String>>,
}

/// A pair of hosts with such a switch between them. IPv4 only.
pub struct Gated {
    pub pair: Pair,
    // Its interfaces are the switch's.
    _between: Netns,
    shared: Arc<Shared>,
    /// Sending ends: to the client, to the server.
    ports: Arc<[Socket; 2]>,
    switch: Option<JoinHandle<()>>,
}

impl Gated {
    pub fn new() -> Result<Self> {
        let tapped = Tapped::new()?;
        tapped.forward(false)?;
        let Tapped { pair, attacker } = tapped;
        // Each end takes the address that the other sends to: frames need no change.
        let (c_mac, s_mac) = ("02:00:00:00:00:04", "02:00:00:00:00:03");
        pair.client.ip([
            format!("link set {CLIENT_DEV} address {c_mac}"),
            format!("neigh replace {SERVER_V4} lladdr {s_mac} dev {CLIENT_DEV}"),
        ])?;
        let mut commands = vec![format!("link set {SERVER_DEV} address {s_mac}")];
        commands.extend(
            [CLIENT_V4, SECOND_V4, RAW_CLIENT]
                .map(|address| format!("neigh replace {address} lladdr {c_mac} dev {SERVER_DEV}")),
        );
        pair.server.ip(&commands)?;
        let ports = Arc::new([
            attacker.enter(|| open(TO_CLIENT_DEV))?,
            attacker.enter(|| open(TO_SERVER_DEV))?,
        ]);
        let shared = Arc::<Shared>::default();
        let switch = {
            let (shared, ports) = (shared.clone(), ports.clone());
            thread::spawn(move || run(&shared, &ports))
        };
        Ok(Self {
            pair,
            _between: attacker,
            shared,
            ports,
            switch: Some(switch),
        })
    }

    fn rules(&self) -> MutexGuard<'_, HashMap<u16, Rule>> {
        let rules = self.shared.rules.lock();
        rules.unwrap_or_else(PoisonError::into_inner)
    }

    /// Withholds segments of connections to this port of the server.
    pub fn withhold(&self, port: u16, withheld: Withheld) {
        let rule = Rule {
            withheld,
            frames: Vec::new(),
            ends: HashSet::new(),
        };
        self.rules().insert(port, rule);
    }

    /// Of how many connections to this port something was withheld.
    pub fn held(&self, port: u16) -> usize {
        self.rules().get(&port).map_or(0, |rule| rule.ends.len())
    }

    /// Withholds nothing more there, and delivers what was withheld, unless that is to be `lost`.
    pub fn release(&self, port: u16, lost: bool) -> Result<()> {
        let mut rules = self.rules();
        let Some(rule) = rules.remove(&port) else {
            return Ok(());
        };
        if !lost {
            for (to_server, frame) in rule.frames {
                send(&self.ports[usize::from(to_server)], &frame)?;
            }
        }
        Ok(())
    }

    /// An error if the switch itself lost a frame.
    pub fn check(&self) -> Result<()> {
        let lost = self.shared.lost.lock();
        match &*lost.unwrap_or_else(PoisonError::into_inner) {
            None => Ok(()),
            Some(error) => Err(anyhow!("the switch: {error}")),
        }
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(switch) = self.switch.take() {
            let _ = switch.join();
        }
    }
}

/// Passes frames on until it is to stop.
fn run(shared: &Shared, ports: &[Socket; 2]) {
    let mut buffer = vec![0; 1 << 18];
    while !shared.stop.load(Ordering::Relaxed) {
        if let Err(error) = pass(shared, ports, &mut buffer) {
            let mut lost = shared.lost.lock().unwrap_or_else(PoisonError::into_inner);
            lost.get_or_insert(format!("{error:#}"));
        }
    }
}

/// Passes on what is there, or waits a moment for something.
fn pass(shared: &Shared, ports: &[Socket; 2], buffer: &mut [u8]) -> Result<()> {
    const MOMENT_MS: libc::c_int = 100;
    let mut polls = [0, 1].map(|n| libc::pollfd {
        fd: ports[n].as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    });
    // SAFETY: Two structures.
    let ready = unsafe { libc::poll(polls.as_mut_ptr(), 2, MOMENT_MS) };
    ensure!(ready >= 0, "poll: {}", io::Error::last_os_error());
    for (from, poll) in polls.iter().enumerate() {
        if poll.revents == 0 {
            continue;
        }
        let length = match (&ports[from]).read(buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error).context("reading a frame"),
        };
        // What comes from the client goes to the server.
        let to_server = from == 0;
        let frame = &buffer[..length];
        let mut rules = shared.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((segment, rule)) = rule_for(&mut rules, frame, to_server) {
            if (rule.withheld)(&segment, to_server) {
                let end = if to_server { segment.from } else { segment.to };
                rule.ends.insert(end);
                rule.frames.push((to_server, frame.to_vec()));
                continue;
            }
        }
        // With the lock held: nothing overtakes what is being delivered.
        send(&ports[usize::from(to_server)], frame)?;
    }
    Ok(())
}

fn rule_for<'a>(
    rules: &'a mut HashMap<u16, Rule>,
    frame: &[u8],
    to_server: bool,
) -> Option<(Segment, &'a mut Rule)> {
    let packet = frame.get(VNET_HEADER + ETHERNET_HEADER..)?;
    let segment = Segment::parse(packet).ok()??;
    let port = if to_server { segment.to } else { segment.from }.port();
    Some((segment, rules.get_mut(&port)?))
}

fn send(port: &Socket, frame: &[u8]) -> Result<()> {
    loop {
        match port.send(frame) {
            Ok(_) => return Ok(()),
            // The queue of the interface, or the socket's buffer, is full.
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    || error.raw_os_error() == Some(libc::ENOBUFS) =>
            {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("sending a frame"),
        }
    }
}

/// A socket for whole frames of an interface, of those that come in.
fn open(dev: &str) -> Result<Socket> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // Without a protocol nothing comes in before the bind.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).context("packet socket")?;
    for (level, name, value) in [
        (libc::SOL_PACKET, PACKET_VNET_HDR, 1),
        (libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1),
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BUFFER),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, BUFFER),
    ] {
        // SAFETY: An int.
        let status = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                name,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        ensure!(
            status == 0,
            "packet socket, option {name}: {}",
            io::Error::last_os_error()
        );
    }
    let name = CString::new(dev)?;
    // SAFETY: A C string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {dev}");
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
    Ok(socket)
}
