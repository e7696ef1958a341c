// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records: the machine-readable results of a run.

use std::collections::BTreeMap;

use crucible_protocol::{Observation, TaskFacts};
use crucible_vmm::Description;
use serde::Serialize;

use crate::{
    backend::Backend, compare::Check, guest::GuestInfo, normalise::Uses, run::RestartIn,
    verdict::Verdict,
};

/// Version of the record format.
pub const SCHEMA: u32 = 3;

/// The result of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioRecord {
    /// Version of the format, [`SCHEMA`].
    pub schema: u32,
    /// Name.
    pub scenario: String,
    /// Verdict of the scenario: the worst verdict of its cases; if all pass, the result of the
    /// comparison with the expected result.
    pub verdict: Verdict,
    /// Exit code of that verdict.
    pub exit_code: u8,
    /// Reason for the verdict, in one line.
    pub why: String,
    /// Results of the cases.
    pub cases: Vec<CaseRecord>,
    /// The comparison with the expected result; `None` if it does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Check>,
    /// Command that repeats the run.
    pub reproduce: String,
    /// Implementation of checkpoint and restart.
    pub backend: Backend,
    /// Machine in which it was restarted.
    pub restart_in: RestartIn,
    /// Versions of everything that ran.
    pub versions: Versions,
    /// Durations of the phases, in milliseconds.
    pub timings: BTreeMap<String, u64>,
    /// Directory with the logs and the image; empty until it is complete.
    pub results: String,
}

/// Versions of everything that ran.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Versions {
    /// Version of this program.
    pub crucible: String,
    /// Hashes of the kernel and the disks.
    pub parts: BTreeMap<String, String>,
    /// The guest, as its agent reports it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestInfo>,
    /// The machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Description>,
    /// Version of CRIU, if it was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criu: Option<String>,
}

/// The result of a case.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CaseRecord {
    /// Name.
    pub name: String,
    /// Event at which it was stopped.
    pub at: String,
    /// The verdict.
    pub verdict: Option<Verdict>,
    /// Reason for the verdict.
    pub why: String,
    /// Number of restarted runs requested.
    pub repeat: u32,
    /// Number of restarted runs that passed.
    pub passed: u32,
    /// Number of runs that were repeated because a task left the event before the tree
    /// quiesced. Only with more than one vCPU.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed: u32,
    /// The frozen tree of the last restarted run, at its checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenRecord>,
    /// All comparisons.
    pub checks: Vec<Check>,
    /// Number of uses of each rule.
    pub normalised: Uses,
    /// Lines that belong to the verdict: a kernel report, a tool's log, task states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// Path of the console log in the results directory.
    pub console: String,
    /// Paths of the files of the last restarted run in the results directory.
    pub files: Vec<String>,
    /// Part of the expected result.
    #[serde(skip)]
    pub rendered: Option<String>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A frozen container.
#[derive(Clone, Debug, Serialize)]
pub struct FrozenRecord {
    /// Thread id of the triggering task; 0 for a timer.
    pub tid: i32,
    /// Count of the event when the tree had quiesced.
    pub count: u64,
    /// The tasks.
    pub tasks: Vec<TaskRecord>,
}

/// Identity and site of a task.
#[derive(Clone, Debug, Serialize)]
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
