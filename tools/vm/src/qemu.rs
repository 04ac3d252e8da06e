// SPDX-License-Identifier: GPL-2.0

//! One guest: QEMU's command line, its life, the port to it and its kernel log.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use tempfile::TempDir;
use vm::{initramfs, PORT_NAME};

use crate::archive::Archive;
use crate::args::{Accel, Kernel, Options};

/// The CPU has no SHA extensions, so that figures say what SHA-256 costs where it is software.
const WITHOUT_SHA: &str = "sha-ni=off";

/// What scripts/vm built and names in the environment.
pub struct Artefacts {
    /// Toolchain root, for its QEMU.
    root: PathBuf,
    /// Directory of the `image` stage.
    image: PathBuf,
    /// Directory of a `boot-…` stage.
    boot: PathBuf,
    /// Files of a `module-…` stage.
    layer: Option<PathBuf>,
    /// Where answers are remembered.
    pub cache: PathBuf,
}

impl Artefacts {
    /// Reads `MPTCP_DC_ROOT`, `_IMAGE`, `_BOOT`, `_LAYER` (may be missing) and `_CACHE`.
    pub fn from_env() -> Result<Self> {
        let var = |name| env::var_os(name).map(PathBuf::from);
        let need = |name| var(name).with_context(|| format!("{name} is not set: run scripts/vm"));
        Ok(Self {
            root: need("MPTCP_DC_ROOT")?,
            image: need("MPTCP_DC_IMAGE")?,
            boot: need("MPTCP_DC_BOOT")?,
            layer: var("MPTCP_DC_LAYER"),
            cache: need("MPTCP_DC_CACHE")?,
        })
    }
}

/// A running guest. Dropping it ends it.
pub struct Guest {
    qemu: Child,
    dir: TempDir,
    started: Instant,
}

impl Guest {
    /// Starts QEMU; returns once its end of the port is connected.
    pub fn start(
        artefacts: &Artefacts,
        options: &Options,
        kvm: bool,
    ) -> Result<(Self, UnixStream)> {
        let started = Instant::now();
        let dir = tempfile::Builder::new().prefix("mptcp_dc-vm.").tempdir()?;
        write_initramfs(artefacts, options, &dir.path().join("initramfs"))?;
        let listener = UnixListener::bind(dir.path().join("port"))?;
        listener.set_nonblocking(true)?;

        let mut command = qemu(&artefacts.root);
        command
            .args(machine(options, kvm))
            .args(devices(artefacts, dir.path()));
        command.arg("-kernel").arg(artefacts.boot.join("kernel"));
        command.arg("-initrd").arg(dir.path().join("initramfs"));
        command.arg("-append").arg(kernel_arguments(options));
        command.args(&options.qemu);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(dir.path().join("qemu.log"))?);
        let qemu = command.spawn().context("starting QEMU")?;

        let mut guest = Self { qemu, dir, started };
        loop {
            if let Ok((port, _)) = listener.accept() {
                port.set_nonblocking(false)?;
                return Ok((guest, port));
            }
            if guest.has_ended() {
                let said = fs::read_to_string(guest.dir.path().join("qemu.log"))?;
                bail!("QEMU ended at once: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Time since the start.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Removes what a guest that has booted needs no more; it would stay behind if this program were killed.
    pub fn drop_initramfs(&self) {
        let _ = fs::remove_file(self.dir.path().join("initramfs"));
    }

    /// The file that the kernel's console goes to.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("serial.log")
    }

    /// The kernel's console so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// Whether QEMU has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.qemu.try_wait(), Ok(None))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn write_initramfs(artefacts: &Artefacts, options: &Options, path: &Path) -> Result<()> {
    let init = env::current_exe()?.with_file_name("vm-guest");
    let mut archive = Archive::new(BufWriter::new(File::create(path)?))?;
    archive.init(&init)?;
    archive.add(&artefacts.boot.join("early"), Path::new(initramfs::EARLY))?;
    let layer = Path::new(initramfs::LAYER);
    // An overlay's lower directory must exist.
    let nothing = tempfile::tempdir()?;
    archive.add(artefacts.layer.as_deref().unwrap_or(nothing.path()), layer)?;
    for addition in &options.add {
        archive.add(&addition.host, &layer.join(&addition.guest))?;
    }
    archive.finish()?.into_inner()?;
    Ok(())
}

/// The toolchain root's QEMU, run by the root's own dynamic linker, so that it needs no chroot and sees the
/// paths of the host. It dies with this program.
fn qemu(root: &Path) -> Command {
    let libraries = root.join("usr/lib/x86_64-linux-gnu");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(root.join("lib64/ld-linux-x86-64.so.2"));
    command.arg("--library-path").arg(&libraries);
    command.arg(root.join("usr/bin/qemu-system-x86_64"));
    for dir in ["usr/share/qemu", "usr/share/seabios"] {
        command.arg("-L").arg(root.join(dir));
    }
    command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
    command
}

fn machine(options: &Options, kvm: bool) -> Vec<String> {
    let (accel, cpu) = if kvm {
        ("kvm", "host")
    } else {
        ("tcg,thread=multi,tb-size=512", "max")
    };
    let accel = if options.icount {
        "tcg,thread=single,tb-size=512"
    } else {
        accel
    };
    let mut args: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "pc,usb=off,hpet=off",
        "-accel",
        accel,
        "-cpu",
        &format!("{cpu},{WITHOUT_SHA}"),
        // A socket each: the tables of the pc machine list no second core.
        "-smp",
        &format!("cpus={0},sockets={0}", options.cpus),
        "-m",
        &format!("{}M", options.mem),
    ]
    .map(str::to_owned)
    .to_vec();
    if options.icount {
        args.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
    }
    args
}

/// Two read-only disks, the port, the console. Nothing here is written but in `dir`, so guests don't meet.
fn devices(artefacts: &Artefacts, dir: &Path) -> Vec<OsString> {
    let path = |prefix: &str, path: PathBuf| {
        // QEMU takes a comma in a value doubled.
        OsString::from(format!(
            "{prefix}{}",
            path.display().to_string().replace(',', ",,")
        ))
    };
    let disk = |file| path("if=virtio,format=raw,readonly=on,file=", file);
    vec![
        "-drive".into(),
        disk(artefacts.image.join("image.ext4")),
        "-drive".into(),
        disk(artefacts.boot.join("modules.ext4")),
        "-chardev".into(),
        path("file,id=console,path=", dir.join("serial.log")),
        "-serial".into(),
        "chardev:console".into(),
        "-chardev".into(),
        path("socket,id=port,path=", dir.join("port")),
        "-device".into(),
        "virtio-serial-pci".into(),
        "-device".into(),
        format!("virtserialport,chardev=port,name={PORT_NAME}").into(),
    ]
}

fn kernel_arguments(options: &Options) -> String {
    let mut words = vec![
        "console=ttyS0 ignore_loglevel printk.time=1 rdinit=/init",
        // An oops ends the guest at once (-no-reboot) rather than at the time-out.
        "panic=-1 oops=panic",
        // A busy host may leave an emulated CPU without time for longer than these allow.
        "no_timer_check rcupdate.rcu_cpu_stall_timeout=60 watchdog_thresh=30",
        // QEMU's TSCs are in step, though a machine with several sockets would not promise it.
        "tsc=reliable",
    ];
    if options.kernel == Kernel::Test {
        // KASAN and kmemleak make reading ACPI's tables the longest part of booting. The pc machine has the
        // older tables as well; only the timer that the TSC is measured with must be named. The rest is devices
        // that nobody uses, hundreds of them.
        words.push("acpi=off pmtmr=0x608 pty.legacy_count=0 i8042.nokbd i8042.noaux");
        // Nothing is speculated under emulation, and what keeps from it costs. Debian's kernel is tested with it.
        words.push("mitigations=off");
        // Caches with a debug option have no per-CPU sheaves, whose stale pointers hide leaks from kmemleak.
        words.push("slab_debug=F");
    }
    if options.icount {
        words.push("mitigations=off nokaslr");
    }
    words.extend(options.append.iter().map(String::as_str));
    words.join(" ")
}

/// Whether KVM runs a guest here: it may exist and fail only then. The answer is remembered until the host
/// boots again.
pub fn kvm_works(
    artefacts: &Artefacts,
    options: &Options,
    trial: impl Fn(&Options) -> bool,
) -> Result<bool> {
    match options.accel {
        Accel::Kvm => return Ok(true),
        Accel::Tcg => return Ok(false),
        Accel::Auto => {}
    }
    if !Path::new("/dev/kvm").exists() {
        return Ok(false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let memory = artefacts.cache.join(format!("kvm-{}", boot.trim()));
    if let Ok(answer) = fs::read_to_string(&memory) {
        return Ok(answer == "works\n");
    }
    eprintln!("vm: trying whether KVM works here, once");
    let works = trial(&Options {
        add: Vec::new(),
        cpus: 1,
        ..options.clone()
    });
    eprintln!(
        "vm: {}",
        if works {
            "it does"
        } else {
            "it does not; guests run under TCG, emulated"
        }
    );
    let mut file = tempfile::NamedTempFile::new_in(&artefacts.cache)?;
    std::io::Write::write_all(&mut file, if works { b"works\n" } else { b"fails\n" })?;
    file.persist(&memory)?;
    Ok(works)
}
