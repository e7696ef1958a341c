// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Divides the jobs of a night among its shards.

use sha2::{Digest, Sha256};

use crate::basis::Basis;
use crate::job::Job;

/// Assumed duration of a job, in milliseconds, if no job has a known duration.
const UNKNOWN: u64 = 20_000;

/// A plan of a night.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Number of shards.
    pub shards: u32,
    /// The jobs, each with its shard, counted from 1. The order is that in which they run.
    pub jobs: Vec<(Job, u32)>,
    /// Hash of jobs, durations and number of shards.
    pub hash: String,
}

impl Plan {
    /// Returns the jobs of a shard.
    pub fn of_shard(&self, shard: u32) -> impl Iterator<Item = &Job> {
        let of_shard = self.jobs.iter().filter(move |(_, of)| *of == shard);
        of_shard.map(|(job, _)| job)
    }
}

/// Divides jobs among shards, so that their durations are about equal: the longest job first, each
/// to the shard with the least work. The result depends on the arguments alone.
pub fn plan(jobs: Vec<Job>, basis: &Basis, shards: u32) -> Plan {
    let shards = shards.max(1);
    let mut known: Vec<_> = jobs
        .iter()
        .filter_map(|job| basis.durations.get(&job.key()).copied())
        .collect();
    known.sort_unstable();
    let usual = known.get(known.len() / 2).copied().unwrap_or(UNKNOWN);
    let duration = |job: &Job| basis.durations.get(&job.key()).copied().unwrap_or(usual);
    let mut order: Vec<_> = (0..jobs.len()).collect();
    order.sort_by_cached_key(|&at| (u64::MAX - duration(&jobs[at]), jobs[at].key()));
    let mut loads = vec![0; shards as usize];
    let mut shard_of = vec![1; jobs.len()];
    for at in order {
        let least = (0..loads.len()).min_by_key(|&shard| (loads[shard], shard));
        let least = least.unwrap_or_default();
        loads[least] += duration(&jobs[at]);
        shard_of[at] = least as u32 + 1;
    }
    let mut hash = Sha256::new();
    // Jobs and durations are text and numbers only.
    hash.update(serde_json::to_vec(&(&jobs, basis, shards)).unwrap_or_default());
    let hash = hash.finalize();
    let hash = hash.iter().take(8).map(|byte| format!("{byte:02x}"));
    Plan {
        shards,
        hash: hash.collect(),
        jobs: jobs.into_iter().zip(shard_of).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Offer, jobs};

    fn example() -> (Vec<Job>, Basis) {
        let scenarios = (0..40).map(|n| (format!("s{n}"), vec!["main".to_owned()]));
        let offer = Offer {
            scenarios: scenarios.collect(),
            machines: vec!["qemu".into()],
            canary: None,
        };
        let mut basis = Basis::default();
        let jobs = jobs(&offer, &basis);
        for (number, job) in jobs.iter().enumerate() {
            // From 0.5 to 60 seconds.
            let ms = 500 + (number as u64 * 7919) % 59_500;
            basis.durations.insert(job.key(), ms);
        }
        (jobs, basis)
    }

    #[test]
    fn shards_are_within_ten_percent_of_their_mean() {
        let (jobs, basis) = example();
        for shards in 1..=8 {
            let plan = plan(jobs.clone(), &basis, shards);
            let load = |shard| {
                let jobs = plan.of_shard(shard);
                jobs.map(|job| basis.durations[&job.key()]).sum::<u64>() as f64
            };
            let loads: Vec<_> = (1..=shards).map(load).collect();
            let mean = loads.iter().sum::<f64>() / f64::from(shards);
            assert!(
                loads.iter().all(|load| (load / mean - 1.0).abs() < 0.1),
                "{loads:?}"
            );
        }
    }

    #[test]
    fn each_job_has_one_shard_and_its_order() {
        let (jobs, basis) = example();
        let plan = plan(jobs.clone(), &basis, 3);
        let planned: Vec<_> = plan.jobs.iter().map(|(job, _)| job.clone()).collect();
        assert_eq!(planned, jobs);
        let sum: usize = (1..=3).map(|shard| plan.of_shard(shard).count()).sum();
        assert_eq!(sum, jobs.len());
    }

    #[test]
    fn the_hash_is_that_of_all_that_matters() {
        let (jobs, mut basis) = example();
        let one = plan(jobs.clone(), &basis, 2);
        assert_eq!(one, plan(jobs.clone(), &basis, 2));
        assert_ne!(one.hash, plan(jobs.clone(), &basis, 3).hash);
        assert_ne!(one.hash, plan(jobs[1..].to_vec(), &basis, 2).hash);
        basis.durations.insert("other".into(), 1);
        assert_ne!(one.hash, plan(jobs, &basis, 2).hash);
    }
}
