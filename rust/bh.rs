// SPDX-License-Identifier: GPL-2.0

//! Evidence that softirqs are disabled on this CPU.
//!
//! Code that has it owns the CPU's cursor (`rust/c/tokens.c`), and is an RCU reader.

use core::arch::asm;
use core::ops::Deref;

use kernel::types::NotThreadSafe;

use crate::bindings;

/// Softirqs are disabled on this CPU, and stay so while this is borrowed.
pub(crate) struct BhDisabled(NotThreadSafe);

impl BhDisabled {
    /// For code that runs in softirq, as all of a server's handshake does.
    ///
    /// # Safety
    ///
    /// Must be called in softirq, and not be kept for longer.
    #[inline(always)]
    pub(crate) unsafe fn in_softirq() -> Self {
        Self(NotThreadSafe)
    }
}

/// Disables softirqs until it is dropped, for code that may run in process context.
pub(crate) struct BhGuard(BhDisabled);

impl BhGuard {
    pub(crate) fn new() -> Self {
        // SAFETY: Paired with the one in `drop`.
        unsafe { bindings::dc_bh_disable() };
        Self(BhDisabled(NotThreadSafe))
    }
}

impl Deref for BhGuard {
    type Target = BhDisabled;

    fn deref(&self) -> &BhDisabled {
        &self.0
    }
}

impl Drop for BhGuard {
    fn drop(&mut self) {
        // SAFETY: Paired with the one in `new`.
        unsafe { bindings::dc_bh_enable() };
    }
}

/// This CPU's cursor. With softirqs disabled, nobody else touches it.
///
/// What the C macro `raw_cpu_ptr()` makes of `dc_cursors`; a call of C for every SYN would cost more than it does.
#[inline(always)]
pub(crate) fn cursor_here() -> *mut bindings::dc_cursor {
    extern "C" {
        static this_cpu_off: usize;
        static dc_cursors: bindings::dc_cursor;
    }
    let here;
    // SAFETY: The kernel keeps the distance of this CPU's variables there.
    unsafe {
        asm!(
            "movq %gs:{distance}(%rip), {here}",
            "addq ${variable}, {here}",
            here = out(reg) here,
            distance = sym this_cpu_off,
            variable = sym dc_cursors,
            options(att_syntax, nostack, readonly),
        );
    }
    here
}
