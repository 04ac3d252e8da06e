// SPDX-License-Identifier: GPL-2.0

//! Tracers of others on functions of the kernel: what monitoring tools, profilers and people who look for a fault attach.
//!
//! A [`Tracer`] is one kind of them, on many functions at once. It counts how often each was called, so that a test can tell
//! that it was there.

mod bpf;
mod btf;
mod tracefs;

use std::collections::BTreeMap;

use anyhow::{ensure, Result};

/// How often each function was seen.
pub type Hits = BTreeMap<String, u64>;

/// A way to trace functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A BPF program at the entry, called by a trampoline of BPF's, one for each function.
    Fentry,
    /// The same at the return: the trampoline calls the function.
    Fexit,
    /// One BPF program at the entry of all, by ftrace.
    KprobeMulti,
    /// The same at the return.
    KretprobeMulti,
    /// An event of a kprobe.
    Kprobe,
    /// An event of its return.
    Kretprobe,
    /// An event of an fprobe, which is ftrace's own.
    Fprobe,
    /// An event of its return.
    FprobeReturn,
    /// ftrace's function tracer.
    Function,
    /// ftrace's function graph tracer: entry and return.
    FunctionGraph,
}

impl Kind {
    pub const ALL: [Self; 10] = [
        Self::Fentry,
        Self::Fexit,
        Self::KprobeMulti,
        Self::KretprobeMulti,
        Self::Kprobe,
        Self::Kretprobe,
        Self::Fprobe,
        Self::FprobeReturn,
        Self::Function,
        Self::FunctionGraph,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::KprobeMulti => "kprobe.multi",
            Self::KretprobeMulti => "kretprobe.multi",
            Self::Kprobe => "kprobe",
            Self::Kretprobe => "kretprobe",
            Self::Fprobe => "fprobe",
            Self::FprobeReturn => "fprobe's return",
            Self::Function => "function",
            Self::FunctionGraph => "function_graph",
        }
    }

    /// Whether this kernel was built with it.
    pub fn exists(self) -> Result<bool> {
        match self {
            Self::Fentry | Self::Fexit => Ok(btf::exists()),
            Self::KprobeMulti | Self::KretprobeMulti | Self::Fprobe | Self::FprobeReturn => {
                tracefs::knows("fprobe")
            }
            Self::Kprobe | Self::Kretprobe => tracefs::knows("kprobe"),
            Self::Function => tracefs::has_tracer("function"),
            Self::FunctionGraph => tracefs::has_tracer("function_graph"),
        }
    }
}

/// What counts calls, until it is detached or dropped.
trait Attached: Send {
    fn hits(&self) -> Result<Hits>;

    fn detach(self: Box<Self>) -> Result<()>;
}

/// One kind of tracer on some functions. Detached when dropped.
pub struct Tracer {
    kind: Kind,
    attached: Box<dyn Attached>,
}

impl Tracer {
    /// Attaches one to these functions, which must all be there.
    pub fn attach(kind: Kind, functions: &[String]) -> Result<Self> {
        let attached: Box<dyn Attached> = match kind {
            Kind::Fentry | Kind::Fexit | Kind::KprobeMulti | Kind::KretprobeMulti => {
                Box::new(bpf::Programs::attach(kind, functions)?)
            }
            Kind::Kprobe | Kind::Kretprobe | Kind::Fprobe | Kind::FprobeReturn => {
                Box::new(tracefs::Events::attach(kind, functions)?)
            }
            Kind::Function | Kind::FunctionGraph => {
                Box::new(tracefs::Ftrace::attach(kind, functions)?)
            }
        };
        Ok(Self { kind, attached })
    }

    /// Which of the functions were seen how often since it was attached.
    pub fn hits(&self) -> Result<Hits> {
        self.attached.hits()
    }

    /// Checks that each of these was seen.
    pub fn check_hit(&self, functions: &[String]) -> Result<()> {
        let hits = self.hits()?;
        let missed: Vec<_> = functions
            .iter()
            .filter(|name| hits.get(*name).is_none_or(|&count| count == 0))
            .collect();
        ensure!(
            missed.is_empty(),
            "{} saw no call of {missed:?}, but {hits:?}",
            self.kind.name()
        );
        Ok(())
    }

    /// Detaches it, and says what went wrong.
    pub fn detach(self) -> Result<()> {
        self.attached.detach()
    }
}
