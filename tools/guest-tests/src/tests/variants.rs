// SPDX-License-Identifier: GPL-2.0

//! What applications and administrators can vary: addresses, checksums, who speaks first, listeners, how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::capture::Capture;
use crate::connection::{Connection, Opening};
use crate::handshake::{flags, outcome, Expected, Keys, Trace};
use crate::mptcp::{self, Info};
use crate::netns::{output, Family, Mode, Pair, CLIENT_DEV, SERVER_V4};
use crate::wire::{self, MP_FASTCLOSE, SYN};
use crate::{Scale, Test};

/// What is tried with both forms of the SYN, and on stock code to see that the test is right.
const MODES: [Mode; 3] = [Mode::Stock, Mode::Offer, Mode::OfferFull];

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    for mode in MODES {
        let name = |text: &str| format!("variants: {}: {text}", mode.name());
        tests.extend([
            Test::new(
                name("IPv4 to an IPv6 listener, from an IPv4 and from an IPv6 socket"),
                move || mapped(mode),
            ),
            Test::new(
                name("checksums, asked for by either end or both"),
                move || checksums(mode),
            ),
            Test::new(
                name("no join to the initial address, said by either end or both"),
                move || deny_join(mode),
            ),
            Test::new(name("data with the third ACK"), move || {
                opening(mode, Opening::ClientWithAck)
            }),
            Test::new(name("the server speaks first"), move || {
                opening(mode, Opening::Server)
            }),
            Test::new(name("TCP Fast Open"), move || fast_open(mode)),
            Test::new(name("SO_REUSEPORT with four listeners"), move || {
                reuseport(mode)
            }),
            Test::new(name("FASTCLOSE by the client ends both sides"), move || {
                fastclose(mode, true)
            }),
            Test::new(name("FASTCLOSE by the server ends both sides"), move || {
                fastclose(mode, false)
            }),
            Test::new(
                name("ss, ip mptcp monitor and MPTCP_FULL_INFO show the token"),
                move || tokens(mode),
            ),
        ]);
    }
    // It takes 15 seconds to start, under TCG.
    if scale != Scale::Quick {
        tests.push(Test::new(
            "variants: tshark reads the same keys from the handshake",
            tshark,
        ));
    }
    tests
}

/// Without state at the server and with.
fn with_cookies(pair: &Pair, test: impl Fn() -> Result<()>) -> Result<()> {
    for cookies in [0, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        test().with_context(|| format!("tcp_syncookies={cookies}"))?;
    }
    Ok(())
}

fn any_v6() -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)
}

fn mapped(mode: Mode) -> Result<()> {
    let pair = Pair::with_mode(mode)?;
    let expected = outcome(mode, mode);
    with_cookies(&pair, || {
        for to in [IpAddr::from(SERVER_V4), SERVER_V4.to_ipv6_mapped().into()] {
            Connection::run_at(&pair, any_v6(), to, Opening::Client)
                .and_then(|connection| connection.check(&expected))
                .with_context(|| format!("to {to}"))?;
        }
        let to = Pair::server_addr(Family::V6);
        Connection::run_at(&pair, any_v6(), to, Opening::Client)?.check(&expected)?;
        Ok(())
    })
}

fn checksums(mode: Mode) -> Result<()> {
    let pair = Pair::with_mode(mode)?;
    for (client, server) in [(true, false), (false, true), (true, true)] {
        pair.client
            .set("mptcp/checksum_enabled", u8::from(client))?;
        pair.server
            .set("mptcp/checksum_enabled", u8::from(server))?;
        let expected = Expected {
            client_flags: flags(client, false),
            server_flags: flags(server, false),
            ..outcome(mode, mode)
        };
        with_cookies(&pair, || {
            for opening in [Opening::Client, Opening::ClientWithAck, Opening::Server] {
                let at = Pair::server_addr(Family::V4);
                let connection = Connection::run_at(&pair, SocketAddr::new(at, 0), at, opening)?;
                connection.check(&expected)?;
                for info in [connection.client, connection.server].into_iter().flatten() {
                    ensure!(info.csum_enabled == 1, "no checksums: {info:x?}");
                }
            }
            Ok(())
        })
        .with_context(|| format!("checksum_enabled: client {client}, server {server}"))?;
    }
    Ok(())
}

fn deny_join(mode: Mode) -> Result<()> {
    let pair = Pair::with_mode(mode)?;
    for (client, server) in [(true, false), (false, true), (true, true)] {
        pair.client
            .set("mptcp/allow_join_initial_addr_port", u8::from(!client))?;
        pair.server
            .set("mptcp/allow_join_initial_addr_port", u8::from(!server))?;
        let expected = Expected {
            client_flags: flags(false, client),
            server_flags: flags(false, server),
            ..outcome(mode, mode)
        };
        with_cookies(&pair, || {
            Connection::run(&pair, Family::V6)?
                .check(&expected)
                .map(drop)
        })
        .with_context(|| format!("joins denied: client {client}, server {server}"))?;
    }
    Ok(())
}

fn opening(mode: Mode, opening: Opening) -> Result<()> {
    let pair = Pair::with_mode(mode)?;
    let expected = outcome(mode, mode);
    with_cookies(&pair, || {
        for family in Family::ALL {
            let at = Pair::server_addr(family);
            let connection = Connection::run_at(&pair, SocketAddr::new(at, 0), at, opening)?;
            connection.check(&expected)?;
            let carries = !connection.trace.third_ack()?.payload.is_empty();
            ensure!(
                carries == (opening == Opening::ClientWithAck),
                "the third ACK is {}",
                connection.trace.third_ack()?
            );
        }
        Ok(())
    })
}

fn fast_open(mode: Mode) -> Result<()> {
    const LENGTH: usize = 1_000;
    /// Where socket2 and libc have no name: include/uapi/linux/tcp.h.
    const TCP_FASTOPEN_CONNECT: i32 = 30;

    let pair = Pair::with_mode(mode)?;
    for end in pair.ends() {
        end.set("ipv4/tcp_fastopen", 3)?;
    }
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let listener = mptcp::listen_with(&pair.server, at, |s| {
        mptcp::set_tcp(s, libc::TCP_FASTOPEN, 16)
    })?;
    let to = listener.local_addr()?;
    let serve = thread::spawn(move || -> Result<()> {
        for _ in 0..3 {
            let stream = mptcp::accept(&listener)?;
            mptcp::receive(&stream, 7, LENGTH)?;
            // The stock kernel never pushes a reply that is written before the third ACK came.
            thread::sleep(Duration::from_millis(200));
            mptcp::send(&stream, 8, LENGTH)?;
            mptcp::receive_end(&stream)?;
        }
        Ok(())
    });
    let mut early = 0;
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    for _ in 0..3 {
        let stream = mptcp::connect_with(&pair.client, to, |s| {
            mptcp::set_tcp(s, TCP_FASTOPEN_CONNECT, 1)
        })?;
        mptcp::send(&stream, 7, LENGTH)?;
        if let Err(error) = mptcp::receive(&stream, 8, LENGTH) {
            let server = serve.join().unwrap_or_else(|_| bail!("panicked"));
            bail!(
                "client: {error:#}; server: {server:?}; the segments were\n{}",
                wire::list(capture.segments()?)
            );
        }
        let trace = Trace::take(&mut capture, stream.local_addr()?)?;
        let syn = trace.syn()?;
        early += usize::from(!syn.payload.is_empty());
        ensure!(
            Info::of(&stream)?.is_some() == syn.mp_capable()?.is_some(),
            "MPTCP? {:?}, with\n{}",
            Info::of(&stream)?,
            wire::list(&trace.segments)
        );
    }
    serve
        .join()
        .unwrap_or_else(|_| bail!("the server panicked"))?;
    ensure!(early > 0, "no SYN carried data");
    Ok(())
}

fn reuseport(mode: Mode) -> Result<()> {
    const LISTENERS: usize = 4;
    const CONNECTIONS: usize = 40;

    let pair = Pair::with_mode(mode)?;
    with_cookies(&pair, || {
        let mut at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
        let mut used = [0; LISTENERS];
        let (sender, accepted) = mpsc::channel();
        for number in 0..LISTENERS {
            let listener = mptcp::listen_with(&pair.server, at, |s| s.set_reuse_port(true))?;
            at = listener.local_addr()?;
            let sender = sender.clone();
            // Ends with the namespace's last socket; accept() has a time limit.
            thread::spawn(move || {
                while let Ok(stream) = mptcp::accept(&listener) {
                    if sender.send((number, stream)).is_err() {
                        return;
                    }
                }
            });
        }
        for seed in 0..CONNECTIONS as u64 {
            let client = mptcp::connect(&pair.client, at)?;
            mptcp::send(&client, seed, 100)?;
            let (number, server) = accepted
                .recv_timeout(mptcp::PATIENCE)
                .context("nobody accepted")?;
            used[number] += 1;
            mptcp::receive(&server, seed, 100)?;
            for (end, stream) in [("client", &client), ("server", &server)] {
                ensure!(
                    Info::of(stream)?.is_some(),
                    "plain TCP at the {end} of connection {seed}"
                );
            }
        }
        ensure!(
            used.iter().filter(|n| **n > 0).count() > 1,
            "listeners took {used:?}"
        );
        let refused = pair.server.counters()?.get("MPCapableCookieNotOwn")?;
        ensure!(refused == 0, "{refused} third ACKs were refused");
        Ok(())
    })
}

/// A connection that carried a byte each way, its keys, and what passed.
struct Open {
    client: TcpStream,
    server: TcpStream,
    keys: Keys,
    capture: Capture,
}

fn open(pair: &Pair, mode: Mode) -> Result<Open> {
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let listener = mptcp::listen(&pair.server, at)?;
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    let client = mptcp::connect(&pair.client, listener.local_addr()?)?;
    mptcp::send(&client, 1, 10)?;
    let server = mptcp::accept(&listener)?;
    mptcp::receive(&server, 1, 10)?;
    mptcp::send(&server, 2, 10)?;
    mptcp::receive(&client, 2, 10)?;
    let keys = Trace::take(&mut capture, client.local_addr()?)?
        .check(&outcome(mode, mode))?
        .context("plain TCP")?;
    Ok(Open {
        client,
        server,
        keys,
        capture,
    })
}

fn fastclose(mode: Mode, by_client: bool) -> Result<()> {
    let pair = Pair::with_mode(mode)?;
    let Open {
        client,
        server,
        keys,
        mut capture,
    } = open(&pair, mode)?;
    let name = client.local_addr()?;
    let (closer, mut other, key) = if by_client {
        (client, server, keys.server)
    } else {
        (server, client, keys.client)
    };
    // Closing with unread data is an abort.
    other.write_all(b"unread")?;
    let start = Instant::now();
    let mut peeked = [0];
    ensure!(closer.peek(&mut peeked)? == 1, "nothing to leave unread");
    drop(closer);

    let error = other
        .read(&mut [0; 16])
        .err()
        .context("the other side saw no error")?;
    ensure!(
        error.kind() == std::io::ErrorKind::ConnectionReset,
        "the other side saw {error}"
    );
    ensure!(
        start.elapsed() < Duration::from_secs(20),
        "it took {:?}",
        start.elapsed()
    );
    let segments = capture.connection(name)?;
    let option = segments.iter().flat_map(|s| s.mptcp(MP_FASTCLOSE)).next();
    let option =
        option.with_context(|| format!("no MP_FASTCLOSE among {} segments", segments.len()))?;
    ensure!(
        option.len() == 12 && option[4..] == key.to_be_bytes(),
        "MP_FASTCLOSE {option:02x?}, the peer's key field is {key:#x}"
    );
    Ok(())
}

fn tokens(mode: Mode) -> Result<()> {
    let pair = Pair::with_mode(mode)?;
    let mut monitor = pair
        .client
        .command("ip")
        .args(["mptcp", "monitor"])
        .stdout(Stdio::piped())
        .spawn()
        .context("ip mptcp monitor")?;
    let result = shown_tokens(&pair, mode, monitor.stdout.take().context("no output")?);
    monitor.kill()?;
    monitor.wait()?;
    result
}

fn shown_tokens(pair: &Pair, mode: Mode, monitor: impl Read + Send + 'static) -> Result<()> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(monitor).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    // The monitor has to subscribe before the connection is made.
    thread::sleep(Duration::from_millis(1_000));
    let open = open(pair, mode)?;
    for (end, netns, stream, key) in [
        ("client", &pair.client, &open.client, open.keys.client),
        ("server", &pair.server, &open.server, open.keys.server),
    ] {
        let info = Info::of(stream)?.context("plain TCP")?;
        if mode != Mode::Stock {
            ensure!(
                info.token == wire::token(key),
                "the {end}'s token {:#x}, key field {key:#x}",
                info.token
            );
        }
        let full = Info::full(stream)?;
        ensure!(
            full.token == info.token,
            "MPTCP_FULL_INFO has token {:#x}",
            full.token
        );
        let hex = format!("{:x}", info.token);
        for args in [["-M", "-ain"], ["-t", "-ien"]] {
            let text = output(netns.command("ss").args(args))?;
            ensure!(
                text.contains(&hex),
                "ss {args:?} in the {end}'s namespace doesn't show {hex}:\n{text}"
            );
        }
    }
    let hex = format!(
        "{:08x}",
        Info::of(&open.client)?.context("plain TCP")?.token
    );
    let deadline = Instant::now() + mptcp::PATIENCE;
    let mut seen = String::new();
    while !(seen.contains("CREATED") && seen.contains("ESTABLISHED")) {
        let left = deadline.saturating_duration_since(Instant::now());
        seen += &lines
            .recv_timeout(left)
            .with_context(|| format!("ip mptcp monitor only showed\n{seen}"))?;
        seen.push('\n');
    }
    ensure!(
        seen.lines()
            .all(|line| line.contains(&format!("token={hex}"))),
        "ip mptcp monitor doesn't show token {hex}:\n{seen}"
    );
    Ok(())
}

/// A second parser that isn't ours either.
fn tshark() -> Result<()> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let file = "/tmp/dc-test.pcap";
    let mut dump = pair
        .client
        .command("tcpdump")
        .args([
            "-i",
            CLIENT_DEV,
            "--immediate-mode",
            "-U",
            "-w",
            file,
            "tcp",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .context("tcpdump")?;
    // It says so when it listens.
    let mut line = String::new();
    BufReader::new(dump.stderr.take().context("no output")?).read_line(&mut line)?;
    let connection = Connection::run(&pair, Family::V4);
    thread::sleep(Duration::from_millis(500));
    // Interrupted, it writes what it has.
    // SAFETY: The process is ours and not waited for yet.
    unsafe { libc::kill(dump.id() as i32, libc::SIGINT) };
    dump.wait()?;
    let keys = connection?
        .check(&outcome(Mode::Offer, Mode::Offer))?
        .context("plain TCP")?;

    let mut fields = pair.client.command("tshark");
    fields.args([
        "-r",
        file,
        "-Y",
        "tcp.options.mptcp.subtype == 0",
        "-T",
        "fields",
    ]);
    for field in [
        "tcp.flags",
        "tcp.options.mptcp.version",
        "tcp.options.mptcp.sendkey",
        "tcp.options.mptcp.recvkey",
    ] {
        fields.args(["-e", field]);
    }
    let text = output(&mut fields)?;
    let mut rows = text
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let same = |text: &str, key: u64| {
        text.parse() == Ok(key) || u64::from_str_radix(text.trim_start_matches("0x"), 16) == Ok(key)
    };
    let syn = rows.next().context("tshark sees no MP_CAPABLE")?;
    ensure!(
        syn[0].ends_with(&format!("{SYN:x}")) && syn[1] == "15",
        "SYN: {syn:?}"
    );
    let syn_ack = rows.next().context("no SYN/ACK")?;
    ensure!(
        syn_ack[1] == "15" && same(syn_ack[2], keys.server),
        "SYN/ACK: {syn_ack:?}, {keys:x?}"
    );
    let ack = rows.next().context("no ACK")?;
    ensure!(
        ack[1] == "15" && same(ack[2], keys.client) && same(ack[3], keys.server),
        "ACK: {ack:?}, {keys:x?}"
    );
    Ok(())
}
