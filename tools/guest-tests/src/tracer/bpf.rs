// SPDX-License-Identifier: GPL-2.0

//! BPF programs on functions. They do with their registers what others' programs do: call helpers, and leave garbage in all that
//! a called function may change.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::{size_of, size_of_val};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;

use anyhow::{Context, Result};

use super::{btf, Attached, Hits, Kind};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: i64 = 0;
const BPF_MAP_LOOKUP_ELEM: i64 = 1;
const BPF_PROG_LOAD: i64 = 5;
const BPF_LINK_CREATE: i64 = 28;

const BPF_MAP_TYPE_ARRAY: u32 = 2;

const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_PROG_TYPE_TRACING: u32 = 26;

const BPF_TRACE_FENTRY: u32 = 24;
const BPF_TRACE_FEXIT: u32 = 25;
const BPF_TRACE_KPROBE_MULTI: u32 = 42;
const BPF_F_KPROBE_MULTI_RETURN: u32 = 1;

const BPF_FUNC_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_FUNC_KTIME_GET_NS: i32 = 5;
const BPF_FUNC_GET_PRANDOM_U32: i32 = 7;
const BPF_FUNC_PROBE_READ_KERNEL: i32 = 113;
const BPF_FUNC_GET_ATTACH_COOKIE: i32 = 174;

/// The members of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Those for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct MapLookup {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Those for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

/// Those for `BPF_LINK_CREATE`, with a kprobe for many.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    multi_flags: u32,
    multi_cnt: u32,
    multi_syms: u64,
    multi_addrs: u64,
    multi_cookies: u64,
}

/// An address for the kernel.
fn address<T: ?Sized>(of: *const T) -> u64 {
    of.cast::<()>() as u64
}

/// The system call.
///
/// # Safety
///
/// `attr` is what `command` takes, and the addresses in it are good.
unsafe fn bpf<T>(command: i64, attr: &T) -> io::Result<RawFd> {
    // SAFETY: By this function's requirement; the kernel reads so many bytes of it.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as RawFd)
    }
}

/// The same for one that makes a descriptor.
///
/// # Safety
///
/// As [`bpf`].
unsafe fn bpf_open<T>(command: i64, attr: &T) -> io::Result<File> {
    // SAFETY: By this function's requirement, and the descriptor is new.
    unsafe { Ok(File::from_raw_fd(bpf(command, attr)?)) }
}

/// One instruction, `struct bpf_insn`: operation, registers (the destination's in the low half), offset, constant.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn(u8, u8, i16, i32);

/// Registers: the frame pointer.
const FP: u8 = 10;

/// What a program is made of.
#[derive(Default)]
struct Code(Vec<Insn>);

impl Code {
    fn op(&mut self, code: u8, dst: u8, src: u8, offset: i16, constant: i32) {
        self.0.push(Insn(code, dst | (src << 4), offset, constant));
    }

    /// `dst = constant`, 32 bits.
    fn set(&mut self, dst: u8, constant: i32) {
        self.op(0xb7, dst, 0, 0, constant);
    }

    /// `dst = src`
    fn copy(&mut self, dst: u8, src: u8) {
        self.op(0xbf, dst, src, 0, 0);
    }

    /// `dst += constant`
    fn add(&mut self, dst: u8, constant: i32) {
        self.op(0x07, dst, 0, 0, constant);
    }

    /// `dst = *(u64 *)src`
    fn load(&mut self, dst: u8, src: u8) {
        self.op(0x79, dst, src, 0, 0);
    }

    /// `*(u32 *)(frame + offset) = src`
    fn store_on_stack(&mut self, offset: i16, src: u8) {
        self.op(0x63, FP, src, offset, 0);
    }

    /// `lock *(u64 *)dst += src`
    fn count(&mut self, dst: u8, src: u8) {
        self.op(0xdb, dst, src, 0, 0);
    }

    /// `dst = constant`, 64 bits; with a source of 1 the constant is a map's descriptor.
    fn set_wide(&mut self, dst: u8, src: u8, constant: u64) {
        self.op(0x18, dst, src, 0, constant as i32);
        self.op(0, 0, 0, 0, (constant >> 32) as i32);
    }

    /// `if r0 == 0, skip so many`
    fn skip_if_null(&mut self, count: i16) {
        self.op(0x15, 0, 0, count, 0);
    }

    fn call(&mut self, helper: i32) {
        self.op(0x85, 0, 0, 0, helper);
    }

    fn exit(&mut self) {
        self.op(0x95, 0, 0, 0, 0);
    }
}

/// Whose program this is, as far as the map of hits is concerned.
enum Whose {
    /// That of the function with this number.
    One(u32),
    /// Everybody's: the cookie tells.
    All,
}

/// A program that counts a hit.
fn program(map: RawFd, whose: Whose) -> Vec<Insn> {
    const NUMBER: i16 = -4;
    const ROOM: i32 = -16;
    // Whoever takes it for an address dies.
    const GARBAGE: u64 = 0xdead_dc00_dead_dc00;

    let mut code = Code::default();
    code.copy(6, 1);
    // What the first argument points to, as tracers look into what they find.
    match whose {
        Whose::One(number) => {
            code.load(3, 6);
            code.set(0, number as i32);
            code.store_on_stack(NUMBER, 0);
        }
        Whose::All => {
            code.call(BPF_FUNC_GET_ATTACH_COOKIE);
            code.store_on_stack(NUMBER, 0);
            code.copy(3, 6);
        }
    }
    code.copy(1, FP);
    code.add(1, ROOM);
    code.set(2, 8);
    code.call(BPF_FUNC_PROBE_READ_KERNEL);
    code.call(BPF_FUNC_KTIME_GET_NS);
    code.call(BPF_FUNC_GET_PRANDOM_U32);
    code.set_wide(1, 1, map as u64);
    code.copy(2, FP);
    code.add(2, NUMBER.into());
    code.call(BPF_FUNC_MAP_LOOKUP_ELEM);
    code.skip_if_null(2);
    code.set(1, 1);
    code.count(0, 1);
    // rdi, rsi, rdx, rcx and r8 on x86-64. A called function may change them, so nobody may count on them afterwards.
    for register in 1..=5 {
        code.set_wide(register, 0, GARBAGE);
    }
    code.set(0, 0);
    code.exit();
    code.0
}

/// Loads one; what the verifier says if it refuses.
fn load(insns: &[Insn], prog_type: u32, attach_type: u32, btf_id: u32) -> Result<File> {
    let license = c"GPL";
    let mut log = vec![0_u8; 1 << 16];
    let mut attr = ProgLoad {
        prog_type,
        insn_cnt: insns.len() as u32,
        insns: address(insns.as_ptr()),
        license: address(license.as_ptr()),
        expected_attach_type: attach_type,
        attach_btf_id: btf_id,
        prog_name: *b"dc_test\0\0\0\0\0\0\0\0\0",
        ..ProgLoad::default()
    };
    // SAFETY: Instructions and licence are there.
    if let Ok(program) = unsafe { bpf_open(BPF_PROG_LOAD, &attr) } {
        return Ok(program);
    }
    attr.log_level = 1;
    attr.log_size = size_of_val(log.as_slice()) as u32;
    attr.log_buf = address(log.as_mut_ptr());
    // SAFETY: So is the log, of that size.
    unsafe { bpf_open(BPF_PROG_LOAD, &attr) }.with_context(|| {
        let length = log.iter().position(|&byte| byte == 0).unwrap_or(0);
        format!("BPF_PROG_LOAD: {}", String::from_utf8_lossy(&log[..length]))
    })
}

/// Counts, one for each function.
struct Map(File);

impl Map {
    fn new(entries: u32) -> Result<Self> {
        let attr = MapCreate {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_size: 4,
            value_size: 8,
            max_entries: entries,
        };
        // SAFETY: No address is in it.
        Ok(Self(
            unsafe { bpf_open(BPF_MAP_CREATE, &attr) }.context("BPF_MAP_CREATE")?,
        ))
    }

    fn get(&self, key: u32) -> Result<u64> {
        let mut value = 0_u64;
        let attr = MapLookup {
            map_fd: self.0.as_raw_fd() as u32,
            _pad: 0,
            key: address(&raw const key),
            value: address(&raw mut value),
            flags: 0,
        };
        // SAFETY: A key of 4 bytes, a value of 8.
        unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &attr) }.context("BPF_MAP_LOOKUP_ELEM")?;
        Ok(value)
    }
}

/// Programs attached to some functions. What keeps them there are the descriptors.
pub struct Programs {
    functions: Vec<String>,
    map: Map,
    _links: Vec<File>,
}

impl Programs {
    pub fn attach(kind: Kind, functions: &[String]) -> Result<Self> {
        let map = Map::new(functions.len() as u32)?;
        let fd = map.0.as_raw_fd();
        let links = match kind {
            Kind::Fentry => attach_each(fd, functions, BPF_TRACE_FENTRY)?,
            Kind::Fexit => attach_each(fd, functions, BPF_TRACE_FEXIT)?,
            Kind::KretprobeMulti => vec![attach_all(fd, functions, BPF_F_KPROBE_MULTI_RETURN)?],
            _ => vec![attach_all(fd, functions, 0)?],
        };
        Ok(Self {
            functions: functions.to_vec(),
            map,
            _links: links,
        })
    }
}

/// A program of its own for each function.
fn attach_each(map: RawFd, functions: &[String], attach_type: u32) -> Result<Vec<File>> {
    let ids = btf::functions(functions)?;
    let mut links = Vec::new();
    for ((number, name), id) in (0..).zip(functions).zip(ids) {
        let insns = program(map, Whose::One(number));
        let program = load(&insns, BPF_PROG_TYPE_TRACING, attach_type, id)
            .with_context(|| format!("BPF on {name}"))?;
        let attr = LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            attach_type,
            ..LinkCreate::default()
        };
        // SAFETY: No address is in it.
        let link = unsafe { bpf_open(BPF_LINK_CREATE, &attr) }
            .with_context(|| format!("BPF_LINK_CREATE on {name}"))?;
        links.push(link);
    }
    Ok(links)
}

/// One program for all functions.
fn attach_all(map: RawFd, functions: &[String], flags: u32) -> Result<File> {
    let insns = program(map, Whose::All);
    let program = load(&insns, BPF_PROG_TYPE_KPROBE, BPF_TRACE_KPROBE_MULTI, 0)?;
    let names: Vec<_> = functions
        .iter()
        .map(|name| CString::new(name.as_str()))
        .collect::<Result<_, _>>()?;
    let syms: Vec<_> = names.iter().map(|name| address(name.as_ptr())).collect();
    let cookies: Vec<u64> = (0..functions.len() as u64).collect();
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        attach_type: BPF_TRACE_KPROBE_MULTI,
        multi_flags: flags,
        multi_cnt: functions.len() as u32,
        multi_syms: address(syms.as_ptr()),
        multi_cookies: address(cookies.as_ptr()),
        ..LinkCreate::default()
    };
    // SAFETY: So many names and cookies are there.
    unsafe { bpf_open(BPF_LINK_CREATE, &attr) }.context("BPF_LINK_CREATE")
}

impl Attached for Programs {
    fn hits(&self) -> Result<Hits> {
        (0..)
            .zip(&self.functions)
            .map(|(number, name)| Ok((name.clone(), self.map.get(number)?)))
            .collect()
    }

    /// Closing the descriptors is all.
    fn detach(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
