// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Judges each test of a night by the history: regressed, fixed, flaky, not run.
//!
//! All judgements are computed from the results, with the change-point model that bisections use.
//! Only passes and failures of the kernel count. A test whose run failed because of the host, the
//! workload or crucible counts as not run.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crucible_changepoint::{Evidence, last_segment};
use serde::Serialize;

use crate::row::{Planned, ResultRow, Skipped, TestId};

/// Probability that a test changes between two nights, before any evidence.
const HAZARD: f64 = 0.05;

/// Probability above which a test counts as improved. A flake that has not occurred for a while
/// is still one.
const BETTER: f64 = 0.75;

/// Probability that the change is in the range of nights that is shown.
const RANGE: f64 = 0.9;

/// The status of a test, as of a night.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It passes.
    Passing,
    /// It fails each time.
    Failing,
    /// It passes and fails.
    Flaky,
    /// Unknown: no night has a result of the test.
    Unknown,
}

/// The change of a test from its last night to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It fails each time, and did not in its last night.
    Regressed,
    /// It passes and fails, and only passed in its last night.
    TurnedFlaky,
    /// It fails as before.
    StillFailing,
    /// It is flaky as before.
    StillFlaky,
    /// It was planned, and no run of it has passed or found the kernel at fault.
    NotRun,
    /// It passes, and failed or was flaky in its last night.
    Fixed,
    /// It passes as before.
    StillPassing,
}

impl Change {
    /// Returns true when the kernel is worse than it should be.
    pub fn is_bad(self) -> bool {
        matches!(
            self,
            Self::Regressed | Self::TurnedFlaky | Self::StillFailing | Self::StillFlaky
        )
    }
}

/// The judgement of a test.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The test.
    pub test: TestId,
    /// The change since its last night.
    pub change: Change,
    /// Its status.
    pub status: Status,
    /// Number of runs in the night that count.
    pub runs: u64,
    /// Number of failures among them.
    pub failures: u64,
    /// Rate of failures since the last change.
    pub rate: f64,
    /// The first and the last night that may be the first of the status; `None` if it has no other
    /// status in the history.
    pub since: Option<(String, String)>,
    /// The last earlier night in which it passed each time.
    pub last_good: Option<String>,
    /// The most frequent signature of the night's failures, or the reason why it did not run.
    pub why: String,
    /// Directory of the first failure of that signature, relative to the results directory.
    pub directory: String,
}

/// Judges all tests of a night, those with the most important changes first.
///
/// `results` has the results of this night and of earlier ones, in any order. Later ones are
/// ignored.
pub fn judge(
    night: &str,
    planned: &[Planned],
    skipped: &[Skipped],
    results: &[ResultRow],
) -> Vec<Judgement> {
    let mut of_tests: BTreeMap<&TestId, Vec<&ResultRow>> = BTreeMap::new();
    for result in results.iter().filter(|it| it.night.as_str() <= night) {
        of_tests.entry(&result.test).or_default().push(result);
    }
    let mut tests: BTreeSet<&TestId> = planned.iter().map(|it| &it.test).collect();
    // A failing unit counts as a separate test, which the plan could not name beforehand.
    let ran = of_tests.iter().filter(|(_, results)| {
        let mut nights = results.iter().map(|it| it.night.as_str());
        nights.any(|it| it == night)
    });
    tests.extend(ran.map(|(test, _)| *test));
    let mut judged: Vec<_> = tests
        .into_iter()
        .map(|test| {
            let results = of_tests.get(test).map_or(&[][..], Vec::as_slice);
            let reason = skipped.iter().find(|it| it.test == *test);
            one(night, test, results, reason)
        })
        .collect();
    judged.sort_by(|a, b| (a.change, &a.test).cmp(&(b.change, &b.test)));
    judged
}

fn one(night: &str, test: &TestId, results: &[&ResultRow], skipped: Option<&Skipped>) -> Judgement {
    let mut nights: BTreeMap<&str, Evidence> = BTreeMap::new();
    for result in results.iter().filter(|it| it.counts()) {
        *nights.entry(&result.night).or_default() +=
            Evidence::new(1, u64::from(result.is_failure()));
    }
    let tonight: Vec<_> = results.iter().filter(|it| it.night == night).collect();
    let now = nights.get(night).copied();
    let (names, evidence): (Vec<_>, Vec<_>) = nights.into_iter().unzip();
    let before = match now {
        Some(_) => &evidence[..evidence.len() - 1],
        None => &evidence[..],
    };
    let (then, _) = status(before);
    let (status, segment) = status(&evidence);
    let change = match (now, then, status) {
        (None, ..) => Change::NotRun,
        (_, Status::Failing, Status::Failing) => Change::StillFailing,
        (_, _, Status::Failing) => Change::Regressed,
        (_, Status::Flaky, Status::Flaky) => Change::StillFlaky,
        // A test that failed each time and now passes sometimes is better, but still not good.
        (_, Status::Failing, Status::Flaky) => Change::StillFlaky,
        (_, _, Status::Flaky) => Change::TurnedFlaky,
        (_, Status::Failing | Status::Flaky, _) => Change::Fixed,
        _ => Change::StillPassing,
    };
    let signature = frequent(
        tonight
            .iter()
            .filter(|it| it.is_failure())
            .map(|it| &*it.signature),
    );
    let (why, directory) = match (now, signature) {
        (Some(_), Some(signature)) => {
            let mut like = tonight.iter().filter(|it| it.signature == signature);
            let directory = like.find(|it| !it.directory.is_empty());
            let directory = directory.map_or("", |it| &it.directory);
            (signature.to_owned(), directory.to_owned())
        }
        (Some(_), None) => (String::new(), String::new()),
        (None, _) => {
            let trouble = tonight
                .last()
                .map(|it| format!("{}: {}", it.condition, it.why));
            let reason = skipped.map(|it| it.reason.clone()).or(trouble);
            let directory = tonight.last().map_or("", |it| &it.directory);
            (
                reason.unwrap_or_else(|| "it has no result".into()),
                directory.to_owned(),
            )
        }
    };
    let good = (0..before.len()).rev().find(|&at| before[at].failures == 0);
    let runs = now.unwrap_or_default();
    Judgement {
        test: test.clone(),
        change,
        status,
        runs: runs.runs,
        failures: runs.failures,
        rate: segment.rate(),
        since: segment
            .range
            .map(|(first, last)| (names[first].to_owned(), names[last].to_owned())),
        last_good: good.map(|at| names[at].to_owned()),
        why,
        directory,
    }
}

/// The nights since the last change of the rate.
#[derive(Debug)]
struct Segment {
    /// The first and the last night that may be its first.
    range: Option<(usize, usize)>,
    seen: Evidence,
}

impl Segment {
    /// Returns the segment that begins with one of the nights `among`; `starts` are the nights'
    /// probabilities.
    fn new(nights: &[Evidence], starts: &[f64], among: Range<usize>) -> Self {
        // First decide if there is a change at all, then find its position.
        let later = among.start.max(1).min(among.end)..among.end;
        let changed: f64 = starts[later.clone()].iter().sum();
        let among = match among.contains(&0) && starts[0] >= changed {
            true => 0..1,
            false => later,
        };
        let first = among
            .clone()
            .max_by(|&a, &b| starts[a].total_cmp(&starts[b]));
        let first = first.unwrap_or_default();
        // The range of nights around the most probable one whose sum is large enough.
        let all: f64 = starts[among.clone()].iter().sum();
        let (mut from, mut to) = (first, first);
        let mut mass = starts.get(first).copied().unwrap_or_default();
        while mass < RANGE * all {
            let earlier = from.checked_sub(1).filter(|it| among.contains(it));
            let later = Some(to + 1).filter(|it| among.contains(it));
            let weight = |it: Option<usize>| it.map_or(-1.0, |it| starts[it]);
            match (earlier, later) {
                (Some(it), _) if weight(earlier) >= weight(later) => from = it,
                (_, Some(it)) => to = it,
                _ => break,
            }
            mass = starts[from..=to].iter().sum();
        }
        Self {
            // A segment that begins with the first night has no predecessor.
            range: (first > 0).then_some((from.max(1), to)),
            seen: nights[first..]
                .iter()
                .fold(Evidence::default(), |sum, &it| sum + it),
        }
    }

    fn rate(&self) -> f64 {
        match self.seen.runs {
            0 => 0.0,
            runs => self.seen.failures as f64 / runs as f64,
        }
    }
}

/// Returns the status of a test after these nights, each of which has runs.
fn status(nights: &[Evidence]) -> (Status, Segment) {
    let starts = last_segment(nights, HAZARD);
    let all = 0..nights.len();
    let Some(last) = nights.last() else {
        return (Status::Unknown, Segment::new(nights, &starts, all));
    };
    let failed = (0..nights.len()).rev().find(|&at| nights[at].failures > 0);
    let passed = (0..nights.len())
        .rev()
        .find(|&at| nights[at].failures < nights[at].runs);
    let clean = failed.map_or(0, |at| at + 1)..nights.len();
    let broken = passed.map_or(0, |at| at + 1)..nights.len();
    match (last.failures, last.runs - last.failures) {
        (1.., 0) => (Status::Failing, Segment::new(nights, &starts, broken)),
        (1.., _) => (Status::Flaky, Segment::new(nights, &starts, all)),
        _ => {
            let mass: f64 = starts[clean.clone()].iter().sum();
            match failed.is_none() || mass >= BETTER {
                true => (Status::Passing, Segment::new(nights, &starts, clean)),
                false => {
                    let before = 0..clean.start;
                    (Status::Flaky, Segment::new(nights, &starts, before))
                }
            }
        }
    }
}

/// Returns the most frequent text; of several the first in the alphabet.
fn frequent<'a>(texts: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let most = counts.values().max().copied()?;
    counts
        .into_iter()
        .find(|(_, count)| *count == most)
        .map(|(text, _)| text)
}

#[cfg(test)]
mod tests;
