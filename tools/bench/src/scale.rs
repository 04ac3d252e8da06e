// SPDX-License-Identifier: GPL-2.0

//! What a SYN costs a server that has many connections: as `syn`, with 100, 1,000 and more of them there. Where the first falls
//! back for want of a token (what `table` looks into), it ends: from there on a SYN may be answered as a plain one.

use anyhow::{Context, Result};
use socket2::{Protocol, Socket};

use crate::clock;
use crate::frame::Option_;
use crate::hold::Held;
use crate::measure::{Amount, State};
use crate::net::{self, Net, Wire};
use crate::report::{Case, Report};
use crate::syn::{self, Syn};

const PORT: u16 = 5002;

/// Connections there while SYNs are measured. The kernel has a bucket of four for each MiB, rounded up to a power of two: the
/// guest that scripts/bench makes, of more than 16 GiB, has room for 131,072 tokens.
const LEVELS: [u32; 4] = [100, 1_000, 10_000, 100_000];

/// Measures a standard and a low-overhead server; without a module, only the first.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    clock::check()?;
    let mut report = Report::new("scale", "guest instructions for one SYN and its answer");
    let net = Net::new()?;
    for netns in [&net.client, &net.server] {
        netns.set("ipv4/tcp_syncookies", 2)?;
    }
    net.server.enter()?;
    let listener = net::listen(Protocol::MPTCP, PORT)?;
    net.client.enter()?;
    let wire = Wire::sender()?;
    // There are many cases, and none varies.
    let amount = Amount {
        samples: (amount.samples / 4).max(4),
        ..amount
    };

    crate::measure::idle(amount.idle);
    let states: &[State] = if module {
        &[State::Absent, State::Loaded(2)]
    } else {
        &[State::Absent]
    };
    for &state in states {
        state.establish(&net)?;
        measure_state(state, &net, &listener, &wire, amount, &mut report)?;
    }
    report.judge();
    Ok(report)
}

fn measure_state(
    state: State,
    net: &Net,
    listener: &Socket,
    wire: &Wire,
    amount: Amount,
    report: &mut Report,
) -> Result<()> {
    // Somewhere for MP_JOIN to go.
    let (_client, server) = net::connect(net, listener, PORT)?;
    let token = net::token(&server)?;
    let (capable, join) = if state == State::Absent {
        (Option_::Capable, Option_::Join(token))
    } else {
        (Option_::Compact, Option_::BareJoin(token))
    };
    let before = net.server.mptcp_sockets()?;
    let mut held = Held::new(net, capable)?;
    for level in LEVELS {
        held.fill(net, level)?;
        let count = held.count();
        if held.is_full() {
            let name = format!("connections when the first fell back, {}", state.name());
            report.environment.insert(name, count.to_string());
            break;
        }
        eprintln!("dc-bench: {:14} {count} connections", state.name());
        for (what, option) in [
            ("plain", Option_::None),
            ("MP_CAPABLE", capable),
            ("MP_JOIN", join),
        ] {
            let syn = Syn::simple(what, PORT, option);
            let case = syn::measure_syn(state, net, wire, &syn, amount).context(what)?;
            let mut case = Case {
                what: format!("{what}, {count} connections"),
                ..case
            };
            // The growth since there were few; the fewest against stock.
            case.against = if level == LEVELS[0] {
                (state != State::Absent).then(|| (State::Absent.name(), case.what.clone()))
            } else {
                let few = format!("{what}, {} connections", LEVELS[0]);
                Some((state.name(), few))
            };
            report.cases.push(case);
        }
    }
    held.release(net, before)
}
