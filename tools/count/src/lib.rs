// SPDX-License-Identifier: GPL-2.0

//! Counts the instructions of a QEMU guest by where they are, between marks that the guest sets.
//!
//! Load it into QEMU with `-plugin libcount.so,out=FILE`. A mark is an instruction that does nothing,
//! `nopl MARK(%rax)`. Between `BEGIN` and `PAUSE` counts, as often as they come; `END` ends the section and appends it to FILE:
//!
//! ```text
//! section
//! CPU ADDRESS INSTRUCTIONS
//! ```
//!
//! one line for each CPU and block of code that ran, its address in hexadecimal. Code of user space is one block, at
//! address 0. Blocks end at jumps, so one lies in one function, but for the rare function that runs into the next.

mod slots;

// Its functions are QEMU's: a test has nobody to link them with.
#[cfg(not(test))]
mod qemu;
