// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The change in the nights of one test: the first night with a higher or lower rate of failures.

use crate::{ChangePoint, Evidence};

/// The probability, before any run, that a series of nights has no change.
const UNCHANGED: f64 = 0.5;

/// The change in a row of nights.
#[derive(Clone, Debug, PartialEq)]
pub struct Onset {
    /// Probability of a change.
    pub changed: f64,
    /// The first and the last night that may be the first after the change; `None` if a
    /// change is improbable.
    pub range: Option<(usize, usize)>,
    /// The rate of failures before it.
    pub before: f64,
    /// The rate of failures after it.
    pub after: f64,
}

/// Returns the change in a series of nights. The range contains the first night after the change
/// with the probability `mass`, if there was a change.
pub fn onset(nights: &[Evidence], mass: f64) -> Onset {
    let mut model = ChangePoint::linear(nights.len());
    for (night, &seen) in nights.iter().enumerate() {
        model.observe(night, seen);
    }
    // The first night has no earlier one to differ from.
    if !model.is_empty() {
        model.exclude(0);
    }
    let model = model.with_none(UNCHANGED);
    let posterior = model.posterior();
    let changed = 1.0 - posterior.none;
    let (before, after) = model.rates();
    let credible = posterior.credible(mass * changed);
    let ends = credible.iter().min().zip(credible.iter().max());
    let likely = changed > posterior.none;
    Onset {
        changed,
        range: ends.filter(|_| likely).map(|(&first, &last)| (first, last)),
        before,
        after,
    }
}
