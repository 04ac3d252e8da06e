// SPDX-License-Identifier: GPL-2.0

//! Others trace the functions that the module takes over, in every way that the kernel has, and come and go before and after it:
//! every handshake is as without them, and they see every call.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mptcp_dc::Mode as DcMode;
use socket2::Socket;

use crate::capture::Capture;
use crate::handshake::{outcome, Protocol, Trace};
use crate::joinable::{limit_all, Joinable};
use crate::kernel;
use crate::mptcp;
use crate::netns::{Family, Mode, Pair, CLIENT_DEV, SECOND_V4, SERVER_DEV, SERVER_V4};
use crate::raw::RawPeer;
use crate::tracer::{Kind, Tracer};
use crate::wire::{self, mp_capable, FLAG_H, V1, V15};
use crate::{Scale, Test};

/// What is attached to every function, when.
#[derive(Clone, Copy, Debug)]
enum Course {
    /// The first from before loading until before unloading; the others from after loading until after unloading.
    InTurn(&'static [Kind], &'static [Kind]),
    /// From before loading until after unloading.
    Around(&'static [Kind]),
}

/// Each kind in one of them.
static SHORT: &[Course] = &[
    Course::InTurn(&[Kind::Fentry], &[Kind::Fentry, Kind::Fexit]),
    Course::InTurn(&[Kind::KprobeMulti], &[Kind::KretprobeMulti]),
    Course::InTurn(&[Kind::Kprobe], &[Kind::Kretprobe]),
    Course::InTurn(&[Kind::Fprobe], &[Kind::FprobeReturn]),
    Course::InTurn(&[Kind::FunctionGraph], &[Kind::Function]),
    ALL_AROUND,
];

const ALL_AROUND: Course = Course::Around(&Kind::ALL);

/// Each kind, and those that belong together, in all.
static LONG: &[&[Kind]] = &[
    &[Kind::Fentry],
    &[Kind::Fexit],
    &[Kind::Fentry, Kind::Fexit],
    &[Kind::KprobeMulti],
    &[Kind::KretprobeMulti],
    &[Kind::Kprobe],
    &[Kind::Kretprobe],
    &[Kind::Kprobe, Kind::Kretprobe],
    &[Kind::Fprobe],
    &[Kind::FprobeReturn],
    &[Kind::Fprobe, Kind::FprobeReturn],
    &[Kind::Function],
    &[Kind::FunctionGraph],
    &Kind::ALL,
];

pub fn tests(scale: Scale) -> Vec<Test> {
    let courses = match scale {
        Scale::Quick => vec![ALL_AROUND],
        Scale::Normal => SHORT.to_vec(),
        Scale::Long => LONG
            .iter()
            .flat_map(|&kinds| [Course::InTurn(kinds, kinds), Course::Around(kinds)])
            .collect(),
    };
    let families = match scale {
        Scale::Quick | Scale::Normal => Families::ByTurns,
        Scale::Long => Families::Both,
    };
    let mut tests = vec![Test::new(
        "tracers: a SYN of version 15 to a host that has it off, with BPF programs on subflow_check_req",
        syns_off,
    )];
    for course in courses {
        tests.push(Test::with_note(
            format!("tracers: {}", course.name()),
            Duration::from_secs(1_200),
            move || course.run(families),
        ));
    }
    tests
}

fn names(kinds: &[Kind]) -> String {
    if kinds.len() == Kind::ALL.len() {
        return "all at once".to_owned();
    }
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    names.join(" and ")
}

impl Course {
    fn name(self) -> String {
        match self {
            Self::InTurn(first, then) => format!(
                "{} from before loading until before unloading, then {} until after",
                names(first),
                names(then)
            ),
            Self::Around(kinds) => {
                format!("{} from before loading until after unloading", names(kinds))
            }
        }
    }

    fn run(self, families: Families) -> Result<String> {
        let scene = Scene::new(families)?;
        kernel::unload()?;
        let result = self.load_and_unload(&scene);
        kernel::load()?;
        Ok(format!("{} functions; {}", scene.functions.len(), result?))
    }

    /// Which tracers there were.
    fn load_and_unload(self, scene: &Scene) -> Result<String> {
        let (first, then) = match self {
            Self::InTurn(first, then) => (existing(first)?, existing(then)?),
            Self::Around(kinds) => (existing(kinds)?, vec![]),
        };
        let mut tracers = Attached::new(&first, &scene.functions)?;
        kernel::load()?;
        if matches!(self, Self::InTurn(..)) {
            drop(scene.traffic().context("traced before loading")?);
            tracers.detach_with_all_hit()?;
            tracers = Attached::new(&then, &scene.functions)?;
        }
        let live = scene.traffic().context("traced until after unloading")?;
        kernel::unload()?;
        live.iter()
            .try_for_each(exchange)
            .context("after unloading")?;
        drop(live);
        STANDARD
            .connect(&scene.pair, Family::V4)
            .context("without the module")?;
        tracers.detach_with_all_hit()?;
        let kinds = [first, then].concat();
        Ok(match kinds.as_slice() {
            [] => "this kernel has none of these tracers".to_owned(),
            kinds => kinds
                .iter()
                .map(|kind| kind.name())
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

/// What IP versions connections are made by.
#[derive(Clone, Copy, Debug)]
enum Families {
    /// Each way to make one by another.
    ByTurns,
    Both,
}

const KEY: &[u8] = b"a key that both ends have";

/// Addresses for more subflows.
const SERVER_SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 21);
const CLIENT_SECOND_V6: &str = "fd09::11";

/// Of each connection, beside the first.
const SUBFLOWS: u8 = 2;

/// A pair whose client opens a subflow for each connection from an address of its own, and one to an address that the server
/// announces.
struct Scene {
    pair: Pair,
    families: Families,
    /// All that the module ever hooks.
    functions: Vec<String>,
}

impl Scene {
    fn new(families: Families) -> Result<Self> {
        let pair = joining_pair()?;
        let functions = hooked(&pair)?;
        Ok(Self {
            pair,
            families,
            functions,
        })
    }

    /// Connections made in each way.
    fn traffic(&self) -> Result<Vec<Joinable>> {
        let unanswered = self.call_nobody()?;
        let mut all = Vec::new();
        for (number, way) in WAYS.iter().enumerate() {
            way.apply(&self.pair)?;
            let families = match self.families {
                Families::Both => &Family::ALL[..],
                Families::ByTurns => &Family::ALL[number % 2..][..1],
            };
            for &family in families {
                all.push(
                    way.connect(&self.pair, family)
                        .with_context(|| format!("{}, {}", way.name, family.name()))?,
                );
            }
        }
        // The first SYN is sent again after a second.
        thread::sleep(Duration::from_millis(1_500).saturating_sub(unanswered.1.elapsed()));
        Ok(all)
    }

    /// A socket that connects to an address that nobody has, and since when: what a timer calls is called, too.
    fn call_nobody(&self) -> Result<(Socket, Instant)> {
        let nobody = SocketAddr::from((Ipv4Addr::new(10, 9, 0, 200), 9));
        let socket = mptcp::socket(&self.pair.client, nobody)?;
        socket.set_nonblocking(true)?;
        // It is on its way.
        let _ = socket.connect(&nobody.into());
        Ok((socket, Instant::now()))
    }
}

fn joining_pair() -> Result<Pair> {
    let pair = Pair::new()?;
    for end in pair.ends() {
        limit_all(end, 4, 4)?;
    }
    pair.client.ip([
        format!("addr add {SECOND_V4}/24 dev {CLIENT_DEV}"),
        // Not for the first subflow, for which IPv6 else takes the newest.
        format!("addr add {CLIENT_SECOND_V6}/64 dev {CLIENT_DEV} nodad preferred_lft 0"),
    ])?;
    pair.client.wait_for_v6()?;
    pair.client.ip([
        format!("mptcp endpoint add {SECOND_V4} dev {CLIENT_DEV} subflow"),
        format!("mptcp endpoint add {CLIENT_SECOND_V6} dev {CLIENT_DEV} subflow"),
    ])?;
    pair.server.ip([
        format!("addr add {SERVER_SECOND}/24 dev {SERVER_DEV}"),
        format!("mptcp endpoint add {SERVER_SECOND} dev {SERVER_DEV} signal"),
    ])?;
    Ok(pair)
}

/// How a connection is made.
#[derive(Clone, Copy, Debug)]
struct Way {
    name: &'static str,
    mode: Mode,
    derived: bool,
    cookies: u8,
    stateless: bool,
    keys: bool,
}

const STANDARD: Way = Way {
    name: "standard",
    mode: Mode::Stock,
    derived: false,
    cookies: 1,
    stateless: false,
    keys: false,
};

static WAYS: &[Way] = &[
    STANDARD,
    Way {
        name: "standard, SYN cookies, derived nonces",
        derived: true,
        cookies: 2,
        ..STANDARD
    },
    Way {
        name: "low overhead",
        mode: Mode::Offer,
        ..STANDARD
    },
    Way {
        name: "low overhead, full SYN, SYN cookies",
        mode: Mode::OfferFull,
        cookies: 2,
        ..STANDARD
    },
    Way {
        name: "low overhead, joins without state",
        mode: Mode::Offer,
        stateless: true,
        ..STANDARD
    },
    Way {
        name: "external keys",
        keys: true,
        ..STANDARD
    },
    Way {
        name: "external keys, SYN cookies, joins without state",
        cookies: 2,
        stateless: true,
        keys: true,
        ..STANDARD
    },
];

impl Way {
    fn apply(&self, pair: &Pair) -> Result<()> {
        for end in pair.ends() {
            self.mode.apply(end)?;
            end.set("mptcp_dc/derived_nonces", u8::from(self.derived))?;
        }
        pair.server
            .set("mptcp_dc/stateless_join", u8::from(self.stateless))?;
        pair.server.set("ipv4/tcp_syncookies", self.cookies)
    }

    fn expected(&self) -> DcMode {
        match (self.keys, self.mode) {
            (true, _) => DcMode::ExternalKey,
            (false, Mode::Stock | Mode::Accept) => DcMode::Standard,
            (false, Mode::Offer | Mode::OfferFull) => DcMode::LowOverhead,
        }
    }

    /// Makes one, with its subflows.
    fn connect(&self, pair: &Pair, family: Family) -> Result<Joinable> {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
        let prepare = |socket: &Socket| match self.keys {
            true => Ok(mptcp_dc::enable_app_key(socket, true)?),
            false => Ok(()),
        };
        let listener = mptcp::listen_with(&pair.server, (any, 0).into(), prepare)?;
        let port = listener.local_addr()?.port();
        let to = SocketAddr::new(Pair::server_addr(family), port);
        let client = mptcp::connect_with(&pair.client, to, prepare)?;
        let server = mptcp::accept(&listener)?;
        let ends = Joinable {
            listener,
            client,
            server,
        };
        exchange(&ends)?;
        if self.keys {
            mptcp_dc::set_key(&ends.server, KEY)?;
            mptcp_dc::set_key(&ends.client, KEY)?;
        }
        ends.wait_for_subflows(SUBFLOWS)?;
        exchange(&ends)?;
        if kernel::is_loaded() {
            for end in [&ends.client, &ends.server] {
                let mode = mptcp_dc::info(end)?.mode;
                ensure!(mode == self.expected(), "it is {mode:?}");
            }
        }
        if !self.keys {
            let client = wire::on_wire(ends.client.local_addr()?);
            self.check_wire(&Trace::take(&mut capture, client)?)?;
        }
        Ok(ends)
    }

    /// The handshake is as it should be. (Other checks of a [`Trace`] are for connections that nobody joins.)
    fn check_wire(&self, trace: &Trace) -> Result<()> {
        let expected = outcome(self.mode, self.mode);
        let (version, length) = expected.syn;
        let answer = match expected.protocol {
            Protocol::LowOverhead => (V15, 12, 0),
            Protocol::Standard | Protocol::Tcp => (V1, 12, FLAG_H),
        };
        for (segment, form) in [
            (trace.syn()?, (version, length, FLAG_H)),
            (trace.syn_ack()?, answer),
        ] {
            let found = segment.mp_capable()?.map(|capable| capable.form());
            ensure!(found == Some(form), "{found:x?}, not {form:x?}: {segment}");
        }
        Ok(())
    }
}

/// A little data each way, thrice.
fn exchange(ends: &Joinable) -> Result<()> {
    for seed in 0..3 {
        mptcp::send(&ends.client, seed, 3_000)?;
        mptcp::receive(&ends.server, seed, 3_000)?;
        mptcp::send(&ends.server, seed + 10, 3_000)?;
        mptcp::receive(&ends.client, seed + 10, 3_000)?;
    }
    Ok(())
}

/// All functions that the module ever hooks.
fn hooked(pair: &Pair) -> Result<Vec<String>> {
    kernel::load()?;
    for end in pair.ends() {
        Mode::Offer.apply(end)?;
        end.set("mptcp_dc/stateless_join", 1)?;
    }
    let _keys = mptcp::listen_with(
        &pair.server,
        (Pair::server_addr(Family::V4), 0).into(),
        |socket| Ok(mptcp_dc::enable_app_key(socket, true)?),
    )?;
    let hooked: BTreeSet<_> = kernel::hooked_functions()?.into_iter().collect();
    ensure!(hooked.len() > 16, "hooked with all on: {hooked:?}");
    Ok(hooked.into_iter().collect())
}

/// Those of a set that this kernel has. Debian's has all.
///
/// Where lockdep looks, it complains of the stock kernel as soon as two functions with BPF's trampolines get a hook as live
/// patches and we have: update_ftrace_direct_mod() asks the trampolines of all of them, and bpf_tramp_ftrace_ops_func()
/// asserts the lock of each, of which but one is held. So there these kinds are left out.
fn existing(set: &[Kind]) -> Result<Vec<Kind>> {
    let lockdep = fs::exists("/proc/lockdep")?;
    let mut kinds = Vec::new();
    for &kind in set {
        if kind.exists()? && !(lockdep && matches!(kind, Kind::Fentry | Kind::Fexit)) {
            kinds.push(kind);
        } else {
            let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
            ensure!(
                release.contains("mptcp-dc-test"),
                "no {} in this kernel, {release}",
                kind.name()
            );
        }
    }
    Ok(kinds)
}

/// Some tracers on the same functions.
struct Attached<'a> {
    functions: &'a [String],
    tracers: Vec<Tracer>,
}

impl<'a> Attached<'a> {
    fn new(kinds: &[Kind], functions: &'a [String]) -> Result<Self> {
        let tracers = kinds
            .iter()
            .map(|&kind| {
                Tracer::attach(kind, functions)
                    .with_context(|| format!("attaching {}", kind.name()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { functions, tracers })
    }

    fn detach_with_all_hit(self) -> Result<()> {
        for tracer in &self.tracers {
            tracer.check_hit(self.functions)?;
        }
        self.tracers.into_iter().try_for_each(Tracer::detach)
    }
}

fn syns_off() -> Result<()> {
    let pair = Pair::new()?;
    let listener = mptcp::listen(
        &pair.server,
        SocketAddr::new(Pair::server_addr(Family::V4), 0),
    )?;
    let to = SocketAddrV4::new(SERVER_V4, listener.local_addr()?.port());
    let mut peer = RawPeer::client(&pair)?;
    let functions = ["subflow_check_req".to_owned()];
    let mut port = 2_000;
    for kinds in [
        &[Kind::Fentry][..],
        &[Kind::Fexit],
        &[Kind::Fentry, Kind::Fexit],
    ] {
        let tracers = Attached::new(kinds, &functions)?;
        for mode in [Mode::Stock, Mode::Offer] {
            mode.apply(&pair.server)?;
            for (options, version) in [
                (
                    mp_capable(V15, FLAG_H, &[]),
                    if mode.accepts() { V15 } else { V1 },
                ),
                (mp_capable(V1, FLAG_H, &[]), V1),
            ] {
                let answer = peer.syn(port, to, &options)?;
                let capable = answer.mp_capable()?;
                ensure!(
                    capable.is_some_and(|capable| capable.version == version),
                    "{kinds:?}, {mode:?}: {options:x?} is answered by {answer}"
                );
                port += 1;
            }
        }
        tracers.detach_with_all_hit()?;
    }
    Ok(())
}
