// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a sweep came to, on one screen and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::Result;
use crucible_engine::stop::Stop;
use crucible_engine::sweep::{Came, Tried};
use serde_json::{Value, json};

use crate::exit;

/// How many commands are shown of points that failed alike; the record has all.
const COMMANDS: usize = 3;

/// A whole sweep.
pub struct Screen {
    scenario: String,
    event: String,
    reproduce: String,
    sampled: bool,
    /// Its cases.
    pub cases: Vec<CaseSweep>,
}

/// One case.
pub struct CaseSweep {
    /// Its name.
    pub name: String,
    /// Events of the baseline.
    pub events: usize,
    /// Events that no point could be named for.
    pub unnamed: u64,
    /// Events with which the tree is gone.
    pub ends: u64,
    /// Points that were to be tried.
    pub points: usize,
    /// How long an undisturbed run takes.
    pub undisturbed_ms: u64,
    /// Why nothing was tried.
    pub stop: Option<Stop>,
    /// What was tried.
    pub tried: Vec<Tried>,
}

impl CaseSweep {
    /// A case of which no point could be tried.
    pub fn stopped(name: &str, stop: Stop) -> Self {
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

    fn counts(&self) -> BTreeMap<Came, usize> {
        let mut counts = BTreeMap::new();
        for one in &self.tried {
            *counts.entry(one.came).or_default() += 1;
        }
        counts
    }

    fn mean_ms(&self) -> u64 {
        let sum: u64 = self.tried.iter().map(|one| one.ms).sum();
        sum.checked_div(self.tried.len() as u64).unwrap_or(0)
    }

    /// What was met where something else was listed, with how many points that was at.
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

    /// What freezing alone changed where points passed by their controls.
    fn visible(&self) -> BTreeMap<&str, usize> {
        let mut visible = BTreeMap::new();
        for one in self.tried.iter().filter(|one| one.by_control) {
            *visible.entry(one.cause.as_str()).or_default() += 1;
        }
        visible
    }

    /// Of each kind of event, how many points were tried and how many of them passed. A point
    /// counts for the event that it met.
    fn kinds(&self) -> BTreeMap<&str, (usize, usize)> {
        let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for one in &self.tried {
            let (tried, passed) = kinds.entry(one.kind()).or_default();
            *tried += 1;
            *passed += usize::from(one.came == Came::Passed);
        }
        kinds
    }

    /// The ptrace stop that a task stood in at all points that went wrong, and at the fewest
    /// of those that passed; with how many there are of each.
    fn suspect(&self) -> Option<(&str, usize, usize)> {
        let bad: Vec<_> = self.tried.iter().filter(|one| one.came.is_bad()).collect();
        let at = |stop: &str, came: bool| {
            let tried = self.tried.iter();
            let with = tried.filter(|one| one.came.is_bad() == came && one.stops.contains(stop));
            with.count()
        };
        let stops = bad.first()?.stops.iter();
        stops
            .filter(|stop| at(stop, true) == bad.len())
            .map(|stop| (stop.as_str(), bad.len(), at(stop, false)))
            .min_by_key(|(_, _, passed)| *passed)
    }

    /// Points that did not pass, by what they came to, why, and what event it was.
    fn causes(&self) -> Vec<Vec<&Tried>> {
        let mut causes: BTreeMap<_, Vec<&Tried>> = BTreeMap::new();
        for one in self.tried.iter().filter(|one| one.came != Came::Passed) {
            causes.entry((one.came, &one.cause)).or_default().push(one);
        }
        let mut causes: Vec<_> = causes.into_values().collect();
        causes.sort_by_key(|alike| std::cmp::Reverse(alike.len()));
        causes
    }
}

impl Screen {
    /// An empty one; `reproduce` is the command of a point, up to its name. It is sampled where
    /// not all points were asked for.
    pub fn new(scenario: &str, event: &str, reproduce: String, sampled: bool) -> Self {
        Self {
            scenario: scenario.to_owned(),
            event: event.to_owned(),
            reproduce,
            sampled,
            cases: Vec::new(),
        }
    }

    /// 1 where a point went wrong, 125 where one was not tried, could not be, or was not
    /// reached; or where all were asked for and some have no name to be tried by.
    pub fn exit_code(&self) -> u8 {
        let tried = || self.cases.iter().flat_map(|case| &case.tried);
        if tried().any(|one| one.came.is_bad()) {
            exit::DIVERGED
        } else if self.cases.iter().any(|case| case.stop.is_some())
            || tried().any(|one| one.came != Came::Passed)
            || self.cases.iter().any(|case| case.tried.len() < case.points)
            || (!self.sampled && self.cases.iter().any(|case| case.unnamed > 0))
        {
            exit::UNKNOWN
        } else {
            exit::PASS
        }
    }

    fn command(&self, case: &CaseSweep, one: &Tried) -> String {
        format!(
            "{} --case {} --point {}:{}",
            self.reproduce, case.name, one.point.task, one.point.nth
        )
    }

    /// For people.
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
            .map(|(came, count)| format!("{count} {}", came.name()))
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
                "  suspect: {stop}: a task stood in it at all {bad} points that went wrong, and at \
                 {others} of the others"
            );
        }
        let count = |is: &dyn Fn(&&Tried) -> bool| case.tried.iter().filter(is).count();
        let control = count(&|one| one.by_control);
        if control > 0 {
            let _ = writeln!(
                text,
                "  {control} of them ended like a control, frozen alone being visible"
            );
        }
        for (what, count) in case.visible() {
            let _ = writeln!(text, "      {count} had: {what}");
        }
        let met = case.met();
        if !met.is_empty() {
            let _ = writeln!(
                text,
                "  {} met another event than was listed, and count for what they met",
                met.values().sum::<usize>()
            );
        }
        for ((other, listed), count) in met {
            let _ = writeln!(text, "      {count} met {other}, listed as {listed}");
        }
        let missed = count(&|one| one.missed > 0);
        if missed > 0 {
            let _ = writeln!(text, "  {missed} were not reached at the first try");
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
                "  {} events end the tree, of which nothing is left to checkpoint",
                case.ends
            );
        }
        let _ = writeln!(
            text,
            "  {} ms a point, {} ms an undisturbed run; the run has {} such events",
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
                first.came.name(),
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
                let _ = writeln!(text, "    again    {}", self.command(case, one));
            }
        }
    }

    /// For programs.
    pub fn json(&self) -> Result<String> {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                let counts: BTreeMap<_, _> = case
                    .counts()
                    .into_iter()
                    .map(|(came, count)| (came.name(), count))
                    .collect();
                let told = |is: &dyn Fn(&&Tried) -> bool| -> Vec<Value> {
                    let tried = case.tried.iter().filter(is);
                    tried.map(|one| json!(one)).collect()
                };
                let bad: Vec<_> = case
                    .tried
                    .iter()
                    .filter(|one| one.came != Came::Passed)
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

    fn one(nth: u64, came: Came) -> Tried {
        Tried {
            point: Point {
                task: "2.1".into(),
                nth,
                what: "vfork".into(),
            },
            met: None,
            came,
            cause: "restarted = control: stdout".into(),
            lines: vec!["differs".into()],
            stops: ["syscall-enter".to_owned()].into(),
            missed: 0,
            by_control: false,
            ms: 10,
        }
    }

    fn screen(tried: Vec<Tried>, points: usize) -> Screen {
        let mut screen = Screen::new("vfork", "vfork", "crucible sweep vfork".into(), false);
        screen.cases.push(CaseSweep {
            name: "make".into(),
            events: points,
            unnamed: 0,
            ends: 0,
            points,
            undisturbed_ms: 5,
            stop: None,
            tried,
        });
        screen
    }

    #[test]
    fn a_point_that_was_not_tried_or_not_reached_never_counts_as_passed() {
        let passed = || one(1, Came::Passed);
        assert_eq!(screen(vec![passed()], 1).exit_code(), exit::PASS);
        assert_eq!(screen(vec![passed()], 2).exit_code(), exit::UNKNOWN);
        let missed = screen(vec![passed(), one(2, Came::NotReached)], 2);
        assert_eq!(missed.exit_code(), exit::UNKNOWN);
        let bad = screen(vec![one(1, Came::NotReached), one(2, Came::Diverged)], 2);
        assert_eq!(bad.exit_code(), exit::DIVERGED);
    }

    #[test]
    fn events_without_a_name_are_not_passed_over() {
        let mut screen = screen(vec![one(1, Came::Passed)], 1);
        screen.cases[0].unnamed = 1;
        assert_eq!(screen.exit_code(), exit::UNKNOWN);
        screen.sampled = true;
        assert_eq!(screen.exit_code(), exit::PASS);
    }

    #[test]
    fn a_point_counts_for_what_it_met() {
        let mut other = one(1, Came::Passed);
        other.point.what = "ptrace-stop syscall-enter wait4".into();
        other.met = Some("ptrace-stop signal".into());
        let text = screen(vec![other, one(2, Came::Passed)], 2).text();
        assert!(
            text.contains("passed by kind: signal 1/1, vfork 1/1"),
            "{text}"
        );
        assert!(
            text.contains("1 met ptrace-stop signal, listed as ptrace-stop syscall-enter wait4"),
            "{text}"
        );
    }

    #[test]
    fn what_freezing_alone_changed_is_told() {
        let mut one = one(1, Came::Passed);
        one.by_control = true;
        one.cause = "restarted = undisturbed: stderr".into();
        let text = screen(vec![one], 1).text();
        assert!(
            text.contains("1 had: restarted = undisturbed: stderr"),
            "{text}"
        );
    }

    #[test]
    fn the_stop_that_only_bad_points_have_is_suspect() {
        let with = |nth, came, stops: &[&str]| {
            let mut one = one(nth, came);
            one.stops = stops.iter().map(|&stop| stop.to_owned()).collect();
            one
        };
        let mut tried = vec![
            with(1, Came::Passed, &["syscall-enter"]),
            with(2, Came::Diverged, &["syscall-enter", "syscall-exit"]),
            with(
                3,
                Came::Diverged,
                &["exit", "syscall-enter", "syscall-exit"],
            ),
        ];
        let text = screen(tried.clone(), 3).text();
        assert!(
            text.contains("suspect: syscall-exit: a task stood in it at all 2 points"),
            "{text}"
        );
        tried.truncate(1);
        assert!(!screen(tried, 1).text().contains("suspect"));
    }

    #[test]
    fn points_that_fail_alike_are_told_once_with_their_commands() {
        let text = screen(vec![one(3, Came::Diverged), one(4, Came::Diverged)], 2).text();
        assert!(
            text.contains("2 diverged: restarted = control: stdout"),
            "{text}"
        );
        assert!(
            text.contains("again    crucible sweep vfork --case make --point 2.1:3"),
            "{text}"
        );
    }
}
