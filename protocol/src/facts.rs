// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of a container's tasks, as the guest observes it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The tasks of a frozen container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// All tasks, sorted by process ID and thread ID.
    pub tasks: Vec<TaskFacts>,
}

/// A task as `/proc` shows it. All IDs are those of the container's pid namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Process ID.
    pub pid: i32,
    /// Thread ID; equals `pid` for the leader.
    pub tid: i32,
    /// Process ID of the parent.
    pub ppid: i32,
    /// Process group ID.
    pub pgid: i32,
    /// Session ID.
    pub sid: i32,
    /// Command name.
    pub comm: String,
    /// State letter of `/proc/PID/stat`.
    pub state: char,
    /// The line of `/proc/PID/ckpt_site`; empty if the kernel lacks that file.
    pub site: String,
    /// All other facts by name: `status.SigBlk`, `fd/3.link`, `maps`, …
    pub facts: BTreeMap<String, String>,
}

/// How a freeze was triggered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// The thread that caused the event, by its ID in the container; 0 for a timer.
    pub tid: i32,
    /// The number of times that the event had occurred when the container was quiesced.
    pub count: u64,
}
