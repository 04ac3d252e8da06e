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

/// The most that a low-overhead SYN may cost by default, with no other option but MSS.
const TARGET: f64 = 15_200.0;

/// The most percent that one may cost more than a plain SYN to the stock kernel, whatever its other options.
const TARGET_MORE: f64 = 5.0;

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

    /// Whether it gets low overhead.
    fn is_ours(&self) -> bool {
        matches!(
            self.option,
            Option_::Compact | Option_::Full | Option_::BareJoin(_)
        )
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
    let mut ours = None;
    if state == State::Loaded(1) {
        // Only who offers gets a connection that can be joined without HMAC.
        net.client.set("mptcp_dc/lowoverhead", 2)?;
        ours = Some(net::connect(net, listener, MPTCP_PORT)?);
        net.client.set("mptcp_dc/lowoverhead", 1)?;
    }
    let mut measure_all = |form, syns: &[(&'static str, u16, Option_)]| -> Result<()> {
        for &(what, port, option) in syns {
            let syn = Syn {
                what,
                form,
                port,
                option,
            };
            let case = measure_syn(state, net, wire, &syn, amount).context(what)?;
            cases.push(judged(case, state, &syn));
        }
        Ok(())
    };

    for form in [Form::Mss, Form::Linux] {
        let mut syns = vec![
            ("plain, TCP listener", TCP_PORT, Option_::None),
            (PLAIN, MPTCP_PORT, Option_::None),
            ("MP_CAPABLE v1", MPTCP_PORT, Option_::Capable),
            ("MP_JOIN, HMAC", MPTCP_PORT, Option_::Join(token)),
        ];
        if let Some((_, server)) = &ours {
            let join = Option_::BareJoin(net::token(server)?);
            syns.push(("MP_JOIN, no HMAC", MPTCP_PORT, join));
            syns.push(("MP_CAPABLE v15, compact", MPTCP_PORT, Option_::Compact));
            syns.push(("MP_CAPABLE v15, full", MPTCP_PORT, Option_::Full));
        }
        measure_all(form, &syns)?;
    }
    if ours.is_some() {
        // As long as an application has external keys, a SYN to any listener costs some 50 more.
        net.server.enter()?;
        let listener = net::listen_external(EXTERNAL_PORT)?;
        let (_client, server) = net::connect_external(net, &listener, EXTERNAL_PORT)?;
        let join = Option_::Join(net::token(&server)?);
        for form in [Form::Mss, Form::Linux] {
            let syns = [
                (
                    "MP_CAPABLE v15, external key",
                    EXTERNAL_PORT,
                    Option_::External,
                ),
                ("MP_JOIN, external key", EXTERNAL_PORT, join),
            ];
            measure_all(form, &syns)?;
        }
    }
    Ok(())
}

/// A case with what it is compared with, and the most that it may be.
fn judged(mut case: Case, state: State, syn: &Syn) -> Case {
    let stock = |what| Some((State::Absent.name(), named(what, syn.form)));
    case.against = match (state, syn.option) {
        (State::Absent, Option_::None) => None,
        (State::Absent, _) => stock(PLAIN),
        _ if syn.is_ours() || syn.port == EXTERNAL_PORT => stock(PLAIN),
        _ => stock(syn.what),
    };
    case.limit = match syn.form {
        _ if state == State::Derived && syn.option == Option_::Capable => {
            Some(Limit::More(TARGET_DERIVED))
        }
        _ if !syn.is_ours() => None,
        Form::Mss if syn.option != Option_::Full => Some(Limit::Mean(TARGET)),
        _ => Some(Limit::Percent(TARGET_MORE)),
    };
    case
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
