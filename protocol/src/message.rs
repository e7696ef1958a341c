// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests of the host and replies of the agent.
//!
//! The host asks, the agent answers, one at a time. Every wait carries its own
//! limit, and a limit that was reached is an answer, not an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bytes,
    facts::{Freeze, Observation},
    identity::{Begin, Identity},
    trigger::Trigger,
};

/// A message with the number that ties an answer to its question.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// Chosen by the host, repeated by the agent.
    pub id: u64,
    /// The message.
    pub body: T,
}

/// What the host asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// First message. Answered by [`Reply::Hello`].
    Hello {
        /// The host's [`crate::VERSION`].
        version: u32,
    },
    /// Before anything else that needs the guest's disks, and once: who this guest is.
    /// Until then it is as all guests of its kind are, so that its machine may be saved
    /// and started many times. [`Reply::Begun`].
    Begin(Begin),
    /// Empties `/work` and `/tmp`; then copies a kept tree to `/work`. [`Reply::Done`].
    Prepare {
        /// Name given to [`Request::Stash`], if the work directory is not to be empty.
        from: Option<String>,
    },
    /// Keeps a copy of `/work` for later [`Request::Prepare`]. [`Reply::Done`].
    Stash {
        /// Its name.
        name: String,
    },
    /// Runs a helper program outside any container to its end. [`Reply::Tool`].
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Added to the agent's environment.
        env: BTreeMap<String, String>,
        /// Working directory.
        cwd: String,
        /// Killed after this time.
        timeout_ms: u64,
    },
    /// Starts a workload in a container of its own, its trigger armed. [`Reply::Started`].
    Start {
        /// Name of its cgroup.
        run: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// The whole environment.
        env: BTreeMap<String, String>,
        /// Working directory.
        cwd: String,
        /// Where to freeze it.
        trigger: Option<Trigger>,
    },
    /// Waits until the container has frozen or ended. [`Reply::Stopped`].
    Wait {
        /// Name given to `Start` or `Restart`.
        run: String,
        /// Limit.
        timeout_ms: u64,
    },
    /// Reads the tasks of a container from `/proc`. [`Reply::Observed`].
    Observe {
        /// Which container.
        run: String,
    },
    /// Checkpoints a frozen container. [`Reply::Tool`].
    Checkpoint {
        /// Which container.
        run: String,
        /// Image file to write.
        image: String,
        /// Log file to write.
        log: String,
        /// Limit.
        timeout_ms: u64,
    },
    /// Kills all of a container and waits until nothing of it is left. [`Reply::Done`].
    Kill {
        /// Which container.
        run: String,
        /// Limit.
        timeout_ms: u64,
    },
    /// Restarts an image in a new container that stays frozen. [`Reply::Restarted`].
    Restart {
        /// Name of the new container.
        run: String,
        /// Image file to read.
        image: String,
        /// Log file to write.
        log: String,
        /// Limit.
        timeout_ms: u64,
    },
    /// Takes over a container that another tool made and froze, CRIU say. [`Reply::Done`].
    Adopt {
        /// Name of the cgroup, made by [`Request::Cgroup`].
        run: String,
        /// Its first process, in the agent's numbers, an orphan of the tool's. None: the
        /// tool failed; what it left can then be killed.
        pid: Option<i32>,
    },
    /// Makes an empty, thawed cgroup. [`Reply::Done`].
    Cgroup {
        /// Its name.
        run: String,
    },
    /// Arms a trigger for a frozen container, in place of the one that froze it.
    /// [`Reply::Done`].
    Arm {
        /// Which container.
        run: String,
        /// Where to freeze it next.
        trigger: Trigger,
    },
    /// Lets a frozen container go on. [`Reply::Done`].
    Thaw {
        /// Which container.
        run: String,
    },
    /// Lists a tree with hashes of its files. [`Reply::Files`].
    List {
        /// Directory.
        root: String,
        /// Names directly below it to leave out.
        exclude: Vec<String>,
    },
    /// Reads part of a file. [`Reply::Data`].
    ReadFile {
        /// Path.
        path: String,
        /// First byte.
        offset: u64,
        /// Most bytes to return; at most [`crate::frame::MAX_CHUNK`].
        length: usize,
    },
    /// Writes part of a file; offset 0 makes it anew. [`Reply::Done`].
    WriteFile {
        /// Path; its directories are made.
        path: String,
        /// First byte.
        offset: u64,
        /// Permissions.
        mode: u32,
        /// Content.
        #[serde(with = "bytes")]
        data: Vec<u8>,
    },
    /// Sets a test-only switch of the debug kernel. [`Reply::Done`].
    Break {
        /// Its name: `vfork-wait` is `checkpoint/break_vfork_wait` in debugfs.
        name: String,
    },
    /// Writes a key to `/proc/sysrq-trigger`; the answer goes to the console. [`Reply::Done`].
    Sysrq {
        /// The key.
        key: char,
    },
    /// Serves a login shell on the terminal port until it ends. [`Reply::Tool`].
    Terminal {
        /// Name of the virtio port.
        port: String,
        /// Lines of the user's terminal.
        rows: u16,
        /// Columns of the user's terminal.
        columns: u16,
        /// The user's `TERM`.
        term: String,
    },
    /// Writes everything to the disks. [`Reply::Done`].
    Sync,
    /// Syncs and powers off. [`Reply::Done`] comes first.
    Shutdown,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// Who is there.
    Hello {
        /// The agent's [`crate::VERSION`].
        version: u32,
        /// `uname -r`.
        kernel: String,
        /// `uname -v`.
        build: String,
        /// Whether the kernel has `checkpoint(2)` and `cgroup.freeze_at`.
        checkpoint: bool,
        /// Milliseconds since the kernel's boot.
        uptime_ms: u64,
    },
    /// This guest is one of its own.
    Begun(Identity),
    /// It is done.
    Done,
    /// A container runs.
    Started {
        /// Its init, in the agent's numbers.
        pid: i32,
    },
    /// A container stopped, or did not.
    Stopped(Stopped),
    /// The tasks of a container.
    Observed(Observation),
    /// A tool came to its end.
    Tool(ToolRun),
    /// The outcome of a restart.
    Restarted {
        /// The new root, in the agent's numbers; none if it was refused.
        pid: Option<i32>,
        /// How the tool ended, where it did.
        tool: Option<ToolRun>,
    },
    /// A listing.
    Files {
        /// Sorted by path.
        entries: Vec<FileEntry>,
    },
    /// Part of a file.
    Data {
        /// Content.
        #[serde(with = "bytes")]
        data: Vec<u8>,
        /// Whether the file ends with it.
        end: bool,
    },
    /// The request failed.
    Failed {
        /// Why, and what to do about it.
        message: String,
    },
}

/// Why a wait came back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Stopped {
    /// The trigger fired and all tasks are at rest.
    Frozen(Freeze),
    /// The container's init is gone.
    Exited {
        /// What the container's first process returned, and to its parent.
        root: Option<Ended>,
        /// What init wrote down of the workload before that; none if it wrote nothing.
        workload: Option<Ended>,
        /// How often the trigger's event had happened, if one was armed.
        count: Option<u64>,
    },
    /// The limit was reached.
    Timeout {
        /// The trigger had fired, but the tasks did not come to rest.
        fired: bool,
        /// How often the event had happened by then.
        count: Option<u64>,
        /// The tasks that were not at rest once it had fired, each with its place and who can
        /// end that.
        stuck: Vec<String>,
    },
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Ended {
    /// By itself.
    Exited {
        /// Status.
        code: i32,
    },
    /// By a signal.
    Signaled {
        /// Which.
        signal: i32,
    },
}

impl Ended {
    /// As a line of the status file.
    pub fn to_line(self) -> String {
        match self {
            Self::Exited { code } => format!("exited {code}\n"),
            Self::Signaled { signal } => format!("signaled {signal}\n"),
        }
    }

    /// From a whole line of the status file; half a line is none.
    pub fn from_line(line: &str) -> Option<Self> {
        let (how, number) = line.strip_suffix('\n')?.split_once(' ')?;
        let number = number.parse().ok()?;
        match how {
            "exited" => Some(Self::Exited { code: number }),
            "signaled" => Some(Self::Signaled { signal: number }),
            _ => None,
        }
    }

    /// The status a shell would give: 128 and the signal's number for a signal.
    pub fn shell_status(self) -> i32 {
        match self {
            Self::Exited { code } => code,
            Self::Signaled { signal } => 128 + signal,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited { code } => write!(f, "exit status {code}"),
            Self::Signaled { signal } => write!(f, "killed by signal {signal}"),
        }
    }
}

/// A tool's end and what it said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRun {
    /// None: it was killed at its limit.
    pub ended: Option<Ended>,
    /// Standard output, bytes that are not UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// How long it took.
    pub ms: u64,
}

impl ToolRun {
    /// Whether it exited with status 0.
    pub fn success(&self) -> bool {
        self.ended == Some(Ended::Exited { code: 0 })
    }
}

/// One file of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Relative to the listing's root.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// What it is, with its content.
    #[serde(flatten)]
    pub kind: FileKind,
}

/// Kinds of files, and what they hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FileKind {
    /// Regular file.
    File {
        /// Bytes.
        size: u64,
        /// Hex of its content's hash.
        sha256: String,
    },
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink {
        /// Where it points.
        target: String,
    },
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Device.
    Device,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_survives_the_trip() {
        for ended in [Ended::Exited { code: 3 }, Ended::Signaled { signal: 9 }] {
            assert_eq!(Ended::from_line(&ended.to_line()), Some(ended));
        }
    }

    #[test]
    fn half_a_status_line_is_no_status() {
        assert_eq!(Ended::from_line("exited 1"), None);
        assert_eq!(Ended::from_line(""), None);
        assert_eq!(Ended::from_line("exited \n"), None);
    }

    #[test]
    fn a_request_survives_the_trip() {
        let request = Request::WriteFile {
            path: "/work/a".into(),
            offset: 0,
            mode: 0o644,
            data: vec![0, 255, 7],
        };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
    }
}
