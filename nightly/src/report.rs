// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report of a night, and the condition that decides its exit code.

use std::collections::BTreeSet;

use crucible_engine::Condition;
use crucible_history::{
    Bisection, Change, Error, Judgement, ResultRow, Slower, Store, judge, slower,
};
use serde::Serialize;

/// The report of a night.
#[derive(Clone, Debug, Serialize)]
pub struct NightReport {
    /// Name of the night.
    pub night: String,
    /// The condition that decides.
    pub condition: Condition,
    /// Reason in one line.
    pub why: String,
    /// Number of tests that the plan names.
    pub planned: usize,
    /// Number of tests with a run that passed or found the kernel at fault.
    pub ran: usize,
    /// Number of results.
    pub runs: usize,
    /// Shards that have no results, or have not ended.
    pub missing_shards: Vec<u32>,
    /// All tests, those with the most important changes first.
    pub tests: Vec<Judgement>,
    /// The bisections of the signatures of this night's failures.
    pub bisections: Vec<Bisection>,
    /// Phases that take more guest instructions than in the nights before.
    pub slower: Vec<Slower>,
}

impl NightReport {
    /// Judges a night of a history. `shard` is the only expected shard, if not all are.
    ///
    /// # Errors
    /// Fails if the history cannot be read.
    pub fn of(store: &Store, night: &str, shard: Option<u32>) -> Result<Self, Error> {
        Self::with(store, night, shard, &store.results(None)?)
    }

    /// Like [`NightReport::of`], with all results of the history.
    ///
    /// # Errors
    /// Fails if the history cannot be read.
    pub fn with(
        store: &Store,
        night: &str,
        shard: Option<u32>,
        results: &[ResultRow],
    ) -> Result<Self, Error> {
        let shards = store.nights()?.into_iter().find(|it| it.id == night);
        let shards = shards.map_or(0, |it| it.shards);
        let mut planned = store.planned(night)?;
        planned.retain(|it| shard.is_none_or(|shard| it.shard == shard));
        let tests = judge(night, &planned, &store.skipped(night)?, results);
        let runs: Vec<_> = results.iter().filter(|it| it.night == night).collect();
        let finished: BTreeSet<_> = store
            .shards(night)?
            .into_iter()
            .filter(|it| it.finished.is_some())
            .map(|it| it.number)
            .collect();
        let expected = shard.map_or((1..=shards).collect(), |shard| vec![shard]);
        let missing = expected.into_iter().filter(|it| !finished.contains(it));
        let ran = tests.iter().filter(|test| test.change != Change::NotRun);
        let mut report = Self {
            night: night.to_owned(),
            condition: Condition::Passed,
            why: String::new(),
            planned: planned.len(),
            ran: ran.count(),
            runs: runs.len(),
            missing_shards: missing.collect(),
            tests,
            bisections: store.bisections()?,
            slower: slower(night, results),
        };
        let seen = |found: &Bisection| {
            let mut bad = report.tests.iter().filter(|test| test.change.is_bad());
            found.night.as_str() <= night && bad.any(|test| test.why == found.signature)
        };
        report.bisections = report
            .bisections
            .iter()
            .filter(|it| seen(it))
            .cloned()
            .collect();
        (report.condition, report.why) = report.decide(&runs);
        Ok(report)
    }

    /// Returns the verdict.
    pub fn verdict(&self) -> &'static str {
        self.condition.verdict().name()
    }

    /// Returns the number of crucible's own tests with one of these changes. Failures of another
    /// backend are shown, but do not affect the verdict.
    fn count(&self, changes: &[Change]) -> usize {
        // A flaky test that passes tonight is not a finding of tonight.
        let seen = |test: &&Judgement| !test.change.is_bad() || test.failures > 0;
        let tests = self.tests.iter().filter(seen);
        let ours = tests.filter(|test| !test.test.is_comparison());
        ours.filter(|test| changes.contains(&test.change)).count()
    }

    fn decide(&self, runs: &[&ResultRow]) -> (Condition, String) {
        let [new, flaky] = [Change::Regressed, Change::TurnedFlaky].map(|it| self.count(&[it]));
        let still = self.count(&[Change::StillFailing, Change::StillFlaky]);
        if new + flaky + still > 0 {
            let failures = runs
                .iter()
                .filter(|run| run.is_failure() && !run.test.is_comparison());
            let conditions = failures.filter_map(|run| condition(&run.condition));
            let worst = Condition::of_all(conditions);
            let why = format!("{new} regressed, {flaky} turned flaky, {still} fail as before");
            return (worst, why);
        }
        // The test has only results that do not count, or could not be run.
        let unanswered = |test: &&Judgement| {
            test.change == Change::NotRun
                && !test.directory.is_empty()
                && !test.test.is_comparison()
        };
        let canary = |test: &&Judgement| test.test.name.starts_with("canary");
        if let Some(blind) = self.tests.iter().filter(canary).find(unanswered) {
            return (Condition::RequestFailed, blind.why.clone());
        }
        if self.ran == 0 {
            return (Condition::RequestFailed, "nothing ran".into());
        }
        if !self.missing_shards.is_empty() {
            return (Condition::RequestFailed, "the night is not complete".into());
        }
        let trouble = self.tests.iter().filter(unanswered).count();
        if trouble > 0 {
            let why = format!("{trouble} tests have no answer");
            return (Condition::RequestFailed, why);
        }
        let why = match self.ran < self.planned {
            true => format!("all that ran pass: {} of {} tests", self.ran, self.planned),
            false => format!("all {} tests pass", self.planned),
        };
        (Condition::Passed, why)
    }
}

/// Returns the condition with this name.
fn condition(name: &str) -> Option<Condition> {
    Condition::ALL.iter().copied().find(|it| it.name() == name)
}

#[cfg(test)]
mod tests {
    use crucible_history::{Night, Planned, Shard, Skipped, TestId};

    use super::*;

    struct History {
        _directory: tempfile::TempDir,
        store: Store,
    }

    fn test(name: &str, variant: &str) -> TestId {
        TestId {
            name: name.into(),
            variant: variant.into(),
        }
    }

    const OURS: &str = "crucible/base/qemu";

    impl History {
        fn new(tests: &[TestId], shards: u32) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let mut store = Store::open(&directory.path().join("h.sqlite")).unwrap();
            let night = Night {
                id: "n".into(),
                plan: "p".into(),
                shards,
            };
            let planned = tests.iter().map(|test| Planned {
                test: test.clone(),
                shard: 1,
            });
            store.plan(&night, &planned.collect::<Vec<_>>()).unwrap();
            let shard = Shard {
                night: "n".into(),
                number: 1,
                process: "p".into(),
                started: String::new(),
                finished: Some(String::new()),
                provenance: "{}".into(),
            };
            store.shard(&shard).unwrap();
            Self {
                _directory: directory,
                store,
            }
        }

        fn add(&mut self, test: &TestId, name: &str) {
            let condition = condition(name).unwrap();
            let row = ResultRow {
                night: "n".into(),
                test: test.clone(),
                attempt: 1,
                time: String::new(),
                ms: 1,
                condition: name.into(),
                verdict: condition.verdict().name().into(),
                blame: condition.blame().map_or("", |it| it.name()).into(),
                signature: name.into(),
                why: "why".into(),
                kernel: String::new(),
                harness: String::new(),
                directory: if condition.exit_code() == 0 {
                    ""
                } else {
                    "runs/x"
                }
                .into(),
                metrics: Vec::new(),
            };
            self.store.add(&row).unwrap();
        }

        fn decides(&self) -> (Condition, String) {
            let report = NightReport::of(&self.store, "n", None).unwrap();
            (report.condition, report.why)
        }
    }

    #[test]
    fn a_night_in_which_nothing_ran_is_not_good() {
        let one = test("scenario a/main", OURS);
        let mut history = History::new(std::slice::from_ref(&one), 1);
        assert_eq!(
            history.decides(),
            (Condition::RequestFailed, "nothing ran".into())
        );
        history.add(&one, "passed");
        assert_eq!(history.decides().0, Condition::Passed);
        assert_eq!(
            NightReport::of(&history.store, "other", None).unwrap().why,
            "nothing ran"
        );
    }

    #[test]
    fn a_canary_that_passes_is_not_good() {
        let canary = test("canary", OURS);
        let one = test("scenario a/main", OURS);
        let mut history = History::new(&[canary.clone(), one.clone()], 1);
        history.add(&one, "passed");
        history.add(&canary, "request-failed");
        let (condition, why) = history.decides();
        assert_eq!(condition, Condition::RequestFailed);
        assert!(why.contains("why"), "{why}");
    }

    #[test]
    fn a_missing_shard_makes_a_night_incomplete() {
        let one = test("scenario a/main", OURS);
        let mut history = History::new(std::slice::from_ref(&one), 2);
        history.add(&one, "passed");
        let report = NightReport::of(&history.store, "n", None).unwrap();
        assert_eq!(report.missing_shards, [2]);
        assert_eq!(report.why, "the night is not complete");
        assert_eq!(report.condition.exit_code(), 125);
        // A shard alone is.
        let report = NightReport::of(&history.store, "n", Some(1)).unwrap();
        assert_eq!(report.condition, Condition::Passed);
        // A finding still counts.
        history.add(&one, "diverged");
        assert_eq!(history.decides().0, Condition::Diverged);
    }

    #[test]
    fn trouble_of_the_host_is_no_pass_and_a_budget_is_no_trouble() {
        let tests = [test("scenario a/main", OURS), test("scenario b/main", OURS)];
        let mut history = History::new(&tests, 1);
        history.add(&tests[0], "passed");
        let skipped = Skipped {
            test: tests[1].clone(),
            reason: "the night's budget was used up".into(),
        };
        history.store.skip("n", &skipped).unwrap();
        let (condition, why) = history.decides();
        assert_eq!(condition, Condition::Passed);
        assert!(why.contains("1 of 2"), "{why}");
        history.add(&tests[1], "host-killed");
        assert_eq!(history.decides().0.exit_code(), 125);
    }

    #[test]
    fn what_was_flaky_and_passes_tonight_is_no_finding() {
        let one = test("scenario a/main", OURS);
        let mut history = History::new(std::slice::from_ref(&one), 1);
        let mut earlier = |night: &str, name: &str| {
            let condition = condition(name).unwrap();
            let row = ResultRow {
                night: night.into(),
                test: one.clone(),
                attempt: 1,
                time: String::new(),
                ms: 1,
                condition: name.into(),
                verdict: condition.verdict().name().into(),
                blame: condition.blame().map_or("", |it| it.name()).into(),
                signature: name.into(),
                why: String::new(),
                kernel: String::new(),
                harness: String::new(),
                directory: String::new(),
                metrics: Vec::new(),
            };
            history.store.add(&row).unwrap();
        };
        earlier("l", "passed");
        earlier("m", "diverged");
        earlier("n", "passed");
        let report = NightReport::of(&history.store, "n", None).unwrap();
        assert_eq!(report.tests[0].change, Change::StillFlaky);
        assert_eq!(report.condition, Condition::Passed);
        let report = NightReport::of(&history.store, "m", None).unwrap();
        assert_eq!(report.condition, Condition::Diverged);
    }

    #[test]
    fn what_criu_cannot_do_decides_nothing() {
        let tests = [
            test("scenario a/main", OURS),
            test("scenario a/main", "criu/base/qemu"),
        ];
        let mut history = History::new(&tests, 1);
        history.add(&tests[0], "passed");
        history.add(&tests[1], "refused");
        assert_eq!(history.decides().0, Condition::Passed);
        history.add(&tests[0], "kernel-report");
        assert_eq!(history.decides().0, Condition::KernelReport);
    }
}
