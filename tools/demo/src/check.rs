// SPDX-License-Identifier: GPL-2.0

//! What must hold of a download.

use anyhow::{bail, Context, Result};
use proto::option::mp_capable::{DC_VERSION, RFC_VERSION};

use crate::draw::Facts;
use crate::opening::{standard_token_and_idsn, Joining, Message, Opening};
use crate::option::{halves, Host};
use crate::stage::{count, Counters, Evidence, Stage, FILE_SIZE};
use crate::Download;

/// Checks a message's length and version.
fn form(facts: &mut Facts, name: &str, message: &Message, version: u8, length: usize) {
    let option = &message.option.view;
    facts.check(
        option.version() == version && option.length() == length,
        format!("{name}: MP_CAPABLE of version {version}, {length} bytes"),
    );
}

/// Checks where the data of both hosts begins.
fn sequence(facts: &mut Facts, opening: &Opening, idsn_a: u64, idsn_b: u64) -> Result<()> {
    let (_, response) = opening.response_dss;
    let first_b = idsn_b.wrapping_add(1);
    facts.check(
        response.dsn.is(first_b) && response.ssn == 1,
        format!(
            "B to A: first DSS data sequence number {:#018x} = IDSN-B + 1",
            response.dsn.value
        ),
    );

    let request = opening
        .request
        .option
        .view
        .data_len()
        .context("the client's first data has an MP_CAPABLE without a data-level length")?;
    let first_a = idsn_a.wrapping_add(1);
    let behind = first_a.wrapping_add(u64::from(request));
    facts.check(
        usize::from(request) == opening.request.segment.payload,
        format!(
            "A to B: the request's {request} bytes are mapped by MP_CAPABLE, so from IDSN-A + 1 on"
        ),
    );
    facts.check(
        opening.server_data_acks.iter().any(|ack| ack.is(behind)),
        format!("A to B: the server acknowledges the data up to {behind:#018x} = IDSN-A + 1 + {request}"),
    );
    let (_, next) = opening.next_dss;
    facts.check(
        next.dsn.is(behind),
        format!(
            "A to B: first DSS data sequence number {:#018x} = IDSN-A + 1 + {request}",
            next.dsn.value
        ),
    );
    Ok(())
}

/// Checks that the stack knows the connection by these tokens.
fn tokens(facts: &mut Facts, evidence: &Evidence, tokens: [u32; 2]) {
    for (host, (events, token)) in [Host::A, Host::B]
        .into_iter()
        .zip(evidence.events.iter().zip(tokens))
    {
        let x = host.letter();
        facts.check(
            events.contains(&format!("token={token:08x} ")),
            format!("host {x}: `ip mptcp monitor` names the connection by token {token:08x}"),
        );
    }
}

/// Checks the downloaded file.
fn file(facts: &mut Facts, stage: &Stage, evidence: &Evidence) {
    facts.check(
        evidence.size == FILE_SIZE && evidence.digest == stage.digest,
        format!(
            "curl got {} bytes in {:.1} s, SHA-256 {:.16}…, those that nginx has",
            evidence.size,
            evidence.time.as_secs_f64(),
            evidence.digest.to_string(),
        ),
    );
}

/// Checks a low-overhead download.
pub fn low_overhead(facts: &mut Facts, stage: &Stage, download: &Download) -> Result<()> {
    let Download {
        evidence,
        opening,
        joining,
    } = download;
    form(facts, "SYN", &opening.syn, DC_VERSION, 4);
    form(facts, "SYN/ACK", &opening.syn_ack, DC_VERSION, 12);
    form(facts, "ACK", &opening.ack, DC_VERSION, 20);
    let (a, b) = (opening.key_field(Host::A)?, opening.key_field(Host::B)?);
    facts.check(
        opening.ack.option.view.receiver() == Some(b.raw()),
        "ACK: echoes Tok_B and Rnd_B of the SYN/ACK",
    );
    sequence(facts, opening, a.idsn().0, b.idsn().0)?;
    tokens(facts, evidence, [a.token().get(), b.token().get()]);
    // Of the stack's own __mptcp_subflow_connect(): it hashes the peer's key for a token, which the module replaces.
    const JOINING_CLIENT: u64 = 1;
    let [sha, hmac] = evidence.hashes;
    facts.check(
        sha <= JOINING_CLIENT && hmac == 0,
        format!("the kernel computed no SHA-256 in the handshake ({sha} when the client joined), and no HMAC"),
    );
    let [client, server] = &evidence.own_counters;
    facts.check(
        count(client, "MPCapableSYNTX") >= 1
            && count(client, "MPCapableSYNACKRX") >= 1
            && count(server, "MPCapableSYNCompactRX") >= 1
            && count(server, "MPCapableACKRX") >= 1
            && count(server, "MPJoinACKRX") >= 1,
        "/proc/net/mptcp_dc of both hosts counted the handshakes",
    );
    low_overhead_joining(facts, evidence, opening, joining);
    file(facts, stage, evidence);
    Ok(())
}

/// Checks a standard download.
pub fn standard(facts: &mut Facts, stage: &Stage, download: &Download) -> Result<()> {
    let Download {
        evidence,
        opening,
        joining,
    } = download;
    form(facts, "SYN", &opening.syn, RFC_VERSION, 4);
    form(facts, "SYN/ACK", &opening.syn_ack, RFC_VERSION, 12);
    form(facts, "ACK", &opening.ack, RFC_VERSION, 20);
    let [Some(a), Some(b)] = [opening.key(Host::A), opening.key(Host::B)] else {
        bail!("a host sent no key");
    };
    let ((token_a, idsn_a), (token_b, idsn_b)) =
        (standard_token_and_idsn(a), standard_token_and_idsn(b));
    sequence(facts, opening, idsn_a, idsn_b)?;
    tokens(facts, evidence, [token_a, token_b]);
    facts.check(
        evidence.hashes[0] >= 4,
        format!(
            "the kernel computed {} SHA-256 for the keys",
            evidence.hashes[0]
        ),
    );
    facts.check(
        evidence.own_counters.iter().all(Counters::is_empty),
        "/proc/net/mptcp_dc of both hosts stands still",
    );
    join_lengths(facts, evidence, joining, [12, 16, 24]);
    file(facts, stage, evidence);
    Ok(())
}

/// Checks what the MP_JOIN of SYN, SYN/ACK and ACK take on the wire, and that the path is used.
fn join_lengths(facts: &mut Facts, evidence: &Evidence, joining: &Joining, lengths: [usize; 3]) {
    let [syn, syn_ack, ack] = lengths;
    facts.check(
        [&joining.syn, &joining.syn_ack, &joining.ack].map(Vec::len) == lengths,
        format!("path 2: MP_JOIN of {syn}, {syn_ack} and {ack} bytes"),
    );
    // A handshake and a few ACKs are less than a tenth of that.
    let bytes = evidence.received[1];
    facts.check(
        bytes > 10_000,
        format!("path 2: brought {bytes} bytes to the client"),
    );
}

fn low_overhead_joining(
    facts: &mut Facts,
    evidence: &Evidence,
    opening: &Opening,
    joining: &Joining,
) {
    join_lengths(facts, evidence, joining, [8, 4, 8]);
    let tok_b = opening.key(Host::B).map(|key| halves(key).0.to_be_bytes());
    let token = |option: &[u8]| option.get(4..).and_then(|rest| rest.first_chunk().copied());
    facts.check(
        tok_b.is_some() && token(&joining.syn) == tok_b && token(&joining.ack) == tok_b,
        "path 2: SYN and ACK carry Tok_B",
    );
}
