// SPDX-License-Identifier: GPL-2.0

//! Network namespaces, and two of them joined by a veth pair.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

/// A named network namespace; deleted when dropped.
pub struct Netns {
    name: String,
    file: File,
    ip: Ip,
}

impl Netns {
    fn open(name: &str) -> Result<Self> {
        let path = format!("/run/netns/{name}");
        Ok(Self {
            name: name.to_owned(),
            file: File::open(&path).context(path)?,
            ip: Ip::new(),
        })
    }

    /// Runs `f` in the namespace, then takes this thread back to where it was. Sockets and threads that `f` makes stay in the
    /// namespace.
    pub fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Back(File);

        impl Drop for Back {
            fn drop(&mut self) {
                move_to(self.0.as_raw_fd()).expect("setns");
            }
        }

        let _back = Back(File::open("/proc/thread-self/ns/net").expect("/proc"));
        move_to(self.file.as_raw_fd()).expect("setns");
        f()
    }

    /// A program to be run in the namespace. `ip netns exec` would take twice as long, for another exec and a new mount of
    /// `/sys`, which nobody reads.
    pub fn command(&self, program: &str) -> Command {
        let fd = self.file.as_raw_fd();
        let mut command = Command::new(program);
        // SAFETY: After the fork, the closure only makes a system call, with no memory. The descriptor is open for as long
        // as `self` is there; later the call fails, and with it the command.
        unsafe { command.pre_exec(move || move_to(fd)) };
        command
    }

    /// Runs `ip` in the namespace.
    pub fn ip<T: AsRef<str>>(&self, commands: impl IntoIterator<Item = T>) -> Result<()> {
        let mut lines = String::new();
        for command in commands {
            lines.push_str(command.as_ref());
            lines.push('\n');
        }
        match lines.as_str() {
            "" => Ok(()),
            lines => self.ip.run(|| self.command("ip"), lines),
        }
    }

    /// Sets a sysctl below `net.`, named with slashes.
    pub fn set(&self, name: &str, value: impl ToString) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        let value = value.to_string();
        self.enter(|| fs::write(&path, &value))
            .with_context(|| format!("{name}={value} in {}", self.name))
    }

    /// Reads a sysctl below `net.`.
    pub fn get(&self, name: &str) -> Result<String> {
        let path = format!("/proc/sys/net/{name}");
        let text = self.enter(|| fs::read_to_string(&path)).context(path)?;
        Ok(text.trim_end().to_owned())
    }

    /// Waits until the IPv6 addresses can be reached that were added without duplicate address detection.
    ///
    /// They can be sent from at once, but have a route, and so take packets, only after a work item
    /// (`addrconf_dad_work()`): a SYN/ACK that is faster is lost, and the SYN repeated.
    pub fn wait_for_v6(&self) -> Result<()> {
        const NODAD: u32 = 0x02;
        const RTF_LOCAL: u32 = 0x8000_0000;
        let field =
            |line: &str, at: usize| line.split_whitespace().nth(at).unwrap_or("").to_owned();
        let flagged = |name: &str, at: usize, flag: u32| -> Result<HashSet<String>> {
            let path = format!("/proc/thread-self/net/{name}");
            let text = self
                .enter(|| fs::read_to_string(&path))
                .with_context(|| path.clone())?;
            let mut addresses = HashSet::new();
            for line in text.lines() {
                let flags = u32::from_str_radix(&field(line, at), 16)
                    .with_context(|| format!("{path}: {line}"))?;
                if flags & flag != 0 {
                    addresses.insert(field(line, 0));
                }
            }
            Ok(addresses)
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let routed = flagged("ipv6_route", 8, RTF_LOCAL)?;
            if flagged("if_inet6", 4, NODAD)?.is_subset(&routed) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{}: no local route for an IPv6 address within ten seconds",
                self.name
            );
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The module's counters.
    pub fn counters(&self) -> Result<Counters> {
        let text = self
            .enter(|| fs::read_to_string("/proc/thread-self/net/mptcp_dc"))
            .context("/proc/net/mptcp_dc")?;
        let values = text
            .lines()
            .map(|line| {
                let (name, value) = line.split_once(' ').context("a counter without value")?;
                Ok((name.to_owned(), value.parse()?))
            })
            .collect::<Result<_>>()?;
        Ok(Counters(values))
    }

    /// The stack's own MPTCP counters.
    pub fn mib(&self) -> Result<Counters> {
        self.netstat("MPTcpExt")
    }

    /// The counters of a group in `/proc/net/netstat`.
    pub fn netstat(&self, group: &str) -> Result<Counters> {
        let text = self.enter(|| fs::read_to_string("/proc/thread-self/net/netstat"))?;
        let mut lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(group)?.strip_prefix(": "));
        let (names, values) = lines
            .next()
            .zip(lines.next())
            .with_context(|| format!("no {group} in netstat"))?;
        let values = names
            .split(' ')
            .zip(values.split(' '))
            .map(|(name, value)| Ok((name.to_owned(), value.parse()?)))
            .collect::<Result<_>>()?;
        Ok(Counters(values))
    }
}

/// Takes this thread to the network namespace that `fd` is open on.
fn move_to(fd: RawFd) -> io::Result<()> {
    // SAFETY: No memory is involved.
    match unsafe { libc::setns(fd, libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Netns {
    /// As `ip netns del`.
    fn drop(&mut self) {
        // It is in the namespace.
        self.ip.end();
        let path = format!("/run/netns/{}", self.name);
        if let Ok(name) = CString::new(path.as_str()) {
            // SAFETY: The kernel reads a string that ends with 0.
            unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
        }
        let _ = fs::remove_file(path);
    }
}

/// Counters by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters(HashMap<String, u64>);

impl Counters {
    /// The value of a counter that must exist.
    pub fn get(&self, name: &str) -> Result<u64> {
        self.0
            .get(name)
            .copied()
            .with_context(|| format!("no counter {name}"))
    }

    /// What there is.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// By how much a counter grew since `before`.
    pub fn since(&self, before: &Self, name: &str) -> Result<u64> {
        Ok(self.get(name)? - before.get(name)?)
    }
}

/// How an end is set up. The names are those of the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `lowoverhead=0`
    Stock,
    /// `lowoverhead=1`
    Accept,
    /// `lowoverhead=2`
    Offer,
    /// `lowoverhead=2`, `syn_token=1`
    OfferFull,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Stock, Self::Accept, Self::Offer, Self::OfferFull];

    pub fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Accept => "accept",
            Self::Offer => "offer",
            Self::OfferFull => "offer-full",
        }
    }

    pub fn offers(self) -> bool {
        matches!(self, Self::Offer | Self::OfferFull)
    }

    pub fn accepts(self) -> bool {
        self != Self::Stock
    }

    /// Sets it up.
    pub fn apply(self, netns: &Netns) -> Result<()> {
        let level = match self {
            Self::Stock => 0,
            Self::Accept => 1,
            Self::Offer | Self::OfferFull => 2,
        };
        netns.set("mptcp_dc/lowoverhead", level)?;
        netns.set("mptcp_dc/syn_token", u8::from(self == Self::OfferFull))
    }
}

/// IP version of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// ```text
///   client namespace                 server namespace
///   c0  10.9.0.1  fd09::1  ───────  s0  10.9.0.2  fd09::2
///       10.9.0.101                      10.9.0.102
/// ```
/// The addresses in the second line belong to nobody, but each end sends to the other's as if it were there. So a test
/// can be the peer itself, packet by packet, and no kernel answers for it.
pub struct Pair {
    pub client: Netns,
    pub server: Netns,
}

pub const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1);
const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2);
/// Nobody's addresses, on the client's and on the server's side.
pub const RAW_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 101);
pub const RAW_SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 102);

pub const CLIENT_DEV: &str = "c0";
pub const SERVER_DEV: &str = "s0";

impl Pair {
    pub fn new() -> Result<Self> {
        let number = next_number();
        let (c, s) = (format!("dc-c{number}"), format!("dc-s{number}"));
        let (c_mac, s_mac) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
        HOST.run(|| Command::new("ip"), &format!(
            "netns add {c}\nnetns add {s}\n\
             link add {CLIENT_DEV} address {c_mac} netns {c} type veth peer name {SERVER_DEV} address {s_mac} netns {s}"))?;
        let (client, server) = (Netns::open(&c)?, Netns::open(&s)?);
        for (end, dev, v4, v6, far, far_mac) in [
            (&client, CLIENT_DEV, CLIENT_V4, CLIENT_V6, RAW_SERVER, s_mac),
            (&server, SERVER_DEV, SERVER_V4, SERVER_V6, RAW_CLIENT, c_mac),
        ] {
            end.ip([
                "link set lo up".to_owned(),
                format!("link set {dev} up"),
                format!("addr add {v4}/24 dev {dev}"),
                format!("addr add {v6}/64 dev {dev} nodad"),
                format!("neigh add {far} lladdr {far_mac} dev {dev}"),
            ])?;
        }
        client.wait_for_v6()?;
        server.wait_for_v6()?;
        Ok(Self { client, server })
    }

    pub fn ends(&self) -> [&Netns; 2] {
        [&self.client, &self.server]
    }

    /// Both ends in one mode.
    pub fn with_mode(mode: Mode) -> Result<Self> {
        let pair = Self::new()?;
        for end in pair.ends() {
            mode.apply(end)?;
        }
        Ok(pair)
    }

    pub fn client_addr(family: Family) -> IpAddr {
        match family {
            Family::V4 => CLIENT_V4.into(),
            Family::V6 => CLIENT_V6.into(),
        }
    }

    pub fn server_addr(family: Family) -> IpAddr {
        match family {
            Family::V4 => SERVER_V4.into(),
            Family::V6 => SERVER_V6.into(),
        }
    }
}

/// A number for the names of some namespaces.
fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// ```text
///   client ─ c0 ──── ac ─ attacker ─ as ──── s0 ─ server
///   10.9.0.1, .11                              10.9.0.2
/// ```
/// An attacker between the two ends of a [`Pair`]: all that they send passes it, as long as it forwards. IPv4 only.
/// What the server sends to [`RAW_CLIENT`] ends at the attacker, too.
pub struct Tapped {
    pub pair: Pair,
    pub attacker: Netns,
}

/// The client's second address, for a subflow.
pub const SECOND_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 11);

/// The attacker's ends of the links to client and server.
pub const TO_CLIENT_DEV: &str = "ac";
pub const TO_SERVER_DEV: &str = "as";

impl Tapped {
    pub fn new() -> Result<Self> {
        let number = next_number();
        let [c, s, a] = ["c", "s", "a"].map(|end| format!("dc-{end}{number}"));
        let (to_client, to_server) = ("02:00:00:00:00:03", "02:00:00:00:00:04");
        HOST.run(|| Command::new("ip"), &format!(
            "netns add {c}\nnetns add {s}\nnetns add {a}\n\
             link add {CLIENT_DEV} netns {c} type veth peer name {TO_CLIENT_DEV} address {to_client} netns {a}\n\
             link add {SERVER_DEV} netns {s} type veth peer name {TO_SERVER_DEV} address {to_server} netns {a}"))?;
        let pair = Pair {
            client: Netns::open(&c)?,
            server: Netns::open(&s)?,
        };
        let attacker = Netns::open(&a)?;
        pair.client.ip([
            "link set lo up".to_owned(),
            format!("link set {CLIENT_DEV} up"),
            format!("addr add {CLIENT_V4}/24 dev {CLIENT_DEV}"),
            format!("addr add {SECOND_V4}/24 dev {CLIENT_DEV}"),
            format!("neigh add {SERVER_V4} lladdr {to_client} dev {CLIENT_DEV}"),
        ])?;
        let neighbours = [CLIENT_V4, SECOND_V4, RAW_CLIENT]
            .map(|address| format!("neigh add {address} lladdr {to_server} dev {SERVER_DEV}"));
        let addresses = [
            "link set lo up".to_owned(),
            format!("link set {SERVER_DEV} up"),
            format!("addr add {SERVER_V4}/24 dev {SERVER_DEV}"),
        ];
        pair.server.ip(addresses.iter().chain(&neighbours))?;
        attacker.ip([
            "link set lo up".to_owned(),
            format!("link set {TO_CLIENT_DEV} up"),
            format!("link set {TO_SERVER_DEV} up"),
            "addr add 10.9.1.1/32 dev lo".to_owned(),
            format!("route add {CLIENT_V4} dev {TO_CLIENT_DEV} src 10.9.1.1"),
            format!("route add {SECOND_V4} dev {TO_CLIENT_DEV} src 10.9.1.1"),
            format!("route add {SERVER_V4} dev {TO_SERVER_DEV} src 10.9.1.1"),
            format!("route add blackhole {RAW_CLIENT}"),
        ])?;
        for conf in ["all", TO_CLIENT_DEV, TO_SERVER_DEV] {
            attacker.set(&format!("ipv4/conf/{conf}/send_redirects"), 0)?;
            attacker.set(&format!("ipv4/conf/{conf}/rp_filter"), 0)?;
        }
        let tapped = Self { pair, attacker };
        tapped.forward(true)?;
        Ok(tapped)
    }

    /// Whether what one end sends comes to the other.
    pub fn forward(&self, on: bool) -> Result<()> {
        self.attacker.set("ipv4/ip_forward", u8::from(on))
    }
}

/// ip(8) that waits for commands: to start it takes the test kernel longer than what it is started for. It is started for the
/// first of them, and again after one that failed.
struct Ip(Mutex<Option<Running>>);

struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// The one of the namespace in which this program was started.
static HOST: Ip = Ip::new();

impl Ip {
    const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Runs lines of commands, which print nothing. `ip` is what to start.
    fn run(&self, ip: impl FnOnce() -> Command, lines: &str) -> Result<()> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut running = match slot.take() {
            Some(running) => running,
            None => Running::start(ip())?,
        };
        running.run(lines)?;
        *slot = Some(running);
        Ok(())
    }

    fn end(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Running {
    fn start(mut ip: Command) -> Result<Self> {
        let mut child = ip
            .args(["-oneline", "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("ip")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        Ok(Self {
            child,
            input: input.context("no stdin")?,
            output: BufReader::new(output.context("no stdout")?),
        })
    }

    fn run(&mut self, lines: &str) -> Result<()> {
        // It ends with the first command that fails; the line of the last tells that none did.
        let written = writeln!(self.input, "{lines}\nlink show dev lo");
        let mut line = String::new();
        self.output.read_line(&mut line).context("ip")?;
        if line.is_empty() {
            let mut error = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                stderr.read_to_string(&mut error)?;
            }
            bail!("ip: {}: {lines}", error.trim());
        }
        written.context("ip")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The output of a program that must succeed.
pub fn output(command: &mut Command) -> Result<String> {
    let result = command.output().with_context(|| format!("{command:?}"))?;
    if !result.status.success() {
        bail!(
            "{command:?}: {}: {}",
            result.status,
            String::from_utf8_lossy(&result.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}
