// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--junit FILE`: the units of a run as test cases in JUnit's XML.

use std::collections::BTreeMap;
use std::time::Duration;

use crucible_engine::Condition;
use crucible_engine::outcome::Outcome;
use crucible_engine::stream::{Body, Event, Listener};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::ktap::{Written, suite};

/// Collects the units, and writes the file at the end of the run.
pub struct JUnit {
    to: Written,
    command: String,
    /// By suite and name: a later outcome of a unit replaces an earlier one.
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

    fn report(&self) -> Result<String, quick_junit::SerializeError> {
        let mut suites: BTreeMap<&str, TestSuite> = BTreeMap::new();
        for ((suite, name), (outcome, time)) in &self.cases {
            let mut case = TestCase::new(name.as_str(), status(outcome));
            case.set_classname(suite.as_str()).set_time(*time);
            let lines = [outcome.evidence.lines(), outcome.lines.clone()].concat();
            if !lines.is_empty() {
                case.set_system_out(lines.join("\n"));
            }
            suites
                .entry(suite)
                .or_insert_with(|| TestSuite::new(suite.as_str()))
                .add_test_case(case);
        }
        let mut report = Report::new(format!("crucible {}", self.command));
        report.add_test_suites(suites.into_values());
        report.to_string()
    }
}

/// A failure is the kernel's; an error leaves the answer open.
fn status(outcome: &Outcome) -> TestCaseStatus {
    let mut status = match outcome.condition {
        Condition::Passed => return TestCaseStatus::success(),
        Condition::NotApplicable => TestCaseStatus::skipped(),
        condition if condition.is_bad() => TestCaseStatus::non_success(NonSuccessKind::Failure),
        _ => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    status
        .set_type(outcome.condition.name())
        .set_message(outcome.why.as_str());
    status
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
                self.to
                    .set(self.report().map_err(|error| error.to_string()));
            }
            _ => {}
        }
    }
}
