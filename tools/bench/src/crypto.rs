// SPDX-License-Identifier: GPL-2.0

//! What the crypto and the options of a handshake cost on this machine's CPU. tools/bench-core does the work, under names that are
//! here; this runs it, with and without the CPU's SHA extensions, and reads what criterion found.

use std::env::temp_dir;
use std::fs;
use std::path::Path;
use std::process::{id, Command};

use anyhow::{ensure, Context, Result};
use serde::Deserialize;

use crate::report::{Case, Limit, Report};

/// The names of what is measured.
pub mod name {
    /// `mptcp_crypto_key_gen_sha()`: `get_random_bytes()`, then `mptcp_crypto_key_sha()`.
    pub const KEY_GEN: &str = "stock: key, token and IDSN (ChaCha20, SHA-256)";
    /// `mptcp_crypto_key_sha()`: token and IDSN of a key, one block.
    pub const KEY_SHA: &str = "stock: SHA-256 of a key (token, IDSN)";
    /// A server does so for its own key and for the client's.
    pub const KEYS_SHA: &str = "stock: SHA-256 of both keys";
    /// `mptcp_crypto_hmac_sha()`: four blocks.
    pub const JOIN_HMAC: &str = "stock: HMAC-SHA256 of a join";
    /// `get_random_bytes()` of a key: one block of ChaCha20.
    pub const RANDOM: &str = "stock: random number that is a key (ChaCha20)";
    /// The next counter of the slice, encrypted.
    pub const TOKEN: &str = "low overhead: token (RC5)";
    /// That and `Rnd`; the IDSN is the same bits.
    pub const PAIR: &str = "low overhead: token and key (RC5, SipHash)";
    /// `derived_nonces=1`, which still needs the SHA-256 of the key.
    pub const DERIVED_KEY: &str = "derived_nonces: key (SipHash)";
    /// As above.
    pub const DERIVED_NONCE: &str = "derived_nonces: nonce of a join (SipHash)";
    /// The state of the key's two pads is kept: two blocks.
    pub const EXTERNAL_HMAC: &str = "external key: HMAC-SHA256 of a join";
    /// The SYN/ACK.
    pub const WRITE: &str = "MP_CAPABLE written";
    /// As above.
    pub const READ: &str = "MP_CAPABLE found and read";
    /// The SYN without HMAC.
    pub const READ_JOIN: &str = "MP_JOIN read";
}

/// What the low-overhead pair may take of the time of `mptcp_crypto_key_gen_sha()`, in percent.
const TARGET_WITHOUT: f64 = 10.0;
const TARGET_WITH: f64 = 100.0;

const WITHOUT: &str = "no SHA extensions";
const WITH: &str = "SHA extensions";

/// In OpenSSL's `OPENSSL_ia32cap`: CPUID leaf 7, EBX without bit 29, the SHA extensions.
const MASK: &str = ":~0x20000000";

/// The part of criterion's `sample.json` that counts.
#[derive(Deserialize)]
struct Sample {
    iters: Vec<f64>,
    /// Nanoseconds of so many.
    times: Vec<f64>,
}

impl Sample {
    /// Nanoseconds of one: the least, as what else runs on a machine only adds.
    fn least(&self) -> f64 {
        let each = self.times.iter().zip(&self.iters);
        each.map(|(time, iters)| time / iters)
            .fold(f64::INFINITY, f64::min)
    }
}

/// The part of criterion's `benchmark.json` that counts.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

/// Runs the program of tools/bench-core so many times for each kind of CPU, in turn.
pub fn run(program: &Path, rounds: usize) -> Result<Report> {
    let has_sha = std::arch::is_x86_feature_detected!("sha");
    let kinds: &[(&str, &str)] = if has_sha {
        &[(WITHOUT, MASK), (WITH, "")]
    } else {
        &[(WITHOUT, MASK)]
    };
    let mut found: Vec<Vec<(String, f64)>> = vec![vec![]; kinds.len()];
    let home = temp_dir().join(format!("dc-bench-core.{}", id()));
    for round in 1..=rounds {
        for ((kind, mask), found) in kinds.iter().zip(&mut found) {
            eprintln!("dc-bench: core: round {round} of {rounds}, {kind}");
            found.extend(run_once(program, mask, &home)?);
        }
    }
    let mut report = Report::new("core", "percent of the time of stock's key and token");
    report.columns = "CPU".to_owned();
    report.forget_guest();
    let yes = if has_sha { "yes" } else { "no" };
    for (name, value) in [("CPU has SHA extensions", yes), ("SHA-256", openssl_name())] {
        report.environment.insert(name.to_owned(), value.to_owned());
    }
    for ((kind, _), found) in kinds.iter().zip(found) {
        add(&mut report, kind, &found)?;
    }
    report.judge();
    Ok(report)
}

fn openssl_name() -> &'static str {
    "OpenSSL's assembly for this CPU; its extensions masked by OPENSSL_ia32cap"
}

/// One run; names, and nanoseconds of each.
fn run_once(program: &Path, mask: &str, home: &Path) -> Result<Vec<(String, f64)>> {
    let mut command = Command::new(program);
    command.arg("--bench").env("CRITERION_HOME", home);
    command.env_remove("OPENSSL_ia32cap");
    if !mask.is_empty() {
        command.env("OPENSSL_ia32cap", mask);
    }
    let output = command
        .output()
        .with_context(|| program.display().to_string())?;
    let found = ensure_success(&output).and_then(|()| read_samples(home));
    // Else criterion compares the next run with this one.
    fs::remove_dir_all(home).with_context(|| home.display().to_string())?;
    found
}

fn ensure_success(output: &std::process::Output) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the benchmark failed: {said}");
    Ok(())
}

fn read_samples(home: &Path) -> Result<Vec<(String, f64)>> {
    let mut found = vec![];
    for entry in fs::read_dir(home).with_context(|| home.display().to_string())? {
        let new = entry?.path().join("new");
        if !new.is_dir() {
            continue;
        }
        let read = |name: &str| fs::read_to_string(new.join(name)).context(name.to_owned());
        let benchmark: Benchmark = serde_json::from_str(&read("benchmark.json")?)?;
        let sample: Sample = serde_json::from_str(&read("sample.json")?)?;
        found.push((benchmark.full_id, sample.least()));
    }
    Ok(found)
}

/// Puts in the cases of a kind of CPU. Each round is a share of what stock's key and token took in it.
fn add(report: &mut Report, kind: &str, found: &[(String, f64)]) -> Result<()> {
    use name::*;
    let times = |name: &str| -> Vec<f64> {
        let of = found.iter().filter(|(found, _)| found == name);
        of.map(|(_, time)| *time).collect()
    };
    let base = times(KEY_GEN);
    ensure!(!base.is_empty(), "there is no {KEY_GEN}");
    for what in [
        KEY_GEN,
        RANDOM,
        KEY_SHA,
        KEYS_SHA,
        JOIN_HMAC,
        TOKEN,
        PAIR,
        DERIVED_KEY,
        DERIVED_NONCE,
        EXTERNAL_HMAC,
        WRITE,
        READ,
        READ_JOIN,
    ] {
        let times = times(what);
        ensure!(
            times.len() == base.len(),
            "{what} was measured {} times, not {}",
            times.len(),
            base.len()
        );
        let rounds = times.iter().zip(&base);
        let rounds = rounds.map(|(time, base)| time / base * 100.0).collect();
        let mut case = Case::counted(kind.to_owned(), what, rounds);
        if what == PAIR {
            let most = if kind == WITHOUT {
                TARGET_WITHOUT
            } else {
                TARGET_WITH
            };
            case.limit = Some(Limit::Most(most));
        }
        let mut times = times;
        let nanoseconds = format!("{:.1}", crate::report::median(&mut times));
        report
            .environment
            .insert(format!("ns: {what}, {kind}"), nanoseconds);
        report.cases.push(case);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pair: f64) -> Vec<(String, f64)> {
        use name::*;
        let all = [
            KEY_GEN,
            KEY_SHA,
            KEYS_SHA,
            JOIN_HMAC,
            RANDOM,
            TOKEN,
            DERIVED_KEY,
            DERIVED_NONCE,
            EXTERNAL_HMAC,
            WRITE,
            READ,
            READ_JOIN,
        ];
        let others = all.map(|name| (name.to_owned(), 200.0));
        others
            .into_iter()
            .chain([(PAIR.to_owned(), pair)])
            .collect()
    }

    fn missed(kind: &str, pair: f64) -> usize {
        let mut report = Report::new("core", "percent");
        add(&mut report, kind, &found(pair)).unwrap();
        report.judge();
        report.missed.len()
    }

    #[test]
    fn the_pair_may_take_a_tenth_of_software_and_all_of_hardware() {
        assert_eq!(missed(WITHOUT, 20.0), 0);
        assert_eq!(missed(WITHOUT, 20.1), 1);
        assert_eq!(missed(WITH, 200.0), 0);
        assert_eq!(missed(WITH, 200.1), 1);
    }

    #[test]
    fn the_least_sample_counts() {
        let sample = Sample {
            iters: vec![1.0, 2.0, 3.0],
            times: vec![9.0, 8.0, 15.0],
        };
        assert_eq!(sample.least(), 4.0);
    }

    #[test]
    fn what_was_not_measured_is_an_error() {
        let mut report = Report::new("core", "percent");
        assert!(add(&mut report, WITH, &found(1.0)[1..]).is_err());
        assert!(add(&mut report, WITH, &found(1.0)[..12]).is_err());
    }
}
