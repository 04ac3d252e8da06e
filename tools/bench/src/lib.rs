// SPDX-License-Identifier: GPL-2.0

//! Results of measurements, their tables and their plots.

#![forbid(unsafe_code)]

pub mod chart;
pub mod compare;
pub mod conclusions;
pub mod crypto;
pub mod figures;
pub mod report;
pub mod split;
