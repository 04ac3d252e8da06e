// SPDX-License-Identifier: GPL-2.0

//! MP_CAPABLE in every length, version and with every flag, doubled and among other options, from a peer without
//! scruples. Where the version isn't 15, the stock kernel says what is right: the same options are sent to namespaces
//! with `lowoverhead=0` first.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use socket2::Socket;

use crate::connection::Connection;
use crate::handshake::outcome;
use crate::mptcp::{self, Info};
use crate::netns::{Family, Mode, Pair, RAW_SERVER, SERVER_V4};
use crate::raw::{RawPeer, ISN};
use crate::wire::{
    mp_capable, Segment, ACK, FLAG_A, FLAG_C, FLAG_H, MPTCP, PSH, RST, SYN, V1, V15,
};
use crate::{Scale, Test};

pub fn tests(scale: Scale) -> Vec<Test> {
    // Of the 256 flag bytes, every one or every 13th: all flags change, alone and together.
    let step = scale.of(13, 13, 1);
    vec![
        Test::with_note(
            "malformed: SYN: every length, version and flag",
            LIMIT,
            move || syn(step),
        ),
        Test::new(
            "malformed: SYN: twice, cut off, among other options",
            syn_with_others,
        ),
        Test::with_note(
            "malformed: SYN/ACK: every length, version and flag",
            LIMIT,
            move || syn_ack(step),
        ),
        Test::with_note(
            "malformed: third ACK: every length and version",
            LIMIT,
            third_ack,
        ),
        Test::with_note("malformed: data: every length and version", LIMIT, data),
    ]
}

const LIMIT: Duration = Duration::from_secs(600);

/// Handshakes under way at a time.
const BATCH: usize = 64;

/// The forms to try: `(version, length, flags)`.
fn forms(versions: &[u8], flagged_lengths: &[u8], step: usize) -> Vec<(u8, u8, u8)> {
    let mut forms = Vec::new();
    for length in 2..=40 {
        for version in versions {
            forms.extend([FLAG_H, 0].map(|flags| (*version, length, flags)));
        }
    }
    for length in flagged_lengths {
        for version in [V1, V15] {
            forms.extend(
                (0..=255)
                    .step_by(step)
                    .map(|flags| (version, *length, flags)),
            );
        }
    }
    forms
}

/// An option of any length, filled with bytes that are no zero token. Below 4 bytes, what comes last is missing.
fn option((version, length, flags): (u8, u8, u8)) -> Vec<u8> {
    let mut option = mp_capable(version, flags, &[0xa5; 36]);
    option.truncate(length.into());
    option[1] = length;
    option
}

/// What the peer made of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It went on with this MP_CAPABLE: version, length, flags.
    Capable((u8, u8, u8)),
    /// It went on without.
    Plain,
    Reset,
    Silence,
}

impl Answer {
    fn of(segment: Option<&Segment>) -> Result<Self> {
        let Some(segment) = segment else {
            return Ok(Self::Silence);
        };
        if segment.flags & RST != 0 {
            return Ok(Self::Reset);
        }
        Ok(segment
            .mp_capable()?
            .map_or(Self::Plain, |capable| Self::Capable(capable.form())))
    }
}

/// A pair whose server keeps no state for SYNs.
fn stateless(mode: Mode) -> Result<Pair> {
    let pair = Pair::with_mode(mode)?;
    pair.server.set("ipv4/tcp_syncookies", 2)?;
    Ok(pair)
}

/// It still does what it should.
fn check_alive(pair: &Pair) -> Result<()> {
    Connection::run(pair, Family::V4)
        .and_then(|connection| connection.check(&outcome(Mode::Offer, Mode::Offer)))
        .context("afterwards")?;
    Ok(())
}

/// Sends a SYN with each of the options; what came back.
fn answers_to_syns(pair: &Pair, options: &[Vec<u8>]) -> Result<Vec<Answer>> {
    let listener = mptcp::listen(
        &pair.server,
        SocketAddr::new(Pair::server_addr(Family::V4), 0),
    )?;
    let to = SocketAddrV4::new(SERVER_V4, listener.local_addr()?.port());
    let mut peer = RawPeer::client(pair)?;
    let mut answers = Vec::new();
    for (batch, options) in (0..).zip(options.chunks(BATCH)) {
        let port = |at: usize| 10_000 + (batch * BATCH + at) as u16;
        peer.capture.clear()?;
        for (at, option) in options.iter().enumerate() {
            peer.send(port(at), to, SYN, (ISN, 0), option, &[])?;
        }
        let found = wait_for_all(&mut peer, options.len(), |at, s| {
            s.to.port() == port(at) && s.from.port() == to.port()
        })?;
        for segment in &found {
            answers.push(Answer::of(segment.as_ref())?);
        }
    }
    Ok(answers)
}

/// For each of `count` the first segment that is its own, if one comes soon.
fn wait_for_all(
    peer: &mut RawPeer,
    count: usize,
    is: impl Fn(usize, &Segment) -> bool,
) -> Result<Vec<Option<Segment>>> {
    let start = Instant::now();
    loop {
        let segments = peer.capture.segments()?;
        let found: Vec<_> = (0..count)
            .map(|at| segments.iter().find(|s| is(at, s)).cloned())
            .collect();
        if found.iter().all(Option::is_some) || start.elapsed() > Duration::from_secs(10) {
            return Ok(found);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn syn(step: usize) -> Result<String> {
    let versions: Vec<u8> = (0..16).collect();
    let forms = forms(&versions, &[4, 12], step);
    let options: Vec<_> = forms.iter().map(|form| option(*form)).collect();
    let stock = answers_to_syns(&stateless(Mode::Stock)?, &options)?;
    let pair = stateless(Mode::Offer)?;
    let ours = answers_to_syns(&pair, &options)?;
    for ((form, stock), ours) in forms.iter().zip(&stock).zip(&ours) {
        let (version, length, flags) = *form;
        let expected = match version {
            V15 if matches!(length, 4 | 12) && flags & !(FLAG_A | FLAG_C) == FLAG_H => {
                Answer::Capable((V15, 12, 0))
            }
            V15 => Answer::Plain,
            _ => *stock,
        };
        ensure!(
            *ours == expected,
            "{form:x?}: {ours:x?} instead of {expected:x?}; stock: {stock:x?}"
        );
    }
    check_alive(&pair)?;
    Ok(format!("{} forms", forms.len()))
}

fn syn_with_others() -> Result<()> {
    let compact = option((V15, 4, FLAG_H));
    let full = option((V15, 12, FLAG_H));
    let standard = option((V1, 4, FLAG_H));
    let of = |subtype: u8, length: usize| {
        let mut option = vec![0x5a; length];
        option[..4].copy_from_slice(&[MPTCP, length as u8, subtype << 4, 1]);
        option
    };
    let nops = vec![1; 3];
    let unknown = vec![253, 6, 1, 2, 3, 4];
    let fast_open = vec![34, 2];
    let mut cut = full.clone();
    cut.truncate(6);
    let list: Vec<(&str, Vec<&Vec<u8>>)> = vec![
        ("alone", vec![&compact]),
        ("compact twice", vec![&compact, &compact]),
        ("full, compact", vec![&full, &compact]),
        ("compact, full", vec![&compact, &full]),
        ("NOPs before and after", vec![&nops, &compact, &nops]),
        (
            "an unknown option before and after",
            vec![&unknown, &compact, &unknown],
        ),
        ("Fast Open", vec![&fast_open, &compact]),
        ("cut off", vec![&nops, &cut]),
    ];
    let mut sequences: Vec<(String, Vec<u8>)> = list
        .into_iter()
        .map(|(name, parts)| (name.into(), parts.into_iter().flatten().copied().collect()))
        .collect();
    // MP_JOIN, DSS, ADD_ADDR, REMOVE_ADDR, MP_PRIO, MP_FAIL, MP_FASTCLOSE, MP_TCPRST, in good and bad lengths.
    for subtype in 1..=8 {
        for length in [4, 8, 12, 16] {
            let other = of(subtype, length);
            sequences.push((
                format!("subtype {subtype} of {length}, then it"),
                [&other[..], &compact].concat(),
            ));
            sequences.push((
                format!("it, then subtype {subtype} of {length}"),
                [&compact[..], &other].concat(),
            ));
        }
    }
    // The stock kernel shall see version 1 where ours sees version 15, and no full SYN, which it doesn't know.
    let as_standard: Vec<Vec<u8>> = sequences
        .iter()
        .map(|(name, options)| match name.as_str() {
            "full, compact" | "compact, full" => [&standard[..], &standard].concat(),
            // Low-overhead joins have a length of their own.
            "subtype 1 of 8, then it" => [&of(1, 12)[..], &compact].concat(),
            _ => options.clone(),
        })
        .map(|mut options: Vec<u8>| {
            for at in 0..options.len().saturating_sub(3) {
                if options[at..at + 3] == [MPTCP, 4, V15] || options[at..at + 3] == [MPTCP, 12, V15]
                {
                    options[at + 2] = V1;
                }
            }
            options
        })
        .collect();
    let stock = answers_to_syns(&stateless(Mode::Stock)?, &as_standard)?;
    let pair = stateless(Mode::Offer)?;
    let own: Vec<_> = sequences
        .iter()
        .map(|(_, options)| options.clone())
        .collect();
    let ours = answers_to_syns(&pair, &own)?;
    let mut differences = String::new();
    for (((name, options), stock), ours) in sequences.iter().zip(&stock).zip(&ours) {
        let same = match (stock, ours) {
            (Answer::Capable(_), Answer::Capable(_)) => true,
            _ => stock == ours,
        };
        if !same {
            differences += &format!(
                "{name} ({options:02x?}): {ours:x?}, and stock with version 1 {stock:x?}\n"
            );
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    ensure!(
        ours[0] == Answer::Capable((V15, 12, 0)),
        "alone: {:x?}",
        ours[0]
    );

    // Of two offers, the first counts.
    let both = [
        [&compact[..], &standard].concat(),
        [&standard[..], &compact].concat(),
    ];
    let answers = answers_to_syns(&pair, &both)?;
    ensure!(
        answers
            == [
                Answer::Capable((V15, 12, 0)),
                Answer::Capable((V1, 12, FLAG_H))
            ],
        "version 15 then 1, and 1 then 15: {answers:x?}"
    );
    check_alive(&pair)
}

/// Answers the client's SYNs with each of the options; what its third ACKs said.
fn answers_to_syn_acks(pair: &Pair, options: &[Vec<u8>]) -> Result<Vec<Answer>> {
    let mut peer = RawPeer::server(pair)?;
    let mut answers = Vec::new();
    for (batch, options) in (0..).zip(options.chunks(BATCH)) {
        let port = |at: usize| 10_000 + (batch * BATCH + at) as u16;
        peer.capture.clear()?;
        let sockets = (0..options.len())
            .map(|at| start_connect(pair, RAW_SERVER, port(at)))
            .collect::<Result<Vec<_>>>()?;
        let syns = wait_for_all(&mut peer, options.len(), |at, s| {
            s.to.port() == port(at) && s.is(SYN)
        })?;
        let mut clients = Vec::new();
        for (at, (syn, option)) in syns.iter().zip(options).enumerate() {
            let syn = syn.as_ref().context("no SYN")?;
            let SocketAddr::V4(client) = syn.from else {
                bail!("a SYN from {}", syn.from);
            };
            peer.send(port(at), client, SYN | ACK, (ISN, syn.seq + 1), option, &[])?;
            clients.push((client, syn.seq));
        }
        let acks = wait_for_all(&mut peer, options.len(), |at, s| {
            s.to.port() == port(at) && s.from.ip() == *clients[at].0.ip() && s.flags & SYN == 0
        })?;
        for (at, ack) in acks.iter().enumerate() {
            answers.push(Answer::of(ack.as_ref())?);
            peer.send(
                port(at),
                clients[at].0,
                RST | ACK,
                (ISN + 1, clients[at].1 + 1),
                &[],
                &[],
            )?;
        }
        drop(sockets);
    }
    Ok(answers)
}

fn start_connect(pair: &Pair, to: Ipv4Addr, port: u16) -> Result<Socket> {
    let to = SocketAddr::from((to, port));
    let socket = mptcp::socket(&pair.client, to)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err(error).context("connect")
        }
        _ => Ok(socket),
    }
}

fn syn_ack(step: usize) -> Result<String> {
    let forms = forms(&[0, V1, 2, 14, V15], &[12], step);
    let options: Vec<_> = forms.iter().map(|form| option(*form)).collect();
    let stock = answers_to_syn_acks(&Pair::with_mode(Mode::Stock)?, &options)?;
    let pair = Pair::with_mode(Mode::Offer)?;
    let ours = answers_to_syn_acks(&pair, &options)?;
    for ((form, stock), ours) in forms.iter().zip(&stock).zip(&ours) {
        let (version, length, flags) = *form;
        let expected = match version {
            V15 if length == 12 && flags & !(FLAG_A | FLAG_C) == 0 => {
                Answer::Capable((V15, 20, flags & FLAG_A))
            }
            V15 => Answer::Plain,
            _ => *stock,
        };
        ensure!(
            *ours == expected,
            "{form:x?}: {ours:x?} instead of {expected:x?}; stock: {stock:x?}"
        );
    }
    check_alive(&pair)?;
    Ok(format!("{} forms", forms.len()))
}

const SENDER: u64 = 0x0a0b_0c0d_1122_3344;

/// A low-overhead handshake by a raw peer, up to what follows the SYN/ACK; whether it opened an MPTCP connection.
fn opens(
    pair: &Pair,
    port: u16,
    segments: impl FnOnce(&RawPeer, SocketAddrV4, &Segment, u64) -> Result<()>,
) -> Result<bool> {
    let listener = mptcp::listen(
        &pair.server,
        SocketAddr::new(Pair::server_addr(Family::V4), 0),
    )?;
    let to = SocketAddrV4::new(SERVER_V4, listener.local_addr()?.port());
    let mut peer = RawPeer::client(pair)?;
    let syn_ack = peer.syn(port, to, &mp_capable(V15, FLAG_H, &[]))?;
    let key = syn_ack
        .mp_capable()?
        .and_then(|capable| capable.sender)
        .context("no pair in the SYN/ACK")?;
    segments(&peer, to, &syn_ack, key)?;
    let opened = match mptcp::accept_within(&listener, Duration::from_millis(300))? {
        Some(stream) => Info::of(&stream)?.is_some(),
        None => false,
    };
    peer.reset(port, to, 0)?;
    Ok(opened)
}

/// An ACK's option of any form, with the right keys as far as it goes.
fn ack_option((version, length, flags): (u8, u8, u8), key: u64) -> Vec<u8> {
    let mut body = [SENDER.to_be_bytes(), key.to_be_bytes()].concat();
    body.resize(36, 0xa5);
    let mut option = mp_capable(version, flags, &body);
    option.truncate(length.into());
    option[1] = length;
    option
}

fn third_ack() -> Result<String> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let mut forms: Vec<(u8, u8, u8)> = (2..=40).map(|length| (V15, length, 0)).collect();
    forms.extend((0..=255).step_by(17).map(|flags| (V15, 20, flags)));
    forms.extend([FLAG_A, FLAG_C, FLAG_A | FLAG_C, FLAG_H, 0x40].map(|flags| (V15, 20, flags)));
    forms.extend((0..15).flat_map(|version| [(version, 20, 0), (version, 20, FLAG_H)]));
    let mut port = 3_000;
    for cookies in [0, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        for form in &forms {
            port += 1;
            let opened = opens(&pair, port, |peer, to, syn_ack, key| {
                peer.third_ack(port, to, syn_ack, &ack_option(*form, key), &[])
            })?;
            let (version, length, flags) = *form;
            let good = version == V15 && length == 20 && flags & !(FLAG_A | FLAG_C) == 0;
            // Stock code takes a version 1 ACK for what it is, and never looks at the key echoed in it.
            if *form == (V1, 20, FLAG_H) {
                continue;
            }
            ensure!(
                opened == good,
                "{form:x?} with tcp_syncookies={cookies}: an MPTCP connection? {opened}"
            );
        }
    }
    check_alive(&pair)?;
    Ok(format!("{} forms, twice", forms.len()))
}

/// Whatever it makes of it, it lives on.
fn data() -> Result<String> {
    let pair = Pair::with_mode(Mode::Offer)?;
    let mut forms: Vec<(u8, u8, u8)> = (2..=40).map(|length| (V15, length, 0)).collect();
    forms.extend((0..16).flat_map(|version| [(version, 22, 0), (version, 24, FLAG_H)]));
    let mut port = 5_000;
    for cookies in [0, 2] {
        pair.server.set("ipv4/tcp_syncookies", cookies)?;
        for form in &forms {
            port += 1;
            // After a good third ACK, and instead of one.
            let with_ack = port % 2 == 0;
            opens(&pair, port, |peer, to, syn_ack, key| {
                if with_ack {
                    peer.third_ack(port, to, syn_ack, &ack_option((V15, 20, 0), key), &[])?;
                }
                let option = ack_option(*form, key);
                for payload in [&b"first"[..], b"second"] {
                    peer.send(
                        port,
                        to,
                        ACK | PSH,
                        (ISN + 1, syn_ack.seq + 1),
                        &option,
                        payload,
                    )?;
                }
                Ok(())
            })?;
        }
    }
    check_alive(&pair)?;
    Ok(format!("{} forms, twice", forms.len()))
}
