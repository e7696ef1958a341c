// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--ktap FILE`: the units of a run in the kernel's test format.

use std::sync::{Arc, Mutex, PoisonError};

use crucible_engine::stream::{Body, Event, Listener};
use crucible_report::ktap::{Suites, suite, text};

/// The text that a listener leaves for its file.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Option<Result<String, String>>>>);

impl Written {
    /// Stores the finished text, or the reason why there is none.
    pub fn set(&self, text: Result<String, String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Takes the text; `None` if the run has not finished.
    pub fn take(&self) -> Option<Result<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Collects the units, and writes the text at the end of the run.
pub struct Ktap {
    to: Written,
    command: String,
    /// Outcomes by suite and name: a later outcome of a unit replaces an earlier one.
    suites: Suites,
}

impl Ktap {
    /// Creates a listener that leaves its text in `to`.
    pub fn new(to: Written) -> Self {
        Self {
            to,
            command: String::new(),
            suites: Suites::new(),
        }
    }
}

impl Listener for Ktap {
    fn hear(&mut self, event: &Event) {
        match &event.body {
            Body::RunStarted { command, .. } => self.command.clone_from(command),
            Body::UnitFinished { outcome, .. } => {
                let key = event.unit.as_deref().unwrap_or_default();
                let (suite, name) = suite(&self.command, key);
                let tests = self.suites.entry(suite).or_default();
                tests.insert(name, outcome.clone());
            }
            Body::GuestFailed { outcome } => {
                let name = format!("guest {}", event.guest.unwrap_or_default());
                let tests = self.suites.entry(self.command.clone()).or_default();
                tests.insert(name, outcome.clone());
            }
            Body::RunFinished { .. } => self.to.set(Ok(text(&self.suites))),
            _ => {}
        }
    }
}
