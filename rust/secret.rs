// SPDX-License-Identifier: GPL-2.0

//! This host's secret: where tokens and their random parts come from.
//!
//! One secret serves all network namespaces and CPUs. It is drawn when the module starts, and again
//! when some CPU has used 7/8 of its slice of counters, long before a counter could come twice. The
//! secret before stays valid for third ACKs under way; the one before that is wiped.
//!
//! [`issue`] and [`verify`] run in softirq for every SYN: they take no lock, allocate nothing and
//! write no cache line that another CPU writes.

use core::hint::black_box;
use core::num::{
    NonZeroU32,
    NonZeroU64, //
};
use core::ptr::null_mut;
use core::sync::atomic::{
    AtomicPtr,
    Ordering, //
};

use kernel::prelude::*;
use kernel::sync::{
    Arc,
    UniqueArc, //
};
use proto::key::KeyField;
use proto::nonce::Flow;
use proto::secret::Secret;
use proto::token::{
    Counter,
    Place,
    Slices,
    Stretch,
    Token, //
};

use crate::bh::{
    cursor_here,
    BhDisabled, //
};
use crate::bindings;
use crate::stack::Netns;

/// The secrets in force, from one replacement to the next.
struct Epoch {
    /// Counts replacements, from 1. It tells a CPU whether its cursor is of this epoch.
    number: u32,
    slices: Slices,
    current: Arc<Secret>,
    previous: Option<Arc<Secret>>,
}

/// The epoch; null before [`start`] and after [`stop`].
///
/// # Invariants
///
/// Null or from `KBox::into_raw`. Replaced under no lock but by one task at a time: module init, then
/// the work item of [`dc_rekey`], then module exit.
static EPOCH: AtomicPtr<Epoch> = AtomicPtr::new(null_mut());

/// Random bytes that don't stay on the stack.
struct Random([u8; 16]);

impl Random {
    /// Replaces the bytes.
    fn draw(&mut self) {
        // SAFETY: The buffer has that many bytes.
        unsafe { kernel::bindings::get_random_bytes(self.0.as_mut_ptr().cast(), self.0.len()) };
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        self.0 = [0; 16];
        black_box(&mut self.0);
    }
}

/// Draws the two keys of a secret, in the place where they will be.
fn draw() -> Result<Arc<Secret>> {
    let mut secret = UniqueArc::new(Secret::new(&[0; 16], &[0; 16]), GFP_KERNEL)?;
    let (mut cipher, mut hash) = (Random([0; 16]), Random([0; 16]));
    cipher.draw();
    hash.draw();
    secret.set_keys(&cipher.0, &hash.0);
    Ok(secret.into())
}

/// Draws a new secret. Sleeps.
fn replace() -> Result {
    let old = EPOCH.load(Ordering::Relaxed);
    // SAFETY: By `EPOCH`'s invariant; only this function and `stop` free it, one at a time.
    let (number, previous) = match unsafe { old.as_ref() } {
        Some(old) => (old.number.wrapping_add(1), Some(old.current.clone())),
        None => (1, None),
    };
    // SAFETY: Just a number.
    let cpus = unsafe { bindings::dc_cpus() };
    let new = Epoch {
        number,
        slices: Slices::for_cpus(NonZeroU32::new(cpus).unwrap_or(NonZeroU32::MIN)),
        current: draw()?,
        previous,
    };
    // INVARIANT: From `KBox::into_raw`.
    EPOCH.store(
        KBox::into_raw(KBox::new(new, GFP_KERNEL)?),
        Ordering::Release,
    );
    // SAFETY: It was the epoch, and isn't anymore.
    unsafe { free(old) };
    Ok(())
}

/// Frees an epoch that [`EPOCH`] doesn't point to anymore, when its last reader is gone.
///
/// # Safety
///
/// `epoch` must be null or from `KBox::into_raw`, and not be freed twice.
unsafe fn free(epoch: *mut Epoch) {
    if epoch.is_null() {
        return;
    }
    // SAFETY: We may sleep.
    unsafe { kernel::bindings::synchronize_rcu() };
    // SAFETY: By this function's requirement; no reader has it anymore.
    drop(unsafe { KBox::from_raw(epoch) });
}

/// Draws the first secret.
pub(crate) fn start() -> Result {
    replace()
}

/// Wipes all secrets. No hook may be installed, nor [`dc_rekey`] run, anymore.
pub(crate) fn stop() {
    // SAFETY: It was the epoch, and isn't anymore.
    unsafe { free(EPOCH.swap(null_mut(), Ordering::Relaxed)) };
}

/// Replaces the secret, from a work item.
#[no_mangle]
pub(crate) extern "C" fn dc_rekey() {
    match replace() {
        Ok(()) => pr_info!("a new secret for tokens is in force\n"),
        Err(_) => pr_warn!("no memory for a new secret; the old one stays until the next try\n"),
    }
}

/// The epoch in force.
#[inline(always)]
fn epoch(_bh: &BhDisabled) -> Option<&Epoch> {
    // SAFETY: By `EPOCH`'s invariant. Disabled softirqs are an RCU read side, and the lifetime is
    // theirs, so it isn't freed.
    unsafe { EPOCH.load(Ordering::Acquire).as_ref() }
}

/// Takes the next counter of this CPU, and says whose it is.
///
/// `None` if this CPU has none left, until the secret is replaced.
#[inline(always)]
fn take(bh: &BhDisabled) -> Option<(&Epoch, Counter)> {
    let epoch = epoch(bh)?;
    // SAFETY: With softirqs disabled the cursor is ours. Nobody can bring it into a later epoch
    // than the one just read.
    let cursor = unsafe { &mut *cursor_here() };
    let stretch = Stretch {
        first: cursor.first,
        end: cursor.end,
    };
    let taken = match stretch.counter(cursor.taken) {
        Some(counter) if cursor.epoch == epoch.number => {
            cursor.taken = cursor.taken.wrapping_add(1);
            counter
        }
        _ => take_otherwise(epoch, cursor)?,
    };
    Some((epoch, taken))
}

/// Goes on with [`take`] where the epoch is new to this CPU, or its slice nears its end.
#[cold]
fn take_otherwise(epoch: &Epoch, cursor: &mut bindings::dc_cursor) -> Option<Counter> {
    if cursor.epoch != epoch.number {
        let stretch = epoch.slices.stretch(cursor.slice);
        cursor.epoch = epoch.number;
        cursor.taken = 0;
        cursor.first = stretch.first;
        cursor.end = stretch.end;
    }
    let take = epoch.slices.next(cursor.slice, cursor.taken);
    if take.is_none_or(|take| take.rekey_due) {
        // SAFETY: May be called from any context, and as often as one likes.
        unsafe { bindings::dc_rekey_schedule() };
    }
    let take = take?;
    cursor.taken = take.cursor;
    Some(take.counter)
}

/// Makes a key field for this host's end of `flow`, in either mode, from the next counter of this CPU.
///
/// `None` if this CPU has none left, until the secret is replaced.
#[inline(always)]
pub(crate) fn issue(flow: &Flow, external: bool, bh: &BhDisabled) -> Option<KeyField> {
    let (epoch, counter) = take(bh)?;
    // One counter in 2^32 makes no token. Its turn is worth one fallback.
    epoch.current.issue(flow, counter, external)
}

/// Makes a key of standard MPTCP for this host's end of `flow`. `None` as for [`issue`].
#[inline(always)]
pub(crate) fn standard_key(flow: &Flow, bh: &BhDisabled) -> Option<NonZeroU64> {
    let (epoch, counter) = take(bh)?;
    Some(flow.standard_key(epoch.current.hash_key(), counter))
}

/// [`standard_key`] in one place.
#[inline(never)]
pub(crate) fn standard_key_again(flow: &Flow, bh: &BhDisabled) -> Option<NonZeroU64> {
    standard_key(flow, bh)
}

/// Makes the nonce of a standard MP_JOIN for this host's end of `flow`, in which the client's SYN has
/// the sequence number `isn`.
#[inline(always)]
pub(crate) fn join_nonce(flow: &Flow, isn: u32, bh: &BhDisabled) -> Option<NonZeroU32> {
    Some(flow.join_nonce(epoch(bh)?.current.hash_key(), isn))
}

/// How many counters a connection may cost. The stack's table has room for four tokens in each bucket; where
/// 99 % of it are used, one bucket in 25 has room, and so many tokens all miss those once in 30,000 times.
const TRIES: u32 = 256;

/// How many it may cost in a tick in which so many were not enough, on this CPU: the table is as good as full.
const TRIES_WHEN_FULL: u32 = 4;

/// Makes key fields for this host's end of `flow`, until `accept` takes one: its token was free, and the
/// token's bucket had room.
///
/// False if none was taken in [`TRIES`] attempts, or this CPU has no counters left.
pub(crate) fn issue_free(
    flow: &Flow,
    external: bool,
    netns: Netns,
    bh: &BhDisabled,
    accept: impl Fn(KeyField) -> bool,
) -> bool {
    let Some(key) = issue_again(flow, external, bh) else {
        return false;
    };
    accept(key) || search(flow, external, netns, bh, accept)
}

/// [`issue`] in one place.
#[inline(never)]
fn issue_again(flow: &Flow, external: bool, bh: &BhDisabled) -> Option<KeyField> {
    issue(flow, external, bh)
}

/// Goes on with [`issue_free`], the first token of which was busy.
#[cold]
pub(crate) fn search(
    flow: &Flow,
    external: bool,
    netns: Netns,
    bh: &BhDisabled,
    accept: impl Fn(KeyField) -> bool,
) -> bool {
    // SAFETY: The cursor is there.
    let full_at = unsafe { &raw mut (*cursor_here()).full_at };
    // SAFETY: The clock may be read any time.
    let now = unsafe { bindings::dc_tick() };
    // SAFETY: As above.
    let tries = if unsafe { full_at.read() } == now {
        TRIES_WHEN_FULL
    } else {
        TRIES
    };
    for _ in 1..tries {
        netns.count(bindings::DC_COUNT_TOKEN_BUSY);
        let Some(key) = issue_again(flow, external, bh) else {
            return false;
        };
        if accept(key) {
            return true;
        }
    }
    netns.count(bindings::DC_COUNT_TOKEN_BUSY);
    // SAFETY: As above.
    unsafe { full_at.write(now) };
    false
}

/// Whether this host made `key` for its end of `flow`, under this secret or the one before.
pub(crate) fn verify(flow: &Flow, key: KeyField, bh: &BhDisabled) -> bool {
    let Some(epoch) = epoch(bh) else {
        return false;
    };
    if let Some(counter) = epoch.current.verify(flow, key) {
        let Place { slice, offset } = epoch.slices.place(counter);
        // SAFETY: Any number may be asked for.
        return offset < unsafe { bindings::dc_cursor_of(slice, epoch.number) };
    }
    epoch
        .previous
        .as_ref()
        .is_some_and(|previous| previous.verify(flow, key).is_some())
}

/// What [`join_nonces`] makes nonces of.
pub(crate) struct JoinSyn {
    /// The connection that is to become a subflow.
    pub(crate) flow: Flow,
    /// Initial sequence number of its SYN.
    pub(crate) isn: u32,
    /// `Rand_A`.
    pub(crate) nonce: u32,
    /// `Tok_B`.
    pub(crate) token: Token,
}

/// `Rand_B`, this host's nonce of an external-key join: first the one to answer a SYN with now, then
/// those that a SYN a moment ago was answered with. None is 0.
///
/// "A moment" is one or two steps of a clock that advances every 64 seconds, as long as TCP's own SYN
/// cookies are good (`MAX_SYNCOOKIE_AGE`).
pub(crate) fn join_nonces<'a>(
    syn: &'a JoinSyn,
    bh: &'a BhDisabled,
) -> impl Iterator<Item = u32> + 'a {
    // SAFETY: Reads a clock.
    let now = unsafe { bindings::dc_time_epoch() };
    epoch(bh)
        .into_iter()
        .flat_map(|epoch| [Some(&epoch.current), epoch.previous.as_ref()])
        .flatten()
        .flat_map(move |secret| {
            [now, now.wrapping_sub(1)].map(|time| {
                let key = secret.hash_key();
                let nonce = syn
                    .flow
                    .join_cookie(key, syn.isn, syn.nonce, syn.token, time);
                nonce.max(1)
            })
        })
}
