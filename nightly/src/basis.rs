// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Data of earlier nights that a plan uses, as a file that all shards share.

use std::collections::{BTreeMap, BTreeSet};

use crucible_history::{Planned, ResultRow, Status, TestId, judge};
use serde::{Deserialize, Serialize};

/// Durations of jobs, and the number of their runs.
///
/// All shards of a night must use the same basis, or they would divide the work differently. So it
/// is a file that a person or the CI system pins, and its hash is a part of the plan's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Basis {
    /// Milliseconds that a job took, by its name and variant.
    pub durations: BTreeMap<String, u64>,
    /// For each job with a different part in each night, the number of nights in which it was run.
    pub turns: BTreeMap<String, u64>,
    /// The last night in which a job was run.
    pub last: BTreeMap<String, String>,
    /// Tests that failed or were flaky in their last night: one that passes now is run several
    /// times, to find out whether its rate is lower.
    pub suspects: BTreeSet<TestId>,
}

impl Basis {
    /// Returns the basis from results, whose tests begin with the names of jobs.
    pub fn of(results: &[ResultRow]) -> Self {
        let mut basis = Self::default();
        // For each job and night, the sum over its units.
        let mut sums: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for result in results.iter().filter(|it| it.attempt == 1) {
            let job = format!("{} [{}]", job_of(&result.test.name), result.test.variant);
            *sums.entry((job, &result.night)).or_default() += result.ms;
        }
        let mut by_job: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for ((job, night), ms) in sums {
            *basis.turns.entry(job.clone()).or_default() += 1;
            basis.last.insert(job.clone(), night.to_owned());
            by_job.entry(job).or_default().push(ms);
        }
        let nights: BTreeSet<_> = results.iter().map(|it| it.night.as_str()).collect();
        if let Some(last) = nights.last() {
            let tests: BTreeSet<_> = results.iter().map(|it| &it.test).collect();
            let planned = tests.into_iter().map(|test| Planned {
                test: test.clone(),
                shard: 1,
            });
            let judged = judge(last, &planned.collect::<Vec<_>>(), &[], results);
            let bad = judged
                .into_iter()
                .filter(|it| matches!(it.status, Status::Failing | Status::Flaky));
            basis.suspects = bad.map(|it| it.test).collect();
        }
        for (job, mut durations) in by_job {
            durations.sort_unstable();
            basis.durations.insert(job, durations[durations.len() / 2]);
        }
        basis
    }
}

/// Returns the job that a test belongs to: the name without its last parts.
fn job_of(test: &str) -> &str {
    test.split_once('/').map_or(test, |(job, _)| job)
}

#[cfg(test)]
mod tests {
    use crucible_history::TestId;

    use super::*;

    fn result(night: &str, test: &str, ms: u64) -> ResultRow {
        ResultRow {
            night: night.into(),
            test: TestId {
                name: test.into(),
                variant: "v".into(),
            },
            attempt: 1,
            time: String::new(),
            ms,
            condition: "passed".into(),
            verdict: "pass".into(),
            blame: String::new(),
            signature: String::new(),
            why: String::new(),
            kernel: String::new(),
            harness: String::new(),
            directory: String::new(),
            metrics: Vec::new(),
        }
    }

    #[test]
    fn a_jobs_duration_is_the_median_of_its_nights() {
        let mut results = Vec::new();
        for (night, ms) in [("1", 10), ("2", 30), ("3", 500)] {
            results.push(result(night, "scenario a/main", ms));
            results.push(result(night, "scenario a/other", 5));
        }
        results.push(ResultRow {
            attempt: 2,
            ..result("3", "scenario a/main", 10_000)
        });
        let basis = Basis::of(&results);
        assert_eq!(basis.durations["scenario a [v]"], 35);
        assert_eq!(basis.turns["scenario a [v]"], 3);
        assert_eq!(basis.last["scenario a [v]"], "3");
        assert!(basis.suspects.is_empty());
        let failed = ResultRow {
            verdict: "diverged".into(),
            blame: "kernel".into(),
            ..result("2", "scenario b/main", 1)
        };
        results.push(failed.clone());
        // It was not run in the last night.
        assert_eq!(Basis::of(&results).suspects, BTreeSet::from([failed.test]));
    }
}
