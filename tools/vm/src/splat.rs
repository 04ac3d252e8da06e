// SPDX-License-Identifier: GPL-2.0

//! Finds the kernel's complaints in its log, its taint and its leak report.

use crate::message::Outcome;
use crate::END_OF_RUN;

/// A line whose text starts so is a complaint.
const STARTS: &[&str] = &[
    // WARN(), and most of lockdep: "possible circular locking dependency", "inconsistent lock state",
    // "suspicious RCU usage", "bad unlock balance".
    "WARNING:",
    // KASAN, "sleeping function called from invalid context", "unable to handle", "soft lockup".
    "BUG:",
    "kernel BUG at",
    "Oops:",
    "Kernel panic - not syncing",
    "general protection fault",
    "stack segment:",
    "invalid opcode:",
    "double fault:",
    "traps: PANIC",
    "UBSAN:",
    "ODEBUG:",
    "rust_kernel: panicked at",
    "kfence: ",
    "INFO: possible ",
    "INFO: trying to register non-static key",
    "INFO: rcu",
    "INFO: NMI handler",
    "rcu: INFO:",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
    "unregister_netdevice: waiting for",
    "Out of memory:",
    "workqueue: lockup",
];

/// A line that contains one of these is a complaint, wherever it stands.
const ANYWHERE: &[&str] = &[
    "watchdog: BUG:",
    "new suspected memory leaks",
    "KASAN: maybe wild-memory-access",
    "unexpected RCU",
];

/// `INFO: task NAME:PID blocked for more than N seconds.`
const HUNG_TASK: (&str, &str) = ("INFO: task ", "blocked for more than");

/// Lines of the log shown after the complaint itself.
const SHOWN: usize = 60;

/// Taint that loading an unsigned out-of-tree module, a live patch or KUnit leaves on a healthy kernel.
const EXPECTED_TAINT: u64 = (1 << 12) | (1 << 13) | (1 << 15) | (1 << 18);

/// Names of the taint bits, from bit 0 (Documentation/admin-guide/tainted-kernels.rst).
const TAINT_NAMES: &[&str] = &[
    "proprietary module",
    "module force-loaded",
    "out-of-specification system",
    "module force-unloaded",
    "machine check",
    "bad page",
    "tainted by user space",
    "kernel died (oops or BUG)",
    "ACPI table overridden",
    "kernel warned",
    "staging driver",
    "firmware workaround",
    "out-of-tree module",
    "unsigned module",
    "soft lockup",
    "live patch",
    "auxiliary",
    "randstruct",
    "in-kernel test",
];

/// All complaints of a run, each as text to show; empty if the kernel was content.
///
/// `log` is the console log so far, `outcome` what the guest said at the end, if it came to that.
pub fn find(log: &str, outcome: Option<&Outcome>) -> Vec<String> {
    let mut complaints: Vec<String> = in_log(log).into_iter().collect();
    if let Some(outcome) = outcome {
        complaints.extend(in_taint(outcome.tainted));
        if !outcome.leaks.is_empty() {
            complaints.push(format!("memory leaks:\n{}", outcome.leaks.trim_end()));
        }
    }
    complaints
}

/// The first complaint in the log with what follows it, which mostly is its explanation or its consequence.
fn in_log(log: &str) -> Option<String> {
    let run: Vec<&str> = log
        .lines()
        .take_while(|line| !line.contains(END_OF_RUN))
        .collect();
    let first = run.iter().position(|line| is_complaint(text_of(line)))?;
    let end = run.len().min(first + SHOWN);
    let mut shown = run[first..end].join("\n");
    if end < run.len() {
        shown += &format!("\n… and {} lines more", run.len() - end);
    }
    Some(shown)
}

fn in_taint(tainted: u64) -> Option<String> {
    let unexpected = tainted & !EXPECTED_TAINT;
    if unexpected == 0 {
        return None;
    }
    let names: Vec<&str> = (0..u64::BITS as usize)
        .filter(|bit| (unexpected >> bit) & 1 == 1)
        .map(|bit| TAINT_NAMES.get(bit).copied().unwrap_or("unknown taint"))
        .collect();
    Some(format!(
        "the kernel is tainted: {} ({tainted})",
        names.join(", ")
    ))
}

/// Whether a line of the log, without time stamp, is a complaint.
fn is_complaint(text: &str) -> bool {
    STARTS.iter().any(|start| text.starts_with(start))
        || ANYWHERE.iter().any(|part| text.contains(part))
        || text.starts_with(HUNG_TASK.0) && text.contains(HUNG_TASK.1)
}

/// A line's text, without `[    1.234567] ` and `[   T12] ` in front of it.
fn text_of(line: &str) -> &str {
    let mut text = line.trim_start();
    while let Some((stamp, rest)) = text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        let stamp = stamp.trim();
        let digits = stamp.trim_start_matches(['T', 'C']);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            break;
        }
        text = rest.trim_start();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(log: &str) -> Vec<String> {
        find(log, None)
    }

    #[test]
    fn each_kind_of_splat_is_found() {
        for line in [
            "WARNING: net/mptcp/token.c:123 at mptcp_token_destroy+0x12/0x30, CPU#1: nginx/77",
            "WARNING: CPU: 0 PID: 1 at kernel/foo.c:1 bar+0x1/0x2",
            "WARNING: possible circular locking dependency detected",
            "WARNING: inconsistent lock state",
            "WARNING: suspicious RCU usage",
            "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "BUG: sleeping function called from invalid context at mm/page_alloc.c:1",
            "BUG: unable to handle page fault for address: ffffc90000000000",
            "BUG: kernel NULL pointer dereference, address: 0000000000000000",
            "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
            "kernel BUG at net/core/skbuff.c:200!",
            "Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",
            "Kernel panic - not syncing: Fatal exception",
            "UBSAN: array-index-out-of-bounds in net/x.c:3:4",
            "ODEBUG: free active (active state 0) object",
            "INFO: task curl:12 blocked for more than 120 seconds.",
            "INFO: rcu_preempt detected stalls on CPUs/tasks:",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [curl:12]",
            "INFO: trying to register non-static key.",
            "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "rust_kernel: panicked at rust/mptcp_dc.rs:3:4:",
            "refcount_t: underflow; use-after-free.",
            "unregister_netdevice: waiting for veth0 to become free. Usage count = 2",
        ] {
            for prefix in [
                "",
                "[    1.234567] ",
                "[   12.345678][  T123] ",
                "[    0.1][    C0] ",
            ] {
                let log = format!("[    0.000000] Linux version 7.3\n{prefix}{line}\n");
                assert_eq!(complaints(&log), [format!("{prefix}{line}")], "{line}");
            }
        }
    }

    #[test]
    fn a_healthy_log_has_no_complaint() {
        let log = "\
[    0.000000] Linux version 7.3.4 (gcc-14) #1 SMP PREEMPT_DYNAMIC
[    0.000000] Lock dependency validator: Copyright (c) 2006 Red Hat, Inc., Ingo Molnar
[    0.010000] kasan: KernelAddressSanitizer initialized (generic)
[    0.020000] Spectre V2 : WARNING: nothing of this kind at the start of a line
[    0.500000] rcu: Hierarchical RCU implementation.
[    0.600000] Warning: unable to open an initial console.
[    1.000000] mptcp_dc: loading out-of-tree module taints kernel.
[    1.000001] INFO: task in a message of another kind
[    1.100000] mptcp_dc: hooks: \"BUG: not really\" said the module
";
        assert_eq!(complaints(log), [""; 0]);
    }

    #[test]
    fn what_comes_after_the_run_is_not_judged() {
        let log = format!("[ 1.0] fine\n[ 2.0] {END_OF_RUN}\n[ 2.1] BUG: at power off\n");
        assert_eq!(complaints(&log), [""; 0]);
        let log = format!("[ 1.0] BUG: in the run\n[ 2.0] {END_OF_RUN}\n");
        assert_eq!(complaints(&log), ["[ 1.0] BUG: in the run"]);
    }

    #[test]
    fn a_long_splat_is_cut_and_says_so() {
        let log = format!("BUG: x\n{}", "more\n".repeat(SHOWN + 4));
        assert!(complaints(&log)[0].ends_with("… and 5 lines more"));
    }

    #[test]
    fn only_unexpected_taint_is_a_complaint() {
        let of = |tainted| {
            find(
                "",
                Some(&Outcome {
                    tainted,
                    ..Outcome::default()
                }),
            )
        };
        assert_eq!(of(0), [""; 0]);
        assert_eq!(of(EXPECTED_TAINT), [""; 0]);
        assert_eq!(
            of((1 << 9) | (1 << 12)),
            ["the kernel is tainted: kernel warned (4608)"]
        );
        assert_eq!(
            of(1 << 7),
            ["the kernel is tainted: kernel died (oops or BUG) (128)"]
        );
        assert!(of(1 << 40)[0].contains("unknown taint"));
    }

    #[test]
    fn leaks_are_complaints() {
        let outcome = Outcome {
            leaks: "unreferenced object 0x1\n".into(),
            ..Outcome::default()
        };
        assert_eq!(
            find("", Some(&outcome)),
            ["memory leaks:\nunreferenced object 0x1"]
        );
    }
}
