// SPDX-License-Identifier: GPL-2.0

//! Runs a command in a QEMU guest, and fails if the guest's kernel complained. scripts/vm calls it.

#![forbid(unsafe_code)]

mod archive;
mod args;
mod qemu;

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, OptionalActions, Termios};
use vm::message::{Message, Outcome};
use vm::{splat, END_OF_RUN};

use args::{Options, Request};
use qemu::{Artefacts, Guest};

const COMPLAINED: u8 = 123;
const TIMED_OUT: u8 = 124;
const FAILED: u8 = 125;

/// A guest that is not ready after this will not be.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
/// The same for a trial of KVM, where booting takes two seconds.
const TRIAL_LIMIT: Duration = Duration::from_secs(12);
/// For the last line of the kernel log to come through the console.
const LOG_LIMIT: Duration = Duration::from_secs(30);
/// Lines of the kernel log shown with a failure.
const LOG_LINES: usize = 30;

fn main() -> ExitCode {
    let result = args::parse(env::args_os().skip(1)).and_then(|request| match request {
        Request::Help => {
            print!("{}", args::HELP);
            Ok(0)
        }
        Request::Run(options) => run(&options),
    });
    ExitCode::from(result.unwrap_or_else(|error| {
        eprintln!("vm: {error:#}");
        FAILED
    }))
}

/// Boots, runs, judges; the exit status.
fn run(options: &Options) -> Result<u8> {
    let artefacts = Artefacts::from_env()?;
    let kvm = qemu::kvm_works(&artefacts, options, |options| {
        boots_under_kvm(&artefacts, options)
    })?;
    let deadline = options.timeout.map(|limit| Instant::now() + limit);
    let (mut guest, port) = Guest::start(&artefacts, options, kvm)?;
    if options.verbose {
        let log = guest.log_path();
        thread::spawn(move || follow(&log));
    }
    let terminal = if options.command.is_empty() {
        RawTerminal::enter()?
    } else {
        None
    };
    let ending = talk(&guest, port, options, deadline)?;
    drop(terminal);
    Ok(judge(&mut guest, &ending))
}

/// Whether a guest comes up under KVM.
fn boots_under_kvm(artefacts: &Artefacts, options: &Options) -> bool {
    let Ok((_guest, port)) = Guest::start(artefacts, options, true) else {
        return false;
    };
    let messages = receive(port);
    matches!(messages.recv_timeout(TRIAL_LIMIT), Ok(Ok(Message::Ready)))
}

/// How a conversation with a guest ended.
enum Ending {
    /// The command ended.
    Done(Outcome),
    /// It did not end in time.
    TimedOut,
    /// The guest stopped talking.
    Lost(String),
}

/// Starts the command in a guest and passes its input and output through.
fn talk(
    guest: &Guest,
    port: UnixStream,
    options: &Options,
    deadline: Option<Instant>,
) -> Result<Ending> {
    let mut to_guest = port.try_clone()?;
    let messages = receive(port);
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let mut ready = false;
    loop {
        let boot_limit = (!ready).then(|| BOOT_LIMIT.saturating_sub(guest.age()));
        let limit = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let wait = boot_limit
            .into_iter()
            .chain(limit)
            .min()
            .unwrap_or(Duration::MAX);
        match messages.recv_timeout(wait) {
            Ok(Ok(Message::Ready)) => {
                ready = true;
                guest.drop_initramfs();
                if options.verbose {
                    eprintln!("vm: ready after {:.1} s", guest.age().as_secs_f64());
                }
                command(options).write(&mut to_guest)?;
                let to_guest = to_guest.try_clone()?;
                thread::spawn(move || send_input(to_guest));
            }
            // A reader that has gone must not end the run: it is judged all the same.
            Ok(Ok(Message::Stdout(bytes))) => {
                drop(stdout.write_all(&bytes).and_then(|()| stdout.flush()))
            }
            Ok(Ok(Message::Stderr(bytes))) => drop(stderr.write_all(&bytes)),
            Ok(Ok(Message::Done(outcome))) => return Ok(Ending::Done(outcome)),
            Ok(Ok(other)) => return Ok(Ending::Lost(format!("unexpected message {other:?}"))),
            Ok(Err(error)) => return Ok(Ending::Lost(error.to_string())),
            Err(RecvTimeoutError::Disconnected) => return Ok(Ending::Lost("it stopped".into())),
            Err(RecvTimeoutError::Timeout) if deadline.is_some_and(|at| Instant::now() >= at) => {
                return Ok(Ending::TimedOut)
            }
            Err(RecvTimeoutError::Timeout) => {
                return Ok(Ending::Lost(format!(
                    "not ready after {} s",
                    BOOT_LIMIT.as_secs()
                )))
            }
        }
    }
}

/// A thread that reads the guest's messages until the port closes.
fn receive(mut port: UnixStream) -> Receiver<io::Result<Message>> {
    let (sender, receiver) = mpsc::sync_channel(16);
    thread::spawn(move || {
        while let Some(message) = Message::read(&mut port).transpose() {
            let failed = message.is_err();
            if sender.send(message).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// The command, or a shell on a terminal of the guest's own.
fn command(options: &Options) -> Message {
    let term = env::var_os("TERM").unwrap_or_else(|| "dumb".into());
    let mut argv = options.command.clone();
    if argv.is_empty() {
        let size = match tcgetwinsize(io::stdin()) {
            Ok(size) if size.ws_row > 0 => {
                format!("stty rows {} cols {};", size.ws_row, size.ws_col)
            }
            _ => String::new(),
        };
        let shell = format!("{size} exec bash -l");
        argv = ["script", "-qec", &shell, "/dev/null"]
            .map(OsString::from)
            .to_vec();
    }
    Message::Run { argv, term }
}

/// Passes standard input on until it or the guest ends.
fn send_input(mut to_guest: UnixStream) {
    let mut stdin = io::stdin().lock();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let message = match stdin.read(&mut buffer) {
            Ok(n) if n > 0 => Message::Stdin(buffer[..n].to_vec()),
            _ => Message::StdinEnd,
        };
        if message.write(&mut to_guest).is_err() || message == Message::StdinEnd {
            return;
        }
    }
}

/// Reads the kernel log, says what is wrong with it, and gives the exit status.
fn judge(guest: &mut Guest, ending: &Ending) -> u8 {
    let outcome = match ending {
        Ending::Done(outcome) => Some(outcome),
        Ending::TimedOut | Ending::Lost(_) => None,
    };
    let complete = outcome.is_none() || wait_for_log(guest);
    let log = guest.log();
    let complaints = splat::find(&log, outcome);
    for complaint in &complaints {
        eprintln!("vm: the kernel complained:\n{complaint}");
    }
    let last_lines = || {
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(LOG_LINES);
        eprintln!("vm: the kernel log ends:\n{}", lines[from..].join("\n"));
    };
    match ending {
        Ending::TimedOut => {
            last_lines();
            eprintln!("vm: timed out after {} s", guest.age().as_secs());
            TIMED_OUT
        }
        Ending::Done(outcome) if !complaints.is_empty() => {
            eprintln!(
                "vm: failed for that; the command's own status was {}",
                outcome.status
            );
            COMPLAINED
        }
        Ending::Done(_) if !complete => {
            last_lines();
            eprintln!("vm: the kernel log never came to its end, so it can't be judged");
            FAILED
        }
        Ending::Done(outcome) => outcome.status,
        Ending::Lost(_) if !complaints.is_empty() => COMPLAINED,
        Ending::Lost(why) => {
            last_lines();
            eprintln!("vm: lost the guest: {why}");
            FAILED
        }
    }
}

/// Waits until the kernel log holds its last line; whether it came.
fn wait_for_log(guest: &mut Guest) -> bool {
    let start = Instant::now();
    loop {
        // Before the look at the log: what is written before QEMU ends counts.
        let last = guest.has_ended() || start.elapsed() > LOG_LIMIT;
        if guest.log().contains(END_OF_RUN) {
            return true;
        }
        if last {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Copies a growing file to standard error for as long as the program runs.
fn follow(path: &std::path::Path) {
    let Ok(mut file) = File::open(path) else {
        return;
    };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n) = file.read(&mut buffer) {
        if n == 0 {
            thread::sleep(Duration::from_millis(50));
        } else if io::stderr().write_all(&buffer[..n]).is_err() {
            return;
        }
    }
}

/// The terminal with every key going to the guest; as it was before when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// `None` if standard input is no terminal.
    fn enter() -> Result<Option<Self>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(io::stdin()).context("terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Now, &raw).context("terminal")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}
