// SPDX-License-Identifier: GPL-2.0

//! A download over low-overhead MPTCP, and the same over standard MPTCP: what crossed the wire, field by
//! field, and whether it is what Documentation/protocol.rst says. `make demo` runs this in a guest.

#![forbid(unsafe_code)]

mod capture;
mod check;
mod compare;
mod draw;
mod opening;
mod option;
mod show;
mod stage;

use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{ensure, Context, Result};

use draw::{Facts, Palette};
use opening::{Joining, Opening};
use stage::{Evidence, Setup, Stage};

const HELP: &str = "\
Usage: demo [--color]

Downloads a file over low-overhead MPTCP and again over standard MPTCP, shows the handshakes as tcpdump caught
them and checks them. To be run as root in a guest that has the module at hand: see scripts/demo.

  --color  use colours

Exit status: 0 if all that was checked holds, 1 if not or if something failed.
";

fn main() -> ExitCode {
    match arguments().and_then(|color| color.map_or(Ok(true), perform)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether to use colours; `None` if only help was asked for.
fn arguments() -> Result<Option<bool>> {
    use lexopt::prelude::*;

    let mut color = false;
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(None);
            }
            Long("color") => color = true,
            _ => return Err(arg.unexpected().into()),
        }
    }
    Ok(Some(color))
}

/// A download and what its captures hold.
struct Download {
    evidence: Evidence,
    opening: Opening,
    joining: Joining,
}

impl Download {
    fn run(stage: &Stage, setup: Setup) -> Result<Self> {
        let evidence = stage.download(setup)?;
        Ok(Self {
            opening: Opening::find(&evidence.wire[0])?,
            joining: Joining::find(&evidence.wire[1])?,
            evidence,
        })
    }
}

/// The whole demo; whether every fact holds.
fn perform(color: bool) -> Result<bool> {
    let palette = Palette::new(color);
    let mut facts = Facts::new(palette);

    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("kernel   {} (Debian's own, unmodified)", kernel.trim());
    let loaded = Command::new("modprobe").arg("mptcp_dc").status()?;
    ensure!(loaded.success(), "modprobe mptcp_dc failed; dmesg says why");
    println!("module   mptcp_dc, loaded into it");
    let stage = Stage::set_up()?;
    println!("network  two network namespaces, two paths:\n");
    show::topology();
    facts.check(
        stage.mptcp_listeners()?.contains(":80 "),
        "nginx, run by mptcpize, listens on an MPTCP socket",
    );

    let low = Download::run(&stage, Setup::LowOverhead).context("low-overhead download")?;
    palette.title("Low-overhead MPTCP: net.mptcp_dc.lowoverhead=2 on both hosts");
    show::legend();
    show::low_overhead(palette, &low.opening)?;
    show::joining(palette, &low.evidence, &low.joining);
    check::low_overhead(&mut facts, &stage, &low)?;

    let standard = Download::run(&stage, Setup::Standard).context("standard download")?;
    palette.title("Standard MPTCP (RFC 8684): lowoverhead=0, same nginx, same curl");
    show::standard(palette, &standard.opening);
    show::joining(palette, &standard.evidence, &standard.joining);
    check::standard(&mut facts, &stage, &standard)?;

    palette.title("Side by side");
    compare::print(palette, &low, &standard)?;
    Ok(facts.conclude())
}
