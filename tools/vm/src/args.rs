// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{bail, Context, Result};

/// Text of `--help`.
pub const HELP: &str = "\
Usage: scripts/vm [OPTION]... [--] [COMMAND [ARGUMENT]...]

Boots a guest with the module at hand (`modprobe mptcp_dc` loads it), runs COMMAND in it as root, passes
its input, output and exit status through, and fails if the kernel complained. Without COMMAND: a shell.

  --kernel=debian|test  Debian's own kernel (default), or the one with KUnit, KASAN and lockdep; moved: the
                        latter with a field more in struct mptcp_sock, which the module does not fit
  --cpus=N              CPUs (default 2)
  --mem=MIB             memory (default 1024)
  --icount              guest time counts instructions: one CPU, TCG, no mitigations
  --timeout=S           end the run after S seconds (default 600; 0: never)
  --add=HOST:GUEST      file or directory HOST appears in the guest as GUEST; may be repeated
  --no-module           boot without building or adding the module
  --accel=auto|kvm|tcg  auto (default) takes KVM if a short trial shows that it works
  --append=WORDS        more for the kernel's command line; may be repeated
  --qemu=WORD           one more argument of QEMU; may be repeated
  --verbose             show the kernel log as it comes, and the time to boot

Exit status: COMMAND's own; 123 if the kernel complained (WARN, BUG, KASAN, lockdep, UBSAN, hung task, RCU
stall, memory leak, unexpected taint), whatever COMMAND returned; 124 after a time-out; 125 if the
guest or this program failed; 126, 127 if COMMAND can't be run, is not found.
";

/// Which kernel to boot. scripts/vm has seen to its files already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The distribution's own.
    Debian,
    /// The one that looks for faults.
    Test,
}

/// What executes the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accel {
    /// KVM if it works.
    Auto,
    /// KVM, come what may.
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

/// A file or directory of the host that the guest shall see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Path on the host.
    pub host: PathBuf,
    /// Path in the guest, relative to its root, with the directories that Debian merged under `usr`.
    pub guest: PathBuf,
}

/// A run as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub kernel: Kernel,
    pub cpus: u32,
    /// MiB.
    pub mem: u32,
    pub icount: bool,
    /// `None`: no limit.
    pub timeout: Option<Duration>,
    pub add: Vec<Addition>,
    pub module: bool,
    pub accel: Accel,
    pub append: Vec<String>,
    pub qemu: Vec<OsString>,
    pub verbose: bool,
    /// Empty: a shell.
    pub command: Vec<OsString>,
}

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    Help,
    Run(Options),
}

/// Reads the command line, without the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Request> {
    use lexopt::prelude::*;

    let mut kernel = Kernel::Debian;
    let (mut cpus, mut mem) = (None, 1024);
    let mut timeout = 600;
    let mut accel = Accel::Auto;
    let (mut icount, mut module, mut verbose) = (false, true, false);
    let (mut add, mut append, mut qemu) = (Vec::new(), Vec::new(), Vec::new());
    let mut command = Vec::new();

    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Request::Help),
            Long("kernel") => {
                kernel = match parser.value()?.to_str() {
                    Some("debian") => Kernel::Debian,
                    Some("test" | "moved") => Kernel::Test,
                    _ => bail!("--kernel is debian, test or moved"),
                }
            }
            Long("accel") => {
                accel = match parser.value()?.to_str() {
                    Some("auto") => Accel::Auto,
                    Some("kvm") => Accel::Kvm,
                    Some("tcg") => Accel::Tcg,
                    _ => bail!("--accel is auto, kvm or tcg"),
                }
            }
            Long("cpus") => cpus = Some(parser.value()?.parse()?),
            Long("mem") => mem = parser.value()?.parse()?,
            Long("icount") => icount = true,
            Long("timeout") => timeout = parser.value()?.parse()?,
            Long("add") => add.push(addition(&parser.value()?)?),
            Long("no-module") => module = false,
            Long("append") => append.push(parser.value()?.string()?),
            Long("qemu") => qemu.push(parser.value()?),
            Long("verbose") => verbose = true,
            Value(program) => {
                command.push(program);
                command.extend(parser.raw_args()?);
            }
            _ => return Err(arg.unexpected().into()),
        }
    }

    if icount {
        if cpus.is_some_and(|n| n != 1) {
            bail!("--icount counts one CPU's instructions: it does not go with --cpus");
        }
        if accel == Accel::Kvm {
            bail!("--icount needs TCG: it does not go with --accel=kvm");
        }
        cpus = Some(1);
        accel = Accel::Tcg;
    }
    let cpus = cpus.unwrap_or(2);
    if !(1..=8).contains(&cpus) {
        bail!("--cpus is 1 to 8");
    }
    Ok(Request::Run(Options {
        kernel,
        cpus,
        mem,
        icount,
        timeout: (timeout > 0).then(|| Duration::from_secs(timeout)),
        add,
        module,
        accel,
        append,
        qemu,
        verbose,
        command,
    }))
}

/// `HOST:GUEST`. The last colon divides: a path in the guest has none.
fn addition(text: &OsStr) -> Result<Addition> {
    let bytes = text.as_bytes();
    let colon = bytes.iter().rposition(|byte| *byte == b':');
    let colon = colon.context("--add is HOST:GUEST, two paths")?;
    let host = PathBuf::from(OsStr::from_bytes(&bytes[..colon]));
    let guest = Path::new(OsStr::from_bytes(&bytes[colon + 1..]));
    if host.as_os_str().is_empty() || !guest.is_absolute() {
        bail!(
            "--add={}: GUEST is an absolute path",
            text.to_string_lossy()
        );
    }
    Ok(Addition {
        host,
        guest: below_root(guest)?,
    })
}

/// A path in the guest, relative to its root. `/bin`, `/lib`, … are links into `/usr` there; a directory of that
/// name in the layer would hide them.
fn below_root(guest: &Path) -> Result<PathBuf> {
    let mut path = PathBuf::new();
    for component in guest.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => bail!("{}: '..' in a guest path", guest.display()),
        }
    }
    let merged = ["bin", "sbin", "lib", "lib64"]
        .iter()
        .any(|dir| path.starts_with(dir));
    Ok(if merged {
        Path::new("usr").join(path)
    } else {
        path
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parsed(args: &[&str]) -> Result<Request> {
        parse(args.iter().map(OsString::from))
    }

    fn options(args: &[&str]) -> Options {
        match parsed(args).unwrap() {
            Request::Run(options) => options,
            Request::Help => panic!("help"),
        }
    }

    #[test]
    fn defaults() {
        let o = options(&["true"]);
        assert_eq!(
            (o.kernel, o.cpus, o.mem, o.accel),
            (Kernel::Debian, 2, 1024, Accel::Auto)
        );
        assert_eq!(o.timeout, Some(Duration::from_secs(600)));
        assert!(o.module && !o.icount && !o.verbose && o.add.is_empty() && o.append.is_empty());
        for kernel in ["--kernel=test", "--kernel=moved"] {
            assert_eq!(options(&[kernel, "true"]).kernel, Kernel::Test);
        }
        assert_eq!(options(&["--timeout=0", "true"]).timeout, None);
        assert!(options(&[]).command.is_empty());
    }

    #[test]
    fn the_command_keeps_every_argument() {
        let command = ["sh", "-c", "echo \"$1\"  '*'", "", "--cpus=3", "--", "-x"];
        for lead in [vec![], vec!["--"], vec!["--cpus=1", "--"]] {
            let args: Vec<&str> = lead.iter().chain(&command).copied().collect();
            assert_eq!(options(&args).command, command, "{lead:?}");
        }
        let odd = OsString::from_vec(vec![b'a', 0xff]);
        let Request::Run(o) = parse(["echo".into(), odd.clone()]).unwrap() else {
            panic!()
        };
        assert_eq!(o.command[1], odd);
    }

    #[test]
    fn icount_is_one_cpu_under_tcg() {
        let o = options(&["--icount", "true"]);
        assert_eq!((o.cpus, o.accel), (1, Accel::Tcg));
        assert!(parsed(&["--icount", "--cpus=2", "true"]).is_err());
        assert!(parsed(&["--icount", "--accel=kvm", "true"]).is_err());
    }

    #[test]
    fn additions_name_a_place_in_the_guest() {
        let added = |text: &str| addition(OsStr::new(text)).map(|a| (a.host, a.guest));
        let paths = |host: &str, guest: &str| (PathBuf::from(host), PathBuf::from(guest));
        assert_eq!(added("x/y:/opt/z").unwrap(), paths("x/y", "opt/z"));
        assert_eq!(added("a:b:/z").unwrap(), paths("a:b", "z"));
        assert_eq!(added("f:/lib/f").unwrap(), paths("f", "usr/lib/f"));
        assert_eq!(added("f:/libexec/f").unwrap(), paths("f", "libexec/f"));
        assert_eq!(added("d:/").unwrap(), paths("d", ""));
        for wrong in ["x", "x:y", ":/y", "x:/a/../b", "x:"] {
            assert!(added(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            "--kernel=bsd",
            "--cpus=0",
            "--cpus=9",
            "--cpus=two",
            "--mem=lots",
            "--timeout=-1",
            "--accel=xen",
            "--frobnicate",
            "-x",
        ] {
            assert!(parsed(&[wrong, "true"]).is_err(), "{wrong}");
        }
    }
}
