// SPDX-License-Identifier: GPL-2.0

//! The first process of a guest: mounts what the initramfs brought and the disks hold, runs the command that
//! the host names, and reports how it ended.
//!
//! The root file system is an overlay: a tmpfs for what is written, over the layer in the initramfs (the module
//! at hand, `--add`), over the kernel's modules (second disk), over the image (first disk).

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::mount::{mount, mount_change, mount_move, MountFlags, MountPropagationFlags};
use rustix::process::{wait, WaitOptions};
use rustix::system::{finit_module, reboot, sethostname, RebootCommand};
use vm::message::{Message, Outcome};
use vm::{initramfs, END_OF_RUN, PORT_NAME};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Set by the kernel when a module from outside its tree was loaded.
const TAINT_OUT_OF_TREE: u64 = 1 << 12;

/// kmemleak reports no object younger than this.
const LEAK_AGE: Duration = Duration::from_secs(5);

fn main() {
    if let Err(error) = boot().and_then(serve) {
        log(&format!("vm-guest: {error:#}"));
    }
    // With QEMU's -no-reboot this ends it, ACPI or not.
    let _ = reboot(RebootCommand::Restart);
}

/// Prepares the system; returns the port to the host.
fn boot() -> Result<File> {
    for dir in ["dev", "proc", "sys", "disk", "modules", "over", "root"] {
        fs::create_dir_all(dir)?;
    }
    attach("devtmpfs", "/dev", "")?;
    attach("proc", "/proc", "")?;
    attach("sysfs", "/sys", "")?;
    load_early_modules()?;
    mount_disk("/dev/vda", "/disk")?;
    mount_disk("/dev/vdb", "/modules")?;
    attach("tmpfs", "/over", "mode=0755,size=90%")?;
    fs::create_dir_all("/over/upper")?;
    fs::create_dir_all("/over/work")?;
    let layers = format!(
        "lowerdir=/{}:/modules:/disk,upperdir=/over/upper,workdir=/over/work",
        initramfs::LAYER
    );
    attach("overlay", "/root", &layers)?;
    for dir in ["dev", "proc", "sys"] {
        mount_move(format!("/{dir}"), format!("/root/{dir}"))?;
    }
    std::env::set_current_dir("/root")?;
    mount_move(".", "/").context("making the overlay the root")?;
    rustix::process::chroot(".").context("chroot")?;
    std::env::set_current_dir("/")?;
    // ip-netns and unshare expect it so.
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::SHARED,
    )?;

    fs::create_dir_all("/dev/pts")?;
    fs::create_dir_all("/dev/shm")?;
    attach("devpts", "/dev/pts", "ptmxmode=0666,mode=0620")?;
    attach("tmpfs", "/dev/shm", "mode=1777")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    // Optional: a kernel may lack them.
    let _ = attach("debugfs", "/sys/kernel/debug", "");
    let _ = attach("tracefs", "/sys/kernel/tracing", "");
    let _ = attach("bpf", "/sys/fs/bpf", "");
    let _ = attach("cgroup2", "/sys/fs/cgroup", "");
    // A layer may have brought its own, with plain permissions.
    fs::create_dir_all("/tmp")?;
    fs::set_permissions("/tmp", fs::Permissions::from_mode(0o1777))?;
    fs::create_dir_all("/run/lock")?;
    sethostname(b"vm")?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .env("PATH", PATH)
        .status()?;
    if !up.success() {
        bail!("ip link set lo up: {up}");
    }
    open_port()
}

/// Mounts a file system that has no device.
fn attach(kind: &str, at: &str, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options)?;
    mount(kind, at, kind, MountFlags::empty(), &*options)
        .with_context(|| format!("mounting {kind} on {at}"))
}

fn mount_disk(device: &str, at: &str) -> Result<()> {
    wait_for(|| Path::new(device).exists()).with_context(|| format!("no {device}"))?;
    mount(device, at, "ext4", MountFlags::RDONLY, None)
        .with_context(|| format!("mounting {device}"))
}

fn load_early_modules() -> Result<()> {
    let order = Path::new("/").join(initramfs::EARLY_ORDER);
    for name in fs::read_to_string(&order)
        .with_context(|| order.display().to_string())?
        .lines()
    {
        let file = File::open(Path::new("/").join(initramfs::EARLY).join(name))
            .context(name.to_owned())?;
        finit_module(file, c"", 0).with_context(|| format!("loading {name}"))?;
    }
    Ok(())
}

/// The port that [`PORT_NAME`] names.
fn open_port() -> Result<File> {
    let find = || -> Option<PathBuf> {
        for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
            let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
            if name.trim_end() == PORT_NAME {
                return Some(Path::new("/dev").join(entry.file_name()));
            }
        }
        None
    };
    wait_for(|| find().is_some_and(|port| port.exists())).context("no virtio port to the host")?;
    let port = find().context("the virtio port has gone")?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&port)
        .with_context(|| port.display().to_string())
}

fn wait_for(ready: impl Fn() -> bool) -> Result<()> {
    let start = Instant::now();
    while !ready() {
        if start.elapsed() > Duration::from_secs(20) {
            bail!("it did not appear within 20 seconds");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Waits for the command, runs it, reports.
fn serve(mut from_host: File) -> Result<()> {
    let to_host = Arc::new(Mutex::new(from_host.try_clone()?));
    send(&to_host, &Message::Ready)?;
    let Some(Message::Run { argv, term }) = Message::read(&mut from_host)? else {
        bail!("the host did not say what to run");
    };
    let status = run(&argv, &term, from_host, &to_host)?;

    let mut outcome = Outcome {
        status,
        ..Outcome::default()
    };
    outcome.leaks = find_leaks()?;
    outcome.tainted = tainted()?;
    log(END_OF_RUN);
    send(&to_host, &Message::Done(outcome))?;
    // The host ends the guest when it has read all it wants.
    thread::sleep(Duration::from_secs(60));
    Ok(())
}

/// Runs a command to its end; its status as a shell would give it.
fn run(argv: &[OsString], term: &OsStr, from_host: File, to_host: &Arc<Mutex<File>>) -> Result<u8> {
    let (program, args) = argv.split_first().context("an empty command")?;
    // The PATH of this process is the one that is searched.
    std::env::set_var("PATH", PATH);
    let spawned = Command::new(program)
        .args(args)
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            ("USER", "root"),
        ])
        .env("TERM", term)
        .current_dir("/root")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            let text = format!("vm: {}: {error}\n", program.to_string_lossy());
            send(to_host, &Message::Stderr(text.into_bytes()))?;
            return Ok(if error.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            });
        }
    };
    let ended = Arc::new(AtomicBool::new(false));
    let stdout = child.stdout.take().context("stdout")?;
    let stderr = child.stderr.take().context("stderr")?;
    let relays = [
        relay(stdout, Message::Stdout, to_host, &ended),
        relay(stderr, Message::Stderr, to_host, &ended),
    ];
    let stdin = child.stdin.take().context("stdin")?;
    thread::spawn(move || feed(from_host, stdin));

    let status = reap(child.id())?;
    ended.store(true, Ordering::Release);
    for relay in relays {
        let _ = relay.join();
    }
    Ok(status)
}

/// Waits for process `id`, and for whatever else has lost its parent meanwhile.
fn reap(id: u32) -> Result<u8> {
    loop {
        let Some((pid, status)) = wait(WaitOptions::empty())? else {
            continue;
        };
        if u32::try_from(pid.as_raw_nonzero().get()) != Ok(id) {
            continue;
        }
        let code = status
            .exit_status()
            .or(status.terminating_signal().map(|signal| 128 + signal));
        if let Some(code) = code {
            return Ok(u8::try_from(code).unwrap_or(u8::MAX));
        }
    }
}

/// Sends what a pipe yields, until its end, or until the command has ended and the pipe is empty: a daemon
/// that the command left behind may hold it open.
fn relay(
    mut pipe: impl Read + std::os::fd::AsFd + Send + 'static,
    message: fn(Vec<u8>) -> Message,
    to_host: &Arc<Mutex<File>>,
    ended: &Arc<AtomicBool>,
) -> JoinHandle<()> {
    let (to_host, ended) = (Arc::clone(to_host), Arc::clone(ended));
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let last = ended.load(Ordering::Acquire);
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: if last { 0 } else { 20_000_000 },
            };
            let quiet = matches!(
                poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&pause)),
                Ok(0)
            );
            if quiet && last {
                return;
            }
            if quiet {
                continue;
            }
            match pipe.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if send(&to_host, &message(buffer[..n].to_vec())).is_err() {
                        return;
                    }
                }
            }
        }
    })
}

/// Hands the host's input to the command. When the host has gone there is nobody to run for.
fn feed(mut from_host: File, stdin: impl Write) {
    let mut stdin = Some(stdin);
    loop {
        match Message::read(&mut from_host) {
            Ok(Some(Message::Stdin(bytes))) => {
                if stdin
                    .as_mut()
                    .is_some_and(|pipe| pipe.write_all(&bytes).is_err())
                {
                    stdin = None;
                }
            }
            Ok(Some(Message::StdinEnd)) => stdin = None,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                let _ = reboot(RebootCommand::Restart);
            }
        }
    }
}

fn send(to_host: &Mutex<File>, message: &Message) -> Result<()> {
    let mut port = to_host
        .lock()
        .map_err(|_| anyhow::anyhow!("a relay panicked"))?;
    message.write(&mut *port).context("writing to the host")
}

fn tainted() -> Result<u64> {
    Ok(fs::read_to_string("/proc/sys/kernel/tainted")?
        .trim()
        .parse()?)
}

/// kmemleak's report, on a kernel that has it and on which a module of ours was loaded.
fn find_leaks() -> Result<String> {
    let report = Path::new("/sys/kernel/debug/kmemleak");
    if !report.exists() || tainted()? & TAINT_OUT_OF_TREE == 0 {
        return Ok(String::new());
    }
    // The first scan takes checksums; only what is unchanged and still unreferenced in the second is a leak.
    let start = Instant::now();
    fs::write(report, "scan").context("kmemleak scan")?;
    thread::sleep(LEAK_AGE.saturating_sub(start.elapsed()));
    fs::write(report, "scan").context("kmemleak scan")?;
    fs::read_to_string(report).context("kmemleak report")
}

/// Writes to the kernel log at a level that reaches any console.
fn log(text: &str) {
    let _ = fs::write("/dev/kmsg", format!("<0>{text}\n"));
}
