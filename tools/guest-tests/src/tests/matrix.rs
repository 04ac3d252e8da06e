// SPDX-License-Identifier: GPL-2.0

//! Client and server each stock, accept, offer, offer with full SYN; IPv4 and IPv6; SYN cookies 0, 1 and 2: what
//! protocol.rst says comes out, down to the bytes.

use std::sync::{Arc, Mutex};

use anyhow::{ensure, Context, Result};

use crate::connection::Connection;
use crate::handshake::{outcome, Expected, Protocol};
use crate::netns::{Counters, Family, Mode, Pair};
use crate::Test;

/// Namespaces that all cells share: setting up new ones would cost more than the test.
type Shared = Arc<Mutex<Option<Pair>>>;

pub fn tests() -> Vec<Test> {
    let shared = Shared::default();
    let mut tests = Vec::new();
    for server in Mode::ALL {
        for client in Mode::ALL {
            for family in Family::ALL {
                for cookies in 0..3 {
                    let shared = shared.clone();
                    let name = format!(
                        "matrix: client {}, server {}, {}, tcp_syncookies={cookies}: {}",
                        client.name(),
                        server.name(),
                        family.name(),
                        match outcome(client, server).protocol {
                            Protocol::Tcp => "plain TCP",
                            Protocol::Standard => "standard MPTCP",
                            Protocol::LowOverhead => "low overhead",
                        }
                    );
                    let cell = Cell {
                        client,
                        server,
                        family,
                        cookies,
                    };
                    tests.push(Test::new(name, move || cell.run(&shared)));
                }
            }
        }
    }
    tests
}

#[derive(Clone, Copy)]
struct Cell {
    client: Mode,
    server: Mode,
    family: Family,
    cookies: u8,
}

impl Cell {
    fn run(self, shared: &Shared) -> Result<()> {
        // A cell that failed leaves the namespaces usable.
        let mut pair = shared
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if pair.is_none() {
            *pair = Some(Pair::new()?);
        }
        let pair = pair.as_ref().context("no namespaces")?;
        self.server.apply(&pair.server)?;
        self.client.apply(&pair.client)?;
        pair.server.set("ipv4/tcp_syncookies", self.cookies)?;

        let before = Count::take(pair)?;
        let expected = outcome(self.client, self.server);
        let seen = Connection::run(pair, self.family)?;
        seen.check(&expected)?;
        self.check_counters(&before, &Count::take(pair)?, &expected)
    }

    fn check_counters(self, before: &Count, after: &Count, expected: &Expected) -> Result<()> {
        let low = u64::from(expected.protocol == Protocol::LowOverhead);
        let standard = u64::from(expected.protocol == Protocol::Standard);
        let tcp = u64::from(expected.protocol == Protocol::Tcp);
        let offers = u64::from(self.client.offers());
        let (full, compact) = match expected.syn.1 {
            12 => (low, 0),
            _ => (0, low),
        };
        for (name, expected) in [
            ("MPCapableSYNTX", offers),
            ("MPCapableSYNACKRX", low),
            ("MPCapableSYNACKStandard", offers * standard),
            ("MPCapableSYNACKNone", offers * tcp),
            ("MPCapableSYNACKBad", 0),
        ] {
            let got = after.client.since(&before.client, name)?;
            ensure!(
                got == expected,
                "the client's {name} grew by {got}, not by {expected}"
            );
        }
        for (name, expected) in [
            ("MPCapableSYNCompactRX", compact),
            ("MPCapableSYNFullRX", full),
            (
                "MPCapableCookieACKRX",
                if self.cookies == 2 { low } else { 0 },
            ),
            ("MPCapableCookieNotOwn", 0),
            ("TokenFallback", 0),
        ] {
            let got = after.server.since(&before.server, name)?;
            ensure!(
                got == expected,
                "the server's {name} grew by {got}, not by {expected}"
            );
        }
        let acks = after.server.since(&before.server, "MPCapableACKRX")?;
        ensure!(
            (acks > 0) == (low > 0),
            "the server's MPCapableACKRX grew by {acks}"
        );
        for (name, expected) in [
            ("MPCapableSYNRX", low + standard),
            ("MPCapableACKRX", low + standard),
        ] {
            let got = after.server_mib.since(&before.server_mib, name)?;
            ensure!(
                got == expected,
                "the stack's {name} grew by {got}, not by {expected}"
            );
        }
        Ok(())
    }
}

/// Counters at both ends.
struct Count {
    client: Counters,
    server: Counters,
    server_mib: Counters,
}

impl Count {
    fn take(pair: &Pair) -> Result<Self> {
        Ok(Self {
            client: pair.client.counters()?,
            server: pair.server.counters()?,
            server_mib: pair.server.mib()?,
        })
    }
}
