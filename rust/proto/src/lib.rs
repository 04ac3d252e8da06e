// SPDX-License-Identifier: GPL-2.0

//! The wire protocol of low-overhead Multipath TCP, with no kernel in it.
//!
//! Every byte that the module puts on the wire or takes from it is decided here and nowhere else.
//! Kbuild compiles these files into the module; cargo compiles the same files for tests,
//! benchmarks and the userspace peer.
//!
//! # From the bottom up
//!
//! | module | what it knows |
//! |---|---|
//! | [`rc5`] | the block cipher, generic in word size, rounds and key length |
//! | [`siphash`] | the keyed hash |
//! | [`token`] | counters become tokens and back; how CPUs share the counters |
//! | [`key`] | the key field `Tok ‖ Rnd` and the initial data sequence number `Rnd ‖ Tok` |
//! | [`nonce`] | what stands in for random numbers: hashes of the connection's addresses |
//! | [`secret`] | a host's secret: makes its pairs (token, random part) and knows them again |
//! | [`option`] | the TCP options, read and written |
//! | [`negotiate`] | who answers what to whom |
//! | [`vectors`] | published and own test vectors, callable from KUnit |
//!
//! # Rules of the house
//!
//! Nothing here allocates, blocks, panics or is unsafe; every function may run in softirq context
//! under any lock. Byte strings from the network are parsed once, into types that cannot hold a
//! wrong value, or into an [`option::Error`] that says what was wrong. Fields are big endian on
//! the wire and host integers in the types.

// Kbuild says so itself, on the command line.
#![cfg_attr(not(any(test, MODULE)), no_std)]
#![forbid(unsafe_code)]
#![deny(missing_docs, unreachable_pub)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::integer_division,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod key;
pub mod negotiate;
pub mod nonce;
pub mod option;
pub mod rc5;
pub mod secret;
pub mod siphash;
pub mod token;
pub mod vectors;
