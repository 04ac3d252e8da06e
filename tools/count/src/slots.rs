// SPDX-License-Identifier: GPL-2.0

//! Which counter belongs to which address, and what was counted in a section.

use std::collections::HashMap;
use std::fmt::Write as _;

/// Counters for each CPU.
pub const SLOTS: usize = 1 << 19;
/// Counts what there is no counter of its own for.
const OVERFLOW: usize = 1;

/// The displacements of the `nopl` that are marks; no compiler makes them.
const BEGIN: u32 = 0x6d70_6401;
const END: u32 = 0x6d70_6402;

/// What the guest says by an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin,
    End,
}

impl Mark {
    /// The mark that an instruction is.
    pub fn of(instruction: &[u8]) -> Option<Self> {
        let [0x0f, 0x1f, 0x80, displacement @ ..] = instruction else {
            return None;
        };
        match u32::from_le_bytes(displacement.try_into().ok()?) {
            BEGIN => Some(Self::Begin),
            END => Some(Self::End),
            _ => None,
        }
    }
}

/// The counters' owners, and their values when a section began.
#[derive(Default)]
pub struct Slots {
    slots: HashMap<u64, usize>,
    /// By slot, from slot 2 on.
    addresses: Vec<u64>,
    /// By CPU and slot.
    before: Vec<Vec<u64>>,
}

impl Slots {
    /// The counter of the code at an address. The first is user space's.
    pub fn of(&mut self, address: u64) -> usize {
        if address < 1 << 63 {
            return 0;
        }
        let next = self.addresses.len() + OVERFLOW + 1;
        *self.slots.entry(address).or_insert_with(|| {
            if next >= SLOTS {
                return OVERFLOW;
            }
            self.addresses.push(address);
            next
        })
    }

    fn used(&self) -> usize {
        self.addresses.len() + OVERFLOW + 1
    }

    fn address(&self, slot: usize) -> u64 {
        match slot {
            0 => 0,
            OVERFLOW => u64::MAX,
            _ => self.addresses[slot - OVERFLOW - 1],
        }
    }

    /// Takes what is counted so far, of that many CPUs, for the beginning.
    pub fn begin(&mut self, cpus: usize, count: impl Fn(usize, usize) -> u64) {
        let used = 0..self.used();
        self.before = (0..cpus)
            .map(|cpu| used.clone().map(|slot| count(cpu, slot)).collect())
            .collect();
    }

    /// What was counted since, as text.
    pub fn end(&mut self, count: impl Fn(usize, usize) -> u64) -> String {
        let mut text = "section\n".to_owned();
        for (cpu, before) in std::mem::take(&mut self.before).iter().enumerate() {
            for slot in 0..self.used() {
                let start = before.get(slot).copied().unwrap_or(0);
                let counted = count(cpu, slot).wrapping_sub(start);
                if counted > 0 {
                    // Writing to a String can't fail.
                    let _ = writeln!(text, "{cpu} {:x} {counted}", self.address(slot));
                }
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_one_instruction() {
        assert_eq!(Mark::of(b"\x0f\x1f\x80\x01dpm"), Some(Mark::Begin));
        assert_eq!(Mark::of(b"\x0f\x1f\x80\x02dpm"), Some(Mark::End));
        for other in [
            &b""[..],
            b"\x0f\x1f\x80\x03dpm",
            b"\x0f\x1f\x80\x01dp",
            b"\x0f\x1f\x84\x01dpm",
        ] {
            assert_eq!(Mark::of(other), None, "{other:x?}");
        }
    }

    #[test]
    fn a_section_has_what_ran_in_it() {
        const A: u64 = 0xffff_ffff_8100_0000;
        let mut slots = Slots::default();
        let a = slots.of(A);
        assert_eq!((slots.of(0x40_0000), slots.of(A)), (0, a));
        slots.begin(2, |cpu, slot| (10 * cpu + slot) as u64);
        let b = slots.of(A + 16);
        assert_ne!(a, b);
        let text = slots.end(|cpu, slot| match (cpu, slot) {
            (0, slot) if slot == a => a as u64 + 7,
            (1, slot) if slot == b => 5,
            (_, slot) if slot == b => 0,
            (cpu, slot) => (10 * cpu + slot) as u64,
        });
        assert_eq!(
            text,
            "section\n0 ffffffff81000000 7\n1 ffffffff81000010 5\n"
        );
        assert_eq!(slots.end(|_, _| 1), "section\n", "nothing began");
    }
}
