// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--junit FILE`: the units of a run as test cases in JUnit's XML.

use std::collections::BTreeMap;
use std::time::Duration;

use crucible_engine::outcome::Outcome;
use crucible_engine::stream::{Body, Event, Listener};
use crucible_report::junit;
use crucible_report::ktap::suite;

use super::ktap::Written;

/// Collects the units, and writes the file at the end of the run.
pub struct JUnit {
    to: Written,
    command: String,
    /// Outcomes by suite and name: a later outcome of a unit replaces an earlier one.
    cases: BTreeMap<(String, String), (Outcome, Duration)>,
}

impl JUnit {
    /// Creates a listener that leaves its text in `to`.
    pub fn new(to: Written) -> Self {
        Self {
            to,
            command: String::new(),
            cases: BTreeMap::new(),
        }
    }

    fn text(&self) -> Result<String, String> {
        let cases = self.cases.iter().map(|((suite, name), (outcome, time))| {
            let case = junit::case(name, outcome, *time);
            (suite.clone(), case)
        });
        let text = junit::text(&format!("crucible {}", self.command), cases);
        text.map_err(|error| error.to_string())
    }
}

impl Listener for JUnit {
    fn hear(&mut self, event: &Event) {
        match &event.body {
            Body::RunStarted { command, .. } => self.command.clone_from(command),
            Body::UnitFinished { outcome, unit_ms } => {
                let key = event.unit.as_deref().unwrap_or_default();
                let (suite, name) = suite(&self.command, key);
                let time = Duration::from_millis(*unit_ms);
                self.cases.insert((suite, name), (outcome.clone(), time));
            }
            Body::GuestFailed { outcome } => {
                let name = format!("guest {}", event.guest.unwrap_or_default());
                let key = (self.command.clone(), name);
                self.cases.insert(key, (outcome.clone(), Duration::ZERO));
            }
            Body::RunFinished { .. } => {
                self.to.set(self.text());
            }
            _ => {}
        }
    }
}
