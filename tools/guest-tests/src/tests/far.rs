// SPDX-License-Identifier: GPL-2.0

//! A peer on another host, which goes on having the module when this host's is unloaded, or when nothing here needs its
//! hooks anymore, so far as can be seen. The peer is this test, segment by segment: it does what a host with the module
//! does. Each connection goes on carrying data both ways, or is reset at once.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use mptcp_dc::Mode as DcMode;
use socket2::Socket;

use crate::kernel::{self, Reload};
use crate::mptcp;
use crate::netns::{Family, Mode, Pair, RAW_SERVER};
use crate::raw::{RawPeer, ISN};
use crate::wire::{self, mp_capable, Segment, ACK, FLAG_B, FLAG_H, MP_CAPABLE, PSH, RST, SYN, V15};
use crate::Test;

pub fn tests() -> Vec<Test> {
    Ending::ALL
        .into_iter()
        .map(|ending| {
            Test::with_note(
                format!("{ending}, the peer not: every handshake under way ends in data both ways, or in a reset"),
                Duration::from_secs(900),
                move || run(ending),
            )
        })
        .collect()
}

/// What every segment passes while something needs it.
const HOT: [&str; 3] = [
    "mptcp_get_options",
    "mptcp_write_options",
    "mptcp_established_options",
];

/// Longer than a hook stands that nothing needs, so far as the module sees: it looks every ten seconds.
const LONG: Duration = Duration::from_secs(31);

/// What comes at all comes within this time.
const SOON: Duration = Duration::from_secs(15);

const KEY: &[u8] = b"a key that both ends have";
const QUESTION: &[u8] = b"what the client says";
const ANSWER: &[u8] = b"and what the server says";

/// What happens at this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The sysctl is 0, the listeners are closed of connections that were accepted.
    Off,
    Unloaded,
    Reloaded,
}

impl Ending {
    const ALL: [Self; 3] = [Self::Off, Self::Unloaded, Self::Reloaded];
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "switched off for half a minute",
            Self::Unloaded => "unloaded",
            Self::Reloaded => "unloaded and loaded again",
        })
    }
}

/// How far the handshake has come, when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// This host is the client, and its SYN is not answered.
    ClientSyn,
    /// Its SYN was answered, but the peer has not heard what it makes of that.
    ClientAck,
    /// The peer has, and nothing since.
    ClientSilent,
    /// It has said something, which the peer has not heard.
    ClientSpoke,
    /// This host is the server, and has answered a SYN.
    ServerSynAck,
    /// It has accepted the connection of a client that has said nothing.
    ServerSilent,
}

impl Phase {
    const ALL: [Self; 6] = [
        Self::ClientSyn,
        Self::ClientAck,
        Self::ClientSilent,
        Self::ClientSpoke,
        Self::ServerSynAck,
        Self::ServerSilent,
    ];

    fn is_server(self) -> bool {
        matches!(self, Self::ServerSynAck | Self::ServerSilent)
    }
}

/// A case.
struct Row {
    phase: Phase,
    external: bool,
    /// Whoever is the server speaks first.
    server_first: bool,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.external {
            "external keys"
        } else {
            "low overhead"
        };
        let first = if self.server_first {
            "server"
        } else {
            "client"
        };
        write!(f, "{:?}, {mode}, the {first} first", self.phase)
    }
}

impl Row {
    fn all(ending: Ending) -> Vec<Self> {
        let mut rows = Vec::new();
        for phase in Phase::ALL {
            for (external, server_first) in
                [(false, false), (false, true), (true, false), (true, true)]
            {
                let row = Self {
                    phase,
                    external,
                    server_first,
                };
                // Its first words are under way.
                let has_spoken = server_first && phase == Phase::ClientSpoke;
                // A socket of this host that has asked for external keys keeps the hooks.
                let keeps = ending == Ending::Off && external && phase != Phase::ServerSilent;
                if !has_spoken && !keeps {
                    rows.push(row);
                }
            }
        }
        rows
    }
}

/// Why a connection ended.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reset")
    }
}

impl std::error::Error for Reset {}

/// The peer, and this host's end.
struct Far {
    external: bool,
    /// The peer's address, and this host's.
    own: SocketAddrV4,
    to: SocketAddrV4,
    /// This host is the server.
    is_client: bool,
    listener: Option<TcpListener>,
    local: Option<TcpStream>,
    /// The key fields.
    field: u64,
    their_field: u64,
    /// Where both count from.
    their_isn: u32,
    /// Bytes sent and heard.
    sent: u32,
    heard: u32,
    /// Both ends speak MPTCP, so far as the peer can tell.
    is_mptcp: bool,
    /// The peer is sure of that.
    is_sure: bool,
}

impl Far {
    /// Flags of its MP_CAPABLE in a SYN, and in others.
    fn flags(&self, is_syn: bool) -> u8 {
        match self.external {
            true => FLAG_B | FLAG_H,
            false if is_syn => FLAG_H,
            false => 0,
        }
    }

    fn ask(&self) -> impl Fn(&Socket) -> io::Result<()> {
        let external = self.external;
        move |socket| {
            socket.set_nonblocking(false)?;
            if external {
                mptcp_dc::enable_app_key(socket, true)?;
            }
            Ok(())
        }
    }

    /// A connection in this phase; `number` is another for each.
    fn begin(row: &Row, number: u16, pair: &Pair, peer: &mut RawPeer) -> Result<Self> {
        let own = SocketAddrV4::new(peer.address, 6_000 + number);
        let token = 0x0a0b_0000 + u64::from(number) + 1;
        let mut far = Self {
            external: row.external,
            own,
            to: own,
            is_client: row.phase.is_server(),
            listener: None,
            local: None,
            field: (token << 32) | 0x0102_0304 | u64::from(row.external),
            their_field: 0,
            their_isn: 0,
            sent: 0,
            heard: 0,
            is_mptcp: true,
            is_sure: false,
        };
        if far.is_client {
            let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
            let listener = mptcp::listen_with(&pair.server, at, far.ask())?;
            far.to = v4(listener.local_addr()?)?;
            let syn = mp_capable(V15, far.flags(true), &[]);
            let syn_ack = peer.syn(own.port(), far.to, &syn)?;
            far.their_isn = syn_ack.seq;
            far.heard_fields(&syn_ack)?;
            far.listener = Some(listener);
            if row.phase == Phase::ServerSilent {
                far.third_ack(peer)?;
                far.accept()?;
            }
        } else {
            let socket = mptcp::socket(&pair.client, own.into())?;
            far.ask()(&socket)?;
            socket.set_nonblocking(true)?;
            let _ = socket.connect(&SocketAddr::from(own).into());
            far.local = Some(socket.into());
            let syn = far.wait(peer, |s| s.is(SYN))?.context("no SYN")?;
            let capable = syn.mp_capable()?.context("a SYN without MP_CAPABLE")?;
            ensure!(
                capable.form() == (V15, 4, far.flags(true)),
                "the SYN has {capable:x?}"
            );
            far.to = v4(syn.from)?;
            far.their_isn = syn.seq;
            if row.phase != Phase::ClientSyn {
                far.answer(peer)?;
                ensure!(far.is_mptcp, "the third ACK has no MP_CAPABLE");
            }
            if row.phase == Phase::ClientSpoke {
                far.local()?.write_all(QUESTION)?;
                far.wait(peer, |s| !s.payload.is_empty())?
                    .context("it says nothing")?;
            }
        }
        Ok(far)
    }

    fn local(&self) -> Result<&TcpStream> {
        self.local.as_ref().context("it isn't accepted")
    }

    /// The first segment like this that this host sent.
    fn wait(
        &self,
        peer: &mut RawPeer,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Option<Segment>> {
        let own = SocketAddr::from(self.own);
        let ours = |s: &Segment| {
            s.to == own && (self.to == self.own || s.from == SocketAddr::from(self.to))
        };
        peer.capture.wait_for(SOON, |s| ours(s) && wanted(s))
    }

    fn send(&self, peer: &RawPeer, flags: u8, option: &[u8], payload: &[u8]) -> Result<()> {
        let seq = if flags & SYN != 0 {
            ISN
        } else {
            ISN + 1 + self.sent
        };
        let ack = self.their_isn.wrapping_add(1 + self.heard);
        peer.send(self.own.port(), self.to, flags, (seq, ack), option, payload)
    }

    fn heard_fields(&mut self, segment: &Segment) -> Result<()> {
        let capable = segment.mp_capable()?.context("no MP_CAPABLE")?;
        ensure!(
            (capable.version, capable.flags) == (V15, self.flags(false)),
            "it says {capable:x?}"
        );
        self.their_field = capable.sender.context("no key field")?;
        Ok(())
    }

    /// As a client.
    fn third_ack(&self, peer: &RawPeer) -> Result<()> {
        let fields = [self.field.to_be_bytes(), self.their_field.to_be_bytes()].concat();
        let option = mp_capable(V15, self.flags(false), &fields);
        self.send(peer, ACK, &option, &[])
    }

    fn accept(&mut self) -> Result<()> {
        let listener = self.listener.as_ref().context("no listener")?;
        self.local = mptcp::accept_within(listener, SOON)?;
        self.local()?.set_nonblocking(false)?;
        Ok(())
    }

    /// As a server: answers the SYN, and sees what the client makes of it.
    fn answer(&mut self, peer: &mut RawPeer) -> Result<()> {
        let option = mp_capable(V15, self.flags(false), &self.field.to_be_bytes());
        self.send(peer, SYN | ACK, &option, &[])?;
        let ack = self.wait(peer, |s| s.flags & SYN == 0)?;
        let ack = ack.context("the SYN/ACK has no answer")?;
        ensure!(ack.flags & RST == 0, Reset);
        match ack.mp_capable()? {
            Some(_) => self.heard_fields(&ack)?,
            None => self.is_mptcp = false,
        }
        self.local()?.set_nonblocking(false)?;
        Ok(())
    }

    fn dss(&self, map: bool, length: usize) -> Vec<u8> {
        let at = |field: u64, count: u32| wire::idsn(field).wrapping_add(1 + u64::from(count));
        let mut option = vec![wire::MPTCP, 12, wire::DSS << 4, 0x03];
        option.extend(at(self.their_field, self.heard).to_be_bytes());
        if map {
            option[1] = 26;
            option[3] = 0x0f;
            option.extend(at(self.field, self.sent).to_be_bytes());
            option.extend((1 + self.sent).to_be_bytes());
            option.extend((length as u16).to_be_bytes());
        }
        option
    }

    /// The peer says something, and this host's end hears it.
    fn say(&mut self, peer: &RawPeer, what: &[u8]) -> Result<()> {
        let length = (what.len() as u16).to_be_bytes();
        let option = match (self.is_mptcp, self.is_sure || !self.is_client) {
            (false, _) => vec![],
            (true, true) => self.dss(true, what.len()),
            (true, false) => {
                let fields = [self.field.to_be_bytes(), self.their_field.to_be_bytes()].concat();
                let body = [&fields[..], &length].concat();
                mp_capable(V15, self.flags(false), &body)
            }
        };
        self.send(peer, ACK | PSH, &option, what)?;
        self.sent += what.len() as u32;
        let mut got = vec![0; what.len()];
        let local = self.local()?;
        local.set_read_timeout(Some(SOON))?;
        match { local }.read_exact(&mut got) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bail!(Reset),
            Err(error) => return Err(error).context("this host doesn't hear"),
        }
        ensure!(got == what, "this host hears something else");
        Ok(())
    }

    /// This host says something, or has, and the peer hears it.
    fn hear(&mut self, peer: &mut RawPeer, what: &[u8], has_spoken: bool) -> Result<()> {
        if !has_spoken {
            match self.local()?.write_all(what) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => bail!(Reset),
                Err(error) => return Err(error).context("this host can't speak"),
            }
        }
        let seq = self.their_isn.wrapping_add(1 + self.heard);
        // What was sent again may have been changed since: the last counts.
        if has_spoken {
            peer.capture.clear()?;
        }
        let segment = self
            .wait(peer, |s| {
                s.flags & RST != 0 || s.seq == seq && !s.payload.is_empty()
            })?
            .context("the peer doesn't hear")?;
        ensure!(segment.flags & RST == 0, Reset);
        ensure!(segment.payload == what, "the peer hears {segment}");
        let expected = wire::idsn(self.their_field).wrapping_add(1 + u64::from(self.heard));
        // This host can't know yet what became of it.
        let is_first = self.heard == 0 && self.sent == 0;
        self.heard += what.len() as u32;
        let options = segment.options.iter().filter(|o| o[0] == wire::MPTCP);
        match (self.is_mptcp, options.count()) {
            (false, 0) => {}
            (false, _) if is_first => {}
            (true, 0) if !self.is_sure => self.is_mptcp = false,
            (true, 1) if segment.mptcp(MP_CAPABLE).count() == 1 => {
                // A client's first words.
                let capable = segment.mp_capable()?.context("no MP_CAPABLE")?;
                ensure!(
                    !self.is_sure
                        && !self.is_client
                        && capable.version == V15
                        && capable.sender == Some(self.their_field)
                        && capable.receiver == Some(self.field),
                    "the peer doesn't understand {segment}"
                );
                self.is_sure = true;
            }
            (true, _) => {
                let map = segment.dss()?.and_then(|dss| dss.map);
                ensure!(
                    map.is_some_and(|map| map.data_seq == expected),
                    "the peer doesn't understand {segment}"
                );
                self.is_sure = true;
            }
            (false, _) => bail!("the peer, which has plain TCP, hears {segment}"),
        }
        let option = if self.is_mptcp {
            self.dss(false, 0)
        } else {
            vec![]
        };
        self.send(peer, ACK, &option, &[])
    }

    /// Goes on, after what has happened, as if nothing had.
    fn go_on(&mut self, row: &Row, peer: &mut RawPeer) -> Result<()> {
        match row.phase {
            Phase::ClientSyn => self.answer(peer)?,
            Phase::ClientAck => {
                // It was lost.
                peer.capture.clear()?;
                self.answer(peer)?;
            }
            Phase::ServerSynAck => {
                self.third_ack(peer)?;
                if let Err(error) = self.accept() {
                    let reset = peer
                        .capture
                        .segments()?
                        .iter()
                        .any(|s| s.to == SocketAddr::from(self.own) && s.flags & RST != 0);
                    return if reset { bail!(Reset) } else { Err(error) };
                }
            }
            _ => {}
        }
        let mut has_spoken = row.phase == Phase::ClientSpoke;
        for _ in 0..2 {
            for server_speaks in [row.server_first, !row.server_first] {
                let what = if server_speaks { ANSWER } else { QUESTION };
                if server_speaks == self.is_client {
                    self.hear(peer, what, std::mem::take(&mut has_spoken))?;
                } else {
                    self.say(peer, what)?;
                }
            }
        }
        Ok(())
    }

    /// It is what it was to become.
    fn check_mode(&self) -> Result<()> {
        let expected = if self.external {
            DcMode::ExternalKey
        } else {
            DcMode::LowOverhead
        };
        let info = mptcp_dc::info(self.local()?)?;
        ensure!(self.is_mptcp && info.mode == expected, "{info:?}");
        if self.external {
            mptcp_dc::set_key(self.local()?, KEY)?;
        }
        Ok(())
    }
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(_) => bail!("an address of another family"),
    }
}

fn run(ending: Ending) -> Result<String> {
    let pair = Pair::with_mode(Mode::Offer)?;
    for end in pair.ends() {
        end.set("mptcp/blackhole_timeout", 0)?;
        end.set("mptcp/syn_retrans_before_tcp_fallback", 100)?;
        // What is lost is sent again every second.
        end.set("ipv4/tcp_rto_max_ms", 1_000)?;
        for retries in ["tcp_syn_retries", "tcp_synack_retries", "tcp_retries2"] {
            end.set(&format!("ipv4/{retries}"), 100)?;
        }
    }
    let mut peers = [RawPeer::server(&pair)?, RawPeer::client(&pair)?];
    ensure!(peers[0].address == RAW_SERVER, "no far server");
    let mut ends = Vec::new();
    for (number, row) in (0..).zip(Row::all(ending)) {
        let peer = &mut peers[usize::from(row.phase.is_server())];
        let far = Far::begin(&row, number, &pair, peer).with_context(|| row.to_string())?;
        ends.push((row, far));
    }

    let reload = Reload::new();
    match ending {
        Ending::Off => {
            for (row, far) in &mut ends {
                if row.phase == Phase::ServerSilent {
                    far.listener = None;
                }
            }
            for end in pair.ends() {
                Mode::Stock.apply(end)?;
            }
            thread::sleep(LONG);
        }
        Ending::Unloaded => kernel::unload()?,
        Ending::Reloaded => {
            kernel::unload()?;
            kernel::load()?;
            for end in pair.ends() {
                Mode::Offer.apply(end)?;
            }
        }
    }
    let (mut note, mut faults) = (String::new(), Vec::new());
    for (row, far) in &mut ends {
        let peer = &mut peers[usize::from(row.phase.is_server())];
        let start = Instant::now();
        let mut verdict = far.go_on(row, peer);
        // A client gives its offer up when the third SYN is unanswered.
        if ending == Ending::Off && row.phase != Phase::ClientSyn {
            verdict = verdict.and_then(|()| far.check_mode());
        }
        let spent = start.elapsed().as_secs_f64();
        match verdict {
            Ok(()) if far.is_mptcp => note += &format!("{row}: MPTCP, {spent:.1} s\n"),
            Ok(()) => note += &format!("{row}: plain TCP, {spent:.1} s\n"),
            Err(error) if error.is::<Reset>() && ending != Ending::Off => {
                note += &format!("{row}: reset, {spent:.1} s\n");
            }
            Err(error) => faults.push(format!("{row}: {error:#}, after {spent:.1} s")),
        }
    }
    reload.now()?;
    ensure!(
        faults.is_empty(),
        "{} of {} cases:\n{}\n{note}",
        faults.len(),
        ends.len(),
        faults.join("\n")
    );
    if ending == Ending::Off {
        // The sockets of external keys are reasons, too.
        ends.retain(|(row, _)| !row.external);
        let start = Instant::now();
        kernel::wait_until_unhooked(&HOT).context("all handshakes are past")?;
        note += &format!(
            "the hooks went {:.0} s later",
            start.elapsed().as_secs_f64()
        );
    }
    Ok(note)
}
