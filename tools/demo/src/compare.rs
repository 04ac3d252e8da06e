// SPDX-License-Identifier: GPL-2.0

//! The two downloads in a table.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

use crate::draw::Palette;
use crate::opening::{standard_token_and_idsn, Opening};
use crate::option::{halves, hex, Host};
use crate::stage::{count, Counters, Evidence};
use crate::Download;

fn row(name: &str, [low, standard]: [String; 2]) {
    println!("  {name:<26} {low:<32} {standard}");
}

/// The lengths of SYN, SYN/ACK and ACK, and their sum.
fn sum(lengths: [usize; 3]) -> String {
    let [syn, syn_ack, ack] = lengths;
    format!("{syn} + {syn_ack} + {ack} = {}", syn + syn_ack + ack)
}

/// Prints the table.
pub fn print(palette: Palette, low: &Download, standard: &Download) -> Result<()> {
    let bold = palette.title;
    println!("  {bold}{:<26} {:<32} standard{bold:#}", "", "low-overhead");
    messages(&low.opening, &standard.opening)?;
    let both = [low, standard];
    row(
        "MP_JOIN, bytes",
        both.map(|d| sum([&d.joining.syn, &d.joining.syn_ack, &d.joining.ack].map(Vec::len))),
    );
    let evidence = both.map(|d| &d.evidence);
    row("SHA-256 of keys", evidence.map(|e| e.hashes[0].to_string()));
    row("HMAC-SHA256", evidence.map(|e| e.hashes[1].to_string()));
    row(
        "bytes from path 1",
        evidence.map(|e| e.received[0].to_string()),
    );
    row(
        "bytes from path 2",
        evidence.map(|e| e.received[1].to_string()),
    );

    println!(
        "\n  {bold}{:<26} {:<32} client   server{bold:#}",
        "counters that moved", "client   server"
    );
    counters("/proc/net/mptcp_dc", evidence, |e| &e.own_counters);
    counters("MPTcpExt, as in nstat", evidence, |e| &e.mib_counters);
    Ok(())
}

/// The rows about MP_CAPABLE.
fn messages(low: &Opening, standard: &Opening) -> Result<()> {
    let all = [low, standard].map(|o| [&o.syn, &o.syn_ack, &o.ack]);
    for (i, name) in ["SYN begins", "SYN/ACK begins", "ACK begins"]
        .into_iter()
        .enumerate()
    {
        row(
            name,
            all.map(|messages| hex(&messages[i].option.bytes[..4])),
        );
    }
    row(
        "MP_CAPABLE, bytes",
        all.map(|m| sum(m.map(|m| m.option.bytes.len()))),
    );
    row(
        "handshake, bytes of IP",
        all.map(|m| sum(m.map(|m| m.segment.length))),
    );

    let b = low.key_field(Host::B)?;
    let (tok, rnd) = halves(b.raw());
    let key = standard.key(Host::B).context("the server sent no key")?;
    let (token, idsn) = standard_token_and_idsn(key);
    row(
        "SYN/ACK carries",
        [
            format!("Tok_B {tok:08x} Rnd_B {rnd:08x}"),
            format!("Key_B {key:016x}"),
        ],
    );
    row(
        "token of B",
        [
            format!("{tok:08x}  as carried"),
            format!("{token:08x}  of SHA-256(Key_B)"),
        ],
    );
    row(
        "IDSN-B",
        [
            format!("{:016x}  Rnd_B ‖ Tok_B", b.idsn().0),
            format!("{idsn:016x}  of SHA-256(Key_B)"),
        ],
    );
    Ok(())
}

/// Counters of the handshakes, at both hosts in both downloads.
fn counters(title: &str, evidence: [&Evidence; 2], of: fn(&Evidence) -> &[Counters; 2]) {
    println!("  {title}");
    let names: BTreeSet<&String> = evidence
        .iter()
        .flat_map(|e| of(e).iter().flat_map(Counters::keys))
        .filter(|name| name.starts_with("MPCapable") || name.starts_with("MPJoin"))
        .collect();
    for name in names {
        let values = evidence.map(|e| {
            let [client, server] = of(e);
            format!("{:>6}   {:>6}", count(client, name), count(server, name))
        });
        row(&format!("  {name}"), values);
    }
}
