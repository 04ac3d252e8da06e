// SPDX-License-Identifier: GPL-2.0

//! What crossed the wire, drawn as on the slides.

use anyhow::Result;
use proto::key::KeyField;

use crate::draw::{Ladder, Palette, Span};
use crate::opening::{Joining, Message, Opening};
use crate::option::{dss_fields, mp_capable_fields, mp_join_fields, Dss, Host};
use crate::stage::{Evidence, PATHS};

/// The hosts and the paths between them.
pub fn topology() {
    let [[a1, b1], [a2, b2]] = PATHS;
    println!("         client (A)                            server (B)");
    println!("         curl      {a1} ── path 1 ── {b1}      nginx");
    println!("                   {a2} ── path 2 ── {b2}\n");
}

/// What the flags are called.
pub fn legend() {
    println!(
        "  flags of MP_CAPABLE  A checksum  B external key  C no join to this address  H SHA-256"
    );
    println!("  flags of DSS         F DATA_FIN  m, a 8 bytes long  M mapping  A data ACK\n");
}

/// The hosts' names over their lifelines.
fn ladder(palette: Palette, opening: &Opening) -> Ladder {
    let syn = &opening.syn.segment;
    Ladder::new(
        palette,
        &format!("client A  {}", syn.from),
        &format!("server B  {}", syn.to),
    )
}

/// A handshake message with every field.
fn message(ladder: &Ladder, title: &str, sender: Host, message: &Message) {
    ladder.heading(title);
    for field in mp_capable_fields(&message.option, sender) {
        ladder.field(&field);
    }
    ladder.arrow(sender);
}

/// A data segment with the fields of its mapping.
fn signal(ladder: &Ladder, title: &str, sender: Host, dss: &Dss) {
    ladder.heading(title);
    for field in dss_fields(dss) {
        ladder.field(&field);
    }
    ladder.arrow(sender);
}

/// One host's initial data sequence number, and how it is made.
fn idsn(palette: Palette, ladder: &Ladder, host: Host, key: KeyField) {
    let x = host.letter();
    ladder.row(&[Span(
        palette.of(host),
        format!("   IDSN-{x} = Rnd_{x} ‖ Tok_{x} = {:#018x}", key.idsn().0),
    )]);
}

/// A low-overhead handshake, and the first data each way.
pub fn low_overhead(palette: Palette, opening: &Opening) -> Result<()> {
    let ladder = ladder(palette, opening);
    let (a, b) = (opening.key_field(Host::A)?, opening.key_field(Host::B)?);
    ladder.note(Host::A, "generates a unique Tok_A, and Rnd_A");
    message(
        &ladder,
        "SYN  MP_CAPABLE  (compact: Tok_A, Rnd_A come with the ACK)",
        Host::A,
        &opening.syn,
    );
    ladder.note(Host::B, "generates a unique Tok_B, and Rnd_B");
    message(&ladder, "SYN/ACK  MP_CAPABLE", Host::B, &opening.syn_ack);
    ladder.note(Host::A, "stores Tok_B");
    message(&ladder, "ACK  MP_CAPABLE", Host::A, &opening.ack);
    ladder.note(Host::B, "stores Tok_A");
    ladder.row(&[]);
    ladder.heading("both hosts now compute, without a hash:");
    idsn(palette, &ladder, Host::A, a);
    idsn(palette, &ladder, Host::B, b);
    ladder.row(&[]);
    message(
        &ladder,
        "first data of A, curl's request:  MP_CAPABLE maps it from IDSN-A + 1 on",
        Host::A,
        &opening.request,
    );
    signal(
        &ladder,
        "first data of B, nginx's answer:  DSS",
        Host::B,
        &opening.response_dss.0,
    );
    signal(
        &ladder,
        "first data sequence number in a DSS of A",
        Host::A,
        &opening.next_dss.0,
    );
    Ok(())
}

/// A standard handshake.
pub fn standard(palette: Palette, opening: &Opening) {
    let ladder = ladder(palette, opening);
    ladder.note(
        Host::A,
        "draws Key_A at random; token and IDSN-A are hashes of it",
    );
    message(&ladder, "SYN  MP_CAPABLE", Host::A, &opening.syn);
    ladder.note(
        Host::B,
        "draws Key_B at random; token and IDSN-B are hashes of it",
    );
    message(&ladder, "SYN/ACK  MP_CAPABLE", Host::B, &opening.syn_ack);
    ladder.note(Host::A, "hashes Key_B");
    message(&ladder, "ACK  MP_CAPABLE", Host::A, &opening.ack);
    ladder.note(Host::B, "hashes Key_A");
}

/// The second subflow's handshake.
pub fn joining(palette: Palette, evidence: &Evidence, joining: &Joining) {
    let syn = evidence.wire[1]
        .iter()
        .find(|segment| segment.syn && !segment.ack);
    let [a, b] = syn.map_or_else(Default::default, |s| [s.from.to_string(), s.to.to_string()]);
    println!("\n  path 2, the additional subflow:\n");
    let ladder = Ladder::new(
        palette,
        &format!("client A  {a}"),
        &format!("server B  {b}"),
    );
    let messages = [
        ("SYN  MP_JOIN", Host::A, &joining.syn),
        ("SYN/ACK  MP_JOIN", Host::B, &joining.syn_ack),
        ("ACK  MP_JOIN", Host::A, &joining.ack),
    ];
    for (title, sender, option) in messages {
        ladder.heading(title);
        for field in mp_join_fields(option, sender) {
            ladder.field(&field);
        }
        ladder.arrow(sender);
    }
}
