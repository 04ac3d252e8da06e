// SPDX-License-Identifier: GPL-2.0

//! `ip` as the selftests call it: iproute2's, but a new network namespace gets the setup's sysctl, and the
//! counters of one that goes are kept. So the scripts stay as the kernel has them.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use anyhow::{ensure, Context, Result};

/// iproute2's.
const IP: &str = "/usr/sbin/ip";

/// Environment: what sysctl(8) sets in new namespaces.
pub const SYSCTL: &str = "UPSTREAM_SYSCTL";
/// Environment: the file that the counters of namespaces that go are added to, as /proc/net/mptcp_dc has them.
pub const COUNTERS: &str = "UPSTREAM_COUNTERS";

pub fn main(args: Vec<OsString>) -> Result<u8> {
    match args.as_slice() {
        [netns, add, name] if netns == "netns" && add == "add" => {
            let status = Command::new(IP).args(&args).status().context(IP)?;
            if let (true, Some(setting)) = (status.success(), env::var_os(SYSCTL)) {
                let output = inside(name, &["sysctl".as_ref(), "-qw".as_ref(), &setting])?;
                ensure!(output.status.success(), "sysctl {setting:?}: {output:?}");
            }
            Ok(status.code().unwrap_or(1) as u8)
        }
        [netns, delete, name] if netns == "netns" && delete == "delete" => {
            if let Some(path) = env::var_os(COUNTERS) {
                let output = inside(name, &["cat".as_ref(), "/proc/net/mptcp_dc".as_ref()])?;
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&path)
                    .and_then(|mut file| file.write_all(&output.stdout))
                    .with_context(|| format!("{path:?}"))?;
            }
            Err(exec(&args))
        }
        _ => Err(exec(&args)),
    }
}

/// Becomes iproute2's; returns only if it can't.
fn exec(args: &[OsString]) -> anyhow::Error {
    anyhow::Error::new(Command::new(IP).args(args).exec()).context(IP)
}

/// Runs a command in a namespace.
fn inside(namespace: &OsStr, command: &[&OsStr]) -> Result<Output> {
    Command::new(IP)
        .args(["netns".as_ref(), "exec".as_ref(), namespace])
        .args(command)
        .output()
        .context(IP)
}
