// SPDX-License-Identifier: GPL-2.0

//! The tests, by subject.

mod matrix;

use crate::{Scale, Test};

/// All of them, in the order in which they run.
pub fn all(scale: Scale) -> Vec<Test> {
    let _ = scale;
    [matrix::tests()].into_iter().flatten().collect()
}
