// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is kept of a run: everything that was found out, and by what.

use std::collections::BTreeMap;

use crucible_protocol::{Observation, TaskFacts};
use crucible_vmm::Description;
use serde::Serialize;

use crate::{
    compare::Check, engine::Engine, guest::GuestInfo, normalise::Uses, run::RestartIn,
    verdict::Verdict,
};

/// Version of the records.
pub const SCHEMA: u32 = 2;

/// One scenario's result.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Its name.
    pub scenario: String,
    /// The worst of its cases.
    pub verdict: Verdict,
    /// The exit code that says so.
    pub exit_code: u8,
    /// One line.
    pub why: String,
    /// Case by case.
    pub cases: Vec<CaseRecord>,
    /// The comparison with the expected result; none where it does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Check>,
    /// The command that runs it again.
    pub reproduce: String,
    /// Who saved and restored.
    pub engine: Engine,
    /// Where it was restarted.
    pub restart_in: RestartIn,
    /// All that ran.
    pub versions: Versions,
    /// Milliseconds by phase.
    pub timings: BTreeMap<String, u64>,
    /// The directory with the logs and the image; empty until it is there.
    pub results: String,
}

/// What ran.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Versions {
    /// This program.
    pub crucible: String,
    /// What the face knows: hashes of the kernel and the disks.
    pub parts: BTreeMap<String, String>,
    /// The guest about itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestInfo>,
    /// The machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<Description>,
    /// CRIU, if it was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub criu: Option<String>,
}

/// One case's result.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CaseRecord {
    /// Its name.
    pub name: String,
    /// Where it was stopped.
    pub at: String,
    /// What it came to.
    pub verdict: Option<Verdict>,
    /// Why.
    pub why: String,
    /// Restarted runs asked for.
    pub repeat: u32,
    /// Restarted runs that passed.
    pub passed: u32,
    /// Runs that were begun again, since tasks had gone on from the event before they were at
    /// rest. Only with more than one CPU.
    #[serde(skip_serializing_if = "is_zero")]
    pub missed: u32,
    /// Who triggered, and what all tasks stood at, in the restarted run's checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frozen: Option<FrozenRecord>,
    /// Everything that was compared.
    pub checks: Vec<Check>,
    /// How often each rule of comparison was used.
    pub normalised: Uses,
    /// The kernel's report, a tool's log, task states: what belongs to the verdict.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// The console, below the results directory.
    pub console: String,
    /// Files of the last restarted run, below the results directory.
    pub files: Vec<String>,
    /// What goes into the expected result.
    #[serde(skip)]
    pub rendered: Option<String>,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A container at rest.
#[derive(Clone, Debug, Serialize)]
pub struct FrozenRecord {
    /// The triggering thread; 0 for a timer.
    pub tid: i32,
    /// How often the event had happened when all was at rest.
    pub count: u64,
    /// The tasks.
    pub tasks: Vec<TaskRecord>,
}

/// One task, in short.
#[derive(Clone, Debug, Serialize)]
pub struct TaskRecord {
    /// Process id.
    pub pid: i32,
    /// Thread id.
    pub tid: i32,
    /// Parent.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// Command name.
    pub comm: String,
    /// State letter.
    pub state: char,
    /// Where it stands.
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
    /// In short.
    pub fn new(tid: i32, count: u64, tasks: &Observation) -> Self {
        Self {
            tid,
            count,
            tasks: tasks.tasks.iter().map(TaskRecord::from).collect(),
        }
    }
}
