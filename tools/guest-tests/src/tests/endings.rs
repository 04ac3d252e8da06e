// SPDX-License-Identifier: GPL-2.0

//! What is done in the middle of a handshake: every phase of it, in which a segment is on its way, times all that can end
//! low overhead or external keys meanwhile. However they are combined, the connection then carries data both ways, or is
//! reset at once.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use mptcp_dc::Mode as DcMode;
use socket2::Socket;

use crate::crowd::{Client, Crowd, ROUNDS};
use crate::gate::{Gated, Withheld};
use crate::joinable::limit_subflows;
use crate::kernel::{self, Reload};
use crate::mptcp::PATIENCE;
use crate::netns::{Family, Mode, Netns, Pair, CLIENT_DEV, SECOND_V4};
use crate::wire::{ACK, SYN};
use crate::{Scale, Test};

pub fn tests(scale: Scale) -> Vec<Test> {
    let each = scale.of(1, 3, 20);
    let mut tests = Vec::new();
    for ending in Ending::ALL {
        tests.push(Test::with_note(
            format!("{ending} in every phase of a handshake: it carries data both ways, or is reset at once"),
            Duration::from_secs(900),
            move || run(ending, each),
        ));
    }
    tests
}

/// What every segment passes while something needs it.
const HOT: [&str; 3] = [
    "mptcp_get_options",
    "mptcp_write_options",
    "mptcp_established_options",
];

/// Longer than the module lets a hook stand that nothing needs, so far as it sees: it looks every ten seconds.
const LONG: Duration = Duration::from_secs(31);

const KEY: &[u8] = b"a key that both ends have";

/// How far a connection, or its second subflow, has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    BeforeSyn,
    Syn,
    SynAck,
    Ack,
    Silent,
    FirstData,
    AfterFirstData,
    JoinSyn,
    JoinSynAck,
    JoinAck,
}

impl Phase {
    const ALL: [Self; 10] = [
        Self::BeforeSyn,
        Self::Syn,
        Self::SynAck,
        Self::Ack,
        Self::Silent,
        Self::FirstData,
        Self::AfterFirstData,
        Self::JoinSyn,
        Self::JoinSynAck,
        Self::JoinAck,
    ];

    /// Which segment is on its way.
    fn withheld(self) -> Option<Withheld> {
        let withheld: Withheld = match self {
            Self::Syn => |s, to_server| to_server && s.is(SYN),
            Self::SynAck => |s, to_server| !to_server && s.is(SYN | ACK),
            Self::Ack => |s, to_server| to_server && s.flags & SYN == 0,
            Self::FirstData => |s, _| !s.payload.is_empty(),
            Self::JoinSyn => |s, to_server| to_server && s.is(SYN) && s.from.ip() == SECOND_V4,
            Self::JoinSynAck => {
                |s, to_server| !to_server && s.is(SYN | ACK) && s.to.ip() == SECOND_V4
            }
            Self::JoinAck => {
                |s, to_server| to_server && s.flags & SYN == 0 && s.from.ip() == SECOND_V4
            }
            Self::BeforeSyn | Self::Silent | Self::AfterFirstData => return None,
        };
        Some(withheld)
    }

    fn is_join(self) -> bool {
        matches!(self, Self::JoinSyn | Self::JoinSynAck | Self::JoinAck)
    }

    /// How often its clients speak before the end.
    fn rounds(self) -> usize {
        usize::from(self == Self::AfterFirstData || self.is_join())
    }
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    OffAtClient,
    OffAtServer,
    OffAtBoth,
    Closed,
    Unloaded,
    Reloaded,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OffAtClient => "lowoverhead=0 at the client",
            Self::OffAtServer => "lowoverhead=0 at the server",
            Self::OffAtBoth => "lowoverhead=0 at both ends for half a minute",
            Self::Closed => "the listener closed",
            Self::Unloaded => "unloaded",
            Self::Reloaded => "unloaded and loaded again",
        })
    }
}

impl Ending {
    const ALL: [Self; 6] = [
        Self::OffAtClient,
        Self::OffAtServer,
        Self::OffAtBoth,
        Self::Closed,
        Self::Unloaded,
        Self::Reloaded,
    ];

    /// Whether a row can tell something.
    fn takes(self, row: &Row) -> bool {
        match self {
            // A socket that has asked for external keys would keep the hooks.
            Self::OffAtBoth => !row.external,
            // A client that waits for a server that has forgotten it waits for ever in TCP, too.
            Self::Closed => !(row.phase == Phase::Ack && row.lost && row.greets),
            _ => true,
        }
    }

    /// What becomes of connections.
    fn outcome(self, row: &Row) -> Outcome {
        let own = if row.external {
            DcMode::ExternalKey
        } else {
            DcMode::LowOverhead
        };
        let is_off = matches!(
            self,
            Self::OffAtClient | Self::OffAtServer | Self::OffAtBoth
        );
        match row.phase {
            // It asks the sysctl.
            Phase::BeforeSyn if is_off && !row.external => Outcome::Mode(DcMode::Standard),
            Phase::BeforeSyn if is_off => Outcome::Mode(own),
            // The client gives its offer up when the third SYN is unanswered.
            Phase::Syn | Phase::SynAck if is_off => Outcome::Through,
            Phase::Ack if is_off => Outcome::Mode(own),
            // Nobody accepts.
            Phase::BeforeSyn | Phase::Syn | Phase::SynAck | Phase::Ack => Outcome::Any,
            _ if is_off || self == Self::Closed => Outcome::Mode(own),
            _ => Outcome::Any,
        }
    }
}

/// What becomes of the connections of a row.
enum Outcome {
    /// They carry data, in this mode.
    Mode(DcMode),
    /// They carry data.
    Through,
    /// Or are reset.
    Any,
}

/// A case, with several clients.
struct Row {
    phase: Phase,
    external: bool,
    /// What was withheld doesn't come, but is sent again.
    lost: bool,
    /// The server speaks first.
    greets: bool,
    hall: usize,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            phase,
            external,
            lost,
            greets,
            ..
        } = self;
        let mode = if *external {
            "external keys"
        } else {
            "low overhead"
        };
        let fate = match phase.withheld() {
            Some(_) if *lost => ", lost",
            Some(_) => ", late",
            None => "",
        };
        let first = if *greets { ", the server first" } else { "" };
        write!(f, "{phase:?}{fate}, {mode}{first}")
    }
}

/// All rows at a time: what ends them is the host's.
struct Scene {
    /// For connections, and for those that a subflow joins.
    worlds: [Gated; 2],
    crowd: Crowd,
    rows: Vec<Row>,
    each: usize,
}

fn world(joins: bool) -> Result<Gated> {
    let world = Gated::new()?;
    for end in world.pair.ends() {
        Mode::Offer.apply(end)?;
        end.set("mptcp/blackhole_timeout", 0)?;
        end.set("mptcp/syn_retrans_before_tcp_fallback", 100)?;
        // What is lost is sent again every second.
        end.set("ipv4/tcp_rto_max_ms", 1_000)?;
        for retries in ["tcp_syn_retries", "tcp_synack_retries", "tcp_retries2"] {
            end.set(&format!("ipv4/{retries}"), 60)?;
        }
        if joins {
            limit_subflows(end, 1)?;
        }
    }
    if joins {
        let endpoint = format!("mptcp endpoint add {SECOND_V4} dev {CLIENT_DEV} id 7 subflow");
        world.pair.client.ip([endpoint])?;
    }
    Ok(world)
}

fn ask(socket: &Socket) -> std::io::Result<()> {
    Ok(mptcp_dc::enable_app_key(socket, true)?)
}

impl Scene {
    fn new(ending: Ending, each: usize) -> Result<Self> {
        let worlds = [world(false)?, world(true)?];
        let mut crowd = Crowd::new()?;
        let mut rows = Vec::new();
        let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
        for phase in Phase::ALL {
            let pair = &worlds[usize::from(phase.is_join())].pair;
            for number in 0..8 {
                let [external, lost, greets] = [1, 2, 4].map(|bit| number & bit != 0);
                let row = Row {
                    phase,
                    external,
                    lost,
                    greets,
                    hall: rows.len(),
                };
                if !ending.takes(&row) || lost && phase.withheld().is_none() {
                    continue;
                }
                let prepare = |socket: &Socket| if external { ask(socket) } else { Ok(()) };
                let hall = crowd.hall(&pair.server, at, greets, prepare)?;
                for _ in 0..each {
                    crowd.client(&pair.client, hall, prepare)?;
                }
                rows.push(Row { hall, ..row });
            }
        }
        Ok(Self {
            worlds,
            crowd,
            rows,
            each,
        })
    }

    fn withhold(&self, which: impl Fn(Phase) -> bool) {
        for row in self.rows.iter().filter(|row| which(row.phase)) {
            if let Some(withheld) = row.phase.withheld() {
                let port = self.crowd.address(row.hall).port();
                self.worlds[usize::from(row.phase.is_join())].withhold(port, withheld);
            }
        }
    }

    fn allow(&mut self, which: impl Fn(Phase) -> bool, rounds: usize) {
        for row in self.rows.iter().filter(|row| which(row.phase)) {
            self.crowd.allow(row.hall, rounds);
        }
    }

    /// Moves all until it is so for each row.
    fn until(&mut self, holds: impl Fn(&Row, &Crowd, usize) -> bool) -> Result<()> {
        let Self {
            worlds,
            crowd,
            rows,
            ..
        } = self;
        let left = |crowd: &Crowd| -> Vec<String> {
            let mut left = Vec::new();
            for row in rows.iter() {
                let held =
                    worlds[usize::from(row.phase.is_join())].held(crowd.address(row.hall).port());
                if !holds(row, crowd, held) {
                    left.push(format!("{row} ({held} held): {}", crowd.tally(row.hall)));
                }
            }
            left
        };
        if !crowd.run(PATIENCE, |crowd| Ok(left(crowd).is_empty()))? {
            bail!("not that far:\n{}", left(crowd).join("\n"));
        }
        Ok(())
    }

    /// Gives connections with external keys that speak already their key.
    fn set_keys(&self, which: impl Fn(Phase) -> bool) -> Result<()> {
        for row in self.rows.iter().filter(|r| r.external && which(r.phase)) {
            for served in self.crowd.served.iter().filter(|s| s.hall == row.hall) {
                mptcp_dc::set_key(&served.stream, KEY).with_context(|| format!("{row}: server"))?;
            }
            for client in self.crowd.clients.iter().filter(|c| c.hall() == row.hall) {
                mptcp_dc::set_key(&client.stream, KEY).with_context(|| format!("{row}: client"))?;
            }
        }
        Ok(())
    }

    /// Takes each row to its phase.
    fn begin(&mut self) -> Result<()> {
        let each = self.each;
        self.withhold(|phase| phase != Phase::FirstData);
        self.allow(|_| true, 0);
        for phase in Phase::ALL {
            self.allow(|p| p == phase, phase.rounds());
        }
        for client in 0..self.crowd.clients.len() {
            let hall = self.crowd.clients[client].hall();
            let mut of_hall = self.rows.iter().filter(|row| row.hall == hall);
            if of_hall.any(|row| row.phase != Phase::BeforeSyn) {
                self.crowd.connect(client)?;
            }
        }
        self.until(|row, crowd, held| match row.phase {
            Phase::BeforeSyn => true,
            Phase::Syn | Phase::SynAck => held == each,
            Phase::Ack => held == each && crowd.connected(row.hall) == each,
            phase => {
                crowd.connected(row.hall) == each
                    && crowd.accepted(row.hall) == each
                    && crowd.has_heard(row.hall, phase.rounds())
            }
        })?;
        self.set_keys(|phase| phase.rounds() > 0)?;
        self.withhold(|phase| phase == Phase::FirstData);
        self.allow(|phase| phase == Phase::FirstData, ROUNDS);
        self.until(|row, _, held| row.phase.withheld().is_none() || held == each)
    }

    fn end(&mut self, ending: Ending) -> Result<()> {
        let off = |end: fn(&Pair) -> &Netns| {
            let mut worlds = self.worlds.iter();
            worlds.try_for_each(|world| Mode::Stock.apply(end(&world.pair)))
        };
        match ending {
            Ending::OffAtClient => off(|pair| &pair.client),
            Ending::OffAtServer => off(|pair| &pair.server),
            Ending::OffAtBoth => {
                off(|pair| &pair.client)?;
                off(|pair| &pair.server)?;
                // Segments are sent again all the time.
                self.crowd.run(LONG, |_| Ok(false))?;
                Ok(())
            }
            Ending::Closed => {
                (0..self.rows.len()).for_each(|hall| self.crowd.close(hall));
                Ok(())
            }
            Ending::Unloaded => kernel::unload(),
            Ending::Reloaded => {
                kernel::unload()?;
                kernel::load()?;
                for world in &self.worlds {
                    for end in world.pair.ends() {
                        Mode::Offer.apply(end)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// These rows go on.
    fn go_on(&mut self, which: impl Fn(Phase) -> bool) -> Result<()> {
        self.crowd.connect_all()?;
        self.allow(&which, ROUNDS);
        let mut halls = Vec::new();
        for row in self.rows.iter().filter(|row| which(row.phase)) {
            let port = self.crowd.address(row.hall).port();
            self.worlds[usize::from(row.phase.is_join())].release(port, row.lost)?;
            halls.push(row.hall);
        }
        let ours = |client: &Client| halls.contains(&client.hall());
        self.crowd.run(PATIENCE, |crowd| Ok(crowd.is_over(ours)))?;
        self.worlds.iter().try_for_each(Gated::check)
    }

    /// Waits while the hooks go, or for a time if they don't.
    fn let_hooks_go(&mut self) -> Result<()> {
        self.crowd
            .run(LONG, |_| kernel::is_unhooked(&HOT))
            .map(drop)
    }

    /// How the clients of a row see their connections.
    fn modes(&self, row: &Row) -> Result<Vec<DcMode>> {
        let of_row = self.crowd.clients.iter().filter(|c| c.hall() == row.hall);
        of_row
            .map(|client| Ok(mptcp_dc::info(&client.stream)?.mode))
            .collect()
    }

    /// What is wrong with a row, if anything is.
    fn fault(&self, ending: Ending, row: &Row) -> Result<Option<String>> {
        let tally = self.crowd.tally(row.hall);
        if let Err(error) = tally.check() {
            return Ok(Some(format!("{error}")));
        }
        let outcome = ending.outcome(row);
        if !matches!(outcome, Outcome::Any) && !tally.failed.is_empty() {
            return Ok(Some(tally.to_string()));
        }
        let Outcome::Mode(expected) = outcome else {
            return Ok(None);
        };
        let modes = self.modes(row)?;
        if modes.iter().any(|mode| *mode != expected) {
            return Ok(Some(format!("{tally}; {modes:?}, not {expected:?}")));
        }
        if row.external && row.phase.rounds() == 0 {
            let mut clients = self.crowd.clients.iter().filter(|c| c.hall() == row.hall);
            let refused = clients.find_map(|c| mptcp_dc::set_key(&c.stream, KEY).err());
            return Ok(refused.map(|error| format!("{tally}; no key is taken: {error}")));
        }
        Ok(None)
    }
}

fn run(ending: Ending, each: usize) -> Result<String> {
    let mut scene = Scene::new(ending, each)?;
    scene.begin()?;
    let reload = Reload::new();
    let start = Instant::now();
    scene.end(ending).context("the ending")?;
    let took = start.elapsed().as_secs_f64();
    if ending == Ending::OffAtBoth {
        // A join under way is no reason for the hooks to stay.
        scene.go_on(|phase| !phase.is_join())?;
        scene.let_hooks_go()?;
    }
    scene.go_on(|_| true)?;
    let spent = start.elapsed().as_secs_f64() - took;

    let mut note = format!("{took:.1} s, then {spent:.1} s\n");
    let mut faults = Vec::new();
    for row in &scene.rows {
        let tally = scene.crowd.tally(row.hall);
        if let Some(fault) = scene.fault(ending, row)? {
            faults.push(format!("{row}: {fault}"));
        } else if !tally.failed.is_empty() {
            note += &format!("{row}: {tally}\n");
        }
    }
    reload.now()?;
    ensure!(
        faults.is_empty(),
        "{} of {} cases:\n{}\n{note}",
        faults.len(),
        scene.rows.len(),
        faults.join("\n")
    );
    if ending == Ending::OffAtBoth {
        kernel::wait_until_unhooked(&HOT).context("all handshakes are past")?;
    }
    Ok(note)
}
