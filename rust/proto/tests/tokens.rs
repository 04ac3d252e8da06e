// SPDX-License-Identifier: GPL-2.0

//! Ten million tokens taken by eight threads at once: none comes twice.

use std::num::NonZeroU32;
use std::sync::Barrier;
use std::thread;

use proto::token::{Counter, Slices, TokenCipher};

const THREADS: u32 = 8;
const TOKENS_PER_THREAD: usize = 1_250_000;

/// Takes tokens as a CPU does. All that is written is `cursor`, on this thread's own stack: what the
/// threads share is behind `&`, and nothing in it has interior mutability.
fn take(cipher: &TokenCipher, slices: Slices, slice: u32, mut cursor: u32) -> Vec<u32> {
    let mut tokens = Vec::with_capacity(TOKENS_PER_THREAD);
    while tokens.len() < TOKENS_PER_THREAD {
        let take = slices
            .next(slice, cursor)
            .expect("the slice is large enough");
        cursor = take.cursor;
        tokens.extend(cipher.seal(take.counter).map(|token| token.get()));
    }
    tokens
}

#[test]
fn ten_million_tokens_from_eight_threads_and_none_twice() {
    let cipher = TokenCipher::new(b"0123456789abcdef");
    let slices = Slices::for_cpus(NonZeroU32::new(THREADS).unwrap());
    let start = Barrier::new(THREADS as usize);

    let mut tokens: Vec<u32> = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|slice| {
                let (cipher, start) = (&cipher, &start);
                scope.spawn(move || {
                    start.wait();
                    take(cipher, slices, slice, 0)
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });

    assert_eq!(tokens.len(), 10_000_000);
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), 10_000_000, "a token came twice");
}

/// The test above can fail: were the counters not kept apart, it would.
#[test]
fn one_counter_gives_one_token() {
    let cipher = TokenCipher::new(b"0123456789abcdef");
    assert_eq!(cipher.seal(Counter(7)), cipher.seal(Counter(7)));
    assert_ne!(cipher.seal(Counter(7)), cipher.seal(Counter(8)));
}
