// SPDX-License-Identifier: GPL-2.0

//! Tracers that are set up by files: ftrace's own, and events of kprobes and fprobes.
//!
//! Each has an instance of tracefs, a ring buffer of its own.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use super::{Attached, Hits, Kind};
use crate::kernel::{read_tracing, tracing, write_tracing};

/// Of each CPU's ring buffer: no event of a test may be lost.
const BUFFER_KB: u32 = 8 << 10;

/// Whether events of this kind can be made here.
pub fn knows(what: &str) -> Result<bool> {
    let place = match what {
        "fprobe" => "f[:[<group>/][<event>]] <func-name>",
        _ => "p[:[<group>/][<event>]] <place>",
    };
    Ok(read_tracing("README")?.contains(place))
}

/// Whether ftrace has this tracer.
pub fn has_tracer(name: &str) -> Result<bool> {
    let text = read_tracing("available_tracers")?;
    Ok(text.split_whitespace().any(|tracer| tracer == name))
}

fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An instance; removed when dropped.
struct Instance {
    path: String,
    functions: Vec<String>,
}

impl Instance {
    fn new(number: u32, functions: &[String]) -> Result<Self> {
        let path = format!("instances/dc-{number}");
        fs::create_dir(tracing("instances")?.join(format!("dc-{number}"))).context("instance")?;
        let this = Self {
            path,
            functions: functions.to_vec(),
        };
        this.write("buffer_size_kb", &BUFFER_KB.to_string())?;
        Ok(this)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        write_tracing(&format!("{}/{name}", self.path), text)
    }

    /// How often each function stands in the trace, where `name_in` takes it from a line.
    fn hits(&self, name_in: impl Fn(&str) -> Option<&str>) -> Result<Hits> {
        let mut hits: Hits = self
            .functions
            .iter()
            .map(|name| (name.clone(), 0))
            .collect();
        for line in read_tracing(&format!("{}/trace", self.path))?.lines() {
            if let Some(count) = name_in(line).and_then(|name| hits.get_mut(name)) {
                *count += 1;
            }
        }
        Ok(hits)
    }

    fn remove(&mut self) -> Result<()> {
        let path = tracing(&self.path)?;
        if path.exists() {
            fs::remove_dir(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

/// `function` or `function_graph`.
pub struct Ftrace {
    kind: Kind,
    instance: Instance,
}

impl Ftrace {
    pub fn attach(kind: Kind, functions: &[String]) -> Result<Self> {
        let instance = Instance::new(next_number(), functions)?;
        let this = Self { kind, instance };
        this.instance
            .write("set_ftrace_filter", &functions.join(" "))?;
        this.instance.write("current_tracer", kind.name())?;
        Ok(this)
    }

    fn stop(&mut self) -> Result<()> {
        self.instance.write("current_tracer", "nop")?;
        self.instance.remove()
    }
}

impl Attached for Ftrace {
    fn hits(&self) -> Result<Hits> {
        let is_graph = self.kind == Kind::FunctionGraph;
        self.instance.hits(|line| {
            if is_graph {
                // " 0)   1.234 us    |  subflow_check_req();", or "… {"
                Some(line.split_once('|')?.1.split_once('(')?.0.trim())
            } else {
                // "  dc-test-123  [000] ..... 12.345: subflow_check_req <-subflow_v4_route_req"
                Some(line.rsplit_once(" <-")?.0.rsplit_once(": ")?.1)
            }
        })
    }

    fn detach(mut self: Box<Self>) -> Result<()> {
        self.stop()
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Events of kprobes or fprobes, each named as its function.
pub struct Events {
    group: String,
    instance: Instance,
    made: Vec<String>,
}

impl Events {
    pub fn attach(kind: Kind, functions: &[String]) -> Result<Self> {
        let number = next_number();
        let group = format!("dc{number}");
        let instance = Instance::new(number, functions)?;
        let mut this = Self {
            group,
            instance,
            made: Vec::new(),
        };
        for name in functions {
            let event = format!("{}/{name}", this.group);
            dynamic_event(&match kind {
                Kind::Kprobe => format!("p:{event} {name}"),
                Kind::Kretprobe => format!("r:{event} {name}"),
                Kind::Fprobe => format!("f:{event} {name}"),
                _ => format!("f:{event} {name}%return"),
            })?;
            this.made.push(event);
        }
        this.enable(true)?;
        Ok(this)
    }

    fn enable(&self, on: bool) -> Result<()> {
        let file = format!("events/{}/enable", self.group);
        self.instance.write(&file, if on { "1" } else { "0" })
    }

    fn stop(&mut self) -> Result<()> {
        if !self.made.is_empty() {
            self.enable(false)?;
        }
        self.instance.remove()?;
        for event in self.made.drain(..) {
            dynamic_event(&format!("-:{event}"))?;
        }
        Ok(())
    }
}

/// Makes or deletes an event. (The file is emptied of all where it is opened as others are.)
fn dynamic_event(line: &str) -> Result<()> {
    OpenOptions::new()
        .append(true)
        .open(tracing("dynamic_events")?)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("dynamic_events: {line}"))
}

impl Attached for Events {
    fn hits(&self) -> Result<Hits> {
        // "  dc-test-123  [000] ..... 12.345: subflow_check_req: (subflow_check_req+0x4/0x5d0)"
        self.instance
            .hits(|line| Some(line.split_once(": (")?.0.rsplit_once(": ")?.1))
    }

    fn detach(mut self: Box<Self>) -> Result<()> {
        self.stop()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
