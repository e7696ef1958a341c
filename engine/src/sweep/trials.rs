// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Many runs at one point. If runs end in more than one way, this compares the frequency of each
//! end among the restarted runs with that among the controls.

use std::collections::BTreeMap;

use crucible_protocol::EventKind;
use serde::{Deserialize, Serialize};

use super::{Point, another_tree, runner};
use crate::{
    abort::Abort,
    blame::Condition,
    compare::RunOutput,
    normalise::Uses,
    run::RestartIn,
    scenario::{Case, Scenario},
    session::Session,
    trial::{self, judge},
};

/// Chance below which the two kinds of runs count as ending differently.
pub const SIGNIFICANT: f64 = 0.001;

/// One way in which runs ended.
#[derive(Clone, Debug, Serialize)]
pub struct End {
    /// The difference from the undisturbed run in one line; empty if there is none.
    pub cause: String,
    /// Further details.
    pub lines: Vec<String>,
    /// Number of controls that ended in this way.
    pub controls: u64,
    /// Number of restarted runs that ended in this way.
    pub restarted: u64,
    /// The result of the first such run.
    pub output: RunOutput,
}

/// The ends of all runs at a point.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Trials {
    /// The ways in which runs ended, the end of the undisturbed run first.
    pub ends: Vec<End>,
    /// Number of runs that ended before the point. They are not in `ends`.
    pub missed: u64,
}

impl Trials {
    /// Returns the chance of numbers that differ at least as much, for runs that end in the
    /// same ways and equally often: Fisher's exact test of each end against all others, the
    /// smallest of them times the number of tests.
    pub fn chance(&self) -> f64 {
        let sum = |count: fn(&End) -> u64| self.ends.iter().map(count).sum::<u64>();
        let (controls, restarted) = (sum(|end| end.controls), sum(|end| end.restarted));
        let tests = match self.ends.len() {
            // The second p-value is the same: one kind is the complement of the other.
            2 => 1,
            ends => ends.max(1),
        };
        let chances = self.ends.iter().map(|end| {
            let (a, b) = (end.controls, end.restarted);
            fisher(a, controls - a, b, restarted - b)
        });
        (chances.fold(1.0, f64::min) * tests as f64).min(1.0)
    }

    /// Returns true when no control ended like some restarted run.
    pub fn has_new_end(&self) -> bool {
        let mut ends = self.ends.iter();
        ends.any(|end| end.controls == 0 && end.restarted > 0)
    }

    /// Returns the ends of these pairs. The undisturbed run's comes first.
    pub fn of<'a>(
        case: &Case,
        undisturbed: &RunOutput,
        pairs: impl IntoIterator<Item = &'a Pair>,
    ) -> Self {
        let mut trials = Self::default();
        trials.ends.push(End {
            cause: String::new(),
            lines: Vec::new(),
            controls: 0,
            restarted: 0,
            output: undisturbed.clone(),
        });
        for pair in pairs {
            for (run, restarted) in [(&pair.control, false), (&pair.restarted, true)] {
                match run {
                    Some(output) => trials.add(case, output.clone(), restarted),
                    None => trials.missed += 1,
                }
            }
        }
        trials
    }

    fn add(&mut self, case: &Case, output: RunOutput, restarted: bool) {
        let mut uses = Uses::new();
        let mut difference = |reference: &RunOutput| {
            let checks = judge::end(case, "run = undisturbed", &output, reference, &mut uses);
            checks.into_iter().find(|check| !check.ok)
        };
        let known = self
            .ends
            .iter()
            .position(|end| difference(&end.output).is_none());
        let at = match known {
            Some(at) => at,
            None => {
                let first = self.ends.first().and_then(|end| difference(&end.output));
                self.ends.push(End {
                    lines: first
                        .as_ref()
                        .map_or_else(Vec::new, super::super::compare::Check::lines),
                    cause: first.map_or_else(String::new, |check| check.name),
                    controls: 0,
                    restarted: 0,
                    output,
                });
                self.ends.len() - 1
            }
        };
        let end = &mut self.ends[at];
        match restarted {
            true => end.restarted += 1,
            false => end.controls += 1,
        }
    }
}

/// The ends of a control and of a restarted run at one point; `None` for a run that ended before
/// the point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pair {
    /// The control.
    pub control: Option<RunOutput>,
    /// The restarted run.
    pub restarted: Option<RunOutput>,
}

/// Makes a control and a restarted run at a point. Builds the workload if the guest is new.
///
/// # Errors
/// Fails if a checkpoint or a restart is refused, if the restarted tree differs from its state
/// before the checkpoint, or if a run does not end.
pub fn pair(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    point: &Point,
) -> Result<Pair, Abort> {
    let mut case = case.clone();
    case.at = point.spec(kind);
    case.tasks.clear();
    if !session.is_running() {
        trial::build(session, scenario)?;
    }
    let mut timings = BTreeMap::new();
    let mut runner = runner(session, scenario, &case, &mut timings);
    let control = reached(runner.control().map(|(_, output)| output))?;
    let restarted = runner.restarted(RestartIn::Same).and_then(|restarted| {
        let checks = judge::around(runner.backend, &restarted, &mut Uses::new());
        match checks.into_iter().find(|check| !check.ok) {
            Some(bad) => Err(another_tree(&bad, restarted.end)),
            None => restarted.end,
        }
    });
    Ok(Pair {
        control,
        restarted: reached(restarted)?,
    })
}

/// Returns the output of a run; `None` if it did not reach its event. Both kinds of runs do so
/// equally often, because they do not differ until then.
fn reached(run: Result<RunOutput, Abort>) -> Result<Option<RunOutput>, Abort> {
    match run {
        Ok(output) => Ok(Some(output)),
        Err(stop) if stop.condition == Condition::Missed && stop.guest_usable => Ok(None),
        Err(stop) => Err(stop),
    }
}

/// Fisher's exact test, two-sided. Returns the chance of a table with these sums that is no more
/// likely than this one.
fn fisher(a: u64, b: u64, c: u64, d: u64) -> f64 {
    let (row, other, column, all) = (a + b, c + d, a + c, a + b + c + d);
    let logs: Vec<f64> = std::iter::once(0.0)
        .chain((1..=all).scan(0.0, |sum, n| {
            *sum += (n as f64).ln();
            Some(*sum)
        }))
        .collect();
    let choose = |n: u64, k: u64| logs[n as usize] - logs[k as usize] - logs[(n - k) as usize];
    let chance = |k: u64| (choose(row, k) + choose(other, column - k) - choose(all, column)).exp();
    let this = chance(a) * (1.0 + 1e-9);
    (column.saturating_sub(other)..=column.min(row))
        .map(chance)
        .filter(|&chance| chance <= this)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-4
    }

    #[test]
    fn the_test_gives_what_its_author_gives() {
        // The lady who tastes tea.
        assert!(near(fisher(3, 1, 1, 3), 0.4857));
        assert!(near(fisher(4, 0, 0, 4), 0.0286));
        assert!(near(fisher(1, 9, 11, 3), 0.0028));
        assert!(near(fisher(60, 0, 60, 0), 1.0));
        assert!(fisher(60, 0, 45, 15) < SIGNIFICANT);
        assert!(fisher(57, 3, 55, 5) > 0.5);
    }

    #[test]
    fn an_end_that_no_control_has_is_new() {
        let end = |controls, restarted| End {
            cause: String::new(),
            lines: Vec::new(),
            controls,
            restarted,
            output: RunOutput {
                root: None,
                workload: None,
                stdout: String::new(),
                stderr: String::new(),
                files: Vec::new(),
                logs: Vec::new(),
                nonce: None,
            },
        };
        let trials = |ends: &[(u64, u64)]| Trials {
            ends: ends.iter().map(|&(a, b)| end(a, b)).collect(),
            missed: 0,
        };
        assert!(!trials(&[(60, 60)]).has_new_end());
        assert!(!trials(&[(58, 60), (2, 0)]).has_new_end());
        assert!(trials(&[(60, 59), (0, 1)]).has_new_end());
        assert!(near(trials(&[(60, 60)]).chance(), 1.0));
        assert!(trials(&[(60, 40), (0, 20)]).chance() < SIGNIFICANT);
        assert!(trials(&[(30, 30), (20, 15), (10, 15)]).chance() > 0.5);
    }
}
