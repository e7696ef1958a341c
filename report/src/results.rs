// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runs of each test of a night, for all formats that other programs read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crucible_engine::Condition;
use crucible_engine::outcome::Outcome;
use crucible_history::{Error, ResultRow, Shard, Store, TestId};
use crucible_nightly::BUDGET_USED_UP;

use crate::evidence;

/// The results of a night.
#[derive(Clone, Debug)]
pub struct NightResults {
    /// Name of the night.
    pub night: String,
    /// Hash of its plan.
    pub plan: String,
    /// The processes that ran it.
    pub shards: Vec<Shard>,
    /// Its tests, in their order.
    pub tests: Vec<TestResult>,
}

/// The results of a test.
#[derive(Clone, Debug)]
pub struct TestResult {
    /// The test.
    pub test: TestId,
    /// The combined result of its runs: one failure decides, however many runs pass.
    pub outcome: Outcome,
    /// The runs.
    pub runs: Vec<ResultRow>,
}

impl NightResults {
    /// Reads a night of a history. `directory` is the directory of all results, which has the lines
    /// of failures.
    ///
    /// # Errors
    /// Fails if the history cannot be read.
    pub fn of(store: &Store, night: &str, directory: &Path) -> Result<Self, Error> {
        let nights = store.nights()?;
        let plan = nights.into_iter().find(|it| it.id == night);
        let mut runs: BTreeMap<TestId, Vec<ResultRow>> = BTreeMap::new();
        for run in store.results(Some(night))? {
            runs.entry(run.test.clone()).or_default().push(run);
        }
        for planned in store.planned(night)? {
            runs.entry(planned.test).or_default();
        }
        let skipped = store.skipped(night)?;
        let beyond = skipped.iter().filter(|it| it.reason == BUDGET_USED_UP);
        let beyond: BTreeSet<_> = beyond.map(|it| &it.test).collect();
        let reasons: BTreeMap<_, _> = skipped.iter().map(|it| (&it.test, &it.reason)).collect();
        let tests = runs.into_iter().map(|(test, runs)| {
            let outcome = match runs.is_empty() {
                true if beyond.contains(&test) => {
                    Outcome::new(Condition::NotApplicable, BUDGET_USED_UP)
                }
                true => {
                    let why = reasons.get(&test).map_or("it has no result", |it| it);
                    Outcome::new(Condition::RequestFailed, why)
                }
                false => together(&runs, directory),
            };
            TestResult {
                test,
                outcome,
                runs,
            }
        });
        Ok(Self {
            night: night.to_owned(),
            plan: plan.map_or(String::new(), |it| it.plan),
            shards: store.shards(night)?,
            tests: tests.collect(),
        })
    }
}

/// Returns the combined outcome of several runs.
fn together(runs: &[ResultRow], directory: &Path) -> Outcome {
    let failures = runs.iter().filter(|run| run.is_failure()).count();
    let counted = runs.iter().filter(|run| run.counts()).count();
    let failed = runs.iter().find(|run| run.is_failure());
    let passed = runs.iter().find(|run| run.blame.is_empty());
    let Some(run) = failed.or(passed).or(runs.last()) else {
        return Outcome::new(Condition::RequestFailed, "it has no result");
    };
    let why = match failures < counted && failures > 0 {
        true => format!("{failures} of {counted} runs failed: {}", run.why),
        false => run.why.clone(),
    };
    let mut outcome = Outcome::new(condition(&run.condition), why);
    if !outcome.is_pass() {
        let found = evidence::find(directory, &run.directory, &run.test.name);
        let lines = found.map(|found| found.lines).unwrap_or_default();
        outcome.lines = lines.lines().map(str::to_owned).collect();
    }
    outcome
}

/// Returns the condition with this name; a later crucible may have others.
fn condition(name: &str) -> Condition {
    let mut all = Condition::ALL.iter().copied();
    all.find(|it| it.name() == name)
        .unwrap_or(Condition::RequestFailed)
}
