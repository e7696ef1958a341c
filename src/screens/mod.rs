// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screens that finished runs print, one for each command.

pub mod adversary;
pub mod backends;
pub mod bisect;
pub mod chain;
pub mod fail_nth;
pub mod fuzz;
pub mod matrix;
pub mod mutate;
pub mod nightly;
pub mod random;
pub mod scenario;
pub mod sweep;
pub mod torture;
pub mod trials;
pub mod watch;

use std::fmt::Write as _;

use crucible_engine::experiment::{Finding, Report};
use crucible_engine::outcome::Outcome;
use crucible_engine::record::Record;

/// Maximum number of lines of a kernel report or a tool's log on the screen.
pub const LINES: usize = 24;

/// Adds lines of a report, with this indentation.
pub fn lines(text: &mut String, indent: &str, all: &[String]) {
    for line in all.iter().take(LINES) {
        let _ = writeln!(text, "{indent}| {line}");
    }
    if let Some(more) = all.len().checked_sub(LINES + 1) {
        let _ = writeln!(text, "{indent}| … {} more lines in the record", more + 1);
    }
}

/// Adds the evidence of an outcome's cause: places in the source, the command that
/// opens the guest's memory, and at most `most` lines of a report.
pub fn evidence(text: &mut String, indent: &str, outcome: &Outcome, most: usize) {
    for line in outcome.evidence.lines() {
        let _ = writeln!(text, "{indent}{line}");
    }
    lines(
        text,
        indent,
        &outcome.lines[..outcome.lines.len().min(most)],
    );
}

/// Returns the party to blame, in brackets; empty if there is none.
pub fn blame(outcome: &Outcome) -> String {
    match outcome.condition.blame() {
        Some(blame) => format!(" [{}]", blame.name()),
        None => String::new(),
    }
}

/// Adds the first line: the run's name, its verdict, the party to blame, and the reason.
pub fn head(text: &mut String, name: &str, record: &Record) {
    let outcome = &record.outcome;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{name}: {}{} ({})",
        outcome.verdict().name(),
        blame(outcome),
        outcome.why
    );
}

/// Adds each unit that has not passed, with at most `most` lines of a report.
pub fn failures<D, S>(text: &mut String, report: &Report<D, S>, most: usize) {
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        failure(text, finding, most);
    }
}

/// Adds a unit that has not passed, with at most `most` lines of a report.
pub fn failure<D>(text: &mut String, finding: &Finding<D>, most: usize) {
    let outcome = &finding.outcome;
    let condition = outcome.condition.name();
    let _ = writeln!(text, "  {}: {condition}: {}", finding.key, outcome.why);
    evidence(text, "    ", outcome, most);
}

/// Adds the lines that are not about a unit: the reason why nothing was run, guests that failed,
/// units left.
pub fn others<D, S>(text: &mut String, report: &Report<D, S>) {
    for (what, outcome) in report
        .unplanned
        .iter()
        .map(|outcome| ("nothing was run", outcome))
        .chain(report.guests.iter().map(|outcome| ("a guest", outcome)))
    {
        let condition = outcome.condition.name();
        let _ = writeln!(
            text,
            "  {what}: {condition}{}: {}",
            blame(outcome),
            outcome.why
        );
        evidence(text, "    ", outcome, usize::MAX);
    }
    if report.left > 0 {
        let why = match report.interrupted {
            true => "interrupted",
            false => "stopped",
        };
        let _ = writeln!(
            text,
            "  {why}: {} of {} units were not run; --resume runs them",
            report.left,
            report.left + report.findings.len()
        );
    }
}

/// Adds the last lines: the command that repeats the run, unless it passed, and the record.
pub fn end(text: &mut String, record: &Record) {
    if record.exit_code != 0 {
        let _ = writeln!(text, "  repeat   {}", record.reproduce);
    }
    let _ = writeln!(text, "  record   {}/record.json", record.results);
    if !record.recordings.is_empty() {
        let program = crate::context::program();
        let _ = writeln!(text, "  replay   {program} replay {}", record.results);
    }
}
