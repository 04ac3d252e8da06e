// SPDX-License-Identifier: GPL-2.0

//! What one SYN costs the server: from the raw send of the SYN to its return. On one CPU, the whole way of the SYN to
//! the listener and of the SYN/ACK back happens inside that call, in softirq. With SYN cookies nothing stays.

use anyhow::{ensure, Context, Result};
use socket2::{Protocol, Socket};

use crate::clock;
use crate::frame::{self, Form, Option_};
use crate::mark;
use crate::measure::{measure, Amount, State};
use crate::net::{self, Net, Wire, NOBODY, SERVER};
use crate::report::{Case, Limit, Report};

/// The most that a low-overhead MP_CAPABLE SYN may cost, with no other option but MSS.
const TARGET: f64 = 15_600.0;

/// The most that it may cost more than a plain SYN to the stock kernel, whatever its other options.
const TARGET_MORE: f64 = 1_120.0;

/// The most that a standard MP_CAPABLE SYN with a derived key may cost more than to the stock kernel: it must cost
/// much less.
const TARGET_DERIVED: f64 = -1_200.0;

const TCP_PORT: u16 = 5001;
const MPTCP_PORT: u16 = 5002;
const EXTERNAL_PORT: u16 = 5006;

/// A kind of SYN.
pub struct Syn {
    what: &'static str,
    form: Form,
    port: u16,
    option: Option_,
}

impl Syn {
    /// One with no option but MSS and this.
    pub fn simple(what: &'static str, port: u16, option: Option_) -> Self {
        Self {
            what,
            form: Form::Mss,
            port,
            option,
        }
    }

    /// Its name among the cases.
    fn name(&self) -> String {
        named(self.what, self.form)
    }

    /// Whether it is an MP_CAPABLE that gets low overhead.
    fn is_ours(&self) -> bool {
        matches!(self.option, Option_::Compact | Option_::Full)
    }
}

fn named(what: &str, form: Form) -> String {
    match form {
        Form::Mss => format!("{what}; MSS only"),
        Form::Linux => what.to_owned(),
    }
}

/// Measures SYNs with the module absent, idle and on; without a module, only the first.
pub fn run(amount: Amount, module: bool) -> Result<Report> {
    clock::check()?;
    let mut report = Report::new("syn", "guest instructions for one SYN and its answer");
    let net = Net::new()?;
    for netns in [&net.client, &net.server] {
        netns.set("ipv4/tcp_syncookies", 2)?;
    }
    net.server.enter()?;
    let _tcp = net::listen(Protocol::TCP, TCP_PORT)?;
    let mptcp = net::listen(Protocol::MPTCP, MPTCP_PORT)?;
    net.client.enter()?;
    let wire = Wire::sender()?;

    crate::measure::idle(amount.idle);
    let states: &[State] = if module {
        &[
            State::Absent,
            State::Loaded(0),
            State::Derived,
            State::Loaded(1),
            State::Removed,
        ]
    } else {
        &[State::Absent]
    };
    for &state in states {
        state.establish(&net)?;
        mark::note_symbols(state, amount, &mut report)?;
        measure_state(state, &net, &mptcp, &wire, amount, &mut report.cases)?;
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
    cases: &mut Vec<Case>,
) -> Result<()> {
    // Somewhere for MP_JOIN to go.
    let (_client, server) = net::connect(net, listener, MPTCP_PORT)?;
    let token = net::token(&server)?;
    let (mut ours, mut external) = (None, None);
    if state == State::Loaded(1) {
        // Only who offers gets a connection that can be joined without HMAC.
        net.client.set("mptcp_dc/lowoverhead", 2)?;
        ours = Some(net::connect(net, listener, MPTCP_PORT)?);
        net.client.set("mptcp_dc/lowoverhead", 1)?;
        net.server.enter()?;
        let listener = net::listen_external(EXTERNAL_PORT)?;
        let ends = net::connect_external(net, &listener, EXTERNAL_PORT)?;
        external = Some((listener, ends));
    }

    for form in [Form::Mss, Form::Linux] {
        let syn = |what, port, option| Syn {
            what,
            form,
            port,
            option,
        };
        let mut syns = vec![
            syn("plain, TCP listener", TCP_PORT, Option_::None),
            syn(PLAIN, MPTCP_PORT, Option_::None),
            syn("MP_CAPABLE v1", MPTCP_PORT, Option_::Capable),
            syn("MP_JOIN, HMAC", MPTCP_PORT, Option_::Join(token)),
        ];
        if let Some((_, server)) = &ours {
            let join = Option_::BareJoin(net::token(server)?);
            syns.push(syn("MP_JOIN, no HMAC", MPTCP_PORT, join));
            syns.push(syn("MP_CAPABLE v15, compact", MPTCP_PORT, Option_::Compact));
            syns.push(syn("MP_CAPABLE v15, full", MPTCP_PORT, Option_::Full));
        }
        if let Some((_, (_, server))) = &external {
            let join = Option_::Join(net::token(server)?);
            let capable = Option_::External;
            syns.push(syn("MP_CAPABLE v15, external key", EXTERNAL_PORT, capable));
            syns.push(syn("MP_JOIN, external key", EXTERNAL_PORT, join));
        }
        for syn in &syns {
            let mut case = measure_syn(state, net, wire, syn, amount).context(syn.what)?;
            let stock = |what| Some((State::Absent.name(), named(what, form)));
            case.against = match (state, syn.option) {
                _ if syn.is_ours() => stock(PLAIN),
                (_, Option_::BareJoin(_) | Option_::External) => stock(PLAIN),
                (_, Option_::Join(_)) if syn.port == EXTERNAL_PORT => stock(PLAIN),
                (State::Absent, Option_::None) => None,
                (State::Absent, _) => stock(PLAIN),
                _ => stock(syn.what),
            };
            case.limit = match form {
                _ if state == State::Derived && syn.option == Option_::Capable => {
                    Some(Limit::More(TARGET_DERIVED))
                }
                _ if !syn.is_ours() => None,
                Form::Mss => Some(Limit::Mean(TARGET)),
                Form::Linux => Some(Limit::More(TARGET_MORE)),
            };
            cases.push(case);
        }
    }
    Ok(())
}

/// What others are compared with.
const PLAIN: &str = "plain, MPTCP listener";

/// Measures it in a state of the module; the SYNs are [`NOBODY`]'s.
pub fn measure_syn(
    state: State,
    net: &Net,
    wire: &Wire,
    syn: &Syn,
    amount: Amount,
) -> Result<Case> {
    let frames = (0..amount.samples)
        .map(|n| {
            let ports = (10_000 + (n % 50_000) as u16, syn.port);
            let seq = (n as u32).wrapping_mul(0x9e37_79b9);
            frame::syn(NOBODY, SERVER, ports, seq, syn.form, syn.option)
        })
        .collect::<Result<Vec<_>>>()?;

    net.client.enter()?;
    check_answer(wire, syn, &frames[0])?;
    // The packet socket that looked at the answer is gone for good after a grace period.
    crate::measure::idle(2);

    let before = net.client.received()?;
    let case = measure(state, &syn.name(), amount, |n| {
        wire.send(&frames[n])?;
        Ok(())
    })?;
    let answers = net.client.received()? - before;
    let sent = (amount.samples * amount.rounds + amount.samples / 4) as u64;
    ensure!(answers == sent, "{sent} SYNs got {answers} answers");
    Ok(case)
}

/// Fails if the server's answer isn't what such a SYN should get: then the figure would be of something else.
fn check_answer(wire: &Wire, syn: &Syn, frame: &[u8]) -> Result<()> {
    let receiver = Wire::receiver()?;
    wire.send(frame)?;
    let answer = frame::answer(&receiver.receive()?)?;
    let expected = syn.option.answer();
    ensure!(
        answer == expected,
        "the SYN/ACK's MPTCP option is {answer:02x?} (length, third byte), not {expected:02x?}"
    );
    Ok(())
}
