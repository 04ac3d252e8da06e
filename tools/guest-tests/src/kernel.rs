// SPDX-License-Identifier: GPL-2.0

//! The kernel as a whole: its modules, its log, what ftrace has hooked.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::netns::output;
use crate::Test;

pub const MODULE: &str = "mptcp_dc";

/// Loads the module, unless it is.
pub fn load() -> Result<()> {
    output(Command::new("modprobe").arg(MODULE)).map(drop)
}

/// Unloads it.
pub fn unload() -> Result<()> {
    output(Command::new("rmmod").arg(MODULE)).map(drop)
}

/// Loads the module again when it is dropped: a test that unloads it may fail.
pub struct Reload(());

impl Reload {
    pub fn new() -> Self {
        Self(())
    }

    /// Does so now.
    pub fn now(self) -> Result<()> {
        load()
    }
}

impl Drop for Reload {
    fn drop(&mut self) {
        let _ = load();
    }
}

pub fn is_loaded() -> bool {
    Path::new("/sys/module").join(MODULE).exists()
}

/// One test for every KUnit case of the module. They ran when it was loaded.
///
/// # Errors
///
/// If there is none.
pub fn kunit_tests() -> Result<Vec<Test>> {
    const DEBUGFS: &str = "/sys/kernel/debug";
    let suites = Path::new(DEBUGFS).join("kunit");
    if !suites.exists() {
        output(Command::new("mount").args(["-t", "debugfs", "debugfs", DEBUGFS]))?;
    }
    let mut tests = Vec::new();
    for suite in fs::read_dir(&suites).context("no KUnit in this kernel")? {
        let suite = suite?;
        let name = suite.file_name().to_string_lossy().into_owned();
        if !name.starts_with(MODULE) {
            continue;
        }
        let text = fs::read_to_string(suite.path().join("results"))?;
        // "    ok 1 rc5_gives_the_published_vectors", "    not ok 2 …", "    ok 3 … # SKIP …"
        for line in text.lines().filter_map(|line| line.strip_prefix("    ")) {
            let passed = line.starts_with("ok ") && !line.contains("# SKIP");
            if !passed && !line.starts_with("not ok ") && !line.starts_with("ok ") {
                continue;
            }
            let case = line
                .split(' ')
                .skip_while(|word| word.parse::<u32>().is_err())
                .nth(1);
            let case = case.with_context(|| format!("{name}: {line}"))?;
            let (text, line) = (text.clone(), line.to_owned());
            tests.push(Test::new(format!("KUnit: {name}: {case}"), move || {
                if passed {
                    Ok(())
                } else {
                    bail!("{line}, in\n{text}")
                }
            }));
        }
    }
    if tests.is_empty() {
        bail!("the module has no KUnit results");
    }
    Ok(tests)
}

/// The kernel log from a moment on.
pub struct Log(File);

impl Log {
    pub fn from_now() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// What was said since, a message a line.
    pub fn text(mut self) -> Result<String> {
        let mut text = String::new();
        let mut record = vec![0; 8192];
        loop {
            match self.0.read(&mut record) {
                Ok(n) => {
                    // "priority,number,time,flags;message\n KEY=value\n"
                    let record = String::from_utf8_lossy(&record[..n]).into_owned();
                    let message = record.split_once(';').map_or("", |(_, rest)| rest);
                    text += message.lines().next().unwrap_or("");
                    text.push('\n');
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(text),
                // Records that were overwritten before they were read.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context("/dev/kmsg"),
            }
        }
    }

    /// An error if the kernel complained.
    pub fn check(self) -> Result<()> {
        match vm::splat::find(&self.text()?, None).as_slice() {
            [] => Ok(()),
            complaints => bail!("the kernel complained:\n{}", complaints.join("\n")),
        }
    }
}

/// Reads a file of tracefs.
pub fn read_tracing(name: &str) -> Result<String> {
    let path = tracing(name)?;
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Writes one.
pub fn write_tracing(name: &str, text: &str) -> Result<()> {
    let path = tracing(name)?;
    fs::write(&path, text).with_context(|| format!("{text:?} to {}", path.display()))
}

/// Where it is.
pub fn tracing(name: &str) -> Result<PathBuf> {
    const TRACING: &str = "/sys/kernel/tracing";
    let path = Path::new(TRACING).join(name);
    if !path.exists() {
        output(Command::new("mount").args(["-t", "tracefs", "tracefs", TRACING]))?;
    }
    Ok(path)
}

/// Who calls some functions of the kernel, while this lives.
pub struct Callers(());

impl Callers {
    /// The callers of these functions. There must not be another such at a time.
    pub fn of(functions: &[&str]) -> Result<Self> {
        let callers = Self(());
        write_tracing("set_ftrace_filter", &functions.join(" "))?;
        write_tracing("current_tracer", "function")?;
        Ok(callers)
    }

    /// The names of all so far.
    pub fn names(&self) -> Result<HashSet<String>> {
        // "  dc-test-123  [000] ..... 12.345: get_random_u32 <-subflow_check_req"
        Ok(read_tracing("trace")?
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.rsplit_once(" <-")?.1.trim().to_owned()))
            .collect())
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        let _ = write_tracing("current_tracer", "nop");
        let _ = write_tracing("set_ftrace_filter", "");
    }
}

/// Whether the module calls a function of the kernel behind its hook, while this lives.
pub struct Returns(());

impl Returns {
    const EVENT: &str = "dc_returns";

    /// Looks at the calls of this function. There must not be another such at a time.
    pub fn to_module(function: &str) -> Result<Self> {
        let returns = Self(());
        write_tracing("trace", "")?;
        // Behind the call to `__fentry__`, and `endbr64` if the function begins with that: there the return address is still
        // on top. In the middle of an instruction there can be no probe.
        let at = |offset| {
            let probe = format!("p:{} {function}+{offset} to=$stack0:symbol", Self::EVENT);
            write_tracing("kprobe_events", &probe)
        };
        at(5).or_else(|_| at(9))?;
        write_tracing(&format!("events/kprobes/{}/enable", Self::EVENT), "1")?;
        Ok(returns)
    }

    /// Whether one was seen that returns to the module. There must have been a call.
    pub fn seen(&self) -> Result<bool> {
        let trace = read_tracing("trace")?;
        let mut calls = trace
            .lines()
            .filter(|line| line.contains(" to="))
            .peekable();
        ensure!(calls.peek().is_some(), "no call was seen");
        Ok(calls.any(|line| line.contains(&format!("[{MODULE}]"))))
    }
}

impl Drop for Returns {
    fn drop(&mut self) {
        let _ = write_tracing(&format!("events/kprobes/{}/enable", Self::EVENT), "0");
        let _ = write_tracing("kprobe_events", "");
    }
}

/// The functions that an ftrace user may redirect now: those marked I in `enabled_functions`.
pub fn hooked_functions() -> Result<Vec<String>> {
    let text = read_tracing("enabled_functions")?;
    // "mptcp_get_options (1) R I     tramp: 0x… (callback+0x0/0x…) ->…"
    Ok(text
        .lines()
        .filter(|line| line.split_whitespace().any(|word| word == "I"))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect())
}

/// How long hooks may stand when nothing needs them anymore. The module takes them away at leisure: ten seconds later at
/// the earliest, and not while a connection may still send or get a segment of a handshake.
const LEISURE: Duration = Duration::from_secs(90);

/// Whether none of these functions is hooked.
pub fn is_unhooked(functions: &[&str]) -> Result<bool> {
    let hooked = hooked_functions()?;
    Ok(!hooked.iter().any(|name| functions.contains(&name.as_str())))
}

/// Waits until it is so.
pub fn wait_until_unhooked(functions: &[&str]) -> Result<()> {
    let start = Instant::now();
    while !is_unhooked(functions)? {
        ensure!(
            start.elapsed() < LEISURE,
            "after {LEISURE:?} still hooked: {:?}",
            hooked_functions()?
        );
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
