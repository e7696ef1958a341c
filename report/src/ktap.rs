// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel's test format.
//!
//! Source: Documentation/dev-tools/ktap.rst.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crucible_engine::Condition;
use crucible_engine::outcome::Outcome;

use crate::results::NightResults;

/// Outcomes by suite and by name of the test.
pub type Suites = BTreeMap<String, BTreeMap<String, Outcome>>;

/// Texts at which the kernel's parser ends a console log, wherever they occur, with their
/// replacements.
const ENDS: [(&str, &str); 3] = [
    ("List of all partitions:", "List of all partitions;"),
    ("not syncing: VFS:", "not syncing: VFS;"),
    ("reboot: System halted", "reboot; System halted"),
];

/// Divides the key of a unit into the name of a suite and of a test in it.
pub fn suite(command: &str, key: &str) -> (String, String) {
    match key.split_once('/') {
        // A slash in brackets is a part of the unit's configuration.
        Some((suite, name)) if !suite.contains('[') => (suite.to_owned(), name.to_owned()),
        _ => (command.to_owned(), key.to_owned()),
    }
}

/// Returns the results of a night.
pub fn of_night(night: &NightResults) -> String {
    let mut suites = Suites::new();
    for result in &night.tests {
        let (suite, name) = suite("nightly", &result.test.to_string());
        let tests = suites.entry(suite).or_default();
        tests.insert(name, result.outcome.clone());
    }
    text(&suites)
}

/// Returns the outcomes as a text.
pub fn text(suites: &Suites) -> String {
    let mut text = format!("KTAP version 1\n1..{}\n", suites.len());
    for (number, (suite, tests)) in (1..).zip(suites) {
        // Writing to a string cannot fail.
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
        // A run without a verdict on the kernel is not a success.
        let bad = tests.values().any(|outcome| !outcome.is_pass());
        let ok = if bad { "not ok" } else { "ok" };
        let _ = writeln!(text, "{ok} {number} {}", name(suite));
    }
    text
}

/// Returns the result line of a test. KTAP has no "unknown"; an unknown result is a failure with a
/// reason.
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

/// Returns a name without the characters that end a name.
fn name(text: &str) -> String {
    printable(text).replace('#', "_")
}

/// Returns a text in one line without control characters, and without texts that end a log.
fn printable(text: &str) -> String {
    let line = text.chars();
    let mut line: String = line.map(|c| if c.is_control() { ' ' } else { c }).collect();
    for (end, instead) in ENDS {
        line = line.replace(end, instead);
    }
    line
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

    #[test]
    fn a_quoted_line_does_not_end_the_log() {
        for (end, instead) in ENDS {
            let outcome = Outcome::new(Condition::GuestPanic, format!("Kernel panic - {end} x"));
            let line = result(1, "a", &outcome);
            assert!(!line.contains(end) && line.contains(instead), "{line}");
        }
    }
}
