// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rows of the history.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A test, and the configuration that it runs in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TestId {
    /// The command and the key of the unit: `scenario vfork/main`.
    pub name: String,
    /// Backend, kernel flavour and machine: `crucible/base/qemu`.
    pub variant: String,
}

impl TestId {
    /// Returns true for a test of another program, such as CRIU, which runs for comparison: its
    /// failures are not the kernel's.
    pub fn is_comparison(&self) -> bool {
        !self.variant.starts_with("crucible/")
    }
}

impl std::fmt::Display for TestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.name, self.variant)
    }
}

/// A night: one plan, run by one or more shards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Night {
    /// Its name, which sorts by time: `2026-11-29`, or the user's own name.
    pub id: String,
    /// Hash of the plan and of the durations that it was made from. It is the same for all shards.
    pub plan: String,
    /// Number of shards.
    pub shards: u32,
}

/// A process that runs, or ran, a shard of a night. A restarted shard has several processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// The night.
    pub night: String,
    /// Number of the shard, from 1 on.
    pub number: u32,
    /// A name that no other process has.
    pub process: String,
    /// Time of the start, in RFC 3339.
    pub started: String,
    /// Time of the end, in RFC 3339; `None` if it was killed or still runs.
    pub finished: Option<String>,
    /// Hashes and versions of everything that ran, as JSON.
    pub provenance: String,
}

/// A test that a night is to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// The test.
    pub test: TestId,
    /// The shard that runs it.
    pub shard: u32,
}

/// A test that a night has planned and left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Skipped {
    /// The test.
    pub test: TestId,
    /// The reason.
    pub reason: String,
}

/// The search for the commit that made a test fail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bisection {
    /// The night in which the test began to fail.
    pub night: String,
    /// Signature of its failures.
    pub signature: String,
    /// The test.
    pub test: TestId,
    /// The commit of its last good night.
    pub good: String,
    /// The commit of the night.
    pub bad: String,
    /// The answer in one line.
    pub answer: String,
    /// Directory of the search, relative to the results directory.
    pub directory: String,
}

/// One run of a test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRow {
    /// The night.
    pub night: String,
    /// The test.
    pub test: TestId,
    /// Number of the run among the runs of this test in this night, from 1 on.
    pub attempt: u32,
    /// Time of the end, in RFC 3339.
    pub time: String,
    /// Duration in milliseconds.
    pub ms: u64,
    /// The condition that ended it, of the table of blame.
    pub condition: String,
    /// The verdict.
    pub verdict: String,
    /// The party at fault; empty if it passed.
    pub blame: String,
    /// The signature of its failure: the condition and the first diverging check or the report's
    /// site; empty if it passed.
    pub signature: String,
    /// Reason in one line.
    pub why: String,
    /// Hash of the kernel's inputs.
    pub kernel: String,
    /// Hash of the other inputs that change the number of instructions: machine, compiler, agent,
    /// userland.
    pub harness: String,
    /// Directory of the run, relative to the results directory; empty if it was not kept.
    pub directory: String,
    /// The measurements.
    pub metrics: Vec<Metric>,
}

/// A measurement of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Its name: `checkpoint`.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its unit: `ms`, `instructions`.
    pub unit: String,
}

impl ResultRow {
    /// Returns true for a result of the kernel: a pass, or a failure that the kernel is
    /// to blame for. A failure of the host, the workload or crucible is not one.
    pub fn counts(&self) -> bool {
        self.blame.is_empty() || self.is_failure()
    }

    /// Returns true when the kernel is to blame.
    pub fn is_failure(&self) -> bool {
        self.blame == "kernel" && self.verdict != "unknown"
    }

    /// Returns the name of the row, which is a hash of its content. The same row has the same name
    /// in every file.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        // A row has text and finite numbers only.
        hash.update(serde_json::to_vec(self).unwrap_or_default());
        let mut name = String::with_capacity(32);
        for byte in hash.finalize().iter().take(16) {
            name.push_str(&format!("{byte:02x}"));
        }
        name
    }
}
