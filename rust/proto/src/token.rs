// SPDX-License-Identifier: GPL-2.0

//! Tokens: RC5 of a counter.
//!
//! A token names a connection on its host (RFC 8684, section 2.2). RC5-16/16/16 has a block of 32
//! bits, so under one key it is a permutation of all tokens: no two counters give one token, and
//! every token leads back to its counter. Nobody without the key can tell the next one.
//!
//! Each CPU counts in a slice of the counter space of its own ([`Slices`]), so taking a token
//! writes no cache line that another CPU writes.

use core::num::NonZeroU32;

use crate::rc5::Rc5;

/// A token: 32 bits, never 0, which means "none" to the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(NonZeroU32);

impl Token {
    /// The token of this value; `None` for 0.
    #[inline]
    pub const fn new(value: u32) -> Option<Self> {
        match NonZeroU32::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// The value, a host integer.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

/// A number that becomes a token. Each is used once per key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Counter(pub u32);

/// The permutation between counters and tokens: RC5-16/16/16.
///
/// Word A of the block is the low half of the 32-bit number and word B the high half, which is
/// RC5's own little-endian order for the bytes of a little-endian number.
pub struct TokenCipher(Rc5<u16, 16, 16>);

impl TokenCipher {
    /// The permutation that belongs to `key`.
    pub fn new(key: &[u8; 16]) -> Self {
        Self(Rc5::new(key))
    }

    /// Replaces the key in place.
    pub fn set_key(&mut self, key: &[u8; 16]) {
        self.0.set_key(key);
    }

    /// The token of a counter; `None` for the one counter that encrypts to 0 and is skipped.
    #[inline(always)]
    pub fn seal(&self, counter: Counter) -> Option<Token> {
        let [a, b] = self.0.encrypt(words(counter.0));
        Token::new(number(a, b))
    }

    /// The counter of a token. Every token has one, whether or not it was ever issued.
    #[inline]
    pub fn open(&self, token: Token) -> Counter {
        let [a, b] = self.0.decrypt(words(token.get()));
        Counter(number(a, b))
    }

    /// Overwrites the key. Dropping does it, too.
    pub fn wipe(&mut self) {
        self.0.wipe();
    }
}

/// The two cipher words of a number.
#[inline]
fn words(number: u32) -> [u16; 2] {
    [number as u16, (number >> 16) as u16]
}

/// The number of two cipher words.
#[inline]
fn number(a: u16, b: u16) -> u32 {
    (u32::from(b) << 16) | u32::from(a)
}

/// How the 2^32 counters are dealt out to CPUs: equal slices, each owned by one CPU.
///
/// The number of slices is rounded up to a power of two, so the owner of a counter is in its high
/// bits and no division is needed. A slice's only state is a *cursor*, the number of counters
/// already taken from it; it is the caller's (per-CPU in the kernel, one per thread in userspace),
/// starts at 0, and starts again at 0 when the key is replaced.
///
/// # Examples
///
/// ```
/// use core::num::NonZeroU32;
/// use proto::token::{Counter, Slices};
///
/// let slices = Slices::for_cpus(NonZeroU32::new(3).unwrap());
/// let take = slices.next(1, 41).unwrap();
/// assert_eq!(take.counter, Counter(0x4000_0000 + 41));
/// assert_eq!(take.cursor, 42);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// Bits of a counter that name the slice, 0 to 31.
    bits: u32,
}

/// One counter taken from a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Take {
    /// The counter, taken from nowhere else.
    pub counter: Counter,
    /// The slice's cursor from now on.
    pub cursor: u32,
    /// At least 7/8 of the slice are gone: the key should be replaced now.
    pub rekey_due: bool,
}

/// The counters of a slice that are taken without a thought: all but those at its end, where the key is due to be
/// replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The slice's first counter.
    pub first: u32,
    /// The first cursor behind the stretch.
    pub end: u32,
}

impl Stretch {
    /// What [`Slices::next`] takes at this cursor, with the next cursor one further; `None`: ask there.
    #[inline]
    pub const fn counter(self, cursor: u32) -> Option<Counter> {
        if cursor < self.end {
            Some(Counter(self.first | cursor))
        } else {
            None
        }
    }
}

/// Where a counter lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The slice, below [`Slices::count`].
    pub slice: u32,
    /// How many counters of the slice come before it.
    pub offset: u32,
}

impl Slices {
    /// Slices for CPUs numbered below `cpus`; for more than 2^31 CPUs some own none.
    #[inline]
    pub const fn for_cpus(cpus: NonZeroU32) -> Self {
        // The bits that the highest CPU number needs.
        let bits = u32::BITS.wrapping_sub(cpus.get().wrapping_sub(1).leading_zeros());
        Self {
            bits: if bits > 31 { 31 } else { bits },
        }
    }

    /// The number of slices, a power of two.
    #[inline]
    pub const fn count(self) -> u32 {
        1_u32.wrapping_shl(self.bits)
    }

    /// The highest offset within a slice: its width less one.
    ///
    /// The last counter of a slice is never given out, so that a cursor fits in 32 bits even
    /// where one slice is everything.
    #[inline]
    const fn last(self) -> u32 {
        u32::MAX.wrapping_shr(self.bits)
    }

    /// The cursor from which on the key should be replaced: 7/8 of the slice.
    #[inline]
    pub const fn rekey_at(self) -> u32 {
        let last = self.last();
        last.wrapping_sub(last >> 3)
    }

    /// Takes the next counter of a slice.
    ///
    /// `None`: the slice is used up (only a new key helps), or there is no such slice.
    #[inline]
    pub const fn next(self, slice: u32, cursor: u32) -> Option<Take> {
        if cursor >= self.last() || slice >= self.count() {
            return None;
        }
        let taken = cursor.wrapping_add(1);
        Some(Take {
            counter: Counter(self.base(slice) | cursor),
            cursor: taken,
            rekey_due: taken >= self.rekey_at(),
        })
    }

    /// The part of a slice that takes no thought; none of it where there is no such slice.
    #[inline]
    pub const fn stretch(self, slice: u32) -> Stretch {
        Stretch {
            first: self.base(slice),
            end: if slice < self.count() {
                self.rekey_at().saturating_sub(1)
            } else {
                0
            },
        }
    }

    /// The first counter of a slice.
    #[inline]
    const fn base(self, slice: u32) -> u32 {
        // With one slice the shift is by all 32 bits.
        match slice.checked_shl(u32::BITS.wrapping_sub(self.bits)) {
            Some(base) => base,
            None => 0,
        }
    }

    /// The slice of a counter and the place in it.
    #[inline]
    pub const fn place(self, counter: Counter) -> Place {
        let slice = match counter.0.checked_shr(u32::BITS.wrapping_sub(self.bits)) {
            Some(slice) => slice,
            None => 0,
        };
        Place {
            slice,
            offset: counter.0 & self.last(),
        }
    }

    /// Whether a counter was ever taken, going by the cursor of its slice.
    ///
    /// `cursor_of` maps a slice to its cursor, `None` where no CPU owns it.
    #[inline]
    pub fn issued(self, counter: Counter, cursor_of: impl FnOnce(u32) -> Option<u32>) -> bool {
        let place = self.place(counter);
        cursor_of(place.slice).is_some_and(|cursor| place.offset < cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slices(cpus: u32) -> Slices {
        Slices::for_cpus(NonZeroU32::new(cpus).unwrap())
    }

    proptest! {
        #[test]
        fn a_token_leads_back_to_its_counter(key: [u8; 16], counter: u32) {
            let cipher = TokenCipher::new(&key);
            if let Some(token) = cipher.seal(Counter(counter)) {
                prop_assert_eq!(cipher.open(token), Counter(counter));
            }
        }

        #[test]
        fn a_taken_counter_lies_where_it_was_taken(bits in 0_u32..31, pick: u32, place: u32) {
            let slices = slices(1 << bits);
            let slice = pick % slices.count();
            let cursor = place % slices.last();
            let take = slices.next(slice, cursor).unwrap();
            prop_assert_eq!(slices.place(take.counter), Place { slice, offset: cursor });
            prop_assert!(slices.issued(take.counter, |s| (s == slice).then_some(take.cursor)));
            prop_assert!(!slices.issued(take.counter, |s| (s == slice).then_some(cursor)));
            prop_assert!(!slices.issued(take.counter, |_| None));
        }

        #[test]
        fn on_a_stretch_counters_are_taken_as_elsewhere(cpus in 1_u32..=1 << 31, slice: u32, cursor: u32) {
            let slices = slices(cpus);
            let stretch = slices.stretch(slice);
            for (slice, cursor) in [(slice, cursor), (slice % slices.count(), cursor % slices.last())] {
                let stretch = slices.stretch(slice);
                let expected = slices.next(slice, cursor).filter(|take| !take.rekey_due);
                prop_assert_eq!(stretch.counter(cursor), expected.map(|take| take.counter));
                prop_assert!(expected.is_none_or(|take| take.cursor == cursor + 1));
            }
            prop_assert_eq!(stretch.counter(u32::MAX), None);
        }

        #[test]
        fn every_cpu_has_a_slice(cpus in 1_u32..=1 << 31) {
            let slices = slices(cpus);
            prop_assert!(slices.next(cpus - 1, 0).is_some());
            prop_assert!(slices.count() < cpus.saturating_mul(2));
            prop_assert_eq!(slices.next(slices.count(), 0), None);
        }
    }

    #[test]
    fn the_counter_that_encrypts_to_zero_is_skipped() {
        let cipher = TokenCipher::new(&[3; 16]);
        let [a, b] = cipher.0.decrypt([0, 0]);
        assert_eq!(cipher.seal(Counter(number(a, b))), None);
    }

    #[test]
    fn a_slice_asks_for_a_new_key_at_seven_eighths_and_then_ends() {
        for cpus in [1, 2, 3, 8, 4096, 1 << 28] {
            let slices = slices(cpus);
            let width = (1_u64 << 32) / u64::from(slices.count());
            let due = u32::try_from(width * 7 / 8).unwrap();
            assert_eq!(slices.rekey_at(), due);
            assert!(!slices.next(0, due - 2).unwrap().rekey_due);
            assert!(slices.next(0, due - 1).unwrap().rekey_due);
            let end = u32::try_from(width - 1).unwrap();
            assert_eq!(slices.next(0, end - 1).unwrap().cursor, end);
            assert_eq!(slices.next(0, end), None);
        }
    }

    #[test]
    fn one_cpu_owns_everything_and_2_to_the_32_less_1_cpus_do_no_harm() {
        assert_eq!(slices(1).count(), 1);
        assert_eq!(slices(1).place(Counter(u32::MAX)).offset, u32::MAX);
        assert_eq!(slices(u32::MAX).count(), 1 << 31);
        assert_eq!(slices(u32::MAX).next(0, 0).unwrap().counter, Counter(0));
    }
}
