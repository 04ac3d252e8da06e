// SPDX-License-Identifier: GPL-2.0

//! MP_JOINs that should not be: every length, twice and beside others, in every segment, with tokens of others. The
//! stock kernel says what is right: the same options go to a standard connection in namespaces with `lowoverhead=0`
//! first, and the answer, the stack's counters and what was accepted must be the same. The connection that was to be
//! joined carries data afterwards.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::handshake::Keys;
use crate::joinable::{limit_all, mp_join, Joinable, JOIN, JOIN_ANSWER};
use crate::mptcp;
use crate::netns::{output, Counters, Family, Mode, Pair, RAW_SERVER};
use crate::raw::{RawPeer, ISN};
use crate::wire::{Segment, ACK, DSS, MPTCP, MP_JOIN, MP_PRIO, MP_TCPRST, PSH, RST, SYN};
use crate::{Scale, Test};

const LIMIT: Duration = Duration::from_secs(600);

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    for setting in SETTINGS {
        for place in Place::ALL {
            if place.depends_on(setting, scale) {
                tests.push(Test::with_note(
                    format!("hostile joins: {}: {}", setting.name(), place.name()),
                    LIMIT,
                    move || everywhere(setting, place, scale),
                ));
            }
        }
        tests.push(Test::new(
            format!("hostile joins: {}: tokens of others", setting.name()),
            move || tokens_of_others(setting),
        ));
    }
    tests.push(Test::with_note(
        "hostile joins: SYN/ACK",
        LIMIT,
        move || syn_acks(scale),
    ));
    tests
}

/// What decides whether a server keeps state for a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Setting {
    tcp_syncookies: u8,
    stateless_join: u8,
}

const SETTINGS: [Setting; 4] = [
    Setting::new(0, 0),
    Setting::new(1, 0),
    Setting::new(2, 0),
    Setting::new(1, 1),
];

impl Setting {
    const fn new(tcp_syncookies: u8, stateless_join: u8) -> Self {
        Self {
            tcp_syncookies,
            stateless_join,
        }
    }

    fn name(self) -> String {
        let Self {
            tcp_syncookies,
            stateless_join,
        } = self;
        format!("tcp_syncookies={tcp_syncookies}, stateless_join={stateless_join}")
    }

    /// Whether joins of ours are answered with a SYN cookie.
    fn is_stateless(self) -> bool {
        self.tcp_syncookies == 2 || self.stateless_join == 1
    }

    /// The stock kernel's that is most like it, for a SYN or for what comes after.
    fn stock(self, place: Place) -> Self {
        match place {
            Place::Syn => Self::new(self.tcp_syncookies, 0),
            _ if self.is_stateless() => Self::new(2, 0),
            _ => self,
        }
    }
}

/// How a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Standard,
    LowOverhead,
    External,
}

impl Kind {
    /// Length of the MP_JOIN in the third ACK.
    fn ack_length(self) -> u8 {
        match self {
            Self::Standard => 24,
            Self::LowOverhead => JOIN,
            Self::External => 28,
        }
    }
}

/// The segment that carries hostile options; those before it are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Syn,
    Ack,
    /// Data in the place of the third ACK.
    AckData,
    /// Data after it.
    Data,
    /// ACK and data when the subflow is established.
    Later,
}

impl Place {
    const ALL: [Self; 5] = [Self::Syn, Self::Ack, Self::AckData, Self::Data, Self::Later];

    fn name(self) -> &'static str {
        match self {
            Self::Syn => "SYN",
            Self::Ack => "third ACK",
            Self::AckData => "data in the place of the third ACK",
            Self::Data => "data after the third ACK",
            Self::Later => "ACK and data when established",
        }
    }

    fn has_data(self) -> bool {
        matches!(self, Self::AckData | Self::Data | Self::Later)
    }

    /// Whether what comes of it may be other than with the settings before, and on other code.
    fn depends_on(self, setting: Setting, scale: Scale) -> bool {
        // With tcp_syncookies=1 alone, cookies are for a full backlog.
        let same = setting == Setting::new(1, 0);
        match self {
            Self::Syn if scale == Scale::Quick => setting == SETTINGS[0] || setting == SETTINGS[3],
            Self::Ack if scale == Scale::Quick => setting == SETTINGS[0] || setting == SETTINGS[2],
            Self::Syn | Self::Ack => !same,
            Self::AckData if scale != Scale::Quick => {
                setting == SETTINGS[0] || setting == SETTINGS[2]
            }
            Self::AckData | Self::Data | Self::Later => setting == SETTINGS[0],
        }
    }
}

/// The key of external-key connections.
const KEY: [u8; 32] = [0x6b; 32];
/// `Rand_A` of the raw peer, and its address ID.
const NONCE: [u8; 4] = [0xa5; 4];
const ADDRESS_ID: u8 = 9;

/// Part of a segment's options.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// An MP_JOIN of this length: token, then bytes that are no HMAC.
    Join {
        length: u8,
        backup: bool,
        token: Token,
    },
    /// The MP_JOIN that ends the handshake as it should.
    Right,
    /// Of another kind or subtype.
    Other(&'static [u8]),
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join {
                length,
                backup,
                token,
            } => {
                let backup = if *backup { "B" } else { "" };
                write!(f, "{length}{backup} {token:?}")
            }
            Self::Right => f.write_str("right"),
            Self::Other(bytes) => write!(f, "{bytes:02x?}"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Right,
    /// Nobody's.
    Wrong,
    Is(u32),
}

impl Token {
    /// The token, for a connection with the token `right`.
    fn of(self, right: u32) -> u32 {
        match self {
            Self::Right => right,
            Self::Wrong => right ^ 0x0f00,
            Self::Is(token) => token,
        }
    }
}

/// A form as bytes, for a connection with this token. What [`Part::Right`] is depends on more than that.
fn options(form: &[Part], token: u32, right: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in form {
        match *part {
            Part::Join {
                length,
                backup,
                token: whose,
            } => {
                let third = (MP_JOIN << 4) | u8::from(backup);
                let mut option = vec![MPTCP, length, third, ADDRESS_ID];
                option.extend(whose.of(token).to_be_bytes());
                option.resize(length.max(8).into(), NONCE[0]);
                option.truncate(length.into());
                bytes.extend(option);
            }
            Part::Right => bytes.extend(right),
            Part::Other(other) => bytes.extend(other),
        }
    }
    bytes
}

/// A segment's options.
type Form = Vec<Part>;

const fn join(length: u8, token: Token) -> Part {
    Part::Join {
        length,
        backup: false,
        token,
    }
}

const NOP: Part = Part::Other(&[1]);
const UNKNOWN: Part = Part::Other(&[253, 6, 1, 2, 3, 4]);
const PRIO: Part = Part::Other(&[MPTCP, 3, MP_PRIO << 4]);
/// A data acknowledgement without mapping, of 4 bytes.
const DATA_ACK: Part = Part::Other(&[MPTCP, 8, DSS << 4, 0x01, 0, 0, 0, 1]);
/// An option that says it is longer than what follows.
const CUT: Part = Part::Other(&[MPTCP, 40, MP_JOIN << 4, 0]);

/// All forms to be tried in a segment.
fn forms(place: Place, scale: Scale) -> Vec<Form> {
    let mut forms: Vec<Form> = vec![vec![], vec![CUT], vec![PRIO], vec![UNKNOWN]];
    if place != Place::Syn {
        forms.extend([
            vec![Part::Right],
            vec![UNKNOWN, Part::Right],
            vec![Part::Right, PRIO],
            vec![DATA_ACK, Part::Right],
            vec![Part::Right, DATA_ACK],
            vec![join(24, Token::Right), DATA_ACK],
        ]);
    }
    for length in 4..=28 {
        for backup in [false, true] {
            if backup && scale == Scale::Quick && length % 4 != 0 {
                continue;
            }
            let join = Part::Join {
                length,
                backup,
                token: Token::Right,
            };
            forms.push(vec![join]);
        }
    }
    if place.has_data() {
        return forms;
    }
    let some: &[u8] = match scale {
        Scale::Quick => &[4, 8, 16, 28],
        _ => &[4, 7, 8, 9, 12, 16, 20, 24, 28],
    };
    for &length in some {
        forms.push(vec![join(length, Token::Wrong)]);
        if length <= 20 {
            forms.push(vec![join(length, Token::Right); 2]);
        }
        // One that is good in its place, behind one that may not be, and before.
        for good in [8, 12] {
            if length + good <= 40 && length != good {
                forms.push(vec![join(length, Token::Right), join(good, Token::Right)]);
                forms.push(vec![join(good, Token::Right), join(length, Token::Right)]);
            }
        }
    }
    for length in [8, 12] {
        let (right, wrong) = (join(length, Token::Right), join(length, Token::Wrong));
        forms.extend([
            vec![right, wrong],
            vec![wrong, right],
            vec![NOP, NOP, right, NOP],
            vec![UNKNOWN, right, UNKNOWN],
            vec![right, PRIO],
            vec![PRIO, right],
            vec![join(length, Token::Is(0))],
            vec![right, CUT],
            vec![right; 3],
        ]);
    }
    forms
}

/// What came of a hostile segment.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    answer: Answer,
    /// It made a subflow. Of data, the stack's counters tell.
    joined: bool,
    /// It made a connection of its own.
    accepted: bool,
    /// By how much the stack's counters grew that joins move.
    counted: Counted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Silence,
    /// A SYN/ACK with an MP_JOIN, or without.
    Join,
    Plain,
    /// A reset, with what MP_TCPRST says.
    Reset(Option<Vec<u8>>),
    /// Anything else, by the subtypes of its MPTCP options.
    Ack(Vec<u8>),
}

impl Answer {
    /// What the first of these segments says, or the first reset among them.
    fn of(segments: &[&Segment]) -> Self {
        let reset = segments.iter().find(|s| s.flags & RST != 0);
        let Some(segment) = reset.or(segments.first()) else {
            return Self::Silence;
        };
        if segment.flags & RST != 0 {
            Self::Reset(segment.mptcp(MP_TCPRST).next().map(<[u8]>::to_vec))
        } else if segment.is(SYN | ACK) {
            match segment.mptcp(MP_JOIN).next() {
                Some(_) => Self::Join,
                None => Self::Plain,
            }
        } else {
            let mptcp = segment.options.iter().filter(|option| option[0] == MPTCP);
            Self::Ack(mptcp.map(|option| option[2] >> 4).collect())
        }
    }
}

/// By how much counters grew: those that did.
fn growth(before: &Counters, after: &Counters) -> Counted {
    let grown = after.names().filter_map(|name| {
        let grew = after.since(before, name).ok()?;
        (grew > 0).then(|| (name.to_owned(), grew))
    });
    grown.collect()
}

type Counted = BTreeMap<String, u64>;

/// A connection, and a peer without scruples that would join it.
struct Target {
    pair: Pair,
    kind: Kind,
    joinable: Joinable,
    keys: Keys,
    peer: RawPeer,
    to: SocketAddrV4,
    port: u16,
    /// The stack's counters and the module's, when last read.
    counters: [Counters; 2],
}

impl Target {
    /// Of that kind, at a server in `mode`.
    fn new(kind: Kind, mode: Mode, setting: Setting) -> Result<Self> {
        let pair = Pair::new()?;
        mode.apply(&pair.server)?;
        pair.server
            .set("ipv4/tcp_syncookies", setting.tcp_syncookies)?;
        pair.server
            .set("mptcp_dc/stateless_join", setting.stateless_join)?;
        for end in pair.ends() {
            limit_all(end, 8, 8)?;
        }
        let mut peer = RawPeer::client(&pair)?;
        let joinable = connect(&pair, kind)?;
        let keys = keys(peer.capture.segments()?, joinable.client.local_addr()?)?;
        let to = joinable.v4_addr()?;
        let counters = [pair.server.mib()?, pair.server.counters()?];
        Ok(Self {
            pair,
            kind,
            joinable,
            keys,
            peer,
            to,
            port: 2_000,
            counters,
        })
    }

    /// The options as bytes; what [`Part::Right`] is follows from the SYN/ACK.
    fn options(&self, form: &[Part], syn_ack: Option<&Segment>) -> Result<Vec<u8>> {
        let right = match syn_ack {
            Some(syn_ack) => self.right_ack(syn_ack)?,
            None => Vec::new(),
        };
        Ok(options(form, self.joinable.token()?, &right))
    }

    /// The SYN as it should be.
    fn right_syn(&self) -> Form {
        vec![join(
            match self.kind {
                Kind::LowOverhead => JOIN,
                Kind::Standard | Kind::External => 12,
            },
            Token::Right,
        )]
    }

    /// The MP_JOIN of the third ACK as it should be.
    fn right_ack(&self, syn_ack: &Segment) -> Result<Vec<u8>> {
        let answer = syn_ack.mptcp(MP_JOIN).next().context("no MP_JOIN")?;
        let keys = [self.keys.client, self.keys.server]
            .map(u64::to_be_bytes)
            .concat();
        let token = self.joinable.token()?;
        if self.kind == Kind::LowOverhead {
            return Ok(mp_join(token));
        }
        let nonces = [&NONCE[..], answer.get(12..16).context("no nonce")?].concat();
        Ok(if self.kind == Kind::Standard {
            let hmac = hmac_sha256(&keys, &nonces)?;
            [&[MPTCP, 24, MP_JOIN << 4, 0][..], &hmac[..20]].concat()
        } else {
            let hmac = hmac_sha256(&KEY, &[keys, nonces].concat())?;
            let start = [MPTCP, 28, MP_JOIN << 4, ADDRESS_ID];
            [&start[..], &token.to_be_bytes(), &NONCE, &hmac[..16]].concat()
        })
    }

    /// What comes of `form` in `place`, from a fresh port, and by how much the module's counters grew.
    fn attack(&mut self, place: Place, form: &[Part]) -> Result<(Outcome, Counted)> {
        self.port += 1;
        let (port, to) = (self.port, self.to);
        let subflows = self.joinable.subflows()?;
        let mut syn_ack = None;
        if place != Place::Syn {
            let options = self.options(&self.right_syn(), None)?;
            let answer = self.peer.syn(port, to, &options)?;
            if matches!(place, Place::Data | Place::Later) {
                let options = self.right_ack(&answer)?;
                self.peer.third_ack(port, to, &answer, &options, &[])?;
                self.joinable.wait_for_subflows(subflows + 1)?;
            }
            syn_ack = Some(answer);
        }
        let options = self.options(form, syn_ack.as_ref())?;
        let numbers = match &syn_ack {
            Some(syn_ack) => (ISN + 1, syn_ack.seq + 1),
            None => (ISN, 0),
        };
        if place == Place::Later {
            // The first data acknowledgement ends the handshake for good.
            let options = self.options(&[DATA_ACK], None)?;
            self.peer.send(port, to, ACK, numbers, &options, &[])?;
        }
        let segments: &[(u8, &[u8])] = match place {
            Place::Syn => &[(SYN, b"")],
            Place::Ack => &[(ACK, b"")],
            Place::AckData | Place::Data => &[(ACK | PSH, b"hostile")],
            Place::Later => &[(ACK, b""), (ACK | PSH, b"hostile")],
        };
        self.peer.capture.clear()?;
        for (flags, payload) in segments {
            self.peer
                .send(port, to, *flags, numbers, &options, payload)?;
        }
        self.peer.fence(*to.ip())?;

        let mut accepted = false;
        while mptcp::accept_within(&self.joinable.listener, Duration::ZERO)?.is_some() {
            accepted = true;
        }
        let after = [self.pair.server.mib()?, self.pair.server.counters()?];
        let mut counted = growth(&self.counters[0], &after[0]);
        counted.retain(|name, _| name.contains("Join") || name.contains("MPRst"));
        let own = growth(&self.counters[1], &after[1]);
        self.counters = after;
        let segments = self.peer.capture.segments()?;
        let answers: Vec<_> = segments
            .iter()
            .filter(|s| s.to.port() == port && s.from.port() == to.port())
            .collect();
        let outcome = Outcome {
            answer: Answer::of(&answers),
            joined: !place.has_data() && self.joinable.subflows()? > subflows,
            accepted,
            counted,
        };
        // Whatever is left of it goes.
        for sent in [0, 7] {
            self.peer.reset(port, to, sent)?;
        }
        if place.has_data() {
            // A subflow that is reset with bytes nobody can take stays, as far as the stack is concerned.
            if self.joinable.subflows()? > 5 {
                self.joinable = connect(&self.pair, self.kind)?;
                let client = self.joinable.client.local_addr()?;
                self.keys = keys(self.peer.capture.segments()?, client)?;
                self.to = self.joinable.v4_addr()?;
            }
        } else {
            let start = Instant::now();
            while self.joinable.subflows()? > subflows {
                ensure!(start.elapsed() < mptcp::PATIENCE, "the subflow stays");
                sleep(Duration::from_millis(1));
            }
        }
        Ok((outcome, own))
    }

    /// What is left of a handshake whose hostile segment gets no answer.
    fn dropped(&self, place: Place) -> Result<Outcome> {
        ensure!(matches!(place, Place::Ack | Place::AckData), "{place:?}");
        let syn = [("MPJoinSynRx".to_owned(), 1)];
        Ok(Outcome {
            answer: Answer::Silence,
            joined: false,
            accepted: false,
            counted: syn.into(),
        })
    }

    /// The connection still does what it should, and takes joins that are right.
    fn check_alive(&mut self) -> Result<()> {
        self.joinable.exchange().context("afterwards")?;
        let (outcome, _) = self.attack(Place::Ack, &[Part::Right])?;
        ensure!(outcome.joined, "afterwards, the right join: {outcome:?}");
        self.joinable.exchange().context("after a right join")
    }
}

/// The key fields of the connection of the end `client`.
fn keys(segments: &[Segment], client: SocketAddr) -> Result<Keys> {
    let of = segments.iter().filter(|s| s.from == client);
    let ack = of
        .filter_map(|s| s.mp_capable().ok().flatten())
        .find(|option| option.length >= 20)
        .context("no third ACK")?;
    Ok(Keys {
        client: ack.sender.context("no key")?,
        server: ack.receiver.context("no key")?,
    })
}

/// A connection of that kind to a server as it is set up.
fn connect(pair: &Pair, kind: Kind) -> Result<Joinable> {
    let offer = match kind {
        Kind::Standard | Kind::External => Mode::Stock,
        Kind::LowOverhead => Mode::Offer,
    };
    offer.apply(&pair.client)?;
    let at = Pair::server_addr(Family::V4);
    let joinable = Joinable::with(pair, SocketAddr::new(at, 0), at, |socket| match kind {
        Kind::External => mptcp_dc::enable_app_key(socket, true).map_err(std::io::Error::other),
        _ => Ok(()),
    })?;
    if kind == Kind::External {
        mptcp_dc::set_key(&joinable.client, &KEY)?;
        mptcp_dc::set_key(&joinable.server, &KEY)?;
    }
    joinable.exchange()?;
    let token = joinable.token()?;
    let info = mptcp_dc::info(&joinable.server);
    ensure!(
        token != 0 && (kind == Kind::Standard || info.is_ok_and(|info| info.mode == mode_of(kind))),
        "this is no {kind:?}"
    );
    Ok(joinable)
}

fn mode_of(kind: Kind) -> mptcp_dc::Mode {
    match kind {
        Kind::Standard => mptcp_dc::Mode::Standard,
        Kind::LowOverhead => mptcp_dc::Mode::LowOverhead,
        Kind::External => mptcp_dc::Mode::ExternalKey,
    }
}

fn hmac_sha256(key: &[u8], message: &[u8]) -> Result<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key)?;
    mac.update(message);
    Ok(mac.finalize().into_bytes().into())
}

/// What is to come of a form.
enum Expected {
    /// What comes of this form for a standard connection with the stock kernel.
    Stock(Form),
    /// Nothing, and no answer.
    Drop,
}

/// The first MPTCP option, if it is an MP_JOIN that can be read: length, backup bit, token, and whether it ends a
/// handshake of ours as it should.
fn first(kind: Kind, form: &[Part]) -> Option<(u8, bool, Token, bool)> {
    match *form
        .iter()
        .find(|part| **part != NOP && **part != UNKNOWN)?
    {
        Part::Join {
            length,
            backup,
            token,
        } => {
            let right = kind == Kind::LowOverhead && length == JOIN && token == Token::Right;
            Some((length, backup, token, right))
        }
        Part::Right => Some((
            kind.ack_length(),
            false,
            Token::Right,
            kind != Kind::Standard,
        )),
        Part::Other(_) => None,
    }
}

/// Whether the stack reads an HMAC.
fn has_hmac(form: &[Part]) -> bool {
    let mut lengths = form.iter().map_while(|part| match *part {
        Part::Join { length, .. } => Some(length),
        part => (part != CUT && part != DATA_ACK).then_some(0),
    });
    // It takes whatever has one of these lengths, in whatever segment. The first counts.
    lengths.find(|length| matches!(length, 12 | 16 | 24)) == Some(24)
}

fn expected(kind: Kind, setting: Setting, place: Place, form: &[Part]) -> Expected {
    let stock = Expected::Stock(form.to_vec());
    let first = first(kind, form).filter(|(_, _, token, _)| *token != Token::Is(0));
    if place == Place::Syn {
        let (own, backup) = match first {
            // Such a SYN has nobody's token for any other connection.
            Some((JOIN, backup, token, _)) => {
                (kind == Kind::LowOverhead && token == Token::Right, backup)
            }
            Some((12, backup, Token::Right, _)) if kind == Kind::External => (true, backup),
            _ => return stock,
        };
        return Expected::Stock(vec![Part::Join {
            length: 12,
            backup,
            token: if own { Token::Right } else { Token::Wrong },
        }]);
    }
    let is_third = matches!(place, Place::Ack | Place::AckData);
    if is_third && setting.is_stateless() {
        // The ACK alone says what it is for.
        return match first {
            Some((_, _, _, true)) => Expected::Stock(vec![Part::Right]),
            Some((8 | 28, ..)) => Expected::Drop,
            // An HMAC for which the stack's table has no SYN.
            _ if kind != Kind::Standard && has_hmac(form) => Expected::Drop,
            _ => stock,
        };
    }
    match first {
        Some((_, _, _, true)) if is_third => Expected::Stock(vec![Part::Right]),
        Some((length, _, Token::Right, _))
            if kind != Kind::Standard && length == kind.ack_length() =>
        {
            // It is read, and of no use here or wrong.
            let others = form.iter().filter(|part| matches!(part, Part::Other(_)));
            let read = join(24, Token::Right);
            Expected::Stock(std::iter::once(&read).chain(others).copied().collect())
        }
        _ => stock,
    }
}

/// The counter that tells of a low-overhead connection's MP_JOIN that is wrong.
fn counter(kind: Kind, setting: Setting, place: Place, form: &[Part]) -> Option<&'static str> {
    let (length, _, token, right) = first(kind, form)?;
    let readable = length == JOIN && token != Token::Is(0);
    if kind != Kind::LowOverhead || right {
        return None;
    }
    match place {
        Place::Syn if readable => Some("MPJoinNoToken"),
        Place::Ack if readable && setting.is_stateless() => Some("MPJoinNoToken"),
        Place::Ack if !setting.is_stateless() => Some("MPJoinACKBad"),
        // Standard lengths are the stack's affair.
        _ if matches!(length, 12 | 16 | 24) => None,
        Place::Syn => Some("MPJoinSYNBad"),
        Place::Ack if length == 28 => Some("MPJoinNoToken"),
        Place::Ack => Some("MPJoinACKBad"),
        _ => None,
    }
}

fn everywhere(setting: Setting, place: Place, scale: Scale) -> Result<String> {
    let forms = forms(place, scale);
    let mut stock = Target::new(Kind::Standard, Mode::Stock, setting.stock(place))?;
    let mut known: Vec<(Form, Outcome)> = Vec::new();
    let mut differences = String::new();
    let mut uncounted = 0;
    for kind in [Kind::LowOverhead, Kind::Standard, Kind::External] {
        // Joins of standard connections are answered with a cookie where the stack would.
        if kind == Kind::Standard
            && (scale == Scale::Quick || setting.stateless_join == 1 && place != Place::Syn)
        {
            continue;
        }
        let mut target = Target::new(kind, Mode::Offer, setting)?;
        for form in &forms {
            let (outcome, own) = target
                .attack(place, form)
                .with_context(|| format!("{kind:?} {form:?}"))?;
            let (right, as_what) = match expected(kind, setting, place, form) {
                Expected::Drop => (target.dropped(place)?, Vec::new()),
                Expected::Stock(form) => {
                    let right = match known.iter().find(|(known, _)| *known == form) {
                        Some((_, right)) => right.clone(),
                        None => stock.attack(place, &form).map(|(outcome, _)| outcome)?,
                    };
                    known.push((form.clone(), right.clone()));
                    (right, form)
                }
            };
            if outcome != right {
                differences += &format!(
                    "{kind:?} {form:?}: {outcome:?}, counted {own:?}\n  not as {as_what:?} on stock: {right:?}\n"
                );
            }
            if let Some(name) = counter(kind, setting, place, form) {
                if !own.contains_key(name) {
                    differences +=
                        &format!("{kind:?} {form:?}: {name} stands still, but {own:?}\n");
                }
            }
            uncounted += usize::from(own.is_empty() && outcome.counted.is_empty());
        }
        target.check_alive()?;
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(format!(
        "{} forms; {uncounted} outcomes moved no counter",
        forms.len()
    ))
}

/// Whose token a join may have that it should not have.
fn tokens_of_others(setting: Setting) -> Result<()> {
    let mut stock = Target::new(Kind::Standard, Mode::Stock, setting.stock(Place::Syn))?;
    let (unknown, _) = stock.attack(Place::Syn, &[join(12, Token::Wrong)])?;
    let mut stock = Target::new(Kind::Standard, Mode::Stock, setting.stock(Place::Ack))?;
    let (no_join, _) = stock.attack(Place::Ack, &[])?;
    let (wrong_join, _) = stock.attack(Place::Ack, &[join(24, Token::Wrong)])?;

    let mut target = Target::new(Kind::LowOverhead, Mode::Offer, setting)?;
    let elsewhere = Target::new(Kind::LowOverhead, Mode::Offer, setting)?;
    let standard = connect(&target.pair, Kind::Standard)?;
    let external = connect(&target.pair, Kind::External)?;
    let closed = connect(&target.pair, Kind::LowOverhead)?;
    let tokens = [
        ("nobody's", Token::Wrong.of(target.joinable.token()?)),
        ("another namespace's", elsewhere.joinable.token()?),
        ("a standard connection's", standard.token()?),
        ("an external-key connection's", external.token()?),
        ("a closed connection's", closed.token()?),
    ];
    close(&target.pair, closed)?;
    for (whose, token) in tokens {
        let form = [join(JOIN, Token::Is(token))];
        let check = |place, outcome: &Outcome, expected: &Outcome, own: &Counted, name: &str| {
            ensure!(
                outcome == expected && own.get(name) == Some(&1),
                "{whose}, {place:?}: {outcome:?}, not {expected:?}; {own:?}"
            );
            Ok(())
        };
        let (outcome, own) = target.attack(Place::Syn, &form)?;
        check(Place::Syn, &outcome, &unknown, &own, "MPJoinNoToken")?;
        let (outcome, own) = target.attack(Place::Ack, &form)?;
        if setting.is_stateless() {
            let dropped = target.dropped(Place::Ack)?;
            check(Place::Ack, &outcome, &dropped, &own, "MPJoinNoToken")?;
        } else {
            // What has a low-overhead token is an MP_JOIN, if not the right one.
            let expected = match whose {
                "another namespace's" => &wrong_join,
                _ => &no_join,
            };
            check(Place::Ack, &outcome, expected, &own, "MPJoinACKBad")?;
        }
    }
    // With a cookie it is the ACK that says what it is for; else it must say what the SYN said.
    let other = connect(&target.pair, Kind::LowOverhead)?;
    let form = [join(JOIN, Token::Is(other.token()?))];
    let (outcome, own) = target.attack(Place::Ack, &form)?;
    ensure!(
        !outcome.joined
            && !outcome.accepted
            && own.contains_key("MPJoinACKBad") != setting.is_stateless(),
        "another connection's: {outcome:?}, {own:?}"
    );
    target.check_alive()?;
    for joinable in [&standard, &external, &other, &elsewhere.joinable] {
        joinable.exchange()?;
    }
    Ok(())
}

/// Closes both ends, and waits until the token is gone.
fn close(pair: &Pair, joinable: Joinable) -> Result<()> {
    let token = format!("{:x}", joinable.token()?);
    drop(joinable);
    let start = Instant::now();
    while output(pair.server.command("ss").args(["-Main"]))?.contains(&token) {
        ensure!(start.elapsed() < Duration::from_secs(20), "it stays");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Answers, with each of the forms, a client that joins a connection of its own at an address that its peer announced.
fn answer_joins(kind: Kind, mode: Mode, forms: &[Form]) -> Result<Vec<(Outcome, Counted)>> {
    let pair = Pair::new()?;
    mode.apply(&pair.server)?;
    for end in pair.ends() {
        limit_all(end, 8, 8)?;
    }
    let mut peer = RawPeer::server(&pair)?;
    let joinables = forms
        .iter()
        .map(|_| connect(&pair, kind))
        .collect::<Result<Vec<_>>>()?;
    pair.server
        .ip([format!("mptcp endpoint add {RAW_SERVER} signal")])?;

    let mut outcomes = Vec::new();
    for (joinable, form) in joinables.iter().zip(forms) {
        let own = SocketAddr::from((RAW_SERVER, joinable.v4_addr()?.port()));
        let syn = peer
            .capture
            .wait_for(mptcp::PATIENCE, |s| s.to == own && s.is(SYN))?
            .context("the client doesn't join")?;
        let SocketAddr::V4(client) = syn.from else {
            bail!("a SYN from {}", syn.from);
        };
        let keys = keys(peer.capture.segments()?, joinable.client.local_addr()?)?;
        let right = right_answer(kind, keys, &syn)?;
        let options = options(form, joinable.token()?, &right);

        let before = [pair.client.mib()?, pair.client.counters()?];
        let numbers = (ISN, syn.seq + 1);
        peer.send(own.port(), client, SYN | ACK, numbers, &options, &[])?;
        peer.fence(*client.ip())?;
        let mut counted = growth(&before[0], &pair.client.mib()?);
        counted.retain(|name, _| name.contains("MPJoinSynAck") || name.contains("MPRst"));
        let grown = growth(&before[1], &pair.client.counters()?);
        let answers: Vec<_> = peer
            .capture
            .segments()?
            .iter()
            .filter(|s| s.from == syn.from && s.to == own && s.flags & SYN == 0)
            .collect();
        let answer = Answer::of(&answers);
        outcomes.push((
            Outcome {
                joined: answer == Answer::Ack(vec![MP_JOIN]),
                answer,
                accepted: false,
                counted,
            },
            grown,
        ));
    }
    for (joinable, form) in joinables.iter().zip(forms) {
        joinable
            .exchange()
            .with_context(|| format!("after {form:?}"))?;
    }
    Ok(outcomes)
}

/// The MP_JOIN that answers a SYN as it should be.
fn right_answer(kind: Kind, keys: Keys, syn: &Segment) -> Result<Vec<u8>> {
    let keys = [keys.server, keys.client].map(u64::to_be_bytes).concat();
    let join = syn.mptcp(MP_JOIN).next().context("no MP_JOIN")?;
    let hmac = match kind {
        Kind::LowOverhead => return Ok(vec![MPTCP, JOIN_ANSWER, MP_JOIN << 4, ADDRESS_ID]),
        Kind::Standard => {
            let nonces = [&NONCE, join.get(8..12).context("no nonce")?].concat();
            hmac_sha256(&keys, &nonces)?
        }
        Kind::External => {
            let nonces = [&NONCE, join.get(8..12).context("no nonce")?].concat();
            hmac_sha256(&KEY, &[keys, nonces].concat())?
        }
    };
    let start = [MPTCP, 16, MP_JOIN << 4, ADDRESS_ID];
    Ok([&start[..], &hmac[..8], &NONCE].concat())
}

/// What a client's join may be answered with.
fn answer_forms(scale: Scale) -> Vec<Form> {
    let mut forms = vec![
        vec![Part::Right],
        vec![Part::Right; 2],
        vec![UNKNOWN, NOP, Part::Right],
        vec![Part::Right, PRIO],
        vec![Part::Right, join(24, Token::Right)],
        vec![PRIO, Part::Right],
        vec![DATA_ACK, Part::Right],
        vec![],
        vec![CUT],
        vec![PRIO],
        vec![DATA_ACK],
    ];
    for length in 4..=28 {
        forms.push(vec![join(length, Token::Right)]);
    }
    // One of several forms, which all need a connection.
    let twice: &[u8] = if scale == Scale::Quick {
        &[4, 16]
    } else {
        &[4, 8, 12, 16]
    };
    for &length in twice {
        forms.push(vec![Part::Join {
            length,
            backup: true,
            token: Token::Right,
        }]);
        forms.push(vec![join(length, Token::Right); 2]);
        forms.push(vec![join(length, Token::Right), Part::Right]);
    }
    forms
}

fn syn_acks(scale: Scale) -> Result<String> {
    let forms = answer_forms(scale);
    let stock = answer_joins(Kind::Standard, Mode::Stock, &forms)?;
    ensure!(stock[0].0.joined, "stock: {:?}", stock[0]);
    let of = |form: &Form| {
        let found = forms.iter().zip(&stock).find(|(known, _)| *known == form);
        found.map(|(_, (outcome, _))| outcome)
    };
    let mut differences = String::new();
    for kind in [Kind::LowOverhead, Kind::External] {
        let ours = answer_joins(kind, Mode::Offer, &forms)?;
        for (form, (outcome, own)) in forms.iter().zip(&ours) {
            // An MP_JOIN of ours comes first, and is one of four bytes.
            let first = form.iter().find(|part| **part != NOP && **part != UNKNOWN);
            let as_stock = match (kind, first) {
                (
                    Kind::LowOverhead,
                    Some(Part::Join {
                        length: JOIN_ANSWER,
                        ..
                    }),
                )
                | (_, Some(Part::Right)) => vec![Part::Right],
                // To the stack, four bytes are none.
                (Kind::LowOverhead, _) => form
                    .iter()
                    .filter(|part| **part != Part::Right)
                    .copied()
                    .collect(),
                // It is read, but then so is the absence of its HMAC.
                (
                    Kind::External,
                    Some(Part::Join {
                        length: JOIN_ANSWER,
                        ..
                    }),
                ) => vec![join(16, Token::Right)],
                // The stack reads it, and nobody has vouched for it.
                (Kind::External, _) if of(form).is_some_and(|outcome| outcome.joined) => {
                    vec![join(16, Token::Right)]
                }
                _ => form.clone(),
            };
            let expected = of(&as_stock).with_context(|| format!("no such form: {as_stock:?}"))?;
            let backup = form
                .iter()
                .any(|part| matches!(part, Part::Join { backup: true, .. }));
            let mut outcome = outcome.clone();
            if backup && outcome.joined {
                ensure!(
                    outcome.counted.remove("MPJoinSynAckBackupRx").is_some(),
                    "{form:?}: no backup"
                );
            }
            let name = if outcome.joined {
                "MPJoinSYNACKRX"
            } else {
                "MPJoinSYNACKBad"
            };
            if outcome != *expected || !own.contains_key(name) {
                differences += &format!(
                    "{kind:?} {form:?}: {outcome:?}, counted {own:?}\n  not {expected:?}\n"
                );
            }
        }
    }
    ensure!(differences.is_empty(), "{differences}");
    Ok(format!("{} forms", forms.len()))
}
