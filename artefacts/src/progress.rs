// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress of long steps.

/// A receiver of progress.
pub trait Progress: Send + Sync {
    /// A long step starts. Steps do not nest.
    fn begin(&self, step: &str);
    /// The current step has completed `done` of about `total` parts.
    fn advance(&self, done: u64, total: u64);
    /// The current step has ended, successfully or not.
    fn end(&self);
    /// A message for the user.
    fn note(&self, text: &str);
}

/// Ignores progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}

/// A step; ends when dropped.
pub struct Step<'a>(&'a dyn Progress);

impl<'a> Step<'a> {
    /// Starts a step.
    pub fn begin(progress: &'a dyn Progress, step: &str) -> Self {
        progress.begin(step);
        Self(progress)
    }

    /// Reports the completed part.
    pub fn advance(&self, done: u64, total: u64) {
        self.0.advance(done, total);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
