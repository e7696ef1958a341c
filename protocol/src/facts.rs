// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest shows of a container's tasks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A frozen container, task by task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// All tasks, by process id and then thread id.
    pub tasks: Vec<TaskFacts>,
}

/// One task as `/proc` shows it. All numbers are those of the container's pid namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Process id.
    pub pid: i32,
    /// Thread id; equals `pid` for the leader.
    pub tid: i32,
    /// Parent's process id.
    pub ppid: i32,
    /// Process group.
    pub pgid: i32,
    /// Session.
    pub sid: i32,
    /// Command name.
    pub comm: String,
    /// State letter of `/proc/PID/stat`.
    pub state: char,
    /// The line of `/proc/PID/ckpt_site`; empty where the kernel has none.
    pub site: String,
    /// Everything else, one name each: `status.SigBlk`, `fd/3.link`, `maps`, …
    pub facts: BTreeMap<String, String>,
}

/// How the freeze came about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Thread that caused the event, in the container's numbers; 0 for a timer.
    pub tid: i32,
    /// How often the event had happened when the container had come to rest.
    pub count: u64,
}
