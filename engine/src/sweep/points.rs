// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The points of a sweep, and the order in which they are tried.

use std::collections::BTreeMap;

use crucible_protocol::EventKind;
use serde::{Deserialize, Serialize};
use syscalls::x86_64::Sysno;

use crate::event::EventSpec;

/// One event of one task, named so that the name denotes the same event in every run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The task's path in the process tree, such as `2.1`.
    pub task: String,
    /// The number of the event among that task's events, from 1.
    pub nth: u64,
    /// The kind of event with its argument, such as `ptrace-stop syscall-exit read`.
    pub what: String,
}

impl Point {
    /// Returns the kind of event without its argument: `syscall-exit` for `ptrace-stop
    /// syscall-exit read`.
    pub fn kind(&self) -> &str {
        kind(&self.what)
    }

    /// Returns the name of the point, `TASK:NTH`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.task, self.nth)
    }

    /// Returns the event that stops a run at this point, in a sweep of events of this kind.
    pub fn spec(&self, kind: EventKind) -> EventSpec {
        EventSpec::of_task(kind, &self.task, self.nth)
    }
}

pub(super) fn kind(what: &str) -> &str {
    let mut words = what.split(' ');
    match (words.next(), words.next()) {
        (Some("ptrace-stop"), Some(stop)) => stop,
        (kind, _) => kind.unwrap_or_default(),
    }
}

/// The events that a run has listed (`cgroup.freeze_at` with a target of 0).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The points, in the order in which the events happened.
    pub points: Vec<Point>,
    /// Number of events of unnamed tasks, and of events for which the list had no room.
    pub unnamed: u64,
    /// Number of calls that ended the first task, and with it the tree. They leave no task to
    /// checkpoint.
    pub ends: u64,
}

/// The name of the first task.
const FIRST: &str = "1";

/// Reads lines of the form `at 2.1 5 ptrace-stop 1407 clone 56`.
///
/// # Errors
/// Returns the problem if the count of all events is missing or malformed, because it is then
/// unknown whether the list is complete.
pub fn listing(text: &str) -> Result<Listing, String> {
    let mut listing = Listing::default();
    let mut count = None;
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["count", number] => {
                let wrong = |e| format!("the list of events has a bad count, `{number}`: {e}");
                count = Some(number.parse::<u64>().map_err(wrong)?);
            }
            ["at", task, nth, ref what @ ..] => {
                let (Ok(nth), true) = (nth.parse(), task != "?") else {
                    continue;
                };
                match (task, describe(what)) {
                    (FIRST, what) if what == "syscall exit_group" => listing.ends += 1,
                    (task, what) => listing.points.push(Point {
                        task: task.to_owned(),
                        nth,
                        what,
                    }),
                }
            }
            _ => {}
        }
    }
    let count = count.ok_or("the list of events has no count")?;
    let named = listing.points.len() as u64 + listing.ends;
    listing.unnamed = count.saturating_sub(named);
    Ok(listing)
}

/// Returns the name of a system call, or `none` for an unknown number.
pub(super) fn call(nr: &str) -> String {
    match nr.parse::<usize>().ok().and_then(Sysno::new) {
        Some(call) => call.name().to_owned(),
        None => "none".to_owned(),
    }
}

fn describe(words: &[&str]) -> String {
    match words {
        [kind @ ("syscall" | "syscall-exit"), nr] => format!("{kind} {}", call(nr)),
        // The argument of a signal-delivery stop is its signal, not the interrupted call.
        [kind @ "ptrace-stop", code, stop @ "signal", _] => format!("{kind} {stop} {code}"),
        [kind @ "ptrace-stop", _, stop, nr] => format!("{kind} {stop} {}", call(nr)),
        [kind @ "signal", number] => format!("{kind} {number}"),
        [kind, ..] => (*kind).to_owned(),
        [] => String::new(),
    }
}

/// Returns every `every`th point, from number `offset` on, ordered so that each
/// prefix of the list contains some points of each kind of event, spread over the whole run. The
/// order alternates between kinds, and within a kind between system calls (or signals); the points
/// of each of these are visited at the ends of the run's halves, then quarters, then eighths.
pub fn stratified(points: &[Point], every: usize, offset: usize) -> Vec<Point> {
    let mut kinds: BTreeMap<&str, BTreeMap<&str, Vec<&Point>>> = BTreeMap::new();
    for point in points {
        let kind = kinds.entry(point.kind()).or_default();
        kind.entry(&point.what).or_default().push(point);
    }
    let kinds = kinds.into_values().map(|kind| {
        let alike = kind.into_values().map(|points| {
            spread(points.len())
                .into_iter()
                .map(|n| points[n])
                .collect()
        });
        in_turns(alike)
    });
    let order = in_turns(kinds);
    let order = order.into_iter().skip(offset);
    order.step_by(every.max(1)).cloned().collect()
}

/// Returns a point in the middle of each of `parts` equal parts of the run. The kinds of events take
/// turns, as far as a part has them.
pub fn spread_out(points: &[Point], parts: usize) -> Vec<Point> {
    let mut taken: BTreeMap<&str, usize> = BTreeMap::new();
    let mut chosen = Vec::new();
    for part in 0..parts {
        let (from, to) = (
            points.len() * part / parts,
            points.len() * (part + 1) / parts,
        );
        let part = &points[from..to];
        let times = |point: &&Point| taken.get(point.kind()).copied().unwrap_or_default();
        let Some(least) = part.iter().map(|point| times(&point)).min() else {
            continue;
        };
        let rare: Vec<_> = part.iter().filter(|point| times(point) == least).collect();
        let point = rare[rare.len() / 2];
        chosen.push(point.clone());
        *taken.entry(point.kind()).or_default() += 1;
    }
    chosen
}

/// Returns the first element of each queue, then the second of each, and so on.
fn in_turns<T>(queues: impl Iterator<Item = Vec<T>>) -> Vec<T> {
    let mut queues: Vec<_> = queues.map(Vec::into_iter).collect();
    let mut order = Vec::new();
    loop {
        let before = order.len();
        order.extend(queues.iter_mut().filter_map(Iterator::next));
        if order.len() == before {
            return order;
        }
    }
}

/// Returns the numbers below `count` in bit-reversed order.
fn spread(count: usize) -> Vec<usize> {
    let bits = count.next_power_of_two().trailing_zeros();
    (0..1usize << bits)
        .map(|n| match bits {
            0 => 0,
            bits => n.reverse_bits() >> (usize::BITS - bits),
        })
        .filter(|&n| n < count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "event all\narg 0\ntarget 0\ncount 5\nfired 0\npid 0\nlisted 5\n\
                        at 1 1 syscall 61\nat 2 1 vfork 0\nat 2.1 1 ptrace-stop 1407 clone 56\n\
                        at 2.1 2 ptrace-stop 5 signal 0\nat ? 1 signal 17\n";

    #[test]
    fn a_listing_names_tasks_and_counts_unnamed_events() {
        let listing = listing(TEXT).unwrap();
        let what: Vec<_> = listing.points.iter().map(|p| p.what.as_str()).collect();
        assert_eq!(
            what,
            [
                "syscall wait4",
                "vfork",
                "ptrace-stop clone clone",
                "ptrace-stop signal 5"
            ]
        );
        assert_eq!(listing.unnamed, 1);
        assert_eq!(
            listing.points[2].spec(EventKind::All).to_string(),
            "all:@2.1:1"
        );
    }

    #[test]
    fn a_listing_without_a_valid_count_is_an_error() {
        assert!(listing(&TEXT.replace("count 5", "count many")).is_err());
        assert!(listing(&TEXT.replace("count 5\n", "")).is_err());
    }

    #[test]
    fn the_end_of_the_tree_is_not_a_point() {
        let end = "count 3\nat 2 1 syscall 231\nat 1 1 syscall 61\nat 1 2 syscall 231\n";
        let listing = listing(end).unwrap();
        assert_eq!((listing.ends, listing.unnamed), (1, 0));
        let what: Vec<_> = listing.points.iter().map(|p| p.what.as_str()).collect();
        assert_eq!(what, ["syscall exit_group", "syscall wait4"]);
    }

    fn points(kinds: &[(&str, usize)]) -> Vec<Point> {
        let mut points = Vec::new();
        for &(what, count) in kinds {
            points.extend((1..=count as u64).map(|nth| Point {
                task: "2".into(),
                nth,
                what: what.into(),
            }));
        }
        points
    }

    #[test]
    fn kinds_take_turns_and_nothing_is_lost() {
        let all = points(&[("a", 9), ("b", 2), ("c", 1)]);
        let order = stratified(&all, 1, 0);
        let first: Vec<_> = order.iter().take(3).map(|p| p.what.as_str()).collect();
        assert_eq!(first, ["a", "b", "c"]);
        let mut sorted = order.clone();
        sorted.sort_by(|x, y| (&x.what, x.nth).cmp(&(&y.what, y.nth)));
        assert_eq!(sorted, all);
    }

    #[test]
    fn a_kind_with_many_system_calls_does_not_delay_other_kinds() {
        let all = points(&[
            ("ptrace-stop syscall-enter close", 2),
            ("ptrace-stop syscall-enter open", 2),
            ("ptrace-stop syscall-enter read", 2),
            ("ptrace-stop syscall-exit open", 2),
        ]);
        let order = stratified(&all, 1, 0);
        let first: Vec<_> = order.iter().take(3).map(Point::kind).collect();
        assert_eq!(first, ["syscall-enter", "syscall-exit", "syscall-enter"]);
        assert_eq!(order.len(), all.len());
        assert_ne!(order[0].what, order[2].what);
    }

    #[test]
    fn a_few_points_are_in_the_middle_of_their_parts_and_of_several_kinds() {
        let one = points(&[("a", 12)]);
        let at = |points: &[Point]| points.iter().map(|point| point.nth).collect::<Vec<_>>();
        assert_eq!(at(&spread_out(&one, 3)), [3, 7, 11]);
        let mut mixed = one.clone();
        mixed[5].what = "vfork".into();
        let few = spread_out(&mixed, 3);
        assert_eq!(at(&few), [3, 6, 11]);
        assert_eq!(few[1].kind(), "vfork");
        assert_eq!(at(&spread_out(&one[..2], 4)), [1, 2]);
        assert_eq!(spread_out(&[], 4), []);
    }

    #[test]
    fn points_of_a_kind_are_spread_over_the_run() {
        assert_eq!(spread(8), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert_eq!(spread(5), [0, 4, 2, 1, 3]);
        assert_eq!(spread(1), [0]);
        assert_eq!(stratified(&points(&[("a", 10)]), 4, 0).len(), 3);
        // The parts together contain each point once.
        let parts = (0..4).flat_map(|offset| stratified(&points(&[("a", 10)]), 4, offset));
        let mut parts: Vec<_> = parts.map(|point| point.name()).collect();
        parts.sort();
        let mut all: Vec<_> = points(&[("a", 10)]).iter().map(Point::name).collect();
        all.sort();
        assert_eq!(parts, all);
    }
}
