// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The results of a sweep, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use crucible_engine::abort::Abort;
use crucible_engine::sweep::{PointOutcome, PointResult};
use serde_json::{Value, json};

use crate::exit;

/// Maximal number of reproduce commands shown for points that fail in the same way; the record has
/// all of them.
const COMMANDS: usize = 3;

/// The results of a complete sweep.
pub struct Summary {
    scenario: String,
    event: String,
    reproduce: String,
    sampled: bool,
    /// The results of each case.
    pub cases: Vec<CaseSweep>,
}

/// The results of one case.
pub struct CaseSweep {
    /// The name of the case.
    pub name: String,
    /// Number of events of the baseline.
    pub events: usize,
    /// Number of events that have no name by which to try them.
    pub unnamed: u64,
    /// Number of events that end the whole tree.
    pub ends: u64,
    /// Number of points to try.
    pub points: usize,
    /// Duration of an undisturbed run, in milliseconds.
    pub undisturbed_ms: u64,
    /// The reason why no point was tried.
    pub stop: Option<Abort>,
    /// The results of the tried points.
    pub tried: Vec<PointResult>,
}

impl CaseSweep {
    /// Returns the result of a case without any tried point.
    pub fn stopped(name: &str, stop: Abort) -> Self {
        Self {
            name: name.to_owned(),
            events: 0,
            unnamed: 0,
            ends: 0,
            points: 0,
            undisturbed_ms: 0,
            stop: Some(stop),
            tried: Vec::new(),
        }
    }

    fn counts(&self) -> BTreeMap<PointOutcome, usize> {
        let mut counts = BTreeMap::new();
        for one in &self.tried {
            *counts.entry(one.outcome).or_default() += 1;
        }
        counts
    }

    fn mean_ms(&self) -> u64 {
        let sum: u64 = self.tried.iter().map(|one| one.ms).sum();
        sum.checked_div(self.tried.len() as u64).unwrap_or(0)
    }

    /// Returns pairs of the event that was reached and the different event that was listed, with
    /// the number of points.
    fn met(&self) -> BTreeMap<(&str, &str), usize> {
        let mut met = BTreeMap::new();
        for one in &self.tried {
            if let Some(other) = &one.met {
                let pair = (other.as_str(), one.point.what.as_str());
                *met.entry(pair).or_default() += 1;
            }
        }
        met
    }

    /// Returns the differences that freezing alone makes at points that passed by their controls,
    /// with the number of points.
    fn visible(&self) -> BTreeMap<&str, usize> {
        let mut visible = BTreeMap::new();
        for one in self.tried.iter().filter(|one| one.by_control) {
            *visible.entry(one.cause.as_str()).or_default() += 1;
        }
        visible
    }

    /// Returns the numbers of tried and of passed points by kind of event. A point counts for the
    /// event that it reached.
    fn kinds(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for one in &self.tried {
            let (tried, passed) = kinds.entry(one.kind()).or_default();
            *tried += 1;
            *passed += usize::from(one.outcome == PointOutcome::Passed);
        }
        kinds
    }

    /// Returns the ptrace stop that some task was in at all failed points and at the fewest of the
    /// other points, with the number of failed and of other points.
    fn suspect(&self) -> Option<(&str, usize, usize)> {
        let bad: Vec<_> = self
            .tried
            .iter()
            .filter(|one| one.outcome.is_bad())
            .collect();
        let at = |stop: &str, outcome: bool| {
            let tried = self.tried.iter();
            let with =
                tried.filter(|one| one.outcome.is_bad() == outcome && one.stops.contains(stop));
            with.count()
        };
        let stops = bad.first()?.stops.iter();
        stops
            .filter(|stop| at(stop, true) == bad.len())
            .map(|stop| (stop.as_str(), bad.len(), at(stop, false)))
            .min_by_key(|(_, _, passed)| *passed)
    }

    /// Returns the points that did not pass, grouped by outcome and cause, the largest group
    /// first.
    fn causes(&self) -> Vec<Vec<&PointResult>> {
        let mut causes: BTreeMap<_, Vec<&PointResult>> = BTreeMap::new();
        for one in self
            .tried
            .iter()
            .filter(|one| one.outcome != PointOutcome::Passed)
        {
            causes
                .entry((one.outcome, &one.cause))
                .or_default()
                .push(one);
        }
        let mut causes: Vec<_> = causes.into_values().collect();
        causes.sort_by_key(|alike| std::cmp::Reverse(alike.len()));
        causes
    }
}

impl Summary {
    /// Returns empty results. `reproduce` is the command that tries a point, without the point's
    /// name. `sampled` is true if not all points were selected.
    pub fn new(scenario: &str, event: &str, reproduce: String, sampled: bool) -> Self {
        Self {
            scenario: scenario.to_owned(),
            event: event.to_owned(),
            reproduce,
            sampled,
            cases: Vec::new(),
        }
    }

    /// Returns 1 if a point failed; 125 if a point was not tried, could not be tried or was not
    /// reached, or if all points were selected and some events have no name; otherwise 0.
    pub fn exit_code(&self) -> u8 {
        let tried = || self.cases.iter().flat_map(|case| &case.tried);
        if tried().any(|one| one.outcome.is_bad()) {
            exit::DIVERGED
        } else if self.cases.iter().any(|case| case.stop.is_some())
            || tried().any(|one| one.outcome != PointOutcome::Passed)
            || self.cases.iter().any(|case| case.tried.len() < case.points)
            || (!self.sampled && self.cases.iter().any(|case| case.unnamed > 0))
        {
            exit::UNKNOWN
        } else {
            exit::PASS
        }
    }

    fn command(&self, case: &CaseSweep, one: &PointResult) -> String {
        format!(
            "{} --case {} --point {}:{}",
            self.reproduce, case.name, one.point.task, one.point.nth
        )
    }

    /// Returns the results as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for case in &self.cases {
            self.case_text(case, &mut text);
        }
        text
    }

    fn case_text(&self, case: &CaseSweep, text: &mut String) {
        let name = format!("{} {}, {}", self.scenario, case.name, self.event);
        if let Some(stop) = &case.stop {
            let _ = writeln!(text, "{name}: {}: {}", stop.verdict.name(), stop.why);
            for line in &stop.lines {
                let _ = writeln!(text, "    | {line}");
            }
            return;
        }
        let counts: Vec<_> = case
            .counts()
            .into_iter()
            .map(|(outcome, count)| format!("{count} {}", outcome.name()))
            .collect();
        let _ = writeln!(
            text,
            "{name}: {} of {} points tried: {}",
            case.tried.len(),
            case.points,
            counts.join(", ")
        );
        let kinds: Vec<_> = case
            .kinds()
            .into_iter()
            .map(|(kind, (tried, passed))| format!("{kind} {passed}/{tried}"))
            .collect();
        if kinds.len() > 1 {
            let _ = writeln!(text, "  passed by kind: {}", kinds.join(", "));
        }
        if let Some((stop, bad, others)) = case.suspect() {
            let _ = writeln!(
                text,
                "  suspect: {stop}: a task was in it at all {bad} failed points, and at \
                 {others} of the others"
            );
        }
        let count = |is: &dyn Fn(&&PointResult) -> bool| case.tried.iter().filter(is).count();
        let control = count(&|one| one.by_control);
        if control > 0 {
            let _ = writeln!(
                text,
                "  {control} ended like a control; freezing alone has a visible effect"
            );
        }
        for (what, count) in case.visible() {
            let _ = writeln!(text, "      {count} with the difference: {what}");
        }
        let met = case.met();
        if !met.is_empty() {
            let _ = writeln!(
                text,
                "  {} reached a different event than the listed one, and count for the event reached",
                met.values().sum::<usize>()
            );
        }
        for ((other, listed), count) in met {
            let _ = writeln!(text, "      {count} reached {other}, listed as {listed}");
        }
        let missed = count(&|one| one.missed > 0);
        if missed > 0 {
            let _ = writeln!(text, "  {missed} were not reached at the first attempt");
        }
        if case.unnamed > 0 {
            let _ = writeln!(
                text,
                "  {} events have no name and were never tried",
                case.unnamed
            );
        }
        if case.ends > 0 {
            let _ = writeln!(
                text,
                "  {} events end the tree, which leaves no task to checkpoint",
                case.ends
            );
        }
        let _ = writeln!(
            text,
            "  {} ms per point; an undisturbed run takes {} ms and has {} such events",
            case.mean_ms(),
            case.undisturbed_ms,
            case.events
        );
        for alike in case.causes() {
            let first = alike[0];
            let _ = writeln!(
                text,
                "  {} {}: {}",
                alike.len(),
                first.outcome.name(),
                first.cause
            );
            let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
            for one in &alike {
                *kinds.entry(one.what()).or_default() += 1;
            }
            for (what, count) in kinds {
                let _ = writeln!(text, "      {count} at {what}");
            }
            for line in first.lines.iter().take(12) {
                let _ = writeln!(text, "    | {line}");
            }
            for one in alike.iter().take(COMMANDS) {
                let _ = writeln!(text, "    repeat   {}", self.command(case, one));
            }
        }
    }

    /// Returns the results as a JSON object.
    pub fn json(&self) -> Result<String> {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let counts: BTreeMap<_, _> = case
                    .counts()
                    .into_iter()
                    .map(|(outcome, count)| (outcome.name(), count))
                    .collect();
                let told = |is: &dyn Fn(&&PointResult) -> bool| -> Vec<Value> {
                    let tried = case.tried.iter().filter(is);
                    tried.map(|one| json!(one)).collect()
                };
                let bad: Vec<_> = case
                    .tried
                    .iter()
                    .filter(|one| one.outcome != PointOutcome::Passed)
                    .map(|one| json!({ "tried": one, "again": self.command(case, one) }))
                    .collect();
                json!({
                    "case": case.name,
                    "events": case.events,
                    "unnamed": case.unnamed,
                    "ends": case.ends,
                    "points": case.points,
                    "tried": case.tried.len(),
                    "counts": counts,
                    "suspect": case.suspect().map(|(stop, ..)| stop),
                    "kinds": case.kinds().into_iter().map(|(kind, (tried, passed))| {
                        (kind, json!({ "tried": tried, "passed": passed }))
                    }).collect::<BTreeMap<_, _>>(),
                    "by_control": case.tried.iter().filter(|one| one.by_control).count(),
                    "passed_by_control": told(&|one| one.by_control),
                    "met_another": told(&|one| one.met.is_some()),
                    "mean_ms": case.mean_ms(),
                    "undisturbed_ms": case.undisturbed_ms,
                    "why": case.stop.as_ref().map(|stop| stop.why.clone()),
                    "not_passed": bad,
                })
            })
            .collect();
        let record = json!({
            "schema": 1,
            "scenario": self.scenario,
            "event": self.event,
            "exit_code": self.exit_code(),
            "cases": cases,
        });
        Ok(serde_json::to_string_pretty(&record)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::sweep::Point;

    fn one(nth: u64, outcome: PointOutcome) -> PointResult {
        PointResult {
            point: Point {
                task: "2.1".into(),
                nth,
                what: "vfork".into(),
            },
            met: None,
            outcome,
            cause: "restarted = control: stdout".into(),
            lines: vec!["differs".into()],
            stops: ["syscall-enter".to_owned()].into(),
            missed: 0,
            by_control: false,
            ms: 10,
        }
    }

    fn summary(tried: Vec<PointResult>, points: usize) -> Summary {
        let mut summary = Summary::new("vfork", "vfork", "crucible sweep vfork".into(), false);
        summary.cases.push(CaseSweep {
            name: "make".into(),
            events: points,
            unnamed: 0,
            ends: 0,
            points,
            undisturbed_ms: 5,
            stop: None,
            tried,
        });
        summary
    }

    #[test]
    fn a_point_that_was_not_tried_or_not_reached_never_counts_as_passed() {
        let passed = || one(1, PointOutcome::Passed);
        assert_eq!(summary(vec![passed()], 1).exit_code(), exit::PASS);
        assert_eq!(summary(vec![passed()], 2).exit_code(), exit::UNKNOWN);
        let missed = summary(vec![passed(), one(2, PointOutcome::NotReached)], 2);
        assert_eq!(missed.exit_code(), exit::UNKNOWN);
        let bad = summary(
            vec![
                one(1, PointOutcome::NotReached),
                one(2, PointOutcome::Diverged),
            ],
            2,
        );
        assert_eq!(bad.exit_code(), exit::DIVERGED);
    }

    #[test]
    fn unnamed_events_are_not_ignored() {
        let mut summary = summary(vec![one(1, PointOutcome::Passed)], 1);
        summary.cases[0].unnamed = 1;
        assert_eq!(summary.exit_code(), exit::UNKNOWN);
        summary.sampled = true;
        assert_eq!(summary.exit_code(), exit::PASS);
    }

    #[test]
    fn a_point_counts_for_the_event_that_it_reached() {
        let mut other = one(1, PointOutcome::Passed);
        other.point.what = "ptrace-stop syscall-enter wait4".into();
        other.met = Some("ptrace-stop signal".into());
        let text = summary(vec![other, one(2, PointOutcome::Passed)], 2).text();
        assert!(
            text.contains("passed by kind: signal 1/1, vfork 1/1"),
            "{text}"
        );
        assert!(
            text.contains(
                "1 reached ptrace-stop signal, listed as ptrace-stop syscall-enter wait4"
            ),
            "{text}"
        );
    }

    #[test]
    fn the_effect_of_freezing_alone_is_reported() {
        let mut one = one(1, PointOutcome::Passed);
        one.by_control = true;
        one.cause = "restarted = undisturbed: stderr".into();
        let text = summary(vec![one], 1).text();
        assert!(
            text.contains("1 with the difference: restarted = undisturbed: stderr"),
            "{text}"
        );
    }

    #[test]
    fn a_stop_that_only_failed_points_have_is_suspect() {
        let with = |nth, outcome, stops: &[&str]| {
            let mut one = one(nth, outcome);
            one.stops = stops.iter().map(|&stop| stop.to_owned()).collect();
            one
        };
        let mut tried = vec![
            with(1, PointOutcome::Passed, &["syscall-enter"]),
            with(
                2,
                PointOutcome::Diverged,
                &["syscall-enter", "syscall-exit"],
            ),
            with(
                3,
                PointOutcome::Diverged,
                &["exit", "syscall-enter", "syscall-exit"],
            ),
        ];
        let text = summary(tried.clone(), 3).text();
        assert!(
            text.contains("suspect: syscall-exit: a task was in it at all 2 failed points"),
            "{text}"
        );
        tried.truncate(1);
        assert!(!summary(tried, 1).text().contains("suspect"));
    }

    #[test]
    fn points_that_fail_in_the_same_way_are_reported_once_with_their_commands() {
        let text = summary(
            vec![
                one(3, PointOutcome::Diverged),
                one(4, PointOutcome::Diverged),
            ],
            2,
        )
        .text();
        assert!(
            text.contains("2 diverged: restarted = control: stdout"),
            "{text}"
        );
        assert!(
            text.contains("repeat   crucible sweep vfork --case make --point 2.1:3"),
            "{text}"
        );
    }
}
