// SPDX-License-Identifier: GPL-2.0

//! Very many connections that are just beginning when the module goes, or is switched off: each gets through or hears at
//! once that it can't, and none that was to have external keys shows a key.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure, Context, Result};

use crate::capture::Capture;
use crate::crowd::{Crowd, ROUNDS};
use crate::kernel::{self, Reload};
use crate::mptcp::PATIENCE;
use crate::netns::{output, Family, Mode, Netns, Pair, CLIENT_DEV};
use crate::wire::{Segment, V15};
use crate::{Scale, Test};

pub fn tests(scale: Scale) -> Vec<Test> {
    let mut tests = Vec::new();
    let unanswered = scale.of(150, 1_500, 5_000);
    for (name, ending) in [
        ("unloaded", unload as fn(&Pair) -> Result<()>),
        ("switched off", switch_off),
    ] {
        tests.push(Test::with_note(
            format!("{name} while {unanswered} SYNs are unanswered: all get through"),
            Duration::from_secs(600),
            move || many_unanswered(unanswered, ending),
        ));
    }
    let connecting = scale.of(200, 600, 3_000);
    tests.push(Test::with_note(
        format!("unloaded while {connecting} sockets for external keys connect: all get through, no key is seen"),
        Duration::from_secs(600),
        move || keys_connect(connecting, scale),
    ));
    tests
}

fn unload(_: &Pair) -> Result<()> {
    kernel::unload()
}

fn switch_off(pair: &Pair) -> Result<()> {
    pair.ends()
        .into_iter()
        .try_for_each(|end| Mode::Stock.apply(end))
}

/// Some segments don't come to a namespace, while this lives.
struct Deaf<'a>(&'a Netns);

impl<'a> Deaf<'a> {
    /// To SYNs, or to SYN/ACKs, as `which` has it in nft's language.
    fn new(netns: &'a Netns, which: &str) -> Result<Self> {
        output(netns.command("nft").arg(format!(
            "table ip dc {{ chain in {{ type filter hook input priority 0; {which} drop; }}; }}"
        )))?;
        Ok(Self(netns))
    }
}

impl Drop for Deaf<'_> {
    fn drop(&mut self) {
        let _ = output(self.0.command("nft").arg("delete table ip dc"));
    }
}

/// A pair in which no loss makes the stack give MPTCP up.
fn patient_pair(mode: Mode) -> Result<Pair> {
    let pair = Pair::with_mode(mode)?;
    for end in pair.ends() {
        end.set("mptcp/blackhole_timeout", 0)?;
        end.set("mptcp/syn_retrans_before_tcp_fallback", 100)?;
        end.set("ipv4/tcp_max_syn_backlog", 10_000)?;
    }
    Ok(pair)
}

fn many_unanswered(count: usize, ending: fn(&Pair) -> Result<()>) -> Result<String> {
    let pair = patient_pair(Mode::Offer)?;
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let mut crowd = Crowd::new()?;
    let unheard = crowd.hall(&pair.server, at, false, |_| Ok(()))?;
    let unanswered = crowd.hall(&pair.server, at, false, |_| Ok(()))?;
    let [no_syn, no_syn_ack] = [unheard, unanswered].map(|hall| crowd.address(hall).port());
    let no_syn = format!("tcp dport {no_syn} tcp flags & (syn | ack) == syn");
    let no_syn_ack = format!("tcp sport {no_syn_ack} tcp flags & (syn | ack) == syn | ack");
    let deaf = [
        Deaf::new(&pair.server, &no_syn)?,
        Deaf::new(&pair.client, &no_syn_ack)?,
    ];
    for number in 0..count {
        let hall = [unheard, unanswered][number % 2];
        crowd.client(&pair.client, hall, |_| Ok(()))?;
    }
    crowd.connect_all()?;
    let offered = pair.client.counters()?.get("MPCapableSYNTX")?;
    ensure!(
        offered >= count as u64,
        "{offered} of {count} SYNs offered low overhead"
    );

    let reload = Reload::new();
    let start = Instant::now();
    ending(&pair)?;
    let took = start.elapsed().as_secs_f64();
    let early = crowd.connected(unheard) + crowd.connected(unanswered);
    ensure!(early == 0, "{early} were answered");
    drop(deaf);
    crowd.allow_all(ROUNDS);
    crowd.run(PATIENCE, |crowd| Ok(crowd.is_over(|_| true)))?;
    reload.now()?;
    let [unheard, unanswered] = [unheard, unanswered].map(|hall| crowd.tally(hall));
    let note = format!("{took:.1} s; SYN lost: {unheard}; SYN/ACK lost: {unanswered}");
    let fine = unheard.check().and_then(|()| unanswered.check());
    fine.map(|()| note.clone()).context(note)
}

/// MP_CAPABLEs with another version than ours.
fn standard<'a>(
    segments: &'a [Segment],
    from: impl Fn(SocketAddr) -> bool + 'a,
) -> impl Iterator<Item = &'a Segment> {
    segments.iter().filter(move |segment| {
        let is_other = |capable: Result<Option<crate::wire::MpCapable>>| {
            capable.map_or(true, |c| c.is_some_and(|c| c.version != V15))
        };
        from(segment.from) && is_other(segment.mp_capable())
    })
}

fn keys_connect(count: usize, scale: Scale) -> Result<String> {
    /// Those that are left when the module is gone.
    const LATE: usize = 20;
    let pause = Duration::from_millis(scale.of(20, 4, 2) as u64);

    let pair = patient_pair(Mode::Stock)?;
    let mut capture = Capture::start(&pair.client, CLIENT_DEV)?;
    let at = SocketAddr::new(Pair::server_addr(Family::V4), 0);
    let ask = |socket: &socket2::Socket| Ok(mptcp_dc::enable_app_key(socket, true)?);
    let mut crowd = Crowd::new()?;
    let asked = crowd.hall(&pair.server, at, false, ask)?;
    let never_asked = crowd.hall(&pair.server, at, false, |_| Ok(()))?;
    crowd.allow_all(ROUNDS);
    for _ in 0..count {
        crowd.client(&pair.client, asked, ask)?;
    }
    let mut late = Vec::new();
    for _ in 0..LATE {
        late.push(crowd.client(&pair.client, asked, ask)?);
        late.push(crowd.client(&pair.client, never_asked, ask)?);
    }
    let stock = crowd.clients.len();
    for _ in 0..LATE {
        late.push(crowd.client(&pair.client, asked, |_| Ok(()))?);
    }

    let reload = Reload::new();
    let start = Instant::now();
    let unloading = thread::spawn(kernel::unload);
    let mut next = 0;
    crowd.run(PATIENCE, |crowd| {
        while next < count && start.elapsed() > pause * next as u32 {
            crowd.connect(next)?;
            next += 1;
        }
        Ok(next == count && unloading.is_finished())
    })?;
    unloading.join().map_err(|_| anyhow!("panicked"))??;
    let took = start.elapsed().as_secs_f64();
    for client in late {
        crowd.connect(client)?;
    }
    crowd.run(PATIENCE, |crowd| Ok(crowd.is_over(|_| true)))?;
    reload.now()?;

    let tally = crowd.tally_of(|_| true);
    let mut keyless = Vec::new();
    for client in &crowd.clients[..stock] {
        keyless.push(client.address()?);
    }
    keyless.push(crowd.address(asked));
    let segments = capture.segments()?;
    let shown: Vec<_> = standard(segments, |from| keyless.contains(&from)).collect();
    let has_key = |s: &&&Segment| {
        s.mp_capable()
            .is_ok_and(|c| c.is_some_and(|c| c.sender.is_some()))
    };
    ensure!(
        shown.is_empty(),
        "{} segments of standard MPTCP, {} with a key; {tally}; the first are\n{}",
        shown.len(),
        shown.iter().filter(has_key).count(),
        crate::wire::list(&shown.into_iter().cloned().collect::<Vec<_>>())
    );
    tally.check()?;
    Ok(format!("{took:.1} s; {tally}"))
}
