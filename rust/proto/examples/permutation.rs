// SPDX-License-Identifier: GPL-2.0

//! Shows by trying them all that the token cipher is a permutation of 32-bit numbers.
//!
//! Every one of the 2^32 counters is sealed, and its token opened again. If each leads back to its
//! own counter then no two counters share a token, and as there are as many tokens as counters, each
//! token has its counter. (A bitmap of all tokens would show the same, with 2^32 cache misses.)
//!
//! ```text
//! cargo run --release --example permutation [KEY]
//! ```
//!
//! `KEY` is 32 hexadecimal digits; without it a fixed one is taken. All CPUs are used. The last line
//! ends with `ok` or `FAILED`; the exit status is 0 if the cipher is a permutation, 1 if it is not, 2
//! for wrong usage.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{env, thread};

use proto::token::{Counter, TokenCipher};

const DEFAULT_KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// Counters that a thread takes on at a time: 2^20.
const CHUNK_BITS: u32 = 20;
const CHUNKS: u32 = 1 << (32 - CHUNK_BITS);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let key = match arguments.as_slice() {
        [] => DEFAULT_KEY,
        [key] => key,
        _ => "",
    };
    let Some(cipher) = parse_key(key).map(|key| TokenCipher::new(&key)) else {
        eprintln!("usage: permutation [KEY]   (KEY: 32 hexadecimal digits)");
        return ExitCode::from(2);
    };

    let start = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU32::new(0);
    let tally = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| work(&cipher, &next)))
            .collect();
        let mut shown = Instant::now();
        while !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(Duration::from_millis(50));
            if shown.elapsed() >= Duration::from_secs(5) {
                shown = Instant::now();
                let percent = next.load(Relaxed).min(CHUNKS) * 100 / CHUNKS;
                let seconds = start.elapsed().as_secs();
                eprintln!("permutation: {percent:3} % after {seconds} s");
            }
        }
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker panicked"))
            .fold(Tally::default(), Tally::plus)
    });

    let Tally {
        led_back,
        skipped,
        astray,
    } = tally;
    // One counter encrypts to 0, which is no token.
    let whole = led_back == (1 << 32) - 1 && skipped == 1 && astray == 0;
    println!(
        "RC5-16/16/16, key {key}: {led_back} counters led back from their tokens, {skipped} skipped, \
         {astray} astray; {threads} threads, {} s: {}",
        start.elapsed().as_secs(),
        if whole { "ok" } else { "FAILED" }
    );
    if whole {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What became of the counters.
#[derive(Default)]
struct Tally {
    /// Their tokens lead back to them.
    led_back: u64,
    /// They encrypt to 0.
    skipped: u64,
    /// Their tokens lead elsewhere.
    astray: u64,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            led_back: self.led_back + other.led_back,
            skipped: self.skipped + other.skipped,
            astray: self.astray + other.astray,
        }
    }
}

/// Tries chunks of counters until none is left.
fn work(cipher: &TokenCipher, next: &AtomicU32) -> Tally {
    let mut tally = Tally::default();
    loop {
        let chunk = next.fetch_add(1, Relaxed);
        if chunk >= CHUNKS {
            return tally;
        }
        for low in 0..1 << CHUNK_BITS {
            let counter = Counter((chunk << CHUNK_BITS) | low);
            match cipher.seal(counter) {
                None => tally.skipped += 1,
                Some(token) if cipher.open(token) == counter => tally.led_back += 1,
                Some(_) => tally.astray += 1,
            }
        }
    }
}

fn parse_key(digits: &str) -> Option<[u8; 16]> {
    let wanted = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let key = u128::from_str_radix(digits, 16).ok()?;
    wanted.then(|| key.to_be_bytes())
}
