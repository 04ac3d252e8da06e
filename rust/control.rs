// SPDX-License-Identifier: GPL-2.0

//! Which hooks stand, and for whom.
//!
//! The hooks that cost others are installed when a network namespace or a socket first wants them, and
//! removed when nobody has wanted them for a while ([`LINGER`]) and no connection of ours is in a
//! handshake anymore. So a switch that is turned off returns at once, connections under way go on in
//! their mode, and nobody can make the kernel patch its code more often than once in that while.
//!
//! Namespaces are counted under the lock, sockets in one atomic word: they come and go where nothing may sleep.

use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    Ordering, //
};

use kernel::ffi::c_int;
use kernel::prelude::*;

use crate::bh::BhGuard;
use crate::bindings;
use crate::handshake::{
    EXTERNAL,
    HOT,
    STATELESS, //
};
use crate::hook::wait_for_tasks;

/// How long hooks stay when nobody wants them anymore, in seconds. The survey for handshakes under way is
/// made as often.
const LINGER: u32 = 10;

/// How many namespaces want which hooks.
struct Namespaces {
    /// Sysctls can be set: the module is loaded, and not about to go.
    open: bool,
    lowoverhead: u32,
    stateless_join: u32,
}

kernel::sync::global_lock! {
    // SAFETY: `start` initialises it before anything else of the module runs.
    /// Guards the counts, the values of the sysctls, and what is installed. It is held while code is
    /// patched, and never while anybody's socket or memory is waited for.
    unsafe(uninit) static NAMESPACES: Mutex<Namespaces> = Namespaces {
        open: false,
        lowoverhead: 0,
        stateless_join: 0,
    };
}

/// How many sockets want the hooks on segments, and [`HELD`].
static SOCKETS: AtomicU32 = AtomicU32::new(0);

/// [`HOT`] and [`EXTERNAL`] stand for sockets, and will until this bit is cleared.
const HELD: u32 = 1 << 31;

/// How many sockets have an entry in the table of what applications asked for, and [`KEPT`].
static ENTRIES: AtomicU32 = AtomicU32::new(0);

/// SYNs are handled as if some socket had an entry. Set with the first, cleared when all and their connections are gone.
const KEPT: u32 = 1 << 31;

kernel::sync::global_lock! {
    // SAFETY: `start` initialises it before anything else of the module runs.
    /// Guards changes of [`KEPT`] together with `dc_apps_used`, which says the same to whoever handles SYNs, in a cache line
    /// that is hardly ever written. With softirqs disabled: it is taken under sockets' locks, which softirqs take, too.
    unsafe(uninit) static APPS_USED: SpinLock<()> = ();
}

/// Whether [`HOT`] stands, and will until whoever reads this has finished its segment. Only then may
/// an option be given another length than the stack's own has: the stack would else write its own
/// into the room of ours.
static WIRE_READY: AtomicBool = AtomicBool::new(false);

/// The module is being unloaded: no handshake of ours begins anymore.
static CLOSING: AtomicBool = AtomicBool::new(false);

/// Reads [`WIRE_READY`].
#[inline]
pub(crate) fn wire_is_ready() -> bool {
    WIRE_READY.load(Ordering::Acquire)
}

/// Whether the module is being unloaded. Whoever asked for external keys is then left with plain TCP.
#[inline]
pub(crate) fn is_closing() -> bool {
    CLOSING.load(Ordering::Relaxed)
}

/// Lets sysctls and socket options be set. The hooks were found before.
pub(crate) fn open() {
    NAMESPACES.lock().open = true;
}

/// Makes the locks ready.
///
/// # Safety
///
/// Must be called once, before anything else here.
pub(crate) unsafe fn start() {
    // SAFETY: By this function's requirement.
    unsafe {
        NAMESPACES.init();
        APPS_USED.init();
    }
}

/// Installs the hooks on segments. Called with the lock held.
fn wire_up() -> Result {
    HOT.install()?;
    WIRE_READY.store(true, Ordering::Release);
    Ok(())
}

/// Looks for hooks that nobody wants anymore, later.
fn look_later() {
    // SAFETY: May be called from any context.
    unsafe { bindings::dc_control_schedule(LINGER) };
}

/// Stores a sysctl that hooks stand for while some namespace has it above 0. Sleeps.
///
/// The hooks must stand before the first packet is handled by them, so the value isn't simply stored.
///
/// Errors: `ENODEV`, the module is being unloaded; what [`crate::hook::Group::install`] says.
///
/// # Safety
///
/// `value` must point to the sysctl's value, which only this function writes.
#[no_mangle]
unsafe extern "C" fn dc_switch_store(which: bindings::dc_switch, value: *mut u8, is: u8) -> c_int {
    let mut namespaces = NAMESPACES.lock();
    // SAFETY: By this function's requirement; writers hold the lock.
    let was = unsafe { value.read_volatile() };
    if was == is {
        return 0;
    }
    if is != 0 && !namespaces.open {
        return ENODEV.to_errno();
    }
    let is_stateless = which == bindings::DC_SWITCH_STATELESS_JOIN;
    if was == 0 {
        let installed = if is_stateless {
            STATELESS.install()
        } else {
            wire_up()
        };
        if let Err(err) = installed {
            return err.to_errno();
        }
    }
    // SAFETY: As above. Others only read it.
    unsafe { value.write_volatile(is) };
    let count = if is_stateless {
        &mut namespaces.stateless_join
    } else {
        &mut namespaces.lowoverhead
    };
    if was == 0 {
        *count = count.saturating_add(1);
    } else if is == 0 {
        *count = count.saturating_sub(1);
        if *count == 0 {
            look_later();
        }
    }
    0
}

/// Takes the hooks on segments for one socket more, if they stand for sockets already.
fn wire_get_standing() -> bool {
    let more = |word: u32| (word & HELD != 0).then(|| word.wrapping_add(1));
    SOCKETS
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
        .is_ok()
}

/// Takes the hooks on segments for one socket more. Only if it may, does it sleep.
///
/// Errors: `EAGAIN`, it would have to; `ENOPROTOOPT`, the module is being unloaded, as without it.
#[no_mangle]
extern "C" fn dc_wire_get(may_sleep: bool) -> c_int {
    const GONE: c_int = -(kernel::bindings::ENOPROTOOPT as c_int);

    if is_closing() {
        // Who got something now would be promised what nobody keeps.
        return GONE;
    }
    if wire_get_standing() {
        return 0;
    }
    if !may_sleep {
        return EAGAIN.to_errno();
    }
    let namespaces = NAMESPACES.lock();
    if !namespaces.open {
        return GONE;
    }
    if !wire_get_standing() {
        if let Err(err) = EXTERNAL.install().and_then(|()| wire_up()) {
            look_later();
            return err.to_errno();
        }
        // Nobody counts without the bit, so there are none.
        SOCKETS.store(HELD | 1, Ordering::Release);
    }
    0
}

/// Gives back what [`dc_wire_get`] took. Any context.
#[no_mangle]
extern "C" fn dc_wire_put() {
    if SOCKETS.fetch_sub(1, Ordering::AcqRel) == HELD | 1 {
        look_later();
    }
}

/// Counts one entry more, where [`KEPT`] is set.
fn entry_added() -> bool {
    let more = |word: u32| (word & KEPT != 0).then(|| word.wrapping_add(1));
    ENTRIES
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, more)
        .is_ok()
}

/// Tells whoever handles SYNs.
fn set_apps_used(used: bool) {
    // SAFETY: Others only read it, as `apps_used()` does.
    unsafe { (&raw mut bindings::dc_apps_used).write_volatile(used) };
}

/// A socket is about to get an entry. Process context, where softirqs may be disabled.
#[no_mangle]
extern "C" fn dc_app_added() {
    if entry_added() {
        return;
    }
    let _bh = BhGuard::new();
    let _guard = APPS_USED.lock();
    if !entry_added() {
        ENTRIES.store(KEPT | 1, Ordering::Release);
        set_apps_used(true);
    }
}

/// A socket has lost its entry. Any context.
#[no_mangle]
extern "C" fn dc_app_removed() {
    if ENTRIES.fetch_sub(1, Ordering::AcqRel) == KEPT | 1 {
        look_later();
    }
}

/// Lets SYNs be handled as if no application had ever asked for anything, if none that did is left.
fn forget_apps() {
    let _bh = BhGuard::new();
    let _guard = APPS_USED.lock();
    if ENTRIES
        .compare_exchange(KEPT, 0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
    {
        set_apps_used(false);
    }
}

/// Removes the hooks that nobody wants anymore; what is still needed is looked at again. A work item.
#[no_mangle]
extern "C" fn dc_control_work() {
    let namespaces = NAMESPACES.lock();
    if !namespaces.open {
        return;
    }
    if namespaces.stateless_join == 0 {
        STATELESS.remove();
    }
    // SAFETY: We may sleep, and the token table is there.
    let found = unsafe { bindings::dc_survey() };
    let external = found & bindings::DC_SURVEY_EXTERNAL != 0;
    if !external {
        forget_apps();
    }
    let sockets_go = !external
        && match SOCKETS.compare_exchange(HELD, 0, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => true,
            Err(word) => word == 0,
        };
    if sockets_go {
        EXTERNAL.remove();
    }
    let wire_goes = sockets_go && namespaces.lowoverhead == 0;
    let quiet = found == 0;
    // Nobody says when the last external-key connection ends.
    let mut again =
        ENTRIES.load(Ordering::Relaxed) == KEPT || SOCKETS.load(Ordering::Relaxed) == HELD;
    if wire_goes && HOT.is_installed() {
        if quiet {
            WIRE_READY.store(false, Ordering::Release);
            drop(namespaces);
            again |= !wire_down();
        } else {
            again = true;
        }
    }
    if again {
        look_later();
    }
}

/// Removes [`HOT`], unless somebody wants it again meanwhile. Whether nothing is left to do.
///
/// Segments that are being written now may have been promised our length, so they are waited for; the lock isn't held,
/// or a sysctl would have to wait with us.
fn wire_down() -> bool {
    wait_for_tasks();
    let namespaces = NAMESPACES.lock();
    if !namespaces.open || wire_is_ready() {
        return true;
    }
    // SAFETY: As in `dc_control_work`.
    if unsafe { bindings::dc_survey() } != 0 {
        WIRE_READY.store(true, Ordering::Release);
        return false;
    }
    HOT.remove();
    true
}

/// Brings every handshake to where it goes on without the module, and removes all hooks that this file is about.
/// Sleeps; waits for no socket, and for at most a second or two.
pub(crate) fn close() {
    /// How often it is tried to settle a socket whose lock a task holds, and how many milliseconds
    /// apart.
    const ROUNDS: u32 = 50;
    const PAUSE: i64 = 20;

    NAMESPACES.lock().open = false;
    CLOSING.store(true, Ordering::Relaxed);
    // SAFETY: Process context, without locks; sysctls can't be set anymore.
    unsafe {
        bindings::dc_netns_clear();
        bindings::dc_control_cancel();
    }
    // Whatever began before that has ended, or can be found.
    wait_for_tasks();
    // SAFETY: Process context, without locks.
    unsafe { bindings::dc_apps_settle() };
    for round in 0..=ROUNDS {
        // SAFETY: As above.
        if unsafe { bindings::dc_settle(round == ROUNDS) } == 0 {
            break;
        }
        kernel::time::delay::fsleep(kernel::time::Delta::from_millis(PAUSE));
    }
    WIRE_READY.store(false, Ordering::Release);
    wait_for_tasks();
    // What was missed is settled now; nothing is by the reasoning above.
    // SAFETY: As above.
    unsafe { bindings::dc_settle(true) };
    for group in [&STATELESS, &HOT, &EXTERNAL] {
        group.remove();
    }
}

/// Ends the work item for good. No hook stands anymore, so nobody asks for it.
pub(crate) fn stop() {
    // SAFETY: Process context, without locks.
    unsafe { bindings::dc_control_cancel() };
}
