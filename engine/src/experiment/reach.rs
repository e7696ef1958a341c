// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records the lines that each case runs, from its checkpoint to its end. Each case is a unit; the
//! kernel is built with counters.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Instant,
};

use crucible_mutants::Mutant;
use serde::{Deserialize, Serialize};

use super::{Done, Experiment, Finding, Group, Identity, Summary, scenarios};
use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    blame::Condition,
    coverage::{self, Executed},
    outcome::Outcome,
    run::{RestartIn, Runner},
    scenario::{Case, Scenario},
    session::Session,
};

/// Sets all counters to zero.
const RESET: &str = "echo 0 > /sys/kernel/debug/gcov/reset";

/// Cases that run the same tenth of a source's lines count as running the same amount of it.
const PARTS: usize = 10;

/// Number of attempts to reach an event.
const PATIENCE: u32 = 3;

/// The lines that a case runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reached {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the case.
    pub case: String,
    /// Duration of its restarted run in milliseconds.
    pub ms: u64,
    /// The lines, by the path of the source in the kernel's tree.
    pub lines: BTreeMap<String, Executed>,
}

/// The lines that several cases run, by case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Reach {
    /// The cases whose restarted run has ended, the quickest first.
    pub cases: Vec<Reached>,
}

impl Reach {
    /// Returns the cases that run the line of a mutant, as indices: one case of each scenario,
    /// then the second of each, and so on, since cases of one scenario run much the same code.
    /// Cases that run more of the mutant's source come first, as they have more state of that kind;
    /// among those that run the same amount, the quickest comes first. A line without its own code
    /// counts as run if its statement is, or else the code before it.
    pub fn of(&self, mutant: &Mutant) -> Vec<usize> {
        let Some(known) = self
            .cases
            .first()
            .and_then(|one| one.lines.get(&mutant.file))
        else {
            return Vec::new();
        };
        let is_known = |line: &u32| known.ran.contains(line) || known.idle.contains(line);
        let (first, last) = mutant.statement;
        let mut lines = vec![mutant.line];
        if !is_known(&mutant.line) {
            lines = (first..=last).filter(is_known).collect();
        }
        if lines.is_empty() {
            let before = [&known.ran, &known.idle]
                .into_iter()
                .filter_map(|lines| lines.range(..first).next_back());
            lines = before.max().copied().into_iter().collect();
        }
        let runs = |one: &Reached| {
            let ran = one.lines.get(&mutant.file).map(|executed| &executed.ran);
            ran.is_some_and(|ran| lines.iter().any(|line| ran.contains(line)))
        };
        let part = |one: &Reached| {
            let Some(Executed { ran, idle }) = one.lines.get(&mutant.file) else {
                return 0;
            };
            ran.len() * PARTS / (ran.len() + idle.len()).max(1)
        };
        let mut cases: Vec<_> = (0..self.cases.len())
            .filter(|&index| runs(&self.cases[index]))
            .map(|index| (Reverse(part(&self.cases[index])), index))
            .collect();
        cases.sort_unstable();
        let mut before: BTreeMap<&str, usize> = BTreeMap::new();
        let mut ranked: Vec<_> = cases
            .into_iter()
            .map(|(part, index)| {
                let rank = before.entry(&self.cases[index].scenario).or_default();
                *rank += 1;
                (*rank, part, index)
            })
            .collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, _, index)| index).collect()
    }
}

impl Summary for Reach {}

/// Runs each case once on a kernel that counts lines.
pub struct ReachExperiment {
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// Sources and notes of the kernel.
    pub counted: PathBuf,
    /// A disk on which all workloads are built.
    pub disk: PathBuf,
}

impl Experiment for ReachExperiment {
    /// Index of the scenario, and of the case in it.
    type Unit = (usize, usize);
    type Detail = Reached;
    type Summary = Reach;

    fn key(&self, &(scenario, case): &Self::Unit) -> String {
        let scenario = &self.scenarios[scenario];
        format!("{}/{}", scenario.name, scenario.cases[case].name)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        let mut scenarios = self.scenarios.iter();
        scenarios.try_for_each(|scenario| scenarios::identify(scenario, identity))
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let groups = self.scenarios.iter().enumerate();
        let units = groups.flat_map(|(scenario, one)| {
            (0..one.cases.len()).map(move |case| vec![(scenario, case)])
        });
        Ok(units.collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[Self::Unit],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            let scenario = &self.scenarios[unit.0];
            match self.reached(session, scenario, &scenario.cases[unit.1]) {
                Ok(reached) => {
                    let lines: usize = reached.lines.values().map(|file| file.ran.len()).sum();
                    done(
                        unit,
                        Outcome::passed(format!("{lines} lines")),
                        Some(reached),
                    )?;
                }
                Err(stop) => {
                    if !stop.guest_usable {
                        session.abandon();
                    }
                    done(unit, stop.into(), None)?;
                }
            }
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<Reached>]) -> Reach {
        let mut cases: Vec<_> = findings
            .iter()
            .filter_map(|one| one.detail.clone())
            .collect();
        cases.sort_by_key(|one| one.ms);
        Reach { cases }
    }

    fn disk(&self) -> Option<&Path> {
        Some(&self.disk)
    }
}

impl ReachExperiment {
    fn reached(
        &self,
        session: &mut Session<'_>,
        scenario: &Scenario,
        case: &Case,
    ) -> Result<Reached, Abort> {
        let after = |error| Abort::guest(Phase::After, error);
        session.guest().map_err(Abort::session)?;
        session.running().before_checkpoint(Some(RESET.to_owned()));
        let mut timings = BTreeMap::new();
        let mut runner = runner(session, scenario, case, &mut timings);
        let began = Instant::now();
        let restarted = runner.restarted(RestartIn::Same)?;
        restarted.end?;
        let ms = began.elapsed().as_millis() as u64;
        let counts = coverage::fetch(session.running(), &self.counted).map_err(after)?;
        let lines = coverage::executed(&self.counted, &counts)
            .map_err(|e| Abort::failed(crate::abort::full(&e)))?;
        if lines.is_empty() {
            let why = "the guest's kernel does not count lines";
            return Err(Abort::new(Condition::RequestFailed, why));
        }
        Ok(Reached {
            scenario: scenario.name.clone(),
            case: case.name.clone(),
            ms,
            lines,
        })
    }
}

/// Returns a runner of a case whose workload is on the disk.
pub(super) fn runner<'s, 'l>(
    session: &'s mut Session<'l>,
    scenario: &'s Scenario,
    case: &'s Case,
    timings: &'s mut BTreeMap<String, u64>,
) -> Runner<'s, 'l> {
    Runner {
        session,
        stash: &scenario.name,
        case,
        backend: Backend::Crucible,
        timings,
        root: 0,
        patience: PATIENCE,
        missed: 0,
        any_point: false,
        supported: true,
        links: 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_mutants::{Half, Kind};

    fn mutant(line: u32, statement: (u32, u32)) -> Mutant {
        Mutant {
            id: "x".into(),
            number: 1,
            file: "a.c".into(),
            function: "f".into(),
            half: Half::Both,
            kind: Kind::LeftOut,
            line,
            statement,
            text: "g();".into(),
        }
    }

    fn reached(ms: u64, ran: &[u32], idle: &[u32]) -> Reached {
        let executed = Executed {
            ran: ran.iter().copied().collect(),
            idle: idle.iter().copied().collect(),
        };
        Reached {
            scenario: "s".into(),
            case: ms.to_string(),
            ms,
            lines: BTreeMap::from([("a.c".to_owned(), executed)]),
        }
    }

    #[test]
    fn the_quickest_case_of_each_scenario_comes_first() {
        let of = |scenario: &str, ms| Reached {
            scenario: scenario.into(),
            ..reached(ms, &[3], &[])
        };
        let reach = Reach {
            cases: vec![of("a", 1), of("a", 2), of("b", 3), of("a", 4), of("b", 5)],
        };
        assert_eq!(reach.of(&mutant(3, (3, 3))), [0, 2, 1, 4, 3]);
    }

    #[test]
    fn the_case_that_runs_the_most_of_the_source_comes_first() {
        let of = |scenario: &str, ms, ran: &[u32], idle: &[u32]| Reached {
            scenario: scenario.into(),
            ..reached(ms, ran, idle)
        };
        let reach = Reach {
            cases: vec![
                of("a", 1, &[3], &[4, 5, 6]),
                of("b", 2, &[3, 4], &[5, 6]),
                of("a", 3, &[3, 4, 5], &[6]),
                of("c", 4, &[4, 5, 6], &[3]),
            ],
        };
        assert_eq!(reach.of(&mutant(3, (3, 3))), [2, 1, 0]);
    }

    #[test]
    fn the_cases_of_a_line_are_found() {
        let reach = Reach {
            cases: vec![reached(1, &[3], &[4, 7]), reached(2, &[3, 4, 7], &[])],
        };
        assert_eq!(reach.of(&mutant(3, (3, 3))), [1, 0]);
        assert_eq!(reach.of(&mutant(4, (4, 4))), [1]);
        // Line 8 has no code, but its statement has, in line 7.
        assert_eq!(reach.of(&mutant(8, (7, 8))), [1]);
        // The statement of line 5 has no code: the code before it decides.
        assert_eq!(reach.of(&mutant(5, (5, 6))), [1]);
        assert_eq!(reach.of(&mutant(1, (1, 1))), [0; 0]);
        let other = Mutant {
            file: "b.c".into(),
            ..mutant(3, (3, 3))
        };
        assert_eq!(reach.of(&other), [0; 0]);
    }
}
