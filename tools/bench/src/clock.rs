// SPDX-License-Identifier: GPL-2.0

//! Guest time as a count of instructions.

use std::arch::asm;
use std::arch::x86_64::_rdtsc;
use std::fs;

use anyhow::{ensure, Context, Result};

/// Instructions that the guest has executed. Only differences mean anything.
///
/// With QEMU's `-icount shift=0` an instruction takes 1 ns of guest time, and the time-stamp counter
/// ticks once a nanosecond.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: Every x86-64 CPU has the instruction.
    unsafe { _rdtsc() }
}

/// Instructions that all tasks of the guest's one CPU have executed, interrupts in their time included, when each was last
/// switched away from: call it after a sleep. Only differences mean anything.
pub fn busy() -> Result<f64> {
    /// `rq_cpu_time`, in nanoseconds (kernel/sched/stats.c).
    const RUN_TIME: usize = 7;
    let path = "/proc/schedstat";
    let text = fs::read_to_string(path).context(path)?;
    let mut cpus = text.lines().filter(|line| line.starts_with("cpu"));
    let time = cpus.next().and_then(|line| {
        let word = line.split_ascii_whitespace().nth(RUN_TIME)?;
        word.parse().ok()
    });
    ensure!(cpus.next().is_none(), "{path} tells of more CPUs than one");
    time.with_context(|| format!("{path} doesn't tell how long tasks ran"))
}

/// Fails if the clock doesn't count instructions: counts a loop whose length is known.
pub fn check() -> Result<()> {
    const TURNS: u64 = 100_000;
    let counts: Vec<u64> = (0..5)
        .map(|_| {
            let start = now();
            // SAFETY: Two instructions a turn that touch one register.
            unsafe {
                asm!("2: dec {0}", "jnz 2b", inout(reg) TURNS => _, options(nomem, nostack));
            }
            now() - start
        })
        .collect();
    // Interrupts only add.
    let best = counts.iter().copied().min().unwrap_or(0);
    ensure!(
        (TURNS * 2..TURNS * 2 + 100).contains(&best),
        "a loop of {} instructions took {best} ticks: run this in a guest of scripts/vm --icount",
        TURNS * 2
    );
    Ok(())
}
