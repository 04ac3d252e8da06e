// SPDX-License-Identifier: GPL-2.0

//! What a segment costs both ends together, on connections of every kind. On one CPU a segment reaches the other end
//! within the call that sends it, so the guest never idles during a sample.

use anyhow::{ensure, Result};
use socket2::{Protocol, Socket};

use crate::clock;
use crate::mark;
use crate::measure::{idle, measure, Amount, State};
use crate::net::{self, Net};
use crate::report::{Case, Limit, Report};

const PORT: u16 = 5003;

/// The most that the module may cost in percent, off and on. Off means: nothing, as far as can be told. What timers do
/// moves a figure by a tenth of a percent from one run to the next.
const TARGET_OFF: f64 = 0.2;
const TARGET_ON: f64 = 1.0;

/// Bytes that fit in one segment besides a DSS.
const SEGMENT: usize = 1400;

/// Measures segments with the module absent, idle and on.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    clock::check()?;
    let mut report = Report::new(
        "datapath",
        "guest instructions for what the case says, both ends together",
    );
    let net = Net::new()?;
    net.server.enter()?;
    let listener = net::listen(Protocol::MPTCP, PORT)?;
    idle(amount.idle);
    let states: &[State] = if module {
        &[
            State::Absent,
            State::Loaded(0),
            State::Loaded(2),
            State::Removed,
        ]
    } else {
        &[State::Absent]
    };
    for &state in states {
        state.establish(&net)?;
        mark::note_symbols(state, amount, &mut report)?;
        measure_state(state, &net, &listener, amount, &mut report.cases)?;
    }
    report.judge();
    Ok(report)
}

fn measure_state(
    state: State,
    net: &Net,
    listener: &Socket,
    amount: Amount,
    cases: &mut Vec<Case>,
) -> Result<()> {
    let ours = || match state {
        State::Loaded(_) => net.server.counter("MPCapableACKRX"),
        _ => Ok(0),
    };
    let before = ours()?;
    let (client, server) = net::connect(net, listener, PORT)?;
    // MPTCP_INFO fails for what fell back.
    net::token(&server)?;
    let is_ours = ours()? > before;
    ensure!(
        is_ours == (state == State::Loaded(2)),
        "the connection is {}low-overhead",
        if is_ours { "" } else { "not " }
    );
    idle(2);

    let full = vec![0x5a; SEGMENT];
    let to_server = |bytes: &[u8]| net::transfer(&client, &server, bytes);
    let to_client = |bytes: &[u8]| net::transfer(&server, &client, bytes);
    type Sample<'a> = Box<dyn Fn() -> Result<()> + 'a>;
    let kinds: [(&str, Sample); 5] = [
        (
            "1 byte there, 1 byte back",
            Box::new(|| to_server(b"?").and_then(|()| to_client(b"!"))),
        ),
        (
            "a full segment there, 1 byte back",
            Box::new(|| to_server(&full).and_then(|()| to_client(b"!"))),
        ),
        (
            "1 byte there, a full segment back",
            Box::new(|| to_server(b"?").and_then(|()| to_client(&full))),
        ),
        (
            "2 full segments to the server",
            Box::new(|| to_server(&full).and_then(|()| to_server(&full))),
        ),
        (
            "2 full segments to the client",
            Box::new(|| to_client(&full).and_then(|()| to_client(&full))),
        ),
    ];
    for (what, sample) in kinds {
        let before = net.client.received()? + net.server.received()?;
        let mut case = measure(state, what, amount, |_| sample())?;
        let frames = net.client.received()? + net.server.received()? - before;
        let samples = amount.samples * amount.rounds + amount.samples / 4;
        case.frames = Some(frames as f64 / samples as f64);
        if state != State::Absent {
            case.against = Some((State::Absent.name(), what.to_owned()));
            case.limit = Some(Limit::Percent(match state {
                State::Loaded(2) => TARGET_ON,
                _ => TARGET_OFF,
            }));
        }
        cases.push(case);
    }
    Ok(())
}
