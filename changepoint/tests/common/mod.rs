// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Dice with a seed.

/// The random numbers of simulations.
pub struct Dice(crucible_protocol::dice::Dice);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(crucible_protocol::dice::Dice::new(seed))
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.0.unit() * end as f64) as usize
    }

    pub fn chance(&mut self, probability: f64) -> bool {
        self.0.unit() < probability
    }

    /// Returns a rate of the prior Beta(1/2, 1/2).
    pub fn jeffreys(&mut self) -> f64 {
        (self.0.unit() * std::f64::consts::FRAC_PI_2).sin().powi(2)
    }
}
