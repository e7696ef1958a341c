// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress of long steps.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A receiver of progress.
pub trait Progress: Send + Sync {
    /// Receives the start of a long step. Steps do not nest.
    fn begin(&self, step: &str);
    /// Receives the progress of the current step: `done` of about `total` parts are complete.
    fn advance(&self, done: u64, total: u64);
    /// Receives the end of the current step, successful or not.
    fn end(&self);
    /// Receives a message for the user.
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

/// Receives the progress of work that runs in parallel with other work, whose steps the other
/// receiver shows: a step that took a second or longer becomes a note when it has ended.
pub struct Beside<'a> {
    shown: &'a dyn Progress,
    step: Mutex<Option<(String, Instant)>>,
}

impl<'a> Beside<'a> {
    /// Reports to `shown`.
    pub fn new(shown: &'a dyn Progress) -> Self {
        Self {
            shown,
            step: Mutex::new(None),
        }
    }

    fn replace(&self, step: Option<(String, Instant)>) -> Option<(String, Instant)> {
        let mut current = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut current, step)
    }
}

impl Progress for Beside<'_> {
    fn begin(&self, step: &str) {
        self.replace(Some((step.to_owned(), Instant::now())));
    }

    fn advance(&self, _: u64, _: u64) {}

    fn end(&self) {
        if let Some((step, began)) = self.replace(None) {
            let seconds = began.elapsed().as_secs();
            if seconds > 0 {
                self.shown.note(&format!("{step}: {seconds} s"));
            }
        }
    }

    fn note(&self, text: &str) {
        self.shown.note(text);
    }
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

/// Collects the messages, for tests.
#[cfg(test)]
#[derive(Default)]
pub(crate) struct Notes(Mutex<String>);

#[cfg(test)]
impl Notes {
    /// Returns the messages so far.
    pub fn text(&self) -> String {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

#[cfg(test)]
impl Progress for Notes {
    fn begin(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn note(&self, text: &str) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.push_str(text);
        notes.push('\n');
    }
}
