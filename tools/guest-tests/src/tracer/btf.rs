// SPDX-License-Identifier: GPL-2.0

//! BTF, the kernel's description of its own types and functions: as much as it takes to name a function to BPF.
//!
//! Documentation/bpf/btf.rst of the kernel.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

/// BTF of what is built in.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_FUNC: u32 = 12;

pub fn exists() -> bool {
    Path::new(VMLINUX).exists()
}

/// The type ids of functions that are built in.
pub fn functions(names: &[String]) -> Result<Vec<u32>> {
    let bytes = fs::read(VMLINUX).context(VMLINUX)?;
    ids(&bytes, names).context(VMLINUX)
}

fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_ne_bytes(*word.context("it is cut off")?))
}

fn ids(bytes: &[u8], names: &[String]) -> Result<Vec<u32>> {
    // struct btf_header
    let magic = bytes.first_chunk().context("it is cut off")?;
    ensure!(
        u16::from_ne_bytes(*magic) == MAGIC,
        "not BTF of this machine"
    );
    let field = |at| word(bytes, at).map(|value| value as usize);
    let header = field(4)?;
    let part = |offset: usize, length: usize| {
        let start = header + offset;
        bytes.get(start..start + length).context("it is cut off")
    };
    let types = part(field(8)?, field(12)?)?;
    let strings = part(field(16)?, field(20)?)?;

    // Names by their offset among the strings: it is these that the types are compared by.
    let mut wanted = HashMap::new();
    let mut start = 0;
    for string in strings.split(|&byte| byte == 0) {
        if let Some(number) = names.iter().position(|name| name.as_bytes() == string) {
            wanted.insert(u32::try_from(start)?, number);
        }
        start += string.len() + 1;
    }

    let mut ids = vec![None; names.len()];
    let (mut at, mut id) = (0, 1);
    while at < types.len() {
        // struct btf_type, and what follows it
        let (name, info) = (word(types, at)?, word(types, at + 4)?);
        let (kind, count) = ((info >> 24) & 0x1f, (info & 0xffff) as usize);
        if kind == KIND_FUNC {
            if let Some(&number) = wanted.get(&name) {
                ids[number] = Some(id);
            }
        }
        at += 12
            + match kind {
                1 | 14 | 17 => 4,
                2 | 7..=12 | 16 | 18 => 0,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => bail!("type {id} is of an unknown kind, {kind}"),
            };
        id += 1;
    }
    names
        .iter()
        .zip(ids)
        .map(|(name, id)| id.with_context(|| format!("no function {name}")))
        .collect()
}
