// SPDX-License-Identifier: GPL-2.0

//! Forked processes: users without privileges, and whoever must not take the test along when it hangs in a system call.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::panic;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

/// Nobody, in every distribution.
pub const NOBODY: u32 = 65534;

/// As whom a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    /// Uid and gid 65534, no groups, no capabilities.
    Nobody,
}

/// A process of this program's own that does one thing. Killed when dropped.
pub struct Process {
    pid: i32,
    from: File,
    to: File,
    /// Said, but not read by the test.
    text: Vec<u8>,
    over: bool,
}

/// The other end of it: how the process talks with the test.
pub struct Talk {
    to: File,
    from: File,
}

impl Talk {
    /// Tells the test where this process is, in a line.
    pub fn say(&self, what: &str) -> Result<()> {
        (&self.to).write_all(format!("{what}\n").as_bytes())?;
        Ok(())
    }

    /// Waits for [`Process::go_on`].
    pub fn wait(&self) -> Result<()> {
        (&self.from).read_exact(&mut [0])?;
        Ok(())
    }
}

/// How a line begins that tells how it ended.
const DONE: &str = "done";
const FAILED: &str = "failed: ";

impl Process {
    /// Starts one, in the network namespace of this thread.
    ///
    /// `act` has a copy of all memory and of all descriptors, but none of the other threads.
    pub fn start(who: Who, act: impl FnOnce(&Talk) -> Result<()>) -> Result<Self> {
        let (from, their_to) = pipe()?;
        let (their_from, to) = pipe()?;
        // SAFETY: The child has one thread. glibc makes its allocator usable there, and nothing below waits for another thread
        // of this program.
        let pid = unsafe { libc::fork() };
        ensure!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            // Else they would never end.
            drop((from, to));
            let talk = Talk {
                to: their_to,
                from: their_from,
            };
            let run = || become_who(who).and_then(|()| act(&talk));
            let line = match panic::catch_unwind(panic::AssertUnwindSafe(run)) {
                Ok(Ok(())) => DONE.to_owned(),
                Ok(Err(error)) => format!("{FAILED}{}", format!("{error:#}").replace('\n', " ")),
                Err(_) => format!("{FAILED}it panicked"),
            };
            let _ = talk.say(&line);
            // SAFETY: Nothing of the parent's is flushed or dropped here.
            unsafe { libc::_exit(0) };
        }
        Ok(Self {
            pid,
            from,
            to,
            text: Vec::new(),
            over: false,
        })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The next line; `None` if there was none in `limit`.
    fn line(&mut self, limit: Duration) -> Result<Option<String>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd {
                fd: self.from.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: One pollfd.
            if unsafe { libc::poll(&mut poll, 1, left.as_millis() as i32) } <= 0 {
                if left.is_zero() {
                    return Ok(None);
                }
                continue;
            }
            let mut bytes = [0; 512];
            match self.from.read(&mut bytes)? {
                0 => bail!("process {} ended without a word", self.pid),
                n => self.text.extend(&bytes[..n]),
            }
        }
    }

    /// What it says next, in `limit`.
    pub fn hear(&mut self, limit: Duration) -> Result<String> {
        let line = self.line(limit)?.context("it says nothing")?;
        match line.strip_prefix(FAILED) {
            Some(error) => bail!("{error}"),
            None => Ok(line),
        }
    }

    /// Waits until it says this.
    pub fn expect(&mut self, what: &str, limit: Duration) -> Result<()> {
        let line = self.hear(limit).with_context(|| what.to_owned())?;
        ensure!(line == what, "it says {line:?}, not {what:?}");
        Ok(())
    }

    /// Ends its [`Talk::wait`].
    pub fn go_on(&self) -> Result<()> {
        Ok((&self.to).write_all(&[0])?)
    }

    /// Waits until it has done its thing.
    pub fn finish(&mut self, limit: Duration) -> Result<()> {
        self.expect(DONE, limit)
    }

    /// Waits until it sleeps in the kernel and nothing but what it waits for can wake it.
    pub fn wait_until_stuck(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let path = format!("/proc/{}/stat", self.pid);
        // "123 (dc-test) D …"
        let is_stuck = || -> Result<bool> {
            let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
            Ok(stat
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('D')))
        };
        while !is_stuck()? {
            ensure!(
                Instant::now() < deadline,
                "process {} isn't stuck",
                self.pid
            );
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    pub fn signal(&self, signal: i32) {
        if !self.over {
            // SAFETY: It was not waited for, so the number is still its own.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// Kills it; whether it is gone in `limit`.
    pub fn kill(&mut self, limit: Duration) -> bool {
        self.signal(libc::SIGKILL);
        let deadline = Instant::now() + limit;
        while !self.over {
            // SAFETY: It is a child of this process.
            self.over =
                unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), libc::WNOHANG) } != 0;
            if Instant::now() > deadline {
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.over
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill(Duration::from_secs(10));
    }
}

/// What is read from the first was written to the second.
fn pipe() -> Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: Room for two.
    let status = unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    ensure!(status == 0, "pipe: {}", io::Error::last_os_error());
    // SAFETY: They are new, and nobody else's.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}

fn become_who(who: Who) -> Result<()> {
    let nobody = i64::from(NOBODY);
    // Not by libc's functions, which would ask the threads that the parent had.
    // SAFETY: No memory is involved, but in setgroups(), which reads none.
    let status = unsafe {
        match who {
            Who::Root => 0,
            Who::Nobody => {
                libc::syscall(libc::SYS_setgroups, 0_i64, 0_i64)
                    | libc::syscall(libc::SYS_setresgid, nobody, nobody, nobody)
                    | libc::syscall(libc::SYS_setresuid, nobody, nobody, nobody)
            }
        }
    };
    ensure!(status == 0, "{who:?}: {}", io::Error::last_os_error());
    // SAFETY: No memory is involved. Its own files in /proc are its own, as after an exec; it doesn't outlive the test.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 1);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
    }
    Ok(())
}

/// Does something that must not take longer than `limit`, in a process of its own; else it says what hangs, and where. What
/// the process said last is the result.
pub fn within(
    limit: Duration,
    what: &str,
    act: impl FnOnce(&Talk) -> Result<()>,
) -> Result<String> {
    let mut process = Process::start(Who::Root, act)?;
    let deadline = Instant::now() + limit;
    let mut place = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match process.line(left).with_context(|| what.to_owned())? {
            Some(line) if line == DONE => return Ok(place),
            Some(line) => match line.strip_prefix(FAILED) {
                Some(error) => bail!("{what}: {error}"),
                None => place = line,
            },
            None => {
                let state = place_in_kernel(process.pid);
                let killed = if process.kill(Duration::from_secs(2)) {
                    ""
                } else {
                    ", even after kill -9"
                };
                bail!("{what}: hangs at {place:?}, for {limit:?}{killed}; in the kernel:\n{state}");
            }
        }
    }
}

/// Where in the kernel a process is.
fn place_in_kernel(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/stack")).unwrap_or_default()
}
