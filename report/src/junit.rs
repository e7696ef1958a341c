// SPDX-License-Identifier: Apache-2.0 OR MIT
//! JUnit's XML, in the dialect of Jenkins.

use std::collections::BTreeMap;
use std::time::Duration;

use crucible_engine::Condition;
use crucible_engine::outcome::Outcome;
use crucible_history::ResultRow;
use quick_junit::{
    FlakyOrRerun, NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestRerun,
    TestSuite,
};

use crate::ktap::suite;
use crate::results::{NightResults, TestResult};

/// Returns test cases, each with its suite, as a text.
///
/// # Errors
/// Fails if the text cannot be made.
pub fn text(
    name: &str,
    cases: impl IntoIterator<Item = (String, TestCase)>,
) -> Result<String, SerializeError> {
    let mut suites: BTreeMap<String, TestSuite> = BTreeMap::new();
    for (suite, mut case) in cases {
        case.set_classname(suite.as_str());
        let of_suite = || TestSuite::new(suite.as_str());
        suites
            .entry(suite.clone())
            .or_insert_with(of_suite)
            .add_test_case(case);
    }
    let mut report = Report::new(name);
    report.add_test_suites(suites.into_values());
    report.to_string()
}

/// Returns a case with an outcome.
pub fn case(name: &str, outcome: &Outcome, time: Duration) -> TestCase {
    let mut case = TestCase::new(name, status(outcome));
    case.set_time(time);
    let lines = [outcome.evidence.lines(), outcome.lines.clone()].concat();
    if !lines.is_empty() {
        case.set_system_out(lines.join("\n"));
    }
    case
}

/// Returns the results of a night. A test that fails in some of its runs is a failure, too, with
/// its `flakyFailure`s: retries are counted, but do not turn a failure into a pass.
///
/// # Errors
/// Fails if the text cannot be made.
pub fn of_night(night: &NightResults) -> Result<String, SerializeError> {
    let cases = night.tests.iter().map(|result| {
        let (suite, name) = suite("nightly", &result.test.to_string());
        let time = result.runs.first().map_or(0, |run| run.ms);
        let mut case = case(&name, &result.outcome, Duration::from_millis(time));
        reruns(&mut case.status, result);
        (suite, case)
    });
    text(&format!("crucible night {}", night.night), cases)
}

fn reruns(status: &mut TestCaseStatus, result: &TestResult) {
    let failures: Vec<_> = result.runs.iter().filter(|run| run.is_failure()).collect();
    if failures.is_empty() {
        return;
    }
    let flaky = result.runs.iter().any(|run| run.blame.is_empty());
    let again = match flaky {
        true => &failures[..],
        // The first failure is the element of the case itself.
        false => &failures[1..],
    };
    status.add_reruns(again.iter().map(|run| rerun(run)));
    status.set_rerun_kind(match flaky {
        true => FlakyOrRerun::Flaky,
        false => FlakyOrRerun::Rerun,
    });
}

fn rerun(run: &ResultRow) -> TestRerun {
    let mut rerun = TestRerun::new(NonSuccessKind::Failure);
    rerun
        .set_type(run.condition.as_str())
        .set_message(format!("run {}: {}", run.attempt, run.why))
        .set_time(Duration::from_millis(run.ms));
    rerun
}

/// Returns the status of a test case: a failure if the kernel is to blame, an error if there is no
/// verdict on it.
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
