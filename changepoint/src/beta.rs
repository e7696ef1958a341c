// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rates of failure, and the evidence on them.

use std::ops::{Add, AddAssign};

/// The number of runs of a node, and of failures among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Number of runs.
    pub runs: u64,
    /// Number of failures among them.
    pub failures: u64,
}

impl Evidence {
    /// Returns the evidence of `runs` runs, of which `failures` failed.
    pub fn new(runs: u64, failures: u64) -> Self {
        Self {
            runs,
            failures: failures.min(runs),
        }
    }
}

impl Add for Evidence {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            failures: self.failures + other.failures,
        }
    }
}

impl AddAssign for Evidence {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// The prior distribution of a rate: a beta distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beta {
    /// Weight of failures.
    pub failures: f64,
    /// Weight of passes.
    pub passes: f64,
}

/// Jeffreys' prior. Narrower priors make posteriors overconfident.
pub const JEFFREYS: Beta = Beta {
    failures: 0.5,
    passes: 0.5,
};

impl Beta {
    /// Returns the natural logarithm of the probability of a sequence of runs with this number of
    /// failures.
    pub fn log_likelihood(self, seen: Evidence) -> f64 {
        let (failures, passes) = self.with(seen);
        log_beta(failures, passes) - log_beta(self.failures, self.passes)
    }

    /// Returns the mean of the rate after these runs: the probability that the next run fails.
    pub fn mean(self, seen: Evidence) -> f64 {
        let (failures, passes) = self.with(seen);
        failures / (failures + passes)
    }

    fn with(self, seen: Evidence) -> (f64, f64) {
        let passes = seen.runs.saturating_sub(seen.failures) as f64;
        (self.failures + seen.failures as f64, self.passes + passes)
    }
}

fn log_beta(a: f64, b: f64) -> f64 {
    libm::lgamma(a) + libm::lgamma(b) - libm::lgamma(a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_of_a_sequence_is_the_product_of_its_predictions() {
        let mut seen = Evidence::default();
        let mut log = 0.0;
        for failed in [true, false, false, true, false, true, true, false] {
            let fails = JEFFREYS.mean(seen);
            log += if failed { fails } else { 1.0 - fails }.ln();
            seen += Evidence::new(1, failed.into());
        }
        assert!((log - JEFFREYS.log_likelihood(seen)).abs() < 1e-12);
    }

    #[test]
    fn nobody_fails_more_often_than_it_runs() {
        assert_eq!(Evidence::new(2, 5).failures, 2);
        assert!((JEFFREYS.mean(Evidence::default()) - 0.5).abs() < 1e-12);
    }
}
