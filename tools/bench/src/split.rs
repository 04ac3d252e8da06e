// SPDX-License-Identifier: GPL-2.0

//! Where the instructions of a case are: what the plugin of tools/count wrote, put together with the symbols of the
//! kernel and of its modules.

use std::collections::BTreeMap;

use anyhow::{ensure, Context, Result};

use crate::report::{Report, KERNEL};

/// Instructions of one CPU in one block of code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    cpu: usize,
    address: u64,
    instructions: u64,
}

/// What the plugin wrote: a list of blocks for each section.
fn sections(text: &str) -> Result<Vec<Vec<Block>>> {
    let mut sections: Vec<Vec<Block>> = vec![];
    for (number, line) in text.lines().enumerate() {
        if line == "section" {
            sections.push(vec![]);
            continue;
        }
        let block = || -> Option<Block> {
            let mut words = line.split(' ');
            let block = Block {
                cpu: words.next()?.parse().ok()?,
                address: u64::from_str_radix(words.next()?, 16).ok()?,
                instructions: words.next()?.parse().ok()?,
            };
            words.next().is_none().then_some(block)
        };
        let block = block().with_context(|| format!("line {}: {line}", number + 1))?;
        let section = sections.last_mut().context("a block outside of sections")?;
        section.push(block);
    }
    Ok(sections)
}

/// Functions by address.
#[derive(Clone, Default)]
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Adds the code of `/proc/kallsyms`: address, kind, name and, in brackets, module.
    fn add(&mut self, text: &str) -> Result<()> {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (address, kind, name) = (words.next(), words.next(), words.next());
            let (Some(address), Some(kind), Some(name)) = (address, kind, name) else {
                continue;
            };
            // Code, of weak symbols, too.
            if !matches!(kind, "t" | "T" | "w" | "W") {
                continue;
            }
            let address = u64::from_str_radix(address, 16).with_context(|| line.to_owned())?;
            let module = words.next().unwrap_or_default();
            self.0
                .entry(address)
                .or_insert_with(|| format!("{name}{module}"));
        }
        Ok(())
    }

    fn name(&self, address: u64) -> &str {
        const USER: &str = "(user space)";
        if address == 0 {
            return USER;
        }
        let before = self.0.range(..=address).next_back();
        before.map_or("(unknown)", |(_, name)| name)
    }
}

/// What a function is for, in the order of the plots.
pub const PARTS: [&str; 8] = [
    "TCP, IP, veth, the rest",
    "MPTCP, other",
    "options",
    "token table",
    "random numbers",
    "SHA-256, HMAC",
    "this module",
    "ftrace",
];

/// The part that a function belongs to.
fn part(function: &str) -> &'static str {
    let [rest, mptcp, options, tokens, random, hash, module, ftrace] = PARTS;
    let begins = |with: &[&str]| with.iter().any(|with| function.starts_with(with));
    if function.starts_with("ftrace") || function.contains("[__builtin__ftrace]") {
        ftrace
    } else if function.ends_with("[mptcp_dc]") {
        module
    } else if begins(&[
        "sha256",
        "__sha256",
        "hmac_sha256",
        "__hmac_sha256",
        "mptcp_crypto_",
        "kernel_fpu_",
        "irq_fpu_usable",
    ]) {
        hash
    } else if begins(&["get_random_", "_get_random_", "crng_", "chacha", "blake2s"]) {
        random
    } else if begins(&["mptcp_token_", "__token_"]) {
        tokens
    } else if begins(&[
        "mptcp_get_options",
        "mptcp_parse_option",
        "mptcp_write_options",
        "mptcp_syn_options",
        "mptcp_synack_options",
        "mptcp_established_options",
        "tcp_parse_options",
        "tcp_options_write",
        "tcp_synack_options",
    ]) {
        options
    } else if begins(&["mptcp_", "__mptcp_", "subflow_", "__subflow_"]) {
        mptcp
    } else {
        rest
    }
}

/// Whether a function runs because there is nothing to do.
fn is_idle(function: &str) -> bool {
    [
        "default_idle",
        "pv_native_safe_halt",
        "do_idle",
        "cpuidle_",
        "tick_nohz_",
        "menu_",
    ]
    .iter()
    .any(|idle| function.starts_with(idle))
}

/// Puts the parts of each case into a report, in which sections and cases are in the same order. The report has the
/// symbols, and loses them. Returns a table of functions: what each took of each
/// case.
pub fn divide(report: &mut Report, counts: &str) -> Result<String> {
    let sections = sections(counts)?;
    ensure!(
        sections.len() == report.cases.len(),
        "{} sections for {} cases",
        sections.len(),
        report.cases.len()
    );
    let mut kernel = Symbols::default();
    let text = report.symbols.remove(KERNEL);
    kernel.add(&text.context("no symbols of the kernel")?)?;
    let mut states: BTreeMap<String, Symbols> = BTreeMap::new();
    for (state, symbols) in &report.symbols {
        let mut all = kernel.clone();
        all.add(symbols)?;
        states.insert(state.clone(), all);
    }
    let mut table = String::new();
    for (case, blocks) in report.cases.iter_mut().zip(&sections) {
        let symbols = states
            .get(&case.module)
            .with_context(|| format!("no symbols of state {}", case.module))?;
        let samples = case.samples.context("a case without number of samples")?;
        let mut functions: BTreeMap<(usize, &str), f64> = BTreeMap::new();
        for block in blocks {
            let name = symbols.name(block.address);
            *functions.entry((block.cpu, name)).or_default() += block.instructions as f64 / samples;
        }
        let mut parts = PARTS.map(|name| (name.to_owned(), 0.0));
        for (&(_, name), &count) in &functions {
            if name != "(user space)" && !is_idle(name) {
                let found = parts.iter_mut().find(|(other, _)| other == part(name));
                let (_, sum) = found.context("a part without name")?;
                *sum += count;
            }
        }
        case.parts = parts.into();
        let mut functions: Vec<_> = functions.into_iter().collect();
        functions.sort_by(|a, b| b.1.total_cmp(&a.1));
        for ((cpu, name), count) in functions {
            if count >= 0.5 {
                table.push_str(&format!(
                    "{}\t{}\t{cpu}\t{count:.1}\t{}\t{name}\n",
                    case.module,
                    case.what,
                    part(name)
                ));
            }
        }
    }
    report.symbols.clear();
    report.bench.push_str("-split");
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Case;

    const KERNEL_MAP: &str = "\
ffffffff81000000 T tcp_rcv
ffffffff81000100 t sha256_blocks
ffffffff81000200 D data
ffffffff81000280 T default_idle
";
    const MODULES: &str = "ffffffffc0000000 t callback\t[mptcp_dc]\n";

    #[test]
    fn what_the_plugin_wrote() {
        let read = sections("section\n0 ffff 3\n1 0 2\nsection\n").unwrap();
        let block = Block {
            cpu: 0,
            address: 0xffff,
            instructions: 3,
        };
        assert_eq!((read.len(), read[0][0], read[1].len()), (2, block, 0));
        for wrong in [
            "0 ffff 3\n",
            "section\n0 ffff\n",
            "section\n0 x 3\n",
            "section\n0 1 2 3\n",
        ] {
            assert!(sections(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_case() {
        let mut report = Report::new("split", "instructions");
        let mut case = Case::counted("on".to_owned(), "x", vec![1.0]);
        case.samples = Some(2.0);
        report.cases.push(case);
        report.symbols.insert("on".to_owned(), MODULES.to_owned());
        report
            .symbols
            .insert(KERNEL.to_owned(), KERNEL_MAP.to_owned());
        let counts = "section\n0 0 99\n0 ffffffff81000010 4\n0 ffffffff81000020 2\n\
                      0 ffffffff81000210 10\n0 ffffffff81000290 77\n0 ffffffffc0000001 6\n";
        let table = divide(&mut report, counts).unwrap();
        let part = |name: &str| {
            let mut parts = report.cases[0].parts.iter();
            parts.find(|(part, _)| part == name).unwrap().1
        };
        assert_eq!(part("TCP, IP, veth, the rest"), 3.0);
        assert_eq!(part("SHA-256, HMAC"), 5.0, "data is no code");
        assert_eq!(part("this module"), 3.0);
        assert_eq!(report.cases[0].parts.iter().map(|p| p.1).sum::<f64>(), 11.0);
        assert!(table.contains("on\tx\t0\t5.0\tSHA-256, HMAC\tsha256_blocks\n"));
        assert!(divide(&mut report, "").is_err(), "too few sections");
    }
}
