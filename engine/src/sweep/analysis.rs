// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Summarises all points of a case.

use std::collections::BTreeMap;

use serde::Serialize;

use super::PointDetail;
use crate::{blame::Condition, experiment::Finding, outcome::Outcome};

/// A finding of a point that has a detail.
type PointFinding<'a> = (&'a Finding<PointDetail>, &'a PointDetail);

/// The summary of all points of a case.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CaseAnalysis {
    /// The name of the case.
    pub case: String,
    /// Number of events of the baseline.
    pub events: usize,
    /// Number of events that cannot be tried, because they have no name.
    pub unnamed: u64,
    /// Number of events that end the whole tree, which leaves no task to checkpoint.
    pub ends: u64,
    /// Number of points to try.
    pub points: usize,
    /// Number of points that were tried.
    pub tried: usize,
    /// Duration of an undisturbed run, in milliseconds.
    pub undisturbed_ms: u64,
    /// Mean duration of a point, in milliseconds.
    pub mean_ms: u64,
    /// The reason why no point was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Outcome>,
    /// Number of points by condition.
    pub counts: BTreeMap<&'static str, usize>,
    /// Number of tried and of passed points by kind of event. A point counts for the event that it
    /// reached.
    pub kinds: BTreeMap<String, Passed>,
    /// Number of points that passed by their control.
    pub by_control: usize,
    /// The differences due to freezing alone at those points, with their numbers of points.
    pub visible: BTreeMap<String, usize>,
    /// Pairs of the event that was reached and the different one that was listed, with the number
    /// of points.
    pub reached: Vec<Reached>,
    /// Number of points that were not reached at the first attempt.
    pub missed: usize,
    /// The ptrace stop in which some task was at all failed points, and at the fewest others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suspect: Option<Suspect>,
    /// The points that did not pass, grouped by condition and reason, the largest group first.
    pub failures: Vec<Failure>,
}

/// Number of tried and of passed points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Passed {
    /// Number of tried points.
    pub tried: usize,
    /// Number of points that passed.
    pub passed: usize,
}

/// Points that reached a different event than the listed one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reached {
    /// The event that was reached.
    pub event: String,
    /// The event that was listed.
    pub listed: String,
    /// Number of points.
    pub count: usize,
}

/// A ptrace stop that may be the cause of all failures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Suspect {
    /// The stop.
    pub stop: String,
    /// Number of failed points, at each of which some task was in it.
    pub failed: usize,
    /// Number of other points at which some task was in it.
    pub others: usize,
}

/// Points that failed in the same way.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The outcome of the first of them.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The points, as `TASK:NTH`.
    pub points: Vec<String>,
    /// Number of points by event.
    pub events: BTreeMap<String, usize>,
}

/// Analyses the findings of a case's points.
pub fn analyse(mut case: CaseAnalysis, findings: &[&Finding<PointDetail>]) -> CaseAnalysis {
    let tried: Vec<PointFinding<'_>> = findings
        .iter()
        .filter_map(|finding| Some((*finding, finding.detail.as_ref()?)))
        .collect();
    case.tried = findings.len();
    let sum: u64 = findings.iter().map(|finding| finding.ms).sum();
    case.mean_ms = sum.checked_div(case.tried as u64).unwrap_or(0);
    for finding in findings {
        let name = finding.outcome.condition.name();
        *case.counts.entry(name).or_default() += 1;
    }
    let mut reached: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (finding, detail) in &tried {
        let kind = case.kinds.entry(detail.kind().to_owned()).or_default();
        kind.tried += 1;
        kind.passed += usize::from(finding.outcome.is_pass());
        if detail.by_control {
            case.by_control += 1;
            let visible = case.visible.entry(finding.outcome.why.clone());
            *visible.or_default() += 1;
        }
        if let Some(event) = &detail.reached {
            *reached.entry((event, &detail.point.what)).or_default() += 1;
        }
        case.missed += usize::from(detail.missed > 0);
    }
    case.reached = reached
        .into_iter()
        .map(|((event, listed), count)| Reached {
            event: event.to_owned(),
            listed: listed.to_owned(),
            count,
        })
        .collect();
    case.suspect = suspect(&tried);
    case.failures = failures(findings);
    case
}

fn suspect(tried: &[PointFinding<'_>]) -> Option<Suspect> {
    let is_bad = |(finding, _): &PointFinding<'_>| finding.outcome.condition.is_bad();
    let failed = tried.iter().filter(|one| is_bad(one)).count();
    let first = tried.iter().find(|one| is_bad(one))?;
    let at = |stop: &str, bad: bool| {
        let with = |one: &&PointFinding<'_>| is_bad(one) == bad && one.1.stops.contains(stop);
        tried.iter().filter(with).count()
    };
    let stops = first.1.stops.iter().filter(|stop| at(stop, true) == failed);
    stops
        .map(|stop| Suspect {
            stop: stop.clone(),
            failed,
            others: at(stop, false),
        })
        .min_by_key(|suspect| suspect.others)
}

fn failures(findings: &[&Finding<PointDetail>]) -> Vec<Failure> {
    let mut groups: BTreeMap<(Condition, &str), Vec<&Finding<PointDetail>>> = BTreeMap::new();
    for finding in findings.iter().filter(|one| !one.outcome.is_pass()) {
        let outcome = &finding.outcome;
        let group = groups.entry((outcome.condition, &outcome.why));
        group.or_default().push(finding);
    }
    let mut failures: Vec<_> = groups
        .into_values()
        .filter_map(|alike| {
            let mut events: BTreeMap<String, usize> = BTreeMap::new();
            for detail in alike.iter().filter_map(|one| one.detail.as_ref()) {
                *events.entry(detail.what().to_owned()).or_default() += 1;
            }
            let name = |one: &&Finding<PointDetail>| {
                let point = one.key.rsplit('/').next();
                point.unwrap_or_default().to_owned()
            };
            Some(Failure {
                outcome: alike.first()?.outcome.clone(),
                points: alike.iter().map(name).collect(),
                events,
            })
        })
        .collect();
    failures.sort_by_key(|failure| std::cmp::Reverse(failure.points.len()));
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::Point;

    fn one(nth: u64, condition: Condition, stops: &[&str]) -> Finding<PointDetail> {
        Finding {
            key: format!("make/2.1:{nth}"),
            outcome: Outcome::new(condition, "restarted = control: stdout"),
            ms: 10,
            detail: Some(PointDetail {
                point: Point {
                    task: "2.1".into(),
                    nth,
                    what: "vfork".into(),
                },
                reached: None,
                stops: stops.iter().map(|&stop| stop.to_owned()).collect(),
                missed: 0,
                by_control: false,
                image_rules: Default::default(),
                timings: Default::default(),
            }),
        }
    }

    fn analysed(findings: &[Finding<PointDetail>]) -> CaseAnalysis {
        let findings: Vec<_> = findings.iter().collect();
        analyse(CaseAnalysis::default(), &findings)
    }

    #[test]
    fn a_point_counts_for_the_event_that_it_reached() {
        let mut other = one(1, Condition::Passed, &[]);
        let detail = other.detail.as_mut().unwrap();
        detail.point.what = "ptrace-stop syscall-enter wait4".into();
        detail.reached = Some("ptrace-stop signal".into());
        let case = analysed(&[other, one(2, Condition::Passed, &[])]);
        let kinds: Vec<_> = case.kinds.keys().map(String::as_str).collect();
        assert_eq!(kinds, ["signal", "vfork"]);
        let expected = Reached {
            event: "ptrace-stop signal".into(),
            listed: "ptrace-stop syscall-enter wait4".into(),
            count: 1,
        };
        assert_eq!(case.reached, [expected]);
    }

    #[test]
    fn the_effect_of_freezing_alone_is_reported() {
        let mut point = one(1, Condition::Passed, &[]);
        point.detail.as_mut().unwrap().by_control = true;
        let case = analysed(&[point]);
        assert_eq!(case.by_control, 1);
        assert_eq!(case.visible["restarted = control: stdout"], 1);
    }

    #[test]
    fn a_stop_that_only_failed_points_have_is_suspect() {
        let bad = ["exit", "syscall-enter", "syscall-exit"];
        let mut tried = vec![
            one(1, Condition::Passed, &["syscall-enter"]),
            one(2, Condition::Diverged, &bad[1..]),
            one(3, Condition::Diverged, &bad),
        ];
        let suspect = analysed(&tried).suspect.unwrap();
        assert_eq!(suspect.stop, "syscall-exit");
        assert_eq!((suspect.failed, suspect.others), (2, 0));
        tried.truncate(1);
        assert_eq!(analysed(&tried).suspect, None);
    }

    #[test]
    fn points_that_fail_in_the_same_way_are_one_failure() {
        let case = analysed(&[
            one(3, Condition::Diverged, &[]),
            one(4, Condition::Diverged, &[]),
            one(5, Condition::Missed, &[]),
        ]);
        assert_eq!(case.failures.len(), 2);
        assert_eq!(case.failures[0].points, ["2.1:3", "2.1:4"]);
        assert_eq!(case.failures[0].events["vfork"], 2);
    }
}
