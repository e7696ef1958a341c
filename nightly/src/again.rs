// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Selects the jobs of a night that `crucible rerun` runs again.

use std::collections::BTreeSet;

use crucible_history::{Error, Store, TestId};

use crate::job::{Job, Kind};

/// Returns the keys of the jobs with a test that failed or never ran in a night. With `whole`, the
/// night was to run all jobs, including those whose tests were not known beforehand.
///
/// # Errors
/// The history cannot be read.
pub fn unfinished(
    jobs: &[Job],
    history: &Store,
    night: &str,
    whole: bool,
) -> Result<Vec<String>, Error> {
    let results = history.results(Some(night))?;
    let ran: BTreeSet<&TestId> = results
        .iter()
        .filter(|row| row.counts())
        .map(|row| &row.test)
        .collect();
    let mut open: BTreeSet<TestId> = results
        .iter()
        .filter(|row| !row.counts() || row.is_failure())
        .map(|row| row.test.clone())
        .collect();
    let planned = history.planned(night)?.into_iter().map(|it| it.test);
    let skipped = history.skipped(night)?.into_iter().map(|it| it.test);
    open.extend(planned.chain(skipped).filter(|test| !ran.contains(test)));
    let is_open = |job: &Job| {
        let of_job = |test: &TestId| {
            test.variant == job.variant.to_string()
                && test.name.strip_prefix(&job.name).is_some_and(|rest| {
                    // A scenario's name may be the prefix of another name.
                    rest.is_empty() || rest.starts_with('/')
                })
        };
        let nothing = job.kind == Kind::Part && !results.iter().any(|row| of_job(&row.test));
        open.iter().any(of_job) || whole && nothing
    };
    Ok(jobs
        .iter()
        .filter(|job| is_open(job))
        .map(Job::key)
        .collect())
}

#[cfg(test)]
mod tests {
    use crucible_history::{Night, Planned, ResultRow};

    use super::*;
    use crate::basis::Basis;
    use crate::job::{Offer, jobs};

    #[test]
    fn what_failed_or_never_ran_is_run_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut history = Store::open(&directory.path().join("history.sqlite")).unwrap();
        let offer = Offer {
            scenarios: ["a", "ab", "b", "c"]
                .map(|name| (name.to_owned(), vec!["main".to_owned()]))
                .into(),
            machines: vec!["qemu".into()],
            canary: None,
        };
        let mut all = jobs(&offer, &Basis::default());
        all.retain(|job| job.variant.to_string() == "crucible/base/qemu");
        let night = Night {
            id: "n1".into(),
            plan: "p".into(),
            shards: 1,
        };
        let tests = all.iter().flat_map(|job| job.tests.clone());
        let planned: Vec<_> = tests.map(|test| Planned { test, shard: 1 }).collect();
        history.plan(&night, &planned).unwrap();
        let row = |name: &str, verdict: &str, blame: &str| ResultRow {
            night: "n1".into(),
            test: TestId {
                name: name.into(),
                variant: "crucible/base/qemu".into(),
            },
            attempt: 1,
            time: String::new(),
            ms: 1,
            condition: String::new(),
            verdict: verdict.into(),
            blame: blame.into(),
            signature: String::new(),
            why: String::new(),
            kernel: String::new(),
            harness: String::new(),
            directory: String::new(),
            metrics: Vec::new(),
        };
        for row in [
            row("scenario a/main", "pass", ""),
            row("scenario ab/main", "diverged", "kernel"),
            // The failure was the host's.
            row("scenario b/main", "unknown", "host"),
            row("sweep a/main/1:vfork:2", "pass", ""),
            row("sweep b/main/1:vfork:2", "diverged", "kernel"),
        ] {
            history.add(&row).unwrap();
        }
        let again = |whole| unfinished(&all, &history, "n1", whole).unwrap();
        let keys = ["scenario ab", "scenario b", "scenario c", "sweep b"];
        assert_eq!(
            again(false),
            keys.map(|key| format!("{key} [crucible/base/qemu]"))
        );
        let all = again(true);
        assert!(all.iter().any(|key| key.starts_with("torture")), "{all:?}");
        assert!(all.iter().any(|key| key.starts_with("sweep c ")), "{all:?}");
        assert!(
            !all.iter().any(|key| key.starts_with("sweep a ")),
            "{all:?}"
        );
    }
}
