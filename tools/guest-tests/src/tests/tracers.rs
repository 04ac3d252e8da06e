// SPDX-License-Identifier: GPL-2.0

//! Others trace the functions that the module takes over, in every way that the kernel has, and come and go before and after it:
//! every handshake is as without them, and they see every call.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use mptcp_dc::Mode as DcMode;

use crate::capture::Capture;
use crate::handshake::{outcome, Trace};
use crate::joinable::{limit_all, Joinable};
use crate::kernel;
use crate::mptcp;
use crate::netns::{Family, Mode, Pair, CLIENT_DEV, SECOND_V4, SERVER_DEV, SERVER_V4};
use crate::raw::RawPeer;
use crate::tracer::{Kind, Tracer};
use crate::wire::{self, mp_capable, FLAG_H, V1, V15};
use crate::{Scale, Test};

/// What is attached to every function at once.
static SETS: &[&[Kind]] = &[
    &[Kind::Fentry],
    &[Kind::Fexit],
    &[Kind::Fentry, Kind::Fexit],
    &[Kind::KprobeMulti],
    &[Kind::KretprobeMulti],
    &[Kind::Kprobe],
    &[Kind::Kretprobe],
    &[Kind::Fprobe],
    &[Kind::FprobeReturn],
    &[Kind::Function],
    &[Kind::FunctionGraph],
    &Kind::ALL,
];

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = vec![Test::new(
        "tracers: a SYN of version 15 to a host that has it off, with a BPF program on subflow_check_req",
        syns_off,
    )];
    for &set in SETS {
        let names: Vec<_> = set.iter().map(|kind| kind.name()).collect();
        let what = if set.len() == Kind::ALL.len() {
            "all at once".to_owned()
        } else {
            names.join(" and ")
        };
        tests.push(Test::with_note(
            format!("tracers: {what}: attached before loading and after, detached before unloading and after"),
            Duration::from_secs(1_200),
            move || lifecycle(set, scale),
        ));
    }
    tests
}

const KEY: &[u8] = b"a key that both ends have";

/// Addresses for more subflows.
const SERVER_SECOND: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 21);
const CLIENT_SECOND_V6: &str = "fd09::11";

/// A pair whose client opens a subflow for each connection; for one by IPv4 another to an address that the server announces.
fn scene() -> Result<Pair> {
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
        let (any, subflows): (IpAddr, _) = match family {
            Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), 2),
            Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), 1),
        };
        let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
        let to = Pair::server_addr(family);
        let ends = Joinable::with(pair, (any, 0).into(), to, |socket| {
            if self.keys {
                mptcp_dc::enable_app_key(socket, true)?;
            }
            Ok(())
        })?;
        if self.keys {
            mptcp_dc::set_key(&ends.server, KEY)?;
            mptcp_dc::set_key(&ends.client, KEY)?;
        }
        ends.wait_for_subflows(subflows)?;
        ends.exchange()?;
        if kernel::is_loaded() {
            for end in [&ends.client, &ends.server] {
                let mode = mptcp_dc::info(end)?.mode;
                ensure!(mode == self.expected(), "it is {mode:?}");
            }
        }
        if !self.keys {
            let client = wire::on_wire(ends.client.local_addr()?);
            Trace::take(&mut capture, client)?.check(&outcome(self.mode, self.mode))?;
        }
        Ok(ends)
    }
}

/// Connections made in each way.
fn traffic(pair: &Pair, families: &[Family]) -> Result<Vec<Joinable>> {
    let mut all = Vec::new();
    for way in WAYS {
        way.apply(pair)?;
        for &family in families {
            all.push(
                way.connect(pair, family)
                    .with_context(|| format!("{}, {}", way.name, family.name()))?,
            );
        }
    }
    Ok(all)
}

/// One without the module.
fn stock_traffic(pair: &Pair) -> Result<()> {
    for family in Family::ALL {
        STANDARD.connect(pair, family).context("without the module")?;
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
fn existing(set: &[Kind]) -> Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for &kind in set {
        if kind.exists()? {
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

fn lifecycle(set: &[Kind], scale: Scale) -> Result<String> {
    let kinds = existing(set)?;
    if kinds.is_empty() {
        return Ok("not in this kernel".to_owned());
    }
    let result = come_and_go(&kinds, scale);
    kernel::load()?;
    result
}

fn come_and_go(kinds: &[Kind], _scale: Scale) -> Result<String> {
    let pair = scene()?;
    let functions = hooked(&pair)?;
    kernel::unload()?;
    let mut clock = Clock::default();
    clock.tick("start");

    let tracers = Attached::new(kinds, &functions)?;
    clock.tick("attach");
    kernel::load()?;
    clock.tick("load");
    traffic(&pair, &Family::ALL).context("attached before loading")?;
    clock.tick("traffic");
    tracers.detach_with_all_hit()?;
    clock.tick("detach");
    let tracers = Attached::new(kinds, &functions)?;
    clock.tick("attach");
    let live = traffic(&pair, &Family::ALL).context("attached after loading")?;
    clock.tick("traffic");
    kernel::unload()?;
    clock.tick("unload");
    live.iter()
        .try_for_each(Joinable::exchange)
        .context("after unloading")?;
    drop(live);
    clock.tick("exchange");
    stock_traffic(&pair)?;
    clock.tick("stock traffic");
    tracers.detach_with_all_hit()?;
    clock.tick("detach");

    let tracers = Attached::new(kinds, &functions)?;
    kernel::load()?;
    let live = traffic(&pair, &Family::ALL).context("attached before loading again")?;
    kernel::unload()?;
    live.iter()
        .try_for_each(Joinable::exchange)
        .context("after unloading again")?;
    tracers.detach_with_all_hit()?;
    clock.tick("second cycle");

    kernel::load()?;
    let tracers = Attached::new(kinds, &functions)?;
    traffic(&pair, &Family::ALL).context("attached after loading again")?;
    tracers.detach_with_all_hit()?;
    kernel::unload()?;
    clock.tick("third cycle");
    Ok(format!("{} functions; {}", functions.len(), clock.0))
}

#[derive(Default)]
struct Clock(String, Option<Instant>);

impl Clock {
    fn tick(&mut self, what: &str) {
        let now = Instant::now();
        if let Some(then) = self.1 {
            self.0 += &format!("{what} {:.1} s, ", (now - then).as_secs_f64());
        }
        self.1 = Some(now);
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
                (mp_capable(V15, FLAG_H, &[]), if mode.accepts() { V15 } else { V1 }),
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
