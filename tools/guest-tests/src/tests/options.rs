// SPDX-License-Identifier: GPL-2.0

//! The table of socket options in Documentation/protocol.rst: each option in each state of a socket, each value and length.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::connection::Connection;
use crate::handshake::outcome;
use crate::kernel;
use crate::mptcp::{self, get_bytes, set_bytes};
use crate::netns::{Family, Mode, Pair, RAW_SERVER};
use crate::{Scale, Test};

/// As include/uapi/linux/mptcp_dc.h has them.
const INFO: i32 = 0xdc00;
const ENABLE_APP_KEY: i32 = 0xdc01;
const KEY: i32 = 0xdc02;
const LOWOVERHEAD: i32 = 0xdc03;
/// Nobody's.
const UNKNOWN: i32 = 0xdcff;

/// `sizeof(struct mptcp_dc_info)`
const INFO_LEN: usize = 40;

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    let families = match scale {
        Scale::Quick => &[Family::V4][..],
        _ => &Family::ALL,
    };
    for &family in families {
        tests.push(Test::new(
            format!(
                "socket options, {}: each has its error in each state of a socket",
                family.name()
            ),
            move || states(family),
        ));
        tests.push(Test::new(
            format!(
                "socket options, {}: without the module each fails as an unknown one",
                family.name()
            ),
            move || stock(family),
        ));
    }
    tests.extend([
        Test::new(
            "socket options: other values and lengths are EINVAL, bad pointers EFAULT",
            values,
        ),
        Test::new("socket options: what the sysctls forbid is EPERM", sysctls),
        Test::new(
            "socket options: a key can't be read back, by any length",
            key_is_write_only,
        ),
        Test::new(
            "socket options: MPTCP_DC_INFO fills as much as there is room for",
            info_lengths,
        ),
        Test::new(
            "socket options: a key that is refused installs no hook on segments",
            refused_key_hooks,
        ),
    ]);
    tests
}

/// A socket, and whatever keeps it in its state.
struct Subject {
    state: &'static str,
    socket: OwnedFd,
    _rest: Vec<OwnedFd>,
}

/// What setting each of three options gives: an errno, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Errors {
    enable: i32,
    key: i32,
    lowoverhead: i32,
}

const BEFORE: Errors = Errors {
    enable: 0,
    key: libc::ENOTCONN,
    lowoverhead: 0,
};
const EARLY: Errors = Errors {
    enable: libc::EISCONN,
    key: libc::ENOTCONN,
    lowoverhead: libc::EISCONN,
};
const EXTERNAL: Errors = Errors {
    enable: libc::EISCONN,
    key: 0,
    lowoverhead: libc::EISCONN,
};
const OTHER: Errors = Errors {
    enable: libc::EISCONN,
    key: libc::EOPNOTSUPP,
    lowoverhead: libc::EISCONN,
};
/// What a listener accepts from a client without MPTCP is a TCP socket.
const TCP: Errors = Errors {
    enable: libc::ENOPROTOOPT,
    key: libc::ENOPROTOOPT,
    lowoverhead: libc::ENOPROTOOPT,
};

/// How an end asks for its mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    Nothing,
    External,
    LowOverhead,
    /// No MPTCP at all.
    Tcp,
}

impl Ask {
    fn socket(self, pair: &Pair, client: bool, at: SocketAddr) -> Result<Socket> {
        let netns = if client { &pair.client } else { &pair.server };
        if self == Self::Tcp {
            let domain = Domain::for_address(at);
            let made = netns.enter(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)));
            return made.context("TCP socket");
        }
        let socket = mptcp::socket(netns, at)?;
        match self {
            Self::External => mptcp_dc::enable_app_key(&socket, true)?,
            Self::LowOverhead => {
                mptcp_dc::set_low_overhead(&socket, mptcp_dc::LowOverhead::Offer)?;
            }
            Self::Nothing | Self::Tcp => {}
        }
        Ok(socket)
    }
}

/// A connection's two ends, and the listener.
fn connect(pair: &Pair, family: Family, client: Ask, server: Ask) -> Result<[OwnedFd; 3]> {
    let at = SocketAddr::new(Pair::server_addr(family), 0);
    let listener = server.socket(pair, false, at)?;
    listener.bind(&at.into())?;
    listener.listen(8)?;
    let to = listener.local_addr()?;
    let client = client.socket(pair, true, at)?;
    client.connect(&to)?;
    let (server, _) = listener.accept()?;
    let (client, server) = (TcpStream::from(client), TcpStream::from(server));
    for _ in 0..2 {
        mptcp::send(&client, 1, 100)?;
        mptcp::receive(&server, 1, 100)?;
        mptcp::send(&server, 2, 100)?;
        mptcp::receive(&client, 2, 100)?;
    }
    Ok([client.into(), server.into(), listener.into()])
}

/// Both ends of such a connection.
fn both(
    pair: &Pair,
    family: Family,
    asked: (Ask, Ask),
    names: [&'static str; 2],
) -> Result<[Subject; 2]> {
    let [client, server, listener] = connect(pair, family, asked.0, asked.1)?;
    let others = [server.try_clone()?, client.try_clone()?];
    let [at_client, at_server] = others;
    Ok([
        Subject {
            state: names[0],
            socket: client,
            _rest: vec![at_client, listener.try_clone()?],
        },
        Subject {
            state: names[1],
            socket: server,
            _rest: vec![at_server, listener],
        },
    ])
}

/// A socket in every state that it can be in with the module, and what is due there.
fn subjects(pair: &Pair, family: Family) -> Result<Vec<(Subject, Errors)>> {
    let at = SocketAddr::new(Pair::server_addr(family), 0);
    let alone = |state, socket: Socket| Subject {
        state,
        socket: socket.into(),
        _rest: vec![],
    };
    let mut all = vec![
        (alone("new", mptcp::socket(&pair.client, at)?), BEFORE),
        (
            alone(
                "asked for external keys",
                Ask::External.socket(pair, true, at)?,
            ),
            BEFORE,
        ),
    ];
    for (state, ask) in [
        ("listens", Ask::Nothing),
        ("listens for external keys", Ask::External),
    ] {
        let socket = ask.socket(pair, false, at)?;
        socket.bind(&at.into())?;
        all.push((
            alone(
                if ask == Ask::Nothing {
                    "bound"
                } else {
                    "bound, asked"
                },
                socket.try_clone()?,
            ),
            BEFORE,
        ));
        let listener = ask.socket(pair, false, at)?;
        listener.bind(&at.into())?;
        listener.listen(1)?;
        all.push((alone(state, listener), EARLY));
    }
    // Nobody answers there.
    let nowhere: SocketAddr = match family {
        Family::V4 => (RAW_SERVER, 9).into(),
        Family::V6 => "[fd09::66]:9".parse()?,
    };
    for (state, ask) in [
        ("connects", Ask::Nothing),
        ("connects with external keys", Ask::External),
    ] {
        let socket = ask.socket(pair, true, at)?;
        socket.set_nonblocking(true)?;
        let begun = socket.connect(&SockAddr::from(nowhere));
        ensure!(
            begun
                .as_ref()
                .is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS)),
            "{state}: {begun:?}"
        );
        all.push((alone(state, socket), EARLY));
    }
    for (asked, names, due) in [
        (
            (Ask::External, Ask::External),
            ["client, external keys", "server, external keys"],
            [EXTERNAL, EXTERNAL],
        ),
        (
            (Ask::Nothing, Ask::Nothing),
            ["client, standard MPTCP", "server, standard MPTCP"],
            [OTHER, OTHER],
        ),
        (
            (Ask::LowOverhead, Ask::LowOverhead),
            ["client, low overhead", "server, low overhead"],
            [OTHER, OTHER],
        ),
        (
            (Ask::External, Ask::Nothing),
            [
                "client whose server didn't ask for keys",
                "server that didn't ask for keys",
            ],
            [OTHER, TCP],
        ),
        (
            (Ask::External, Ask::Tcp),
            ["client of a TCP server", "TCP server"],
            [OTHER, TCP],
        ),
        (
            (Ask::Nothing, Ask::External),
            [
                "client that didn't ask for keys",
                "server whose client didn't ask for keys",
            ],
            [OTHER, TCP],
        ),
        (
            (Ask::Tcp, Ask::External),
            ["TCP client", "server of a TCP client"],
            [TCP, TCP],
        ),
    ] {
        let ends = both(pair, family, asked, names).with_context(|| format!("{names:?}"))?;
        all.extend(ends.into_iter().zip(due));
    }
    all.extend(ended(pair, family)?);
    Ok(all)
}

/// Sockets whose connection with external keys is about to end, or over.
fn ended(pair: &Pair, family: Family) -> Result<Vec<(Subject, Errors)>> {
    let mut all = Vec::new();
    for (state, peer_state, by_both) in [
        ("its half is closed", "the peer's half is closed", false),
        ("closed first", "closed second", true),
    ] {
        let [mut client, mut server] = both(
            pair,
            family,
            (Ask::External, Ask::External),
            [state, peer_state],
        )?;
        // No other descriptor may keep them open.
        (client._rest, server._rest) = (vec![], vec![]);
        let streams = [
            TcpStream::from(client.socket.try_clone()?),
            TcpStream::from(server.socket.try_clone()?),
        ];
        streams[0].shutdown(Shutdown::Write)?;
        mptcp::receive_end(&streams[1])?;
        if by_both {
            streams[1].shutdown(Shutdown::Write)?;
            mptcp::receive_end(&streams[0])?;
            await_close(&client.socket)?;
            await_close(&server.socket)?;
        }
        let due = if by_both { EARLY } else { EXTERNAL };
        all.extend([(client, due), (server, due)]);
    }
    // connect() to AF_UNSPEC: the socket is as new.
    let [client, server, listener] = connect(pair, family, Ask::External, Ask::External)?;
    disconnect(&client)?;
    all.push((
        Subject {
            state: "disconnected",
            socket: client,
            _rest: vec![server, listener],
        },
        BEFORE,
    ));
    Ok(all)
}

/// Waits until the connection has ended at this end, too.
fn await_close(socket: &OwnedFd) -> Result<()> {
    let start = Instant::now();
    while mptcp_dc::info(socket)?.mode != mptcp_dc::Mode::None {
        ensure!(start.elapsed() < Duration::from_secs(10), "it isn't closed");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn disconnect(socket: &OwnedFd) -> Result<()> {
    // SAFETY: All zeroes is a valid address, of family AF_UNSPEC.
    let nobody: libc::sockaddr = unsafe { std::mem::zeroed() };
    let length = size_of::<libc::sockaddr>() as u32;
    // SAFETY: An address of that length.
    let status = unsafe { libc::connect(socket.as_raw_fd(), &nobody, length) };
    ensure!(status == 0, "disconnect: {}", io::Error::last_os_error());
    Ok(())
}

/// The errno of an outcome; 0 for success.
fn errno<T>(outcome: io::Result<T>) -> i32 {
    outcome.map_or_else(|error| error.raw_os_error().unwrap_or(-1), |_| 0)
}

fn set_int(socket: &impl AsRawFd, name: i32, value: i32) -> i32 {
    errno(set_bytes(socket, name, &value.to_ne_bytes()))
}

fn states(family: Family) -> Result<()> {
    let pair = Pair::with_mode(Mode::Accept)?;
    for (subject, due) in subjects(&pair, family)? {
        let Subject { state, socket, .. } = &subject;
        // The key first: what it gives must not depend on the others.
        let key = errno(set_bytes(socket, KEY, &[7; 32]));
        let got = Errors {
            key,
            enable: set_int(socket, ENABLE_APP_KEY, 1),
            lowoverhead: set_int(socket, LOWOVERHEAD, 1),
        };
        ensure!(got == due, "{state}: {got:?}, not {due:?}");
        // To take it back is as late, and no easier.
        let off = (
            set_int(socket, ENABLE_APP_KEY, 0),
            set_int(socket, LOWOVERHEAD, 0),
        );
        ensure!(
            off == (due.enable, due.lowoverhead),
            "{state}, off: {off:?}, not {due:?}"
        );
        let again = errno(set_bytes(socket, KEY, &[8; 64]));
        ensure!(
            again == due.key,
            "{state}, another key: {again}, not {}",
            due.key
        );
        check_unreadable(socket).context(*state)?;
        let info = errno(get_bytes(socket, INFO, &mut [0; INFO_LEN]));
        let expected = if due == TCP {
            errno(get_bytes(socket, UNKNOWN, &mut [0; INFO_LEN]))
        } else {
            0
        };
        ensure!(
            info == expected,
            "{state}: MPTCP_DC_INFO gives {info}, not {expected}"
        );
    }
    // The sockets were what the table says: none disturbs what comes after it.
    Connection::run(&pair, family)?
        .check(&outcome(Mode::Accept, Mode::Accept))
        .map(drop)
}

/// `getsockopt()` treats `MPTCP_KEY` as an option that it doesn't know, and writes nothing.
fn check_unreadable(socket: &OwnedFd) -> Result<()> {
    for name in [KEY, ENABLE_APP_KEY, LOWOVERHEAD] {
        let mut room = [0xa5; 64];
        let got = errno(get_bytes(socket, name, &mut room));
        let unknown = errno(get_bytes(socket, UNKNOWN, &mut [0; 64]));
        ensure!(unknown != 0, "the unknown option can be read");
        ensure!(
            got == unknown,
            "getsockopt({name:#x}) gives {got}, not {unknown}"
        );
        ensure!(
            room == [0xa5; 64],
            "getsockopt({name:#x}) wrote {room:02x?}"
        );
    }
    Ok(())
}

fn stock(family: Family) -> Result<()> {
    let pair = Pair::new()?;
    kernel::unload()?;
    let checked = stock_states(&pair, family);
    kernel::load()?;
    checked
}

fn stock_states(pair: &Pair, family: Family) -> Result<()> {
    let at = SocketAddr::new(Pair::server_addr(family), 0);
    let fresh = mptcp::socket(&pair.client, at)?;
    let listener = mptcp::listen(&pair.server, at)?;
    let mut all: Vec<(&str, OwnedFd)> = vec![("new", fresh.into()), ("listens", listener.into())];
    for (asked, names) in [
        (
            (Ask::Nothing, Ask::Nothing),
            ["client, MPTCP", "server, MPTCP"],
        ),
        (
            (Ask::Nothing, Ask::Tcp),
            ["client that fell back", "TCP server"],
        ),
        (
            (Ask::Tcp, Ask::Nothing),
            ["TCP client", "server of a TCP client"],
        ),
    ] {
        let [client, server, _] = connect(pair, family, asked.0, asked.1)?;
        all.extend([(names[0], client), (names[1], server)]);
    }
    for (state, socket) in &all {
        let unknown = set_int(socket, UNKNOWN, 1);
        ensure!(
            [libc::EOPNOTSUPP, libc::ENOPROTOOPT].contains(&unknown),
            "{state}: an unknown option gives {unknown}"
        );
        for name in [INFO, ENABLE_APP_KEY, KEY, LOWOVERHEAD] {
            for length in [4, 32] {
                let got = errno(set_bytes(socket, name, &[1; 32][..length]));
                ensure!(got == unknown, "{state}: {name:#x}: {got}, not {unknown}");
            }
            let unread = errno(get_bytes(socket, UNKNOWN, &mut [0; INFO_LEN]));
            let got = errno(get_bytes(socket, name, &mut [0; INFO_LEN]));
            ensure!(
                got == unread && unread != 0,
                "{state}: getsockopt({name:#x}): {got}, not {unread}"
            );
        }
    }
    // As applications see it.
    for (state, socket) in &all[..2] {
        let refused = mptcp_dc::enable_app_key(socket, true);
        ensure!(
            matches!(refused, Err(mptcp_dc::Error::NoModule)),
            "{state}: {refused:?}"
        );
    }
    Ok(())
}

fn values() -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let family = Family::V4;
    let at = SocketAddr::new(Pair::server_addr(family), 0);
    let fresh = mptcp::socket(&pair.client, at)?;
    for (name, right) in [(ENABLE_APP_KEY, &[0, 1][..]), (LOWOVERHEAD, &[0, 1, 2])] {
        for value in [i32::MIN, -2, -1, 0, 1, 2, 3, 4, 256, 1 << 16, i32::MAX] {
            let due = if right.contains(&value) {
                0
            } else {
                libc::EINVAL
            };
            let got = set_int(&fresh, name, value);
            ensure!(got == due, "{name:#x}={value}: {got}, not {due}");
        }
        // An int, or whatever begins with one.
        for length in [0, 1, 2, 3, 4, 5, 8, 64] {
            let value = [1_i32.to_ne_bytes(); 16].concat();
            let due = if length < 4 { libc::EINVAL } else { 0 };
            let got = errno(set_bytes(&fresh, name, &value[..length]));
            ensure!(got == due, "{name:#x} of {length} bytes: {got}, not {due}");
        }
    }

    let [client, server, _listener] = connect(&pair, family, Ask::External, Ask::External)?;
    let [refused, _, _other] = connect(&pair, family, Ask::External, Ask::Nothing)?;
    let lengths = [0, 1, 4, 15, 16, 17, 32, 63, 64, 65, 128, 4096];
    for (state, socket, right) in [
        ("client", &client, 0),
        ("server", &server, 0),
        ("refused", &refused, libc::EOPNOTSUPP),
        ("new", &OwnedFd::from(fresh), libc::ENOTCONN),
    ] {
        for length in lengths {
            let due = if (16..=64).contains(&length) {
                right
            } else {
                libc::EINVAL
            };
            let got = errno(set_bytes(socket, KEY, &vec![3; length]));
            ensure!(
                got == due,
                "{state}: a key of {length} bytes: {got}, not {due}"
            );
        }
    }
    for (name, length) in [(ENABLE_APP_KEY, 4), (KEY, 32), (LOWOVERHEAD, 4)] {
        // SAFETY: The kernel finds nothing at this address, and says so.
        let status = unsafe {
            let nothing = std::ptr::without_provenance(8);
            libc::setsockopt(client.as_raw_fd(), mptcp::SOL_MPTCP, name, nothing, length)
        };
        let error = io::Error::last_os_error();
        ensure!(
            status == -1 && error.raw_os_error() == Some(libc::EFAULT),
            "{name:#x} from nowhere: {status}, {error}"
        );
    }
    // None of it took the key away.
    let state = mptcp_dc::info(&client)?.key_state;
    ensure!(state == mptcp_dc::KeyState::Set, "the key is {state:?}");
    Ok(())
}

fn sysctls() -> Result<()> {
    let pair = Pair::new()?;
    for family in Family::ALL {
        let at = SocketAddr::new(Pair::server_addr(family), 0);
        let check = |what: &str, name: i32, value: i32, due: i32| {
            let got = set_int(&mptcp::socket(&pair.client, at)?, name, value);
            ensure!(got == due, "{what}: {name:#x}={value}: {got}, not {due}");
            Ok(())
        };
        for (level, raised) in [(0, libc::EPERM), (1, 0), (2, 0)] {
            pair.client.set("mptcp_dc/lowoverhead", level)?;
            let what = format!("lowoverhead={level}");
            check(&what, LOWOVERHEAD, 0, 0)?;
            check(&what, LOWOVERHEAD, 1, raised)?;
            check(&what, LOWOVERHEAD, 2, raised)?;
            check(&what, ENABLE_APP_KEY, 1, 0)?;
        }
        pair.client.set("mptcp_dc/lowoverhead", 0)?;

        let [before, _, _listener] = connect(&pair, family, Ask::External, Ask::External)?;
        pair.client.set("mptcp_dc/app_key", 0)?;
        check("app_key=0", ENABLE_APP_KEY, 1, libc::EPERM)?;
        check("app_key=0", ENABLE_APP_KEY, 0, 0)?;
        let got = errno(set_bytes(&before, KEY, &[1; 16]));
        ensure!(got == 0, "app_key=0, for a connection from before: {got}");
        // Another namespace's is none of ours.
        let elsewhere = mptcp::socket(&pair.server, at)?;
        let got = set_int(&elsewhere, ENABLE_APP_KEY, 1);
        ensure!(got == 0, "app_key=0 elsewhere: {got}");
        pair.client.set("mptcp_dc/app_key", 1)?;
        check("app_key=1", ENABLE_APP_KEY, 1, 0)?;
    }
    Ok(())
}

fn key_is_write_only() -> Result<()> {
    let pair = Pair::new()?;
    let [client, server, _listener] = connect(&pair, Family::V4, Ask::External, Ask::External)?;
    let key: [u8; 32] = mptcp::pattern(5, 32).try_into().unwrap_or([5; 32]);
    for end in [&client, &server] {
        mptcp_dc::set_key(end, &key)?;
    }
    // SAFETY: Of this thread alone; no memory is involved.
    let nobody = || unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
    thread::scope(|scope| {
        let unprivileged = scope.spawn(|| {
            ensure!(nobody() == 0, "setresuid: {}", io::Error::last_os_error());
            check_shows_no_key([&client, &server], &key)
        });
        unprivileged.join().unwrap_or_else(|_| bail!("panicked"))
    })?;
    check_shows_no_key([&client, &server], &key)
}

/// No option of these sockets shows the key; it can be set again.
fn check_shows_no_key(ends: [&OwnedFd; 2], key: &[u8]) -> Result<()> {
    for end in ends {
        mptcp_dc::set_key(end, key)?;
        check_unreadable(end)?;
        for name in [0, 1, 2, 3, 4, INFO] {
            let mut room = [0; 1024];
            let Ok(length) = get_bytes(end, name, &mut room) else {
                continue;
            };
            let shown = room[..length.min(room.len())].windows(8);
            ensure!(
                !shown.into_iter().any(|window| window == &key[..8]),
                "option {name:#x} shows the key"
            );
        }
    }
    Ok(())
}

fn info_lengths() -> Result<()> {
    let pair = Pair::new()?;
    let [client, _server, _listener] = connect(&pair, Family::V4, Ask::External, Ask::External)?;
    let mut whole = [0; INFO_LEN];
    let length = get_bytes(&client, INFO, &mut whole)?;
    ensure!(length == INFO_LEN, "it has {length} bytes");
    let mut larger = [0xa5; INFO_LEN + 8];
    let length = get_bytes(&client, INFO, &mut larger)?;
    ensure!(
        length == INFO_LEN && larger[..INFO_LEN] == whole && larger[INFO_LEN..] == [0xa5; 8],
        "{length} bytes in {larger:02x?}"
    );
    let mut part = [0xa5; 4];
    let length = get_bytes(&client, INFO, &mut part)?;
    ensure!(
        length == 4 && part == whole[..4],
        "{length} bytes, {part:02x?}"
    );
    let length = get_bytes(&client, INFO, &mut [0; 0])?;
    ensure!(length == 0, "{length} bytes in none");
    let set = errno(set_bytes(&client, INFO, &whole));
    let unknown = errno(set_bytes(&client, UNKNOWN, &whole));
    ensure!(set == unknown, "MPTCP_DC_INFO is set: {set}, not {unknown}");
    Ok(())
}

/// Or whoever may open a socket could slow down everybody's segments.
fn refused_key_hooks() -> Result<()> {
    const EXTERNAL: &str = "mptcp_established_options";
    let hooked = || -> Result<bool> {
        Ok(kernel::hooked_functions()?
            .iter()
            .any(|name| name == EXTERNAL))
    };
    // Of an earlier test, whose sockets may be closing.
    kernel::wait_until_unhooked(&[EXTERNAL])?;
    let pair = Pair::new()?;
    pair.client.set("mptcp_dc/app_key", 0)?;
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let fresh = mptcp::socket(&pair.client, at)?;
    let [connected, _server, _listener] = connect(&pair, Family::V4, Ask::Nothing, Ask::Nothing)?;
    for (what, socket) in [("new", &OwnedFd::from(fresh)), ("standard", &connected)] {
        for length in [15, 32, 65] {
            if set_bytes(socket, KEY, &vec![1; length]).is_ok() {
                bail!("{what}: it took a key");
            }
            ensure!(
                !hooked()?,
                "{what}: a refused key of {length} bytes installed a hook"
            );
        }
        let refused = set_int(socket, ENABLE_APP_KEY, 1);
        ensure!(refused == libc::EPERM, "{what}: app_key=0 gives {refused}");
        ensure!(
            !hooked()?,
            "{what}: what app_key=0 forbids installed a hook"
        );
    }
    Ok(())
}
