// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How long steps tell that they go on.

/// Hears about long steps. The library itself prints nothing.
pub trait Progress: Send + Sync {
    /// A long step begins. Steps do not nest.
    fn begin(&self, step: &str);
    /// The running step has done `done` of about `total` parts.
    fn advance(&self, done: u64, total: u64);
    /// The running step has ended, well or not.
    fn end(&self);
    /// Something that a person should know.
    fn note(&self, text: &str);
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}

/// A step, from its making until it is dropped.
pub struct Step<'a>(&'a dyn Progress);

impl<'a> Step<'a> {
    /// Tells that it begins.
    pub fn begin(progress: &'a dyn Progress, step: &str) -> Self {
        progress.begin(step);
        Self(progress)
    }

    /// Tells how much of it is done.
    pub fn advance(&self, done: u64, total: u64) {
        self.0.advance(done, total);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
