// SPDX-License-Identifier: GPL-2.0

//! A user without privileges: whatever he withholds, asks for or does in namespaces of his own costs nobody else anything.
//!
//! His means are pages of memory that never come ([`Page`]), the locks that he holds while he waits for them, and as many
//! sockets, namespaces and system calls as he likes.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use mptcp_dc::LowOverhead;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::joinable::Joinable;
use crate::kernel;
use crate::mptcp::{self, SOL_MPTCP};
use crate::netns::{output, Family, Mode, Pair};
use crate::page::{self, Page};
use crate::process::{within, Process, Talk, Who};
use crate::{Scale, Test};

/// As include/uapi/linux/mptcp_dc.h has them.
const INFO: i32 = 0xdc00;
const ENABLE_APP_KEY: i32 = 0xdc01;
const KEY: i32 = 0xdc02;
const LOWOVERHEAD: i32 = 0xdc03;

/// `sizeof(struct mptcp_dc_info)`
const INFO_LEN: u32 = 40;

/// What isn't done by then hangs. On an idle machine each takes a second at most, even on the test kernel.
const LIMIT: Duration = Duration::from_secs(30);

/// The hooks that are removed late are gone by then.
const LAZY: Duration = Duration::from_secs(90);

const SYSCTLS: &str = "/proc/sys/net/mptcp_dc";
const COUNTERS: &str = "/proc/thread-self/net/mptcp_dc";

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    for kind in Kind::ALL {
        tests.push(Test::new(
            format!(
                "withheld: while a send and a receive on {} wait for pages, everybody else goes on, and rmmod",
                kind.name()
            ),
            move || restored(|| withheld(kind)),
        ));
    }
    for unloaded in [false, true] {
        let event = if unloaded {
            "unloading"
        } else {
            "the sysctl off"
        };
        for kind in Kind::ALL {
            tests.push(Test::new(
                format!(
                    "withheld: a Fast Open SYN's data on {}; {event} doesn't wait, and the connection works or is reset",
                    kind.name()
                ),
                move || restored(|| fast_open(kind, unloaded)),
            ));
        }
    }
    for (number, &ask) in ASKS.iter().enumerate() {
        // Either end of it with each would take twice as long.
        let kill = (number % 2 == 1) ^ (scale == Scale::Quick);
        let ends: &[bool] = if scale == Scale::Long {
            &[false, true]
        } else {
            &[kill]
        };
        for &killed in ends {
            let end = if killed { "killed" } else { "served" };
            tests.push(Test::new(
                format!(
                    "withheld: rmmod doesn't wait for {}; when that is {end}, it succeeds",
                    ask.name()
                ),
                move || restored(|| asks(ask, killed)),
            ));
        }
    }
    tests.extend([
        Test::new(
            "withheld: of 30 who wait, busy tells each, and none who doesn't",
            || restored(many_ask),
        ),
        Test::new(
            "withheld: a stopped process in the middle of a send holds up nobody",
            || restored(stopped),
        ),
        Test::new(
            "socket options: values in pages that aren't there yet are read and written as ever",
            || restored(pages_to_come),
        ),
        Test::new(
            "user namespaces: what costs others is EPERM to their owners, and what they do installs no hook",
            || restored(owner_is_refused),
        ),
        Test::new(
            "user namespaces: root may let owners, and may do it there itself; owners may lower",
            || restored(owner_is_let),
        ),
        Test::new(
            "user: who opens and closes sockets with keys all the time switches hooks once in 10 s, and delays no namespace",
            || restored(|| switches(Toggle::Sockets)),
        ),
        Test::new(
            "user: an owner whom root lets switches hooks once in 10 s, and delays no namespace",
            || restored(|| switches(Toggle::Sysctl)),
        ),
        Test::new(
            "user: a stranger's SYN is the stack's own again, after options that ask for nothing",
            || restored(strangers_syn),
        ),
    ]);
    let sockets = scale.of(20_000, 60_000, 300_000);
    tests.push(Test::with_note(
        format!("user: {sockets} sockets with options make no other's slower"),
        Duration::from_secs(1_200),
        move || many_entries(sockets),
    ));
    // The test kernel has no FUSE, and its clock is too coarse for a look-up; Debian's has both.
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if release.contains("mptcp-dc-test") {
        tests.retain(|test| {
            let name = &test.name;
            !name.starts_with("withheld: ")
                && !name.contains("in pages")
                && !name.contains("make no other's slower")
        });
    }
    tests
}

/// Runs a test; then the module is loaded, and what it set in the namespace of this program is 0 again.
fn restored(test: impl FnOnce() -> Result<()>) -> Result<()> {
    kernel::load()?;
    let result = test();
    // An unloading that hung goes on now that the test's pages are there.
    let deadline = Instant::now() + LIMIT;
    let loaded = loop {
        match kernel::load() {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(200)),
            outcome => break outcome,
        }
    };
    for name in ["lowoverhead", "stateless_join", "user_namespaces"] {
        let _ = fs::write(Path::new(SYSCTLS).join(name), "0");
    }
    result.and(loaded)
}

/// How a connection runs, and what its sockets ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Standard,
    LowOverhead,
    External,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Standard, Self::LowOverhead, Self::External];

    fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard MPTCP",
            Self::LowOverhead => "low overhead",
            Self::External => "external keys",
        }
    }

    fn mode(self) -> mptcp_dc::Mode {
        match self {
            Self::Standard => mptcp_dc::Mode::Standard,
            Self::LowOverhead => mptcp_dc::Mode::LowOverhead,
            Self::External => mptcp_dc::Mode::ExternalKey,
        }
    }

    fn prepare(self, socket: &Socket) -> io::Result<()> {
        match self {
            Self::Standard => mptcp_dc::set_low_overhead(socket, LowOverhead::Off),
            Self::LowOverhead => mptcp_dc::set_low_overhead(socket, LowOverhead::Offer),
            Self::External => mptcp_dc::enable_app_key(socket, true),
        }
        .map_err(|error| io::Error::other(error.to_string()))
    }

    /// A connection that has carried data, with its key.
    fn connect(self, pair: &Pair) -> Result<Joinable> {
        let at = Pair::server_addr(Family::V4);
        let joinable = Joinable::with(pair, SocketAddr::new(at, 0), at, |s| self.prepare(s))
            .context(self.name())?;
        for end in [&joinable.client, &joinable.server] {
            let mode = mptcp_dc::info(end)?.mode;
            ensure!(mode == self.mode(), "{}: it is {mode:?}", self.name());
            if self == Self::External {
                mptcp_dc::set_key(end, &[7; 32])?;
            }
        }
        Ok(joinable)
    }
}

/// Makes a system call's result one.
fn checked(status: isize) -> io::Result<usize> {
    usize::try_from(status).map_err(|_| io::Error::last_os_error())
}

fn send_from(socket: &impl AsRawFd, at: *const u8, length: usize) -> io::Result<usize> {
    // SAFETY: The kernel looks itself whether it can read there.
    checked(unsafe { libc::send(socket.as_raw_fd(), at.cast(), length, libc::MSG_NOSIGNAL) })
}

fn receive_to(socket: &impl AsRawFd, at: *mut u8, length: usize) -> io::Result<usize> {
    // SAFETY: The kernel looks itself whether it can write there; what is there is this process's own.
    checked(unsafe { libc::recv(socket.as_raw_fd(), at.cast(), length, 0) })
}

/// Sets an option of level `SOL_MPTCP` to what is at an address, there or not.
fn set_from(socket: &impl AsRawFd, name: i32, at: *const u8, length: u32) -> io::Result<usize> {
    let fd = socket.as_raw_fd();
    // SAFETY: As above.
    checked(unsafe { libc::setsockopt(fd, SOL_MPTCP, name, at.cast(), length) } as isize)
}

/// Reads one to there.
fn get_to(socket: &impl AsRawFd, name: i32, at: *mut u8, length: *mut u32) -> io::Result<usize> {
    let fd = socket.as_raw_fd();
    // SAFETY: As above.
    checked(unsafe { libc::getsockopt(fd, SOL_MPTCP, name, at.cast(), length) } as isize)
}

fn unshare(flags: i32) -> Result<()> {
    // SAFETY: No memory is involved.
    let status = unsafe { libc::unshare(flags) };
    ensure!(
        status == 0,
        "unshare({flags:#x}): {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// What rmmod(8) does; 0, or its error. It must not take long.
fn try_unload() -> Result<i32> {
    let said = within(LIMIT, "rmmod", |talk| {
        let name = c"mptcp_dc".as_ptr();
        // SAFETY: A C string.
        let status = unsafe { libc::syscall(libc::SYS_delete_module, name, libc::O_NONBLOCK) };
        let error = match status {
            0 => 0,
            _ => io::Error::last_os_error().raw_os_error().unwrap_or(-1),
        };
        talk.say(&error.to_string())
    })?;
    Ok(said.parse()?)
}

/// The module can be unloaded, and loaded again.
fn unload_and_load() -> Result<()> {
    unload()?;
    load()
}

fn unload() -> Result<()> {
    let error = try_unload()?;
    ensure!(
        error == 0,
        "rmmod: {}; busy: {:?}",
        io::Error::from_raw_os_error(error),
        fs::read_to_string(Path::new(SYSCTLS).join("busy"))
    );
    ensure!(!kernel::is_loaded(), "it is still there");
    Ok(())
}

fn load() -> Result<()> {
    within(LIMIT, "modprobe", |_| kernel::load()).map(drop)
}

/// The sysctls of this thread's namespace that can be written.
fn sysctls() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(SYSCTLS).context(SYSCTLS)? {
        let entry = entry?;
        if entry.metadata()?.permissions().mode() & 0o200 != 0 {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    ensure!(names.iter().any(|n| n == "app_key"), "there are {names:?}");
    Ok(names)
}

/// Writes each of them 0, 1 and 0, then what it was.
fn write_all_sysctls(talk: &Talk) -> Result<()> {
    for name in sysctls()? {
        let path = Path::new(SYSCTLS).join(&name);
        let was = fs::read_to_string(&path).with_context(|| name.clone())?;
        for value in ["0", "1", "0", was.trim()] {
            let step = format!("{name}={value}");
            talk.say(&step)?;
            fs::write(&path, value).context(step)?;
        }
    }
    Ok(())
}

/// Makes a namespace, another, and a third, which is possible only when the first is really gone: a user namespace of its own
/// allows two.
fn delete_a_namespace(talk: &Talk) -> Result<()> {
    unshare(libc::CLONE_NEWUSER)?;
    fs::write("/proc/sys/user/max_net_namespaces", "2")?;
    unshare(libc::CLONE_NEWNET)?;
    unshare(libc::CLONE_NEWNET)?;
    talk.say("waiting until the first is gone")?;
    while unshare(libc::CLONE_NEWNET).is_err() {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Everything that others do, but for unloading the module, works and takes no longer than [`LIMIT`]. Low overhead is off
/// afterwards, everywhere.
fn others_go_on(pair: &Pair) -> Result<()> {
    within(LIMIT, "unshare -n", |_| unshare(libc::CLONE_NEWNET))?;
    within(LIMIT, "deleting a namespace", delete_a_namespace)?;
    others_connect(pair)?;
    for (what, netns) in [
        ("sysctls of the client's namespace", Some(&pair.client)),
        ("sysctls of the initial namespace", None),
    ] {
        within(LIMIT, what, |talk| {
            let act = || {
                write_all_sysctls(talk)?;
                talk.say("reading the counters")?;
                let text = fs::read_to_string(COUNTERS)?;
                ensure!(!text.is_empty(), "there are no counters");
                Ok(())
            };
            netns.map_or_else(act, |netns| netns.enter(act))
        })?;
    }
    Ok(())
}

/// Connections of others are made in each mode. Low overhead is off before and afterwards.
fn others_connect(pair: &Pair) -> Result<()> {
    within(LIMIT, "connections of others", |talk| {
        for mode in [Mode::Stock, Mode::Offer] {
            for end in pair.ends() {
                talk.say(&format!("lowoverhead as for {mode:?}"))?;
                mode.apply(end)?;
            }
        }
        for kind in Kind::ALL {
            talk.say(kind.name())?;
            kind.connect(pair)?.exchange()?;
        }
        for end in pair.ends() {
            talk.say("lowoverhead off again")?;
            Mode::Stock.apply(end)?;
        }
        Ok(())
    })
    .map(drop)
}

/// An MPTCP socket in the namespace of this thread.
fn socket_here() -> Result<Socket> {
    Ok(Socket::new(
        Domain::IPV4,
        Type::STREAM,
        Some(Protocol::MPTCP),
    )?)
}

/// The bytes in a page.
const DATA: u64 = 77;

fn data() -> Vec<u8> {
    mptcp::pattern(DATA, page::SIZE)
}

/// A process that sends from a page, and has the socket's lock until that is delivered.
fn hold(socket: &TcpStream, page: &Page) -> Result<Process> {
    let sender = Process::start(Who::Nobody, |_| {
        let length = send_from(socket, page.map()?, page::SIZE)?;
        ensure!(length == page::SIZE, "{length} bytes sent");
        Ok(())
    })?;
    ensure!(page.wait_until_asked(LIMIT), "nobody sends from the page");
    Ok(sender)
}

/// A process that receives so many bytes into a page, and has the socket's lock until that is delivered.
fn hold_receiving(socket: &TcpStream, page: &Page, length: usize) -> Result<Process> {
    let receiver = Process::start(Who::Nobody, |_| {
        let at = page.map()?;
        let got = receive_to(socket, at, length)?;
        // SAFETY: The kernel has written so many bytes there.
        let bytes = unsafe { std::slice::from_raw_parts(at, got) };
        ensure!(bytes == mptcp::pattern(DATA, length), "{got} bytes, wrong");
        Ok(())
    })?;
    ensure!(
        page.wait_until_asked(LIMIT),
        "nobody receives into the page"
    );
    Ok(receiver)
}

fn withheld(kind: Kind) -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let joinable = kind.connect(&pair)?;
    for end in pair.ends() {
        Mode::Stock.apply(end)?;
    }
    let (from, to) = (Page::new(&data())?, Page::new(&[])?);
    mptcp::send(&joinable.client, DATA, 100)?;
    let mut receiver = hold_receiving(&joinable.server, &to, 100)?;
    let mut sender = hold(&joinable.client, &from)?;
    let mut closer = pair.client.enter(|| {
        Process::start(Who::Nobody, |_| {
            Ok(mptcp_dc::enable_app_key(&socket_here()?, true)?)
        })
    })?;
    closer.finish(LIMIT)?;
    // What follows from that may come a moment later.
    thread::sleep(Duration::from_millis(1_500));

    others_go_on(&pair)?;
    unload_and_load()?;
    others_connect(&pair)?;

    from.deliver();
    sender.finish(LIMIT).context("the sender")?;
    to.deliver();
    receiver.finish(LIMIT).context("the receiver")?;
    mptcp::receive(&joinable.server, DATA, page::SIZE)?;
    joinable
        .exchange()
        .context("after the pages were delivered")
}

/// A client sends with its SYN, which isn't sent yet: he has the locks of connection and subflow.
fn fast_open(kind: Kind, unloaded: bool) -> Result<()> {
    /// Data without a cookie, sent and taken.
    const FASTOPEN: u32 = 0x1 | 0x2 | 0x4 | 0x200;
    let pair = Pair::with_mode(Mode::Offer)?;
    for end in pair.ends() {
        end.set("ipv4/tcp_fastopen", FASTOPEN)?;
    }
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let listener = mptcp::listen_with(&pair.server, at, |s| {
        mptcp::set_tcp(s, libc::TCP_FASTOPEN, 16)?;
        kind.prepare(s)
    })?;
    let to = SockAddr::from(listener.local_addr()?);
    let socket = mptcp::socket(&pair.client, at)?;
    kind.prepare(&socket)?;
    let page = Page::new(&data())?;
    let mut sender = Process::start(Who::Nobody, |talk| {
        let at = page.map()?;
        // SAFETY: An address; the kernel looks itself whether it can read at `at`.
        let sent = checked(unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                at.cast(),
                page::SIZE,
                libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL,
                to.as_ptr().cast(),
                to.len(),
            )
        });
        talk.say(&format!("{sent:?}"))
    })?;
    ensure!(page.wait_until_asked(LIMIT), "nobody sends from the page");

    for (what, netns) in [("client's", &pair.client), ("server's", &pair.server)] {
        within(LIMIT, &format!("lowoverhead=0, {what}"), |_| {
            netns.set("mptcp_dc/lowoverhead", 0)
        })?;
    }
    if unloaded {
        unload()?;
    }
    page.deliver();
    let sent = sender.hear(LIMIT)?;
    sender.finish(LIMIT)?;
    let client = TcpStream::from(socket);
    let outcome = carries_data(&client, &listener, &sent);
    if unloaded {
        load()?;
    }
    outcome
}

/// The connection carries the page's data and data both ways, or is reset at once.
fn carries_data(client: &TcpStream, listener: &std::net::TcpListener, sent: &str) -> Result<()> {
    let reset = |what: &str| {
        let error = client.take_error().ok().flatten();
        ensure!(
            error.is_some() || sent.starts_with("Err"),
            "{what}; sendto() gave {sent}, and the client has no error"
        );
        Ok(())
    };
    let Some(server) = mptcp::accept_within(listener, LIMIT)? else {
        return reset("no connection came");
    };
    let all = sent
        .strip_prefix("Ok(")
        .and_then(|rest| rest.strip_suffix(')'))
        .with_context(|| format!("accepted, but sendto() gave {sent}"))?
        .parse()?;
    let both_ways = || -> Result<()> {
        mptcp::receive(&server, DATA, page::SIZE.min(all))?;
        mptcp::send(&server, 2, 10_000)?;
        mptcp::receive(client, 2, 10_000)?;
        mptcp::send(client, 3, 10_000)?;
        mptcp::receive(&server, 3, 10_000)
    };
    let start = Instant::now();
    both_ways().or_else(|error| {
        let is_reset = error.downcast_ref::<io::Error>().map(io::Error::kind);
        ensure!(
            is_reset == Some(io::ErrorKind::ConnectionReset) && start.elapsed() < LIMIT / 3,
            "neither data both ways nor a reset at once: {error:#}"
        );
        Ok(())
    })
}

/// What waits for something of the user's while the module has it in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// setsockopt() with a value in a page.
    Set(i32),
    /// getsockopt() into one.
    Get,
    /// Its length is in one. (The kernel looks there before it asks the module.)
    GetLength,
    /// setsockopt() on a socket whose lock he holds elsewhere.
    SetLocked(i32),
    /// getsockopt() on it, which has no reason to wait.
    GetLocked,
    /// read() of the counters into one.
    Counters,
    /// read() of a sysctl.
    Sysctl(&'static str),
    /// write() of one in his own namespaces.
    OwnSysctl(&'static str),
}

const ASKS: [Ask; 12] = [
    Ask::Set(LOWOVERHEAD),
    Ask::Set(ENABLE_APP_KEY),
    Ask::Set(KEY),
    Ask::Get,
    Ask::GetLength,
    Ask::SetLocked(KEY),
    Ask::SetLocked(LOWOVERHEAD),
    Ask::SetLocked(ENABLE_APP_KEY),
    Ask::GetLocked,
    Ask::Counters,
    Ask::Sysctl("lowoverhead"),
    Ask::OwnSysctl("lowoverhead"),
];

fn option_name(option: i32) -> &'static str {
    match option {
        LOWOVERHEAD => "MPTCP_LOWOVERHEAD",
        ENABLE_APP_KEY => "MPTCP_ENABLE_APP_KEY",
        _ => "MPTCP_KEY",
    }
}

impl Ask {
    fn name(self) -> String {
        match self {
            Self::Set(option) => format!("setsockopt({}) with a page", option_name(option)),
            Self::Get => "getsockopt(MPTCP_DC_INFO) into a page".to_owned(),
            Self::GetLength => "getsockopt(MPTCP_DC_INFO) with its length in a page".to_owned(),
            Self::SetLocked(option) => {
                format!("setsockopt({}) on a locked socket", option_name(option))
            }
            Self::GetLocked => "getsockopt(MPTCP_DC_INFO) on a locked socket".to_owned(),
            Self::Counters => "a read of the counters into a page".to_owned(),
            Self::Sysctl(name) => format!("a read of {name} into a page"),
            Self::OwnSysctl(name) => format!("a write of {name} in his own namespace, from a page"),
        }
    }

    fn is_locked(self) -> bool {
        matches!(self, Self::SetLocked(_) | Self::GetLocked)
    }

    /// What the page has.
    fn content(self) -> Vec<u8> {
        match self {
            Self::Set(KEY) => vec![9; 32],
            Self::Set(_) => 1_i32.to_ne_bytes().to_vec(),
            Self::GetLength => INFO_LEN.to_ne_bytes().to_vec(),
            Self::OwnSysctl(_) => b"0".to_vec(),
            _ if self.is_locked() => data(),
            _ => Vec::new(),
        }
    }

    /// The call that waits. `page` is where it does, unless it waits for a lock.
    fn act(self, page: &Page, fresh: &Socket, connected: &TcpStream) -> Result<()> {
        let (mut length, mut info) = (INFO_LEN, [0; INFO_LEN as usize]);
        let length = &raw mut length;
        let outcome = match self {
            Self::Set(KEY) => set_from(connected, KEY, page.map()?, 32),
            Self::Set(option) => set_from(fresh, option, page.map()?, 4),
            Self::Get => get_to(connected, INFO, page.map()?, length),
            Self::GetLength => get_to(connected, INFO, info.as_mut_ptr(), page.map()?.cast()),
            Self::SetLocked(KEY) => set_from(connected, KEY, [9; 32].as_ptr(), 32),
            Self::SetLocked(option) => {
                let value = 1_i32.to_ne_bytes();
                let outcome = set_from(connected, option, value.as_ptr(), 4);
                let error = outcome.err().and_then(|error| error.raw_os_error());
                ensure!(error == Some(libc::EISCONN), "it gives {error:?}");
                Ok(0)
            }
            Self::GetLocked => get_to(connected, INFO, info.as_mut_ptr(), length),
            Self::Counters => read_to(COUNTERS, page),
            Self::Sysctl(name) => read_to(&format!("{SYSCTLS}/{name}"), page),
            Self::OwnSysctl(name) => {
                own_namespaces()?;
                let path = format!("{SYSCTLS}/{name}");
                let file = fs::OpenOptions::new().write(true).open(path)?;
                // SAFETY: The kernel looks itself whether it can read there.
                checked(unsafe { libc::write(file.as_raw_fd(), page.map()?.cast(), 1) })
            }
        };
        outcome.map(drop).context("the call itself")
    }
}

fn read_to(path: &str, page: &Page) -> io::Result<usize> {
    let file = fs::File::open(path)?;
    let at = page.map().map_err(io::Error::other)?;
    // SAFETY: The page is this process's own.
    checked(unsafe { libc::read(file.as_raw_fd(), at.cast(), 1_000) })
}

/// Moves to a user namespace of the process's own, as its root, and to a network namespace of that.
fn own_namespaces() -> Result<()> {
    // SAFETY: They only tell.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET)?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("0 {uid} 1")),
        ("gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text).context(file)?;
    }
    Ok(())
}

/// The lines of `busy`.
fn busy() -> Result<Vec<String>> {
    let path = format!("{SYSCTLS}/busy");
    let text = fs::read_to_string(&path).context(path)?;
    // With nobody in it, it is an empty line.
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

/// rmmod fails because of these processes, and `busy` names them; or it succeeds, which is as good, and the module is loaded
/// again, unless one of them is `in_the_way`, by using a sysctl of the host's still. True if it failed.
fn is_refused_for(processes: &[&Process], in_the_way: bool) -> Result<bool> {
    let error = try_unload()?;
    ensure!(error == 0 || !processes.is_empty(), "rmmod: {error}");
    if error == 0 {
        if in_the_way {
            let loaded = within(LIMIT, "modprobe", |_| kernel::load());
            ensure!(loaded.is_err(), "two sysctls of one name");
        } else {
            load()?;
        }
        return Ok(false);
    }
    // The kernel's own word for a module in use is EAGAIN.
    ensure!(
        matches!(error, libc::EBUSY | libc::EAGAIN),
        "rmmod: {}",
        io::Error::from_raw_os_error(error)
    );
    let mut due: Vec<String> = processes
        .iter()
        .map(|process| {
            let comm = fs::read_to_string(format!("/proc/{}/comm", process.pid()))?;
            Ok(format!("{} {}", process.pid(), comm.trim_end()))
        })
        .collect::<Result<_>>()?;
    let mut said = busy()?;
    due.sort();
    said.sort();
    ensure!(said == due, "busy says {said:?}, not {due:?}");
    Ok(true)
}

fn asks(ask: Ask, killed: bool) -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let connection = Kind::External.connect(&pair)?;
    let fresh = mptcp::socket(
        &pair.client,
        SocketAddr::new(Pair::client_addr(Family::V4), 0),
    )?;
    let page = Page::new(&ask.content())?;
    let mut holder = match ask.is_locked() {
        true => Some(hold(&connection.client, &page)?),
        false => None,
    };
    let mut asker = Process::start(Who::Nobody, |_| ask.act(&page, &fresh, &connection.client))?;
    let waits = ask != Ask::GetLocked;
    if !waits {
        asker.finish(LIMIT).context("it need not wait for a lock")?;
    } else if ask.is_locked() {
        asker.wait_until_stuck(LIMIT)?;
    } else {
        let is_asked = page.wait_until_asked(LIMIT);
        ensure!(
            is_asked,
            "nobody asks for the page: {:?}",
            asker.hear(LIMIT)
        );
    }

    let waiting = [&asker];
    let in_the_way = matches!(ask, Ask::Sysctl(_));
    let refused = is_refused_for(if waits { &waiting } else { &[] }, in_the_way)?;
    within(LIMIT, "unshare -n", |_| unshare(libc::CLONE_NEWNET))?;
    if refused || !in_the_way {
        others_connect(&pair)?;
        // For what he asks for.
        for end in pair.ends() {
            Mode::Offer.apply(end)?;
        }
    }

    if killed {
        let processes = holder.iter_mut().chain([&mut asker]);
        for process in processes {
            ensure!(process.kill(LIMIT), "it can't be killed");
        }
    } else {
        page.deliver();
        if let Some(holder) = &mut holder {
            holder.finish(LIMIT).context("the holder")?;
        }
        if waits {
            asker.finish(LIMIT).context("the asker")?;
        }
    }
    if refused {
        ensure!(busy()?.is_empty(), "busy still says {:?}", busy()?);
    } else if in_the_way {
        let deadline = Instant::now() + LIMIT;
        while kernel::load().is_err() {
            ensure!(Instant::now() < deadline, "it can't be loaded again");
            thread::sleep(Duration::from_millis(100));
        }
    }
    unload_and_load()
}

fn many_ask() -> Result<()> {
    const MANY: usize = 30;
    let pair = Pair::with_mode(Mode::Offer)?;
    let page = Page::new(&1_i32.to_ne_bytes())?;
    let mut askers = Vec::new();
    for number in 0..MANY {
        // Each calls itself something else, and some lie.
        let name = match number % 3 {
            0 => format!("asker {number}"),
            1 => "x\n1 init".to_owned(),
            _ => "1 init".to_owned(),
        };
        let asker = pair.client.enter(|| {
            Process::start(Who::Nobody, |_| {
                let name = std::ffi::CString::new(name.as_str())?;
                // SAFETY: A C string.
                unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
                set_from(&socket_here()?, LOWOVERHEAD, page.map()?, 4)?;
                Ok(())
            })
        })?;
        askers.push(asker);
    }
    ensure!(page.wait_until_asked(LIMIT), "nobody asks for the page");
    // The others wait for the first's request.
    thread::sleep(Duration::from_millis(500));
    for asker in &askers {
        asker.wait_until_stuck(LIMIT)?;
    }
    let error = try_unload()?;
    if error != 0 {
        let told = output(Command::new("rmmod").arg(kernel::MODULE));
        let told = format!("{:#}", told.err().context("rmmod succeeds at once")?);
        ensure!(told.contains("in use"), "rmmod says {told:?}");
        let mut said: Vec<i32> = busy()?
            .iter()
            .map(|line| {
                let pid = line.split(' ').next().unwrap_or("");
                pid.parse().with_context(|| format!("busy says {line:?}"))
            })
            .collect::<Result<_>>()?;
        let mut due: Vec<i32> = askers.iter().map(Process::pid).collect();
        said.sort_unstable();
        due.sort_unstable();
        ensure!(said == due, "busy names {said:?}, not {due:?}");
        others_connect(&pair)?;
        // For what he asks for.
        for end in pair.ends() {
            Mode::Offer.apply(end)?;
        }
        // All but one go.
        for asker in &mut askers[1..] {
            ensure!(asker.kill(LIMIT), "it can't be killed");
        }
        ensure!(is_refused_for(&[&askers[0]], false)?, "one is left");
    } else {
        load()?;
    }
    page.deliver();
    askers[0].finish(LIMIT)?;
    unload_and_load()
}

/// He stops a process that waits for room in the middle of a send, and one that waits for a connection.
fn stopped() -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let joinable = Kind::LowOverhead.connect(&pair)?;
    let sender = Process::start(Who::Nobody, |talk| {
        talk.say("sends")?;
        mptcp::send(&joinable.client, 1, 100 << 20)
    })?;
    let connector = pair.client.enter(|| {
        Process::start(Who::Nobody, |_| {
            let socket = socket_here()?;
            mptcp_dc::enable_app_key(&socket, true)?;
            let nobody = SocketAddr::from(([10, 9, 0, 200], 9));
            Ok(socket.connect(&nobody.into())?)
        })
    })?;
    thread::sleep(Duration::from_millis(500));
    for process in [&sender, &connector] {
        process.signal(libc::SIGSTOP);
    }
    others_go_on(&pair)?;
    unload_and_load()
}

/// A mapping of two pages of which none is there.
struct Absent {
    name: &'static str,
    at: *mut u8,
}

/// Memory that isn't there, but comes when it is asked for, with `value` at `offset`.
fn absent(value: &[u8], offset: usize) -> Result<Vec<Absent>> {
    const LENGTH: usize = 2 * page::SIZE;
    let mut content = vec![0; LENGTH];
    content[offset..offset + value.len()].copy_from_slice(value);
    let map = |name, flags: i32, fd: RawFd| -> Result<Absent> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: A new mapping, where the kernel likes it.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, protection, flags, fd, 0) };
        ensure!(
            at != libc::MAP_FAILED,
            "{name}: {}",
            io::Error::last_os_error()
        );
        let at = at.cast::<u8>().wrapping_add(offset);
        Ok(Absent { name, at })
    };
    let mut all = Vec::new();
    // In memory, and on the disk below: the guest's is read-only.
    for (name, path) in [
        ("a file in memory", "/dev/shm/dc-absent"),
        ("a file", "/tmp/dc-absent"),
    ] {
        fs::write(path, &content).context(path)?;
        let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
        file.sync_all()?;
        // SAFETY: An open file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        for flags in [libc::MAP_PRIVATE, libc::MAP_SHARED] {
            all.push(map(name, flags, file.as_raw_fd())?);
        }
    }
    let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let paged_out = map("memory that was paged out", anonymous, -1)?;
    // SAFETY: The mapping has room for it, and nobody else has it.
    unsafe {
        paged_out
            .at
            .copy_from_nonoverlapping(value.as_ptr(), value.len());
        libc::madvise(
            paged_out.at.wrapping_sub(offset).cast(),
            LENGTH,
            libc::MADV_PAGEOUT,
        );
    }
    all.push(paged_out);
    if value.iter().all(|byte| *byte == 0) {
        all.push(map("memory never touched", anonymous, -1)?);
        let dropped = map("memory given back", anonymous, -1)?;
        let start = dropped.at.wrapping_sub(offset);
        // SAFETY: The mapping has that length, and nobody else has it.
        unsafe {
            start.write_bytes(1, LENGTH);
            libc::madvise(start.cast(), LENGTH, libc::MADV_DONTNEED);
        }
        all.push(dropped);
    }
    Ok(all)
}

fn pages_to_come() -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let at = SocketAddr::new(Pair::client_addr(Family::V4), 0);
    // In one page, and half in each of two.
    for offset in [0, page::SIZE - 2] {
        for option in [LOWOVERHEAD, ENABLE_APP_KEY] {
            for value in [0_i32, 1] {
                for Absent { name, at: from } in absent(&value.to_ne_bytes(), offset)? {
                    let socket = mptcp::socket(&pair.client, at)?;
                    set_from(&socket, option, from, 4).with_context(|| {
                        format!("{}={value} at {offset} of {name}", option_name(option))
                    })?;
                }
            }
            for Absent { name, at: from } in absent(&9_i32.to_ne_bytes(), offset)? {
                let socket = mptcp::socket(&pair.client, at)?;
                let error = set_from(&socket, option, from, 4).err();
                let errno = error.and_then(|error| error.raw_os_error());
                ensure!(errno == Some(libc::EINVAL), "9 in {name}: {errno:?}");
            }
        }
        let connection = Kind::External.connect(&pair)?;
        for value in [[0; 32], [8; 32]] {
            for Absent { name, at: from } in absent(&value, offset)? {
                set_from(&connection.client, KEY, from, 32)
                    .with_context(|| format!("MPTCP_KEY at {offset} of {name}"))?;
            }
        }
        let mut wanted = [0; INFO_LEN as usize];
        let mut length = INFO_LEN;
        get_to(&connection.client, INFO, wanted.as_mut_ptr(), &mut length)?;
        for Absent { name, at: to } in absent(&[0; INFO_LEN as usize], offset)? {
            for Absent { at: length, .. } in absent(&INFO_LEN.to_ne_bytes(), offset)? {
                let outcome = get_to(&connection.client, INFO, to, length.cast());
                outcome.with_context(|| format!("MPTCP_DC_INFO at {offset} of {name}"))?;
                // SAFETY: The kernel has written there.
                let got = unsafe { std::slice::from_raw_parts(to, wanted.len()) };
                ensure!(got == wanted, "MPTCP_DC_INFO at {offset} of {name}");
            }
        }
    }
    nowhere(&pair)
}

/// Memory that can't be read, or written, or that ends too soon, is EFAULT.
fn nowhere(pair: &Pair) -> Result<()> {
    let connection = Kind::External.connect(pair)?;
    let fresh = mptcp::socket(
        &pair.client,
        SocketAddr::new(Pair::client_addr(Family::V4), 0),
    )?;
    for (name, protection, offset) in [
        ("no access", libc::PROT_NONE, 0),
        ("read only", libc::PROT_READ, 0),
        (
            "the end of a mapping",
            libc::PROT_READ | libc::PROT_WRITE,
            page::SIZE - 2,
        ),
    ] {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: A new mapping of two pages, whose second is taken away.
        let at = unsafe {
            let at = libc::mmap(
                std::ptr::null_mut(),
                2 * page::SIZE,
                protection,
                flags,
                -1,
                0,
            );
            libc::munmap(at.wrapping_byte_add(page::SIZE), page::SIZE);
            at.cast::<u8>().wrapping_add(offset)
        };
        let errno = |outcome: io::Result<usize>| {
            outcome.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)
        };
        let mut length = INFO_LEN;
        let mut room = [0; INFO_LEN as usize];
        let got = [
            errno(set_from(&fresh, LOWOVERHEAD, at, 4)),
            errno(set_from(&fresh, ENABLE_APP_KEY, at, 4)),
            errno(set_from(&connection.client, KEY, at, 32)),
            errno(get_to(&connection.client, INFO, at, &mut length)),
            errno(get_to(
                &connection.client,
                INFO,
                room.as_mut_ptr(),
                at.cast(),
            )),
        ];
        let readable = if name == "read only" { 0 } else { libc::EFAULT };
        let fault = libc::EFAULT;
        let due = match name {
            // Zero bytes: a length of 0 has no room for anything.
            "read only" => [readable, readable, readable, fault, fault],
            _ => [fault; 5],
        };
        ensure!(got == due, "{name}: {got:?}, not {due:?}");
    }
    Ok(())
}

/// What every segment, or every SYN, passes when it is hooked.
const COSTLY: [&str; 6] = [
    "mptcp_get_options",
    "mptcp_write_options",
    "mptcp_established_options",
    "mptcp_incoming_options",
    "subflow_v4_conn_request",
    "subflow_v6_conn_request",
];

/// Those of them that are hooked now.
fn hooked() -> Result<Vec<&'static str>> {
    let now = kernel::hooked_functions()?;
    Ok(COSTLY
        .into_iter()
        .filter(|name| now.iter().any(|function| function == name))
        .collect())
}

/// Writes a sysctl of the module in the namespace of this thread; 0, or the error.
fn set_here(name: &str, value: u8) -> i32 {
    fs::write(format!("{SYSCTLS}/{name}"), value.to_string())
        .map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0)
}

/// Sets one to each value, and compares what that gives.
fn check_sets(due: &[(&str, u8, i32)]) -> Result<()> {
    for &(name, value, error) in due {
        let got = set_here(name, value);
        ensure!(got == error, "{name}={value} gives {got}, not {error}");
    }
    Ok(())
}

/// Sets an option of a new socket, and compares what that gives.
fn check_options(due: &[(i32, i32, i32)]) -> Result<()> {
    for &(option, value, error) in due {
        let outcome = mptcp::set_bytes(&socket_here()?, option, &value.to_ne_bytes());
        let got = outcome.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |()| 0);
        let name = option_name(option);
        ensure!(got == error, "{name}={value} gives {got}, not {error}");
    }
    Ok(())
}

/// What its owner may do in a network namespace of his own, without leave.
const REFUSED: [(&str, u8, i32); 11] = [
    ("lowoverhead", 1, libc::EPERM),
    ("lowoverhead", 2, libc::EPERM),
    ("lowoverhead", 0, 0),
    ("stateless_join", 1, libc::EPERM),
    ("stateless_join", 0, 0),
    ("app_key", 1, libc::EPERM),
    ("app_key", 0, 0),
    ("user_namespaces", 1, libc::ENOENT),
    ("busy", 1, libc::ENOENT),
    ("syn_token", 1, 0),
    ("syn_token", 0, 0),
];

/// A module that was just loaded, with no hook left from before.
fn reloaded() -> Result<()> {
    unload_and_load()?;
    ensure!(hooked()?.is_empty(), "hooked: {:?}", hooked()?);
    Ok(())
}

fn owner_is_refused() -> Result<()> {
    reloaded()?;
    let mut owner = Process::start(Who::Nobody, |talk| {
        own_namespaces()?;
        ensure!(
            fs::read_to_string(format!("{SYSCTLS}/app_key"))?.trim() == "0",
            "app_key doesn't start at 0"
        );
        for _ in 0..3 {
            check_sets(&REFUSED)?;
            check_options(&[
                (ENABLE_APP_KEY, 1, libc::EPERM),
                (LOWOVERHEAD, 1, libc::EPERM),
                (LOWOVERHEAD, 2, libc::EPERM),
                (ENABLE_APP_KEY, 0, 0),
                (LOWOVERHEAD, 0, 0),
            ])?;
            // A namespace within it is no better.
            let mut inner = Process::start(Who::Root, |_| {
                own_namespaces()?;
                check_sets(&REFUSED)
            })?;
            inner.finish(LIMIT).context("a namespace within")?;
        }
        // With a socket that did ask, in vain.
        let socket = socket_here()?;
        let _ = mptcp_dc::enable_app_key(&socket, true);
        talk.say("look")?;
        talk.wait()
    })?;
    owner.expect("look", LIMIT)?;
    ensure!(hooked()?.is_empty(), "hooked for him: {:?}", hooked()?);
    owner.go_on()?;
    owner.finish(LIMIT)?;
    // Without a network namespace of his own he is nobody.
    let mut stranger = Process::start(Who::Nobody, |_| {
        unshare(libc::CLONE_NEWUSER)?;
        let denied = |error| matches!(error, libc::EPERM | libc::EACCES);
        for name in sysctls()? {
            let got = set_here(&name, 1);
            ensure!(denied(got), "{name}=1 in root's namespace gives {got}");
        }
        Ok(())
    })?;
    stranger.finish(LIMIT)?;
    ensure!(hooked()?.is_empty(), "hooked for him: {:?}", hooked()?);
    Ok(())
}

/// A connection over `lo`, in the namespace of this thread, and its mode.
fn mode_over_lo(kind: Kind) -> Result<mptcp_dc::Mode> {
    let listener = socket_here()?;
    let client = socket_here()?;
    kind.prepare(&listener)?;
    kind.prepare(&client)?;
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
    listener.listen(1)?;
    client.connect(&listener.local_addr()?)?;
    Ok(mptcp_dc::info(&client)?.mode)
}

fn owner_is_let() -> Result<()> {
    reloaded()?;
    let path = format!("{SYSCTLS}/user_namespaces");
    let told = fs::read_to_string(&path).context(path)?;
    ensure!(told.trim() == "0", "user_namespaces starts at {told:?}");
    ensure!(set_here("user_namespaces", 1) == 0, "root can't set it");
    let mut owner = Process::start(Who::Nobody, |talk| {
        own_namespaces()?;
        output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        check_sets(&[
            ("lowoverhead", 2, 0),
            ("stateless_join", 1, 0),
            ("app_key", 1, 0),
        ])?;
        for kind in Kind::ALL {
            let mode = mode_over_lo(kind).context(kind.name())?;
            ensure!(mode == kind.mode(), "{}: it is {mode:?}", kind.name());
        }
        talk.say("set")?;
        talk.wait()?;
        // Root took it back: he may only lower.
        check_sets(&[
            ("lowoverhead", 1, 0),
            ("lowoverhead", 2, libc::EPERM),
            ("lowoverhead", 0, 0),
            ("lowoverhead", 1, libc::EPERM),
            ("stateless_join", 0, 0),
            ("stateless_join", 1, libc::EPERM),
            ("app_key", 0, 0),
            ("app_key", 1, libc::EPERM),
        ])?;
        talk.say("lowered")?;
        talk.wait()?;
        // Root has set it here.
        let mode = mode_over_lo(Kind::LowOverhead)?;
        ensure!(mode == mptcp_dc::Mode::LowOverhead, "it is {mode:?}");
        let mode = mode_over_lo(Kind::External)?;
        ensure!(mode == mptcp_dc::Mode::ExternalKey, "it is {mode:?}");
        check_sets(&[
            ("lowoverhead", 1, 0),
            ("lowoverhead", 0, 0),
            ("lowoverhead", 1, libc::EPERM),
        ])
    })?;
    owner.expect("set", LIMIT)?;
    ensure!(!hooked()?.is_empty(), "nothing is hooked for him");
    ensure!(set_here("user_namespaces", 0) == 0, "root can't unset it");
    owner.go_on()?;
    owner.expect("lowered", LIMIT)?;
    let his = fs::File::open(format!("/proc/{}/ns/net", owner.pid()))?;
    within(LIMIT, "root in his namespace", |_| {
        // SAFETY: No memory is involved.
        let status = unsafe { libc::setns(his.as_raw_fd(), libc::CLONE_NEWNET) };
        ensure!(status == 0, "setns: {}", io::Error::last_os_error());
        check_sets(&[
            ("lowoverhead", 2, 0),
            ("stateless_join", 1, 0),
            ("stateless_join", 0, 0),
            ("app_key", 1, 0),
        ])
    })?;
    owner.go_on()?;
    owner.finish(LIMIT)
}

/// How he tries to have hooks switched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Toggle {
    /// By sockets with keys.
    Sockets,
    /// By the sysctl of his own namespace.
    Sysctl,
}

fn switches(by: Toggle) -> Result<()> {
    /// How long he tries, below the time that hooks stand at least.
    const TIME: Duration = Duration::from_secs(8);
    /// On, and off what stood before.
    const MOST: usize = 2;
    reloaded()?;
    if by == Toggle::Sysctl {
        ensure!(set_here("user_namespaces", 1) == 0, "no user_namespaces");
    }
    let mut user = Process::start(Who::Nobody, |talk| {
        if by == Toggle::Sysctl {
            own_namespaces()?;
        }
        // As busy as later, but without the module.
        talk.say("idle")?;
        let start = Instant::now();
        while start.elapsed() < TIME / 2 {
            drop(socket_here()?);
            thread::sleep(Duration::from_micros(200));
        }
        talk.say("toggles")?;
        while start.elapsed() < TIME / 2 + TIME {
            match by {
                // Hooks that go a second after the last socket would go each time.
                Toggle::Sockets => {
                    mptcp_dc::enable_app_key(&socket_here()?, true)?;
                    thread::sleep(Duration::from_millis(1_200));
                }
                Toggle::Sysctl => {
                    check_sets(&[("lowoverhead", 2, 0), ("lowoverhead", 0, 0)])?;
                    thread::sleep(Duration::from_micros(200));
                }
            }
        }
        Ok(())
    })?;
    user.expect("idle", LIMIT)?;
    let before = namespaces_made(TIME / 2)?;
    user.expect("toggles", LIMIT)?;
    let start = Instant::now();
    let (mut was, mut changes) = (hooked()?, 0);
    let meanwhile = thread::scope(|scope| {
        let made = scope.spawn(|| namespaces_made(TIME));
        while start.elapsed() < TIME {
            let now = hooked()?;
            changes += usize::from(now != was);
            was = now;
            thread::sleep(Duration::from_millis(50));
        }
        made.join().unwrap_or_else(|_| bail!("panicked"))
    })?;
    user.finish(LIMIT)?;
    ensure!(
        changes <= MOST,
        "hooks were switched {changes} times in {TIME:?}"
    );
    ensure!(
        meanwhile < 3 * before,
        "a namespace takes {meanwhile:?}, not {before:?}"
    );
    Ok(())
}

/// Makes namespaces, and writes a sysctl in each, for so long; what one took on average.
fn namespaces_made(time: Duration) -> Result<Duration> {
    let said = within(time + LIMIT, "making namespaces", |talk| {
        let start = Instant::now();
        let mut made = 0;
        while start.elapsed() < time {
            unshare(libc::CLONE_NEWNET)?;
            check_sets(&[("lowoverhead", 0, 0)])?;
            made += 1;
        }
        talk.say(&(start.elapsed() / made).as_micros().to_string())
    })?;
    Ok(Duration::from_micros(said.parse()?))
}

fn strangers_syn() -> Result<()> {
    reloaded()?;
    let pair = Pair::new()?;
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let listener = mptcp::listen(&pair.server, at)?;
    let syn = || -> Result<bool> {
        let probe = kernel::Returns::to_module("subflow_check_req")?;
        drop(mptcp::connect(&pair.client, listener.local_addr()?)?);
        drop(mptcp::accept(&listener)?);
        probe.seen()
    };
    ensure!(!syn()?, "the module has a SYN in hand that isn't for it");
    let asking = mptcp::socket(&pair.client, at)?;
    mptcp_dc::enable_app_key(&asking, true)?;
    ensure!(syn()?, "the test is blind: keys are asked for");
    drop(asking);
    pair.client.set("mptcp_dc/app_key", 0)?;
    let mut user = pair.client.enter(|| {
        Process::start(Who::Nobody, |_| {
            check_options(&[(ENABLE_APP_KEY, 0, 0), (LOWOVERHEAD, 0, 0)])
        })
    })?;
    user.finish(LIMIT)?;
    let start = Instant::now();
    while syn()? {
        ensure!(
            start.elapsed() < LAZY,
            "the module has every SYN in hand, {LAZY:?} after the last socket"
        );
        thread::sleep(Duration::from_millis(500));
    }
    Ok(())
}

fn many_entries(sockets: usize) -> Result<String> {
    // Where it is 0, nobody needs an entry to have it off.
    let sysctl = Path::new(SYSCTLS).join("lowoverhead");
    fs::write(&sysctl, "1")?;
    let outcome = among_entries(sockets);
    fs::write(&sysctl, "0")?;
    outcome
}

fn among_entries(sockets: usize) -> Result<String> {
    /// Others may be busy for as long as one measurement takes.
    const AGAIN: usize = 5;

    let said = within(Duration::from_secs(1_000), "many sockets", |talk| {
        let most = libc::rlimit {
            rlim_cur: sockets as u64 + 1_000,
            rlim_max: sockets as u64 + 1_000,
        };
        // SAFETY: A limit.
        let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &most) };
        ensure!(status == 0, "limit: {}", io::Error::last_os_error());
        let make = || -> Result<Socket> {
            let socket = socket_here()?;
            mptcp_dc::set_low_overhead(&socket, LowOverhead::Off)?;
            Ok(socket)
        };
        // The first and the last: an entry may be found at either end of whatever there is.
        let first = make()?;
        let alone = look_up(&first)?;
        let mut others = Vec::new();
        for number in 0..sockets {
            others.push(make().with_context(|| format!("socket {number}"))?);
        }
        let last = make()?;
        let mut among = Duration::MAX;
        for _ in 0..AGAIN {
            among = among.min(look_up(&first)?.max(look_up(&last)?));
        }
        talk.say(&format!("{} {}", alone.as_nanos(), among.as_nanos()))
    })?;
    let (alone, among) = said.split_once(' ').context("no times")?;
    let (alone, among): (f64, f64) = (alone.parse()?, among.parse()?);
    let ratio = among / alone;
    ensure!(
        ratio < 1.3,
        "{ratio:.2} times as long: {alone} ns, {among} ns"
    );
    Ok(format!("{ratio:.2} times as long: {alone} ns, {among} ns"))
}

/// What it takes to set an option of this socket again; the best of several tries.
fn look_up(socket: &Socket) -> Result<Duration> {
    const TRIES: u32 = 40;
    const EACH: u32 = 200;
    let mut best = Duration::MAX;
    for _ in 0..TRIES {
        let start = Instant::now();
        for _ in 0..EACH {
            mptcp::set_bytes(socket, LOWOVERHEAD, &0_i32.to_ne_bytes())?;
        }
        best = best.min(start.elapsed() / EACH);
    }
    Ok(best)
}
