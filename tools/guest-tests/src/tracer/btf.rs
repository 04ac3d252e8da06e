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

#[cfg(test)]
mod tests {
    use super::*;

    /// An int, a structure of two members, a function's type with one parameter, and two functions.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0first\0second\0";
        let types = [
            [1, 1 << 24, 4, 32].as_slice(),
            &[0, (4 << 24) | 2, 8, 0, 1, 0, 0, 1, 32],
            &[0, (13 << 24) | 1, 1, 0, 1],
            &[5, 12 << 24, 3],
            // A typedef with a function's name.
            &[11, 8 << 24, 1],
            &[11, 12 << 24, 3],
        ];
        let types: Vec<u8> = types
            .concat()
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let lengths = [24, 0, types.len(), types.len(), strings.len()];
        bytes.extend(lengths.iter().flat_map(|&w| (w as u32).to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn functions_are_found_by_name_and_nothing_else_is() {
        let find = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(ToString::to_string).collect();
            ids(&sample(), &names)
        };
        assert_eq!(find(&["second", "first"]).unwrap(), [6, 4]);
        assert!(find(&["first", "int"]).is_err());
        assert!(find(&["third"]).is_err());
    }

    #[test]
    fn what_is_cut_off_is_an_error() {
        let sample = sample();
        for length in 0..sample.len() {
            assert!(ids(&sample[..length], &["second".to_owned()]).is_err());
        }
    }
}
