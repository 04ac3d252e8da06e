// SPDX-License-Identifier: GPL-2.0

//! Redirecting functions of the kernel through ftrace, as kernel live patching does.
//!
//! A [`Hook`] names a function, a *predicate* and a *replacement*. The predicate runs in the
//! ftrace callback, at every call of the function, on the arguments as the CPU has them. Only if it
//! says so is the replacement entered instead; else the call goes on in stock code. Hooks come
//! in [`Group`]s, which are installed wholly or not at all.
//!
//! # How this stays safe
//!
//! - A replacement calls its original behind the call to `__fentry__` (`rust/c/symbols.c`), by a direct
//!   call: no hook sees that call, so it can't recurse, and IBT has nothing to object to.
//! - `IPMODIFY` makes a hook exclusive: with a live patch on the same function, installing fails
//!   with `EBUSY` and the function is named. Where `kernel.ftrace_enabled` can still be
//!   set to 0, `PERMANENT` refuses that; Linux 7.3 refuses it anyway.
//! - A replacement gets the hooked function's own arguments, and nothing else. Others hook the same functions: a
//!   BPF trampoline runs between our callback and the replacement, and keeps no other register.
//! - Rust functions have no `__fentry__`, so nothing that a predicate runs in Rust can be traced.
//! - [`Group::remove`] returns when no CPU and no task is in a callback or replacement anymore.
//!   Replacements may be preempted but must not sleep: one that has to (a socket option whose value lies in a page
//!   that isn't there) holds a reference to the module meanwhile (`dc_busy_begin()`), so that it can't be unloaded.
//!
//! C header: [`include/linux/ftrace.h`](srctree/include/linux/ftrace.h)

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{
    AtomicBool,
    AtomicUsize,
    Ordering, //
};

use kernel::bindings::{
    ftrace_func_t,
    ftrace_ops,
    ftrace_regs,
    pt_regs, //
};
use kernel::error::to_result;
use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::bindings;

/// Bytes of the call to `__fentry__` at the start of a function (`MCOUNT_INSN_SIZE`).
const FENTRY_SIZE: usize = 5;

const FL_IPMODIFY: usize = 1 << 12;
const FL_PERMANENT: usize = 1 << 16;

/// A call of a hooked function, seen at its entry.
///
/// # Invariants
///
/// `regs` are the registers at that entry; nothing else accesses them while this lives.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    regs: NonNull<pt_regs>,
    parent: usize,
    _lives: PhantomData<&'a pt_regs>,
}

impl Call<'_> {
    #[inline(always)]
    fn regs(&self) -> &pt_regs {
        // SAFETY: By the type's invariant.
        unsafe { self.regs.as_ref() }
    }

    /// Sends the call to `replacement`.
    #[inline(always)]
    fn redirect(self, replacement: usize) {
        // SAFETY: By the type's invariant.
        unsafe { (&raw mut (*self.regs.as_ptr()).ip).write(replacement) };
    }

    /// The first argument, as a pointer.
    #[inline(always)]
    pub(crate) fn arg0<T>(&self) -> *mut T {
        self.regs().di as *mut T
    }

    /// The second argument, as a pointer.
    #[inline(always)]
    pub(crate) fn arg1<T>(&self) -> *mut T {
        self.regs().si as *mut T
    }

    /// The third argument, as a pointer.
    #[inline(always)]
    pub(crate) fn arg2<T>(&self) -> *mut T {
        self.regs().dx as *mut T
    }

    /// The first argument, as a `u64`.
    #[inline(always)]
    pub(crate) fn u64_0(&self) -> u64 {
        self.regs().di as u64
    }

    /// The second argument, as a `u64`.
    #[inline(always)]
    pub(crate) fn u64_1(&self) -> u64 {
        self.regs().si as u64
    }

    /// The fourth argument, as an `int`.
    #[inline(always)]
    pub(crate) fn int3(&self) -> c_int {
        self.regs().cx as c_int
    }

    /// The second argument, as an `int`.
    #[inline(always)]
    pub(crate) fn int1(&self) -> c_int {
        self.regs().si as c_int
    }

    /// The third argument, as an `int`.
    #[inline(always)]
    pub(crate) fn int2(&self) -> c_int {
        self.regs().dx as c_int
    }

    /// The fourth argument, as a pointer.
    #[inline(always)]
    pub(crate) fn arg3<T>(&self) -> *mut T {
        self.regs().cx as *mut T
    }

    /// Where the call returns to.
    #[inline(always)]
    pub(crate) fn parent(&self) -> usize {
        self.parent
    }
}

/// A hooked function: its name, and its place in the running kernel once that is known.
pub(crate) struct Site {
    name: &'static CStr,
    /// Where it calls `__fentry__`; 0 before [`Site::resolve`].
    fentry: AtomicUsize,
}

impl Site {
    /// A site of the function `name`.
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            fentry: AtomicUsize::new(0),
        }
    }

    /// Finds the function, and lets its original be called.
    fn resolve(&self) -> Result {
        // SAFETY: The name is a C string; the lookup has no other requirement.
        let address = unsafe { bindings::dc_symbol(self.name.as_char_ptr()) };
        if address == 0 {
            return Err(ENOENT);
        }
        // SAFETY: Any address may be asked for.
        let fentry = unsafe { bindings::dc_ftrace_location(address) };
        if fentry == 0 {
            pr_err!("{}: not traceable in this kernel\n", self.name);
            return Err(ENOENT);
        }
        let entry = fentry.wrapping_add(FENTRY_SIZE);
        // SAFETY: ftrace says that the function calls `__fentry__` here, so its body begins behind.
        unsafe { bindings::dc_original_set(self.name.as_char_ptr(), entry) };
        self.fentry.store(fentry, Ordering::Relaxed);
        Ok(())
    }

    /// Whether this is the function that a callback's `ip` belongs to.
    #[inline(always)]
    pub(crate) fn is_at(&self, ip: usize) -> bool {
        self.fentry.load(Ordering::Relaxed) == ip
    }
}

/// A redirection of one function of the kernel.
pub(crate) trait Hook {
    /// The function's name.
    const TARGET: &'static CStr;

    /// Whether the replacement takes this call. Runs in the ftrace callback: it must be quick,
    /// must not block, and must take nothing but the arguments for granted.
    fn takes(call: Call<'_>) -> bool;

    /// What [`takes`](Self::takes) says, where that can be told at a glance; `None`: ask there. For hooks that run
    /// for every SYN or segment: it becomes a part of the callback, and should call nothing.
    #[inline(always)]
    fn glance(_call: Call<'_>) -> Option<bool> {
        None
    }

    /// The address of the replacement, a function of the hooked function's own type.
    fn replacement() -> usize;
}

/// What a callback does for one hook of its group.
///
/// Returns whether the call was one of the hooked function.
///
/// # Safety
///
/// `fregs` must be what ftrace gave the callback.
#[inline(always)]
pub(crate) unsafe fn dispatch<H: Hook>(
    site: Option<&Site>,
    ip: usize,
    parent: usize,
    fregs: *mut ftrace_regs,
) -> bool {
    if !site.is_some_and(|site| site.is_at(ip)) {
        return false;
    }
    // SAFETY: By this function's requirement it is not null.
    let regs = unsafe { NonNull::new_unchecked(fregs.cast::<pt_regs>()) };
    // INVARIANT: On x86-64, `ftrace_regs` is a `pt_regs` of which ftrace has filled the argument
    // registers and `ip` (`struct __arch_ftrace_regs`), and it is the callback's own.
    let call = Call {
        regs,
        parent,
        _lives: PhantomData,
    };
    match H::glance(call) {
        Some(true) => call.redirect(H::replacement()),
        Some(false) => {}
        None => decide::<H>(call),
    }
    true
}

/// Asks the predicate. Not in the callback, which would save registers for it even where a glance does.
#[inline(never)]
fn decide<H: Hook>(call: Call<'_>) {
    if H::takes(call) {
        call.redirect(H::replacement());
    }
}

/// Hooks that are installed together.
pub(crate) struct Group {
    ops: UnsafeCell<MaybeUninit<ftrace_ops>>,
    callback: ftrace_func_t,
    sites: &'static [Site],
    installed: AtomicBool,
}

// SAFETY: `ops` is ftrace's own while the group is installed, and is otherwise written only in
// `install`, whose callers are serialised.
unsafe impl Sync for Group {}

impl Group {
    /// A group whose `callback` tries [`dispatch`] for the hook of every site.
    pub(crate) const fn new(callback: ftrace_func_t, sites: &'static [Site]) -> Self {
        Self {
            ops: UnsafeCell::new(MaybeUninit::zeroed()),
            callback,
            sites,
            installed: AtomicBool::new(false),
        }
    }

    /// Finds the hooked functions. Once, before anything is installed.
    pub(crate) fn resolve(&self) -> Result {
        self.sites.iter().try_for_each(|site| site.resolve())
    }

    /// Installs all hooks of the group. Sleeps. Calls of `install` and `remove` must be serialised.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another IPMODIFY user, such as a live patch, has one of the functions.
    pub(crate) fn install(&self) -> Result {
        if self.installed.load(Ordering::Relaxed) {
            return Ok(());
        }
        if let Err(err) = self.register(self.sites) {
            // ftrace doesn't say which function it was about.
            for site in self.sites {
                match self.register(core::slice::from_ref(site)) {
                    Ok(()) => self.unregister(),
                    Err(EBUSY) => pr_err!(
                        "{}: a live patch or another module has it; disable that first\n",
                        site.name
                    ),
                    Err(err) => pr_err!("{}: ftrace refuses: {}\n", site.name, err.to_errno()),
                }
            }
            return Err(err);
        }
        self.installed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Removes all hooks of the group, and waits until nothing runs in them. Sleeps.
    pub(crate) fn remove(&self) {
        if self.installed.swap(false, Ordering::Relaxed) {
            self.unregister();
        }
    }

    fn register(&self, sites: &[Site]) -> Result {
        let ops = self.ops.get().cast::<ftrace_ops>();
        // SAFETY: The group isn't registered, so nobody else uses `ops`; zeroes and these two are
        // how an `ftrace_ops` starts.
        unsafe {
            ops.write_bytes(0, 1);
            (*ops).func = self.callback;
            (*ops).flags = FL_IPMODIFY | FL_PERMANENT;
        }
        let filter = || -> Result {
            for site in sites {
                let fentry = site.fentry.load(Ordering::Relaxed);
                // SAFETY: `ops` is initialised, and not registered yet.
                to_result(unsafe { kernel::bindings::ftrace_set_filter_ip(ops, fentry, 0, 0) })?;
            }
            // SAFETY: As above; the callback and `ops` live until `unregister`.
            to_result(unsafe { kernel::bindings::register_ftrace_function(ops) })
        };
        let result = filter();
        if result.is_err() {
            // SAFETY: `ops` isn't registered.
            unsafe { kernel::bindings::ftrace_free_filter(ops) };
        }
        result
    }

    fn unregister(&self) {
        let ops = self.ops.get().cast::<ftrace_ops>();
        // SAFETY: `ops` is registered. On return no trampoline or callback of it runs anywhere.
        unsafe { kernel::bindings::unregister_ftrace_function(ops) };
        // SAFETY: `ops` isn't registered anymore.
        unsafe { kernel::bindings::ftrace_free_filter(ops) };
        // A task that a callback sent on may still be about to enter a replacement, or in one. It
        // doesn't sleep there, so it isn't when all tasks were through a voluntary switch, and
        // all CPUs through a quiescent state.
        wait_for_tasks();
    }

    /// Whether the group is installed. Callers must be serialised with `install` and `remove`.
    pub(crate) fn is_installed(&self) -> bool {
        self.installed.load(Ordering::Relaxed)
    }
}

/// Waits until every task has switched voluntarily, and every CPU was in a quiescent state: whatever
/// did not sleep since before the call has ended. Sleeps.
#[export_name = "dc_wait_for_tasks"]
pub(crate) extern "C" fn wait_for_tasks() {
    // SAFETY: Waits for grace periods; the callers may sleep.
    unsafe {
        kernel::bindings::synchronize_rcu_tasks();
        kernel::bindings::synchronize_rcu();
    }
}

/// Defines a [`Group`] of hooks with the callback that serves it.
#[macro_export]
macro_rules! hook_group {
    ($(#[$meta:meta])* $name:ident: $($hook:ty),+ $(,)?) => {
        $(#[$meta])*
        pub(crate) static $name: $crate::hook::Group = {
            const TARGETS: &[&CStr] = &[$(<$hook as $crate::hook::Hook>::TARGET),+];
            static SITES: [$crate::hook::Site; TARGETS.len()] =
                [$($crate::hook::Site::new(<$hook as $crate::hook::Hook>::TARGET)),+];

            /// # Safety
            ///
            /// For ftrace to call.
            unsafe extern "C" fn callback(
                ip: usize,
                parent: usize,
                _ops: *mut kernel::bindings::ftrace_ops,
                fregs: *mut kernel::bindings::ftrace_regs,
            ) {
                let mut sites = SITES.iter();
                // SAFETY: `fregs` is what ftrace gave us.
                let _ = unsafe {
                    $($crate::hook::dispatch::<$hook>(sites.next(), ip, parent, fregs))||+
                };
            }
            $crate::hook::Group::new(Some(callback), &SITES)
        };
    };
}
