// SPDX-License-Identifier: GPL-2.0

//! Rounds of samples, and the states of the module that are compared.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;

use crate::clock;
use crate::mark;
use crate::net::{
    empty_hashes, hashes_are_emptied, load_module, module_is_loaded, restore_hashes, unload_module,
    Net,
};
use crate::report::{median, Case};

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Amount {
    /// Rounds for each case.
    pub rounds: usize,
    /// Samples in a round.
    pub samples: usize,
    /// SYNs in a flood.
    pub syns: u32,
    /// Guest seconds of idleness before the first.
    pub idle: u64,
    /// Put the symbols of modules into the report.
    pub symbols: bool,
}

/// The module, and its sysctls in both namespaces.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is not loaded.
    Absent,
    /// It was unloaded: this should cost what `Absent` does.
    Removed,
    /// It is not loaded, and the stock kernel's hash functions do next to nothing but pass through livepatch.
    Emptied,
    /// It is loaded, with that setting of `lowoverhead`.
    Loaded(u32),
    /// It is loaded, `lowoverhead` is 0 and `derived_nonces` is 1.
    Derived,
}

impl State {
    /// Its name in reports.
    pub fn name(self) -> String {
        match self {
            Self::Absent => "absent".to_owned(),
            Self::Removed => "removed again".to_owned(),
            Self::Emptied => "hashes emptied".to_owned(),
            Self::Loaded(mode) => format!("lowoverhead={mode}"),
            Self::Derived => "derived_nonces=1".to_owned(),
        }
    }

    /// Makes it so, and lets the guest calm down.
    pub fn establish(self, net: &Net) -> Result<()> {
        // Neither the module nor the live patch takes a function that the other has.
        if self != Self::Emptied && hashes_are_emptied() {
            restore_hashes()?;
        }
        match self {
            Self::Absent | Self::Removed | Self::Emptied => {
                if module_is_loaded() {
                    unload_module()?;
                }
                if self == Self::Emptied && !hashes_are_emptied() {
                    empty_hashes()?;
                }
            }
            Self::Loaded(_) | Self::Derived => {
                if !module_is_loaded() {
                    load_module()?;
                }
                for netns in [&net.client, &net.server] {
                    let mode = match self {
                        Self::Loaded(mode) => mode,
                        _ => 0,
                    };
                    netns.set("mptcp_dc/lowoverhead", mode)?;
                    let derived = u32::from(self == Self::Derived);
                    netns.set("mptcp_dc/derived_nonces", derived)?;
                }
            }
        }
        idle(5);
        Ok(())
    }
}

/// Leaves the guest alone for so many of its seconds: timers run out, RCU callbacks run.
pub fn idle(seconds: u64) {
    sleep(Duration::from_secs(seconds));
}

/// Measures `sample`, which is given its number, a round at a time. Between rounds the guest idles a little.
pub fn measure(
    state: State,
    what: &str,
    amount: Amount,
    mut sample: impl FnMut(usize) -> Result<()>,
) -> Result<Case> {
    measure_between(state, what, amount, Ok, |n| sample(*n), |_, ()| Ok(()))
}

/// As [`measure`], with something before and after each sample that isn't counted.
pub fn measure_between<B, A>(
    state: State,
    what: &str,
    amount: Amount,
    mut before: impl FnMut(usize) -> Result<B>,
    mut sample: impl FnMut(&B) -> Result<A>,
    mut after: impl FnMut(B, A) -> Result<()>,
) -> Result<Case> {
    measure_parts(state, what, amount, |number, meter| {
        let given = before(number)?;
        let result = meter.count(|| sample(&given));
        after(given, result?)
    })
}

/// Counts a sample's parts.
pub struct Meter {
    is_counted: bool,
    cost: u64,
}

impl Meter {
    /// Counts what `part` takes.
    #[inline(always)]
    pub fn count<T>(&mut self, part: impl FnOnce() -> T) -> T {
        if self.is_counted {
            mark::begin();
        }
        let start = clock::now();
        let result = part();
        self.cost += clock::now() - start;
        mark::pause();
        result
    }
}

/// As [`measure`], of samples that say which parts of them are counted.
pub fn measure_parts(
    state: State,
    what: &str,
    amount: Amount,
    mut sample: impl FnMut(usize, &mut Meter) -> Result<()>,
) -> Result<Case> {
    let mut costs = vec![0.0; amount.samples];
    let mut rounds = Vec::with_capacity(amount.rounds);
    let mut sum = 0.0;
    let mut one = |number: usize, is_counted: bool| -> Result<f64> {
        let mut meter = Meter {
            is_counted,
            cost: 0,
        };
        sample(number, &mut meter)?;
        Ok(meter.cost as f64)
    };
    // What is done for the first time costs more.
    for number in 0..amount.samples / 4 {
        one(number, false)?;
    }
    idle(1);
    for round in 0..amount.rounds {
        if round > 0 {
            idle(1);
        }
        for (number, cost) in costs.iter_mut().enumerate() {
            *cost = one(number, true)?;
        }
        sum += costs.iter().sum::<f64>() / amount.samples as f64;
        rounds.push(median(&mut costs));
    }
    mark::end();
    let case = Case {
        mean: sum / amount.rounds as f64,
        samples: Some((amount.samples * amount.rounds) as f64),
        ..Case::counted(state.name(), what, rounds)
    };
    eprintln!(
        "dc-bench: {:14} {what:44} {:8.0}  spread {:.2} %  mean {:.0}",
        case.module,
        case.figure(),
        case.spread(),
        case.mean
    );
    Ok(case)
}
