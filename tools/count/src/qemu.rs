// SPDX-License-Identifier: GPL-2.0

//! The part that QEMU calls (QEMU's `include/qemu/qemu-plugin.h`, API 4, which Debian has in no package).

use std::ffi::{c_char, c_int, c_uint, c_void, CStr};
use std::fs::File;
use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::slots::{Mark, Slots, SLOTS};

type Id = u64;

/// `struct qemu_plugin_tb`: a block of code.
#[repr(C)]
struct Block {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_insn`
#[repr(C)]
struct Instruction {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_scoreboard`: an array with an element for each CPU.
#[repr(C)]
struct Scoreboard {
    _opaque: [u8; 0],
}

/// `qemu_plugin_u64`: a number in the elements of a scoreboard.
#[repr(C)]
#[derive(Clone, Copy)]
struct Number {
    board: *mut Scoreboard,
    offset: usize,
}

/// `QEMU_PLUGIN_INLINE_ADD_U64`
const ADD: c_int = 0;
/// `QEMU_PLUGIN_CB_NO_REGS`
const NO_REGISTERS: c_int = 0;

extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, call: extern "C" fn(Id, *mut Block));
    fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut Block,
        operation: c_int,
        entry: Number,
        immediate: u64,
    );
    fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: extern "C" fn(c_uint, *mut c_void),
        flags: c_int,
        data: *mut c_void,
    );
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_data(
        instruction: *const Instruction,
        to: *mut c_void,
        length: usize,
    ) -> usize;
    fn qemu_plugin_scoreboard_new(size: usize) -> *mut Scoreboard;
    fn qemu_plugin_u64_get(entry: Number, cpu: c_uint) -> u64;
    fn qemu_plugin_num_vcpus() -> c_int;
}

/// The version of the API that this file has the declarations of.
#[no_mangle]
pub static qemu_plugin_version: c_int = 4;

struct State {
    board: *mut Scoreboard,
    slots: Mutex<Slots>,
    out: File,
}

// SAFETY: QEMU's functions on a scoreboard may be called by any thread; the rest is Send and Sync.
unsafe impl Send for State {}
// SAFETY: As above.
unsafe impl Sync for State {}

static STATE: OnceLock<State> = OnceLock::new();

impl State {
    fn number(&self, slot: usize) -> Number {
        Number {
            board: self.board,
            offset: slot * size_of::<u64>(),
        }
    }

    fn count(&self, cpu: usize, slot: usize) -> u64 {
        // SAFETY: The slot lies in the board's elements, and QEMU gave the number of CPUs.
        unsafe { qemu_plugin_u64_get(self.number(slot), cpu as c_uint) }
    }
}

/// QEMU's first call; nothing else of this plugin runs before it returns.
///
/// # Safety
///
/// `arguments` are `count` strings.
#[no_mangle]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let out = (0..count as usize).find_map(|at| {
        // SAFETY: `at` is below the number of arguments, and each is a string.
        let argument = unsafe { CStr::from_ptr(*arguments.add(at)) };
        File::create(argument.to_str().ok()?.strip_prefix("out=")?).ok()
    });
    let Some(out) = out else {
        eprintln!("count: out=FILE is needed, and must be writable");
        return 1;
    };
    // SAFETY: This is the time at which a plugin registers.
    unsafe {
        let board = qemu_plugin_scoreboard_new(SLOTS * size_of::<u64>());
        let slots = Mutex::default();
        let _ = STATE.set(State { board, slots, out });
        qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    }
    0
}

/// A block was translated: from now on it counts its instructions, and marks are heard.
extern "C" fn translated(_id: Id, block: *mut Block) {
    let Some(state) = STATE.get() else { return };
    // SAFETY: The block is valid during this call, and so are its instructions.
    unsafe {
        let instructions = qemu_plugin_tb_n_insns(block);
        let slot = {
            let mut slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.of(qemu_plugin_tb_vaddr(block))
        };
        let entry = state.number(slot);
        qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(block, ADD, entry, instructions as u64);
        for at in 0..instructions {
            let instruction = qemu_plugin_tb_get_insn(block, at);
            let mut bytes = [0_u8; 16];
            let length = qemu_plugin_insn_data(instruction, bytes.as_mut_ptr().cast(), 16);
            let call = match Mark::of(&bytes[..length.min(16)]) {
                Some(Mark::Begin) => begin,
                Some(Mark::Pause) => pause,
                Some(Mark::End) => end,
                None => continue,
            };
            let data = std::ptr::null_mut();
            qemu_plugin_register_vcpu_insn_exec_cb(instruction, call, NO_REGISTERS, data);
        }
    }
}

extern "C" fn begin(_cpu: c_uint, _data: *mut c_void) {
    let Some(state) = STATE.get() else { return };
    // SAFETY: It may be called at any time.
    let cpus = unsafe { qemu_plugin_num_vcpus() } as usize;
    let mut slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
    slots.begin(cpus, |cpu, slot| state.count(cpu, slot));
}

extern "C" fn pause(_cpu: c_uint, _data: *mut c_void) {
    let Some(state) = STATE.get() else { return };
    let mut slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
    slots.pause(|cpu, slot| state.count(cpu, slot));
}

extern "C" fn end(_cpu: c_uint, _data: *mut c_void) {
    let Some(state) = STATE.get() else { return };
    let mut slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
    let text = slots.end();
    if let Err(error) = (&state.out).write_all(text.as_bytes()) {
        eprintln!("count: {error}");
    }
}
