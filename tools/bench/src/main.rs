// SPDX-License-Identifier: GPL-2.0

//! Counts what MPTCP handshakes and segments cost, in instructions of a guest, and measures floods and full tables.
//! scripts/bench calls it.

mod clock;
mod cpus;
mod datapath;
mod flood;
mod frame;
mod hold;
mod http;
mod join;
mod life;
mod mark;
mod measure;
mod net;
mod scale;
mod serve;
mod sides;
mod syn;
mod table;

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{bail, Context, Result};
use bench::{crypto, report, split};
use lexopt::prelude::*;

use measure::Amount;
use report::Report;

const HELP: &str = "\
Usage: dc-bench syn|join|datapath|http|life|memory|scale [OPTION]...
                                           in a guest of scripts/vm --icount, as root
       dc-bench flood|table|http-sides|scale-cpus [OPTION]...  in any guest of scripts/vm, as root
       dc-bench scale-tokens [OPTION]...   anywhere
       dc-bench core PROGRAM [OPTION]...   anywhere
       dc-bench show FILE                  anywhere
       dc-bench split FILE COUNTS          anywhere

Measures, and prints the result as JSON; progress goes to standard error.

  syn       instructions of a SYN and its answer, by kind of SYN and state of the module
  join      instructions of a whole join, both ends together, against a TCP connection; and the server's part of it
  datapath  instructions of a segment, by kind of connection and state of the module
  http      requests a second by number of subflows: plain TCP, regular MPTCP, without hashes, low overhead
  http-sides    the same in real time against regular MPTCP's, and what of the CPU is each host's
  life      instructions of a connection from its beginning to its end, by number of subflows
  memory    bytes of slab that it takes in between
  flood     what a flood of MP_JOIN SYNs leaves of the joins of 1,000 clients, and of memory
  table     how full the table of tokens is when a connection first falls back to TCP
  scale     instructions of a SYN and its answer, by the connections that the server has
  scale-cpus    SYNs a second, by the CPUs that they come from
  scale-tokens  tokens a second, by the CPUs that make them
  core      time that crypto and options of a handshake take: PROGRAM is the benchmark of tools/bench-core
  show      prints a result as a table
  split     prints the result FILE with the parts that each case is made of: COUNTS is what the plugin of tools/count
            wrote meanwhile. Writes what each function took to COUNTS with the ending .functions

  --rounds=N        measure each case N times (default 6; flood: once)
  --samples=N       samples in a round (default 2000)
  --syns=N          SYNs in a flood (default 1000000)
  --idle=S          guest seconds of idleness before all (default 20; flood, table: none)
  --no-module       measure only the stock kernel
  --symbols         put the symbols of modules into the result, for split
  --note=NAME=TEXT  put this into the result's environment; may be repeated

Exit status: 0, 1 if a target was missed, 2 for wrong usage or if nothing could be measured.
";

enum Request {
    Help,
    Show(PathBuf),
    Split {
        report: PathBuf,
        counts: PathBuf,
    },
    Core {
        program: PathBuf,
        rounds: usize,
        notes: Vec<(String, String)>,
    },
    Bench {
        run: fn(Amount, bool) -> Result<Report>,
        amount: Amount,
        module: bool,
        notes: Vec<(String, String)>,
    },
}

fn main() -> ExitCode {
    match parse(std::env::args_os().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("dc-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut amount = Amount {
        rounds: 6,
        samples: 2000,
        syns: 1_000_000,
        idle: 20,
        symbols: false,
    };
    let (mut module, mut notes) = (true, vec![]);
    let mut words: Vec<OsString> = vec![];
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Long("rounds") => amount.rounds = parser.value()?.parse()?,
            Long("samples") => amount.samples = parser.value()?.parse()?,
            Long("syns") => amount.syns = parser.value()?.parse()?,
            Long("idle") => amount.idle = parser.value()?.parse()?,
            Long("symbols") => amount.symbols = true,
            Long("no-module") => module = false,
            Long("note") => {
                let note = parser.value()?.string()?;
                let (name, text) = note.split_once('=').context("--note is NAME=TEXT")?;
                notes.push((name.to_owned(), text.to_owned()));
            }
            Value(word) => words.push(word),
            _ => return Err(arg.unexpected().into()),
        }
    }
    if amount.rounds == 0 || amount.samples < 4 {
        bail!("--rounds is at least 1, --samples at least 4");
    }
    let run = match words.first().and_then(|word| word.to_str()) {
        Some("show") if words.len() == 2 => return Ok(Request::Show(PathBuf::from(&words[1]))),
        Some("split") if words.len() == 3 => {
            let [report, counts] = [1, 2].map(|at| PathBuf::from(&words[at]));
            return Ok(Request::Split { report, counts });
        }
        Some("core") if words.len() == 2 => {
            return Ok(Request::Core {
                program: PathBuf::from(&words[1]),
                rounds: amount.rounds,
                notes,
            })
        }
        Some("syn") if words.len() == 1 => syn::run,
        Some("scale") if words.len() == 1 => scale::run,
        Some("scale-cpus") if words.len() == 1 => cpus::run_syns,
        Some("scale-tokens") if words.len() == 1 => cpus::run_tokens,
        Some("join") if words.len() == 1 => join::run,
        Some("datapath") if words.len() == 1 => datapath::run,
        Some("http") if words.len() == 1 => http::run,
        Some("http-sides") if words.len() == 1 => sides::run,
        Some("life") if words.len() == 1 => life::run,
        Some("memory") if words.len() == 1 => life::run_memory,
        Some("flood") if words.len() == 1 => flood::run,
        Some("table") if words.len() == 1 => table::run,
        _ => bail!("what shall I measure? dc-bench --help lists it"),
    };
    Ok(Request::Bench {
        run,
        amount,
        module,
        notes,
    })
}

/// Whether all targets were met.
fn run(request: Request) -> Result<bool> {
    let mut stdout = std::io::stdout();
    match request {
        Request::Help => {
            stdout.write_all(HELP.as_bytes())?;
            Ok(true)
        }
        Request::Split { report, counts } => {
            let mut report = read_report(&report)?;
            let table = split::divide(&mut report, &read(&counts)?)
                .with_context(|| counts.display().to_string())?;
            fs::write(counts.with_extension("functions"), table)?;
            serde_json::to_writer_pretty(&mut stdout, &report)?;
            stdout.write_all(b"\n")?;
            Ok(true)
        }
        Request::Show(file) => {
            let report = read_report(&file)?;
            stdout.write_all(report.table().as_bytes())?;
            Ok(report.missed.is_empty())
        }
        Request::Bench {
            run,
            amount,
            module,
            notes,
        } => finish(run(amount, module)?, notes),
        Request::Core {
            program,
            rounds,
            notes,
        } => finish(crypto::run(&program, rounds)?, notes),
    }
}

/// Prints a report with the notes in it.
fn finish(mut report: Report, notes: Vec<(String, String)>) -> Result<bool> {
    let mut stdout = std::io::stdout();
    report.environment.extend(notes);
    serde_json::to_writer_pretty(&mut stdout, &report)?;
    stdout.write_all(b"\n")?;
    for missed in &report.missed {
        eprintln!("dc-bench: target missed: {missed}");
    }
    Ok(report.missed.is_empty())
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

fn read_report(file: &Path) -> Result<Report> {
    serde_json::from_str(&read(file)?).with_context(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<Request> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn arguments() {
        let Ok(Request::Bench {
            amount,
            module,
            notes,
            ..
        }) = parsed(&["syn", "--rounds=2", "--no-module", "--note=a=b=c"])
        else {
            panic!()
        };
        assert_eq!((amount.rounds, amount.samples, module), (2, 2000, false));
        assert_eq!(notes, [("a".to_owned(), "b=c".to_owned())]);
        assert!(matches!(parsed(&["show", "x"]), Ok(Request::Show(_))));
        for wrong in [
            &[][..],
            &["show"],
            &["core"],
            &["table", "x"],
            &["split", "x"],
            &["syn", "syn"],
            &["syn", "--rounds=0"],
            &["x"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
