// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records: the machine-readable results of a run.

use std::collections::BTreeMap;

use crucible_protocol::{Observation, TaskFacts, image::diff};
use crucible_vmm::Description;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{compare::Check, eye::Eye, guest::GuestInfo, normalise::Uses, outcome::Outcome};

/// Version of the record format.
pub const SCHEMA: u32 = 4;

/// The record of a run, the same for all commands.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// The command: `scenario`, `sweep`, …
    pub command: String,
    /// The worst outcome of the run, which decides its exit code.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The exit code.
    pub exit_code: u8,
    /// Number of units by condition.
    pub counts: BTreeMap<String, u64>,
    /// Number of units that were not run.
    pub left: u64,
    /// The units, in the order of the plan.
    pub units: Vec<UnitRecord>,
    /// Keys of the units that `crucible rerun` has left out, because they passed before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// Failures of guests that no single unit is to blame for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<Outcome>,
    /// The summary of all units; its form depends on the command.
    pub summary: Value,
    /// Eyes that were closed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Eye>,
    /// Command that repeats the run.
    pub reproduce: String,
    /// Hashes and versions of everything that ran.
    pub provenance: Value,
    /// The guest, as its agent reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestInfo>,
    /// The first machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Description>,
    /// Milliseconds from the start of the first machine to its agent's first answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_ready_ms: Option<u64>,
    /// Directories of the guests' recordings, in the run's directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recordings: Vec<String>,
    /// Duration in milliseconds.
    pub ms: u64,
    /// Directory with the logs and the images.
    pub results: String,
}

/// A unit of a run.
#[derive(Clone, Debug, Serialize)]
pub struct UnitRecord {
    /// Key of the unit.
    pub key: String,
    /// Its outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Duration in milliseconds.
    pub ms: u64,
    /// Further data on the unit; its form depends on the command.
    #[serde(flatten)]
    pub detail: Value,
}

/// The result of a case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CaseRecord {
    /// Name of the scenario.
    pub scenario: String,
    /// Name of the case.
    pub name: String,
    /// Event at which it was stopped.
    pub at: String,
    /// Number of restarted runs requested.
    pub repeat: u32,
    /// Number of restarted runs that passed.
    pub passed: u32,
    /// Number of runs that were repeated because a task left the event before the tree
    /// quiesced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub missed: u32,
    /// The frozen tree of the last restarted run, at its checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenRecord>,
    /// All comparisons.
    pub checks: Vec<Check>,
    /// Number of uses of each rule.
    pub normalised: Uses,
    /// Number of uses of each rule for images.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_rules: BTreeMap<diff::Rule, u64>,
    /// Durations of the phases, in milliseconds.
    pub timings: BTreeMap<String, u64>,
    /// Path of the console log in the results directory.
    pub console: String,
    /// Paths of the files of the last restarted run in the results directory.
    pub files: Vec<String>,
    /// Part of the expected result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<String>,
    /// Version of CRIU, if it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub criu: Option<String>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A frozen container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FrozenRecord {
    /// Thread id of the triggering task; 0 for a timer.
    pub tid: i32,
    /// Count of the event when the tree was quiesced.
    pub count: u64,
    /// The tasks.
    pub tasks: Vec<TaskRecord>,
}

/// Identity and site of a task.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskRecord {
    /// Process id.
    pub pid: i32,
    /// Thread id.
    pub tid: i32,
    /// Process id of the parent.
    pub ppid: i32,
    /// Process group id.
    pub pgid: i32,
    /// Session id.
    pub sid: i32,
    /// Command name.
    pub comm: String,
    /// State letter, as in `/proc/PID/stat`.
    pub state: char,
    /// Site.
    pub site: String,
}

impl From<&TaskFacts> for TaskRecord {
    fn from(task: &TaskFacts) -> Self {
        Self {
            pid: task.pid,
            tid: task.tid,
            ppid: task.ppid,
            pgid: task.pgid,
            sid: task.sid,
            comm: task.comm.clone(),
            state: task.state,
            site: task.site.clone(),
        }
    }
}

impl FrozenRecord {
    /// Selects the recorded facts of a task.
    pub fn new(tid: i32, count: u64, tasks: &Observation) -> Self {
        Self {
            tid,
            count,
            tasks: tasks.tasks.iter().map(TaskRecord::from).collect(),
        }
    }
}
