// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible sweep`.

use std::fmt::Write;

use crucible_engine::experiment::{Report, SweepSummary};
use crucible_engine::record::Record;
use crucible_engine::sweep::{CaseAnalysis, PointDetail};

use super::{blame, end, evidence, others};

/// Maximum number of repeat commands shown for points that fail in the same way; the record has
/// all points.
const COMMANDS: usize = 3;

/// Formats a run.
pub fn screen(report: &Report<PointDetail, SweepSummary>, record: &Record) -> String {
    let mut text = String::new();
    for case in &report.summary.cases {
        one(&mut text, &report.summary, case, record);
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}

/// Returns a number with its noun.
fn count(number: usize, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

fn one(text: &mut String, sweep: &SweepSummary, case: &CaseAnalysis, record: &Record) {
    let name = format!("{} {}, {}", sweep.scenario, case.case, sweep.event);
    // Writing to a string cannot fail.
    let mut add = |line: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{line}");
    };
    if let Some(stop) = &case.stop {
        let verdict = stop.verdict().name();
        add(format_args!(
            "{name}: {verdict}{}: {}",
            blame(stop),
            stop.why
        ));
        evidence(text, "    ", stop, usize::MAX);
        return;
    }
    let counts: Vec<_> = case
        .counts
        .iter()
        .map(|(condition, number)| format!("{number} {condition}"))
        .collect();
    let of = count(case.points, "point");
    add(format_args!(
        "{name}: {} of {of} tried: {}",
        case.tried,
        counts.join(", ")
    ));
    let kinds: Vec<_> = case
        .kinds
        .iter()
        .map(|(kind, n)| format!("{kind} {}/{}", n.passed, n.tried))
        .collect();
    if kinds.len() > 1 {
        add(format_args!("  passed by kind: {}", kinds.join(", ")));
    }
    if let Some(suspect) = &case.suspect {
        add(format_args!(
            "  suspect: {}: a task was in it at all {} failed points, and at {} of the others",
            suspect.stop, suspect.failed, suspect.others
        ));
    }
    if case.by_control > 0 {
        add(format_args!(
            "  {} ended like a control; freezing alone has a visible effect",
            count(case.by_control, "point")
        ));
    }
    for (what, number) in &case.visible {
        add(format_args!("      {number} with the difference: {what}"));
    }
    if !case.reached.is_empty() {
        let sum = case.reached.iter().map(|reached| reached.count).sum();
        add(format_args!(
            "  {} reached a different event than the listed one, and count for the event reached",
            count(sum, "point")
        ));
    }
    for reached in &case.reached {
        let (event, listed) = (&reached.event, &reached.listed);
        let number = reached.count;
        add(format_args!(
            "      {number} reached {event}, listed as {listed}"
        ));
    }
    if case.missed > 0 {
        let missed = count(case.missed, "point");
        add(format_args!("  {missed} not reached at the first attempt"));
    }
    if case.unnamed > 0 {
        let unnamed = count(case.unnamed as usize, "event");
        add(format_args!("  {unnamed} without a name, never tried"));
    }
    if case.ends > 0 {
        let ends = count(case.ends as usize, "event");
        add(format_args!(
            "  {ends} at the tree's end, which leaves no task to checkpoint"
        ));
    }
    add(format_args!(
        "  {} ms per point; an undisturbed run takes {} ms and has {}",
        case.mean_ms,
        case.undisturbed_ms,
        count(case.events, "such event")
    ));
    for failure in &case.failures {
        let outcome = &failure.outcome;
        let _ = writeln!(
            text,
            "  {} {}{}: {}",
            failure.points.len(),
            outcome.condition.name(),
            blame(outcome),
            outcome.why
        );
        for (event, number) in &failure.events {
            let _ = writeln!(text, "      {number} at {event}");
        }
        evidence(text, "    ", outcome, 12);
        for point in failure.points.iter().take(COMMANDS) {
            let command = repeat(&record.reproduce, &case.case, point);
            let _ = writeln!(text, "    repeat   {command}");
        }
    }
}

/// Returns the command that tries one point: the sweep's command, without the options that select
/// points.
fn repeat(sweep: &str, case: &str, point: &str) -> String {
    let mut words: Vec<&str> = sweep.split(' ').collect();
    for option in ["--every", "--limit", "--case", "--point"] {
        if let Some(at) = words.iter().position(|word| *word == option) {
            words.drain(at..(at + 2).min(words.len()));
        }
    }
    let case = crate::command_line::quoted(case);
    format!("{} --case {case} --point {point}", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_for_a_point_selects_nothing_else() {
        let sweep = "crucible sweep vfork --event vfork --every 20 --timeout 9";
        assert_eq!(
            repeat(sweep, "make", "2.1:3"),
            "crucible sweep vfork --event vfork --timeout 9 --case make --point 2.1:3"
        );
    }

    #[test]
    fn one_thing_has_no_plural() {
        assert_eq!(count(1, "point"), "1 point");
        assert_eq!(count(0, "such event"), "0 such events");
    }
}
