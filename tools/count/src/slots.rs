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
const PAUSE: u32 = 0x6d70_6403;

/// What the guest says by an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    Begin,
    Pause,
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
            PAUSE => Some(Self::Pause),
            END => Some(Self::End),
            _ => None,
        }
    }
}

/// The counters' owners, and what was counted of a section.
#[derive(Default)]
pub struct Slots {
    slots: HashMap<u64, usize>,
    /// By slot, from slot 2 on.
    addresses: Vec<u64>,
    /// The counters at the last [`Mark::Begin`], by CPU and slot; empty when nothing is counted.
    before: Vec<Vec<u64>>,
    /// The section so far, by CPU and slot.
    sums: Vec<Vec<u64>>,
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

    /// The section goes on from here.
    pub fn begin(&mut self, cpus: usize, count: impl Fn(usize, usize) -> u64) {
        let used = 0..self.used();
        self.before = (0..cpus)
            .map(|cpu| used.clone().map(|slot| count(cpu, slot)).collect())
            .collect();
    }

    /// It is interrupted here, until it begins again.
    pub fn pause(&mut self, count: impl Fn(usize, usize) -> u64) {
        let before = std::mem::take(&mut self.before);
        self.sums.resize(self.sums.len().max(before.len()), vec![]);
        let used = self.used();
        for (cpu, (before, sums)) in before.iter().zip(&mut self.sums).enumerate() {
            sums.resize(used, 0);
            for (slot, sum) in sums.iter_mut().enumerate() {
                let start = before.get(slot).copied().unwrap_or(0);
                *sum += count(cpu, slot).wrapping_sub(start);
            }
        }
    }

    /// What was counted in the section, as text.
    pub fn end(&mut self) -> String {
        let mut text = "section\n".to_owned();
        self.before.clear();
        for (cpu, sums) in std::mem::take(&mut self.sums).iter().enumerate() {
            for (slot, &sum) in sums.iter().enumerate().filter(|(_, &sum)| sum > 0) {
                // Writing to a String can't fail.
                let _ = writeln!(text, "{cpu} {:x} {sum}", self.address(slot));
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
        assert_eq!(Mark::of(b"\x0f\x1f\x80\x03dpm"), Some(Mark::Pause));
        for other in [
            &b""[..],
            b"\x0f\x1f\x80\x04dpm",
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
        slots.pause(|cpu, slot| match (cpu, slot) {
            (0, slot) if slot == a => a as u64 + 7,
            (1, slot) if slot == b => 5,
            (_, slot) if slot == b => 0,
            (cpu, slot) => (10 * cpu + slot) as u64,
        });
        // What runs now is none of the section.
        slots.begin(2, |_, _| 100);
        slots.pause(|cpu, slot| if (cpu, slot) == (0, a) { 102 } else { 100 });
        assert_eq!(
            slots.end(),
            "section\n0 ffffffff81000000 9\n1 ffffffff81000010 5\n"
        );
        slots.pause(|_, _| 1);
        assert_eq!(slots.end(), "section\n", "nothing began");
    }
}
