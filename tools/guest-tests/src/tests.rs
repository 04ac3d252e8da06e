// SPDX-License-Identifier: GPL-2.0

//! The tests, by subject.

mod aborts;
mod app_keys;
mod attacks;
mod cookies;
mod derived;
mod endings;
mod external_joins;
mod external_modes;
mod far;
mod firewalls;
mod full_table;
mod hostile;
mod lifecycle;
mod losses;
mod malformed;
mod matrix;
mod options;
mod stateless;
mod subflows;
mod tracers;
mod unloading;
mod user;
mod variants;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::{Scale, Test};

/// Parts of the names of the tests that `--smoke` runs.
pub const SMOKE: [&str; 5] = [
    "off: ",
    "sysctls: ",
    "IPv4, tcp_syncookies=2",
    "with the third ACK",
    "tcp_syncookies=2: another connection's pair",
];

/// All of them, in the order in which they run.
pub fn all(scale: Scale) -> Vec<Test> {
    [
        lifecycle::tests(scale),
        tracers::tests(scale),
        matrix::tests(),
        variants::tests(scale),
        cookies::tests(),
        stateless::tests(),
        subflows::tests(scale),
        full_table::tests(scale),
        derived::tests(),
        options::tests(scale),
        app_keys::tests(scale),
        attacks::tests(scale),
        aborts::tests(scale),
        external_joins::tests(scale),
        external_modes::tests(scale),
        firewalls::tests(scale),
        malformed::tests(scale),
        hostile::tests(scale),
        losses::tests(scale),
        unloading::tests(scale),
        endings::tests(scale),
        far::tests(),
        user::tests(scale),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Waits for what comes by itself.
fn eventually(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < Duration::from_secs(30), "not so: {what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
