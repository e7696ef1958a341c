// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--ktap FILE`: the units of a run in the kernel's test format.
//!
//! Source: Documentation/dev-tools/ktap.rst.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use crucible_engine::Condition;
use crucible_engine::outcome::Outcome;
use crucible_engine::stream::{Body, Event, Listener};

/// The text that a listener leaves for its file.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Option<Result<String, String>>>>);

impl Written {
    /// Leaves a text, or the reason why there is none.
    pub fn set(&self, text: Result<String, String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    /// Takes the text; `None` if the run has not finished.
    pub fn take(&self) -> Option<Result<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Divides the key of a unit into the name of a suite and of a test in it.
pub fn suite(command: &str, key: &str) -> (String, String) {
    match key.split_once('/') {
        // A slash in brackets is a part of what the unit ran in.
        Some((suite, name)) if !suite.contains('[') => (suite.to_owned(), name.to_owned()),
        _ => (command.to_owned(), key.to_owned()),
    }
}

/// Collects the units, and writes the text at the end of the run.
pub struct Ktap {
    to: Written,
    command: String,
    /// By suite and name: a later outcome of a unit replaces an earlier one.
    suites: BTreeMap<String, BTreeMap<String, Outcome>>,
}

impl Ktap {
    /// Creates a listener that leaves its text in `to`.
    pub fn new(to: Written) -> Self {
        Self {
            to,
            command: String::new(),
            suites: BTreeMap::new(),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("KTAP version 1\n1..{}\n", self.suites.len());
        for (number, (suite, tests)) in (1..).zip(&self.suites) {
            let _ = write!(
                text,
                "  KTAP version 1\n  # Subtest: {}\n  1..{}\n",
                name(suite),
                tests.len()
            );
            for (number, (test, outcome)) in (1..).zip(tests) {
                for line in outcome.evidence.lines().iter().chain(&outcome.lines) {
                    let _ = writeln!(text, "  # {}", printable(line));
                }
                let _ = writeln!(text, "  {}", result(number, test, outcome));
            }
            // An open question is no success.
            let bad = tests.values().any(|outcome| !outcome.is_pass());
            let ok = if bad { "not ok" } else { "ok" };
            let _ = writeln!(text, "{ok} {number} {}", name(suite));
        }
        text
    }
}

/// The result line of a test. KTAP knows no "cannot tell"; it is a failure with its reason.
fn result(number: usize, test: &str, outcome: &Outcome) -> String {
    let why = printable(&outcome.why).replace('#', " ");
    let test = name(test);
    match outcome.condition {
        Condition::Passed => format!("ok {number} {test}"),
        Condition::NotApplicable => format!("ok {number} {test} # SKIP {why}"),
        condition if condition.is_bad() => {
            format!("not ok {number} {test} # {}: {why}", condition.name())
        }
        condition => format!("not ok {number} {test} # ERROR {}: {why}", condition.name()),
    }
}

/// Returns a name without what ends a name.
fn name(text: &str) -> String {
    printable(text).replace('#', "_")
}

/// Returns a text in one line without control characters.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
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
            Body::RunFinished { .. } => self.to.set(Ok(self.text())),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_outcome_has_its_line() {
        let line = |condition, why: &str| result(3, "a/b#c", &Outcome::new(condition, why));
        assert_eq!(line(Condition::Passed, "x"), "ok 3 a/b_c");
        assert_eq!(
            line(Condition::NotApplicable, "no stop"),
            "ok 3 a/b_c # SKIP no stop"
        );
        assert_eq!(
            line(Condition::GuestPanic, "Oops:\n#1"),
            "not ok 3 a/b_c # guest-panic: Oops:  1"
        );
        assert_eq!(
            line(Condition::DiskFull, "full"),
            "not ok 3 a/b_c # ERROR disk-full: full"
        );
    }
}
