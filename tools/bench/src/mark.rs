// SPDX-License-Identifier: GPL-2.0

//! Marks for the plugin of tools/count: between them it counts instructions by where they are. Without it they do nothing.

use std::arch::asm;
use std::fs;

use anyhow::{Context, Result};

use crate::measure::{Amount, State};
use crate::report::{Report, KERNEL};

/// A section begins, or goes on.
#[inline(always)]
pub fn begin() {
    // SAFETY: nopl 0x6d706401(%rax), which touches nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x80", ".long 0x6d706401") }
}

/// What follows is none of it, until it goes on.
#[inline(always)]
pub fn pause() {
    // SAFETY: nopl 0x6d706403(%rax), which touches nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x80", ".long 0x6d706403") }
}

/// The section is complete, and written down.
pub fn end() {
    // SAFETY: nopl 0x6d706402(%rax), which touches nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x80", ".long 0x6d706402") }
}

/// The symbols of code as they are now, as lines of `/proc/kallsyms`: the kernel's own, and those of modules and of ftrace's
/// trampolines.
fn symbols() -> Result<(String, String)> {
    let path = "/proc/kallsyms";
    let text = fs::read_to_string(path).context(path)?;
    let is_code = |line: &&str| {
        let kind = line.split(' ').nth(1);
        kind.is_some_and(|kind| matches!(kind, "t" | "T" | "w" | "W"))
    };
    let (mut kernel, mut modules) = (String::new(), String::new());
    for line in text.lines().filter(is_code) {
        let to = if line.ends_with(']') {
            &mut modules
        } else {
            &mut kernel
        };
        to.push_str(line);
        to.push('\n');
    }
    Ok((kernel, modules))
}

/// Puts the symbols in this state into the report, if they are wanted.
pub fn note_symbols(state: State, amount: Amount, report: &mut Report) -> Result<()> {
    if amount.symbols {
        let (kernel, modules) = symbols()?;
        report.symbols.insert(KERNEL.to_owned(), kernel);
        report.symbols.insert(state.name(), modules);
    }
    Ok(())
}
