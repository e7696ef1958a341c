// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests of the host and replies of the agent.
//!
//! The host sends one request at a time, and the agent replies to it. Every wait has its own time
//! limit, and reaching that limit is a normal reply, not an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    bytes,
    facts::{Freeze, Observation},
    identity::{Begin, Identity},
    image::diff::Comparison,
    trigger::Trigger,
};

/// A message with the number that links a reply to its request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// The number, chosen by the host and repeated by the agent.
    pub id: u64,
    /// The message.
    pub body: T,
}

/// A request of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// The first message, which opens the conversation. Answered by [`Reply::Hello`].
    Hello {
        /// The host's [`crate::VERSION`].
        version: u32,
    },
    /// Gives this guest its identity. Sent once, before any request that needs the guest's disks.
    /// Until then all guests of its configuration are identical, so that the machine can be saved
    /// and started many times. Answered by [`Reply::Begun`].
    Begin(Begin),
    /// Prints [`crate::CONSOLE_MARK`] and the token on the console through the kernel's log, after
    /// all that the kernel has printed before. [`Reply::Done`].
    Mark {
        /// A token that is in no earlier mark.
        token: String,
    },
    /// Measures the present speed of the guest's CPU. [`Reply::Calibrated`].
    Calibrate,
    /// Empties `/work` and `/tmp`, and copies a stashed tree to `/work`. [`Reply::Done`].
    Prepare {
        /// The name of a [`Request::Stash`] to copy; `None` for an empty work directory.
        from: Option<String>,
    },
    /// Keeps a copy of `/work` for a later [`Request::Prepare`]. [`Reply::Done`].
    Stash {
        /// The name of the copy.
        name: String,
    },
    /// Runs a helper program outside any container, and waits for its end. [`Reply::Tool`].
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// Variables to add to the agent's environment.
        env: BTreeMap<String, String>,
        /// Working directory.
        cwd: String,
        /// Time in milliseconds after which it is killed.
        timeout_ms: u64,
    },
    /// Starts a workload in a new container with an armed trigger. [`Reply::Started`].
    Start {
        /// Name of the container's cgroup.
        run: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// The complete environment.
        env: BTreeMap<String, String>,
        /// Working directory.
        cwd: String,
        /// The event at which to freeze it; `None` to let it run to its end.
        trigger: Option<Trigger>,
    },
    /// Waits until the container has frozen or ended. [`Reply::Stopped`].
    Wait {
        /// Name given to `Start` or `Restart`.
        run: String,
        /// Time limit in milliseconds.
        timeout_ms: u64,
    },
    /// Reads the tasks of a container from `/proc`. [`Reply::Observed`].
    Observe {
        /// Name of the container.
        run: String,
    },
    /// Checkpoints a frozen container. [`Reply::Tool`].
    Checkpoint {
        /// Name of the container.
        run: String,
        /// Path of the image file to write.
        image: String,
        /// Path of the log file to write.
        log: String,
        /// Time limit in milliseconds.
        timeout_ms: u64,
    },
    /// Checkpoints a frozen container that was restarted, and compares the image with the one that
    /// it was restarted from. [`Reply::SecondImage`].
    SecondImage {
        /// Name of the container.
        run: String,
        /// Path of the image that it was restarted from.
        first: String,
        /// Path of the image file to write. It is not synced.
        second: String,
        /// Path of the log file to write.
        log: String,
        /// Time limit of the checkpoint in milliseconds.
        timeout_ms: u64,
    },
    /// Kills all tasks of a container and waits until they are gone. [`Reply::Done`].
    Kill {
        /// Name of the container.
        run: String,
        /// Time limit in milliseconds.
        timeout_ms: u64,
    },
    /// Restarts an image in a new container that stays frozen. [`Reply::Restarted`].
    Restart {
        /// Name of the new container.
        run: String,
        /// Path of the image file to read.
        image: String,
        /// Path of the log file to write.
        log: String,
        /// Time limit in milliseconds.
        timeout_ms: u64,
    },
    /// Takes over a container that a different tool, such as CRIU, has created and frozen.
    /// [`Reply::Done`].
    Adopt {
        /// Name of the cgroup, created by [`Request::Cgroup`].
        run: String,
        /// Its first process, by its ID in the agent's pid namespace, orphaned by the tool. `None`
        /// if the tool failed; the tasks that it has made can then be killed.
        pid: Option<i32>,
    },
    /// Creates an empty, thawed cgroup. [`Reply::Done`].
    Cgroup {
        /// The name of the cgroup.
        run: String,
    },
    /// Arms a trigger for a frozen container, replacing the one that froze it. [`Reply::Done`].
    Arm {
        /// Name of the container.
        run: String,
        /// The event at which to freeze it next.
        trigger: Trigger,
    },
    /// Thaws a frozen container. [`Reply::Done`].
    Thaw {
        /// Name of the container.
        run: String,
    },
    /// Lists a directory tree with hashes of its files. [`Reply::Files`].
    List {
        /// The directory.
        root: String,
        /// Names directly below the directory to leave out.
        exclude: Vec<String>,
    },
    /// Reads part of a file. [`Reply::Data`].
    ReadFile {
        /// The file's path.
        path: String,
        /// Offset of the first byte.
        offset: u64,
        /// Maximum number of bytes to return; at most [`crate::frame::MAX_CHUNK`].
        length: usize,
    },
    /// Writes part of a file; a write at offset 0 creates or truncates it. [`Reply::Done`].
    WriteFile {
        /// The file's path; missing directories are created.
        path: String,
        /// Offset of the first byte.
        offset: u64,
        /// Permission bits.
        mode: u32,
        /// Content.
        #[serde(with = "bytes")]
        data: Vec<u8>,
    },
    /// Enables a fault injection of the debug kernel. [`Reply::Done`].
    Break {
        /// The name of the injection: `vfork-wait` is `checkpoint/break_vfork_wait` in debugfs.
        name: String,
    },
    /// Writes a key to `/proc/sysrq-trigger`; the kernel answers on the console. [`Reply::Done`].
    Sysrq {
        /// The key.
        key: char,
    },
    /// Serves a login shell on the terminal port until the shell ends. [`Reply::Tool`].
    Terminal {
        /// Name of the virtio port.
        port: String,
        /// Number of lines of the user's terminal.
        rows: u16,
        /// Number of columns of the user's terminal.
        columns: u16,
        /// The user's `TERM`.
        term: String,
    },
    /// Runs a program whose standard streams are [pieces](crate::stdio) on the terminal port.
    /// [`Reply::Tool`] once it has ended and the last piece was answered.
    Attach {
        /// Name of the virtio port.
        port: String,
        /// Program and arguments.
        argv: Vec<String>,
        /// Working directory.
        cwd: String,
        /// The terminal to give to the program; `None` for pipes.
        terminal: Option<Terminal>,
    },
    /// Syncs all file systems. [`Reply::Done`].
    Sync,
    /// Syncs and powers off. [`Reply::Done`] is sent before.
    Shutdown,
}

/// The user's terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Number of lines.
    pub rows: u16,
    /// Number of columns.
    pub columns: u16,
    /// The user's `TERM`.
    pub term: String,
}

/// A reply of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case")]
pub enum Reply {
    /// The agent and its kernel.
    Hello {
        /// The agent's [`crate::VERSION`].
        version: u32,
        /// `uname -r`.
        kernel: String,
        /// `uname -v`.
        build: String,
        /// True when the kernel has `checkpoint(2)` and `cgroup.freeze_at`.
        checkpoint: bool,
        /// Milliseconds since the kernel's boot.
        uptime_ms: u64,
    },
    /// The guest has taken its identity.
    Begun(Identity),
    /// The request was completed.
    Done,
    /// The time that a fixed computation takes in the guest now.
    Calibrated {
        /// Nanoseconds.
        ns: u64,
    },
    /// The request was completed, but its answer does not fit a frame.
    TooLarge {
        /// Size of the answer's frame, in bytes.
        bytes: u64,
    },
    /// The container runs.
    Started {
        /// Its init process, by its ID in the agent's pid namespace.
        pid: i32,
    },
    /// The result of waiting for a container.
    Stopped(Stopped),
    /// The tasks of a container.
    Observed(Observation),
    /// The tool has ended, or was killed at its limit.
    Tool(ToolRun),
    /// The result of a restart.
    Restarted {
        /// The restarted root process, by its ID in the agent's pid namespace; `None` if the
        /// restart was refused.
        pid: Option<i32>,
        /// The result of the restart tool, if it has ended.
        tool: Option<ToolRun>,
    },
    /// The result of a second checkpoint.
    SecondImage {
        /// The result of the checkpoint tool.
        tool: ToolRun,
        /// The comparison of the two images; `None` if there are not two.
        comparison: Option<Comparison>,
        /// The error of an image that cannot be read.
        unreadable: Option<String>,
    },
    /// A directory listing.
    Files {
        /// The entries, sorted by path.
        entries: Vec<FileEntry>,
    },
    /// Part of a file.
    Data {
        /// Content.
        #[serde(with = "bytes")]
        data: Vec<u8>,
        /// True when the data includes the end of the file.
        end: bool,
    },
    /// The request failed.
    Failed {
        /// The reason, with advice for the user.
        message: String,
    },
}

/// The reason why a wait has returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Stopped {
    /// The trigger fired and all tasks are quiesced.
    Frozen(Freeze),
    /// The container's init process has exited.
    Exited {
        /// The end of the container's first process, as its parent saw it.
        root: Option<Ended>,
        /// The end of the workload, as init recorded it before; `None` if init recorded nothing.
        workload: Option<Ended>,
        /// The number of times that the trigger's event had occurred, if a trigger was armed.
        count: Option<u64>,
    },
    /// The time limit was reached.
    Timeout {
        /// True when the trigger had fired, but the tasks were not quiesced.
        fired: bool,
        /// The number of times that the event had occurred by then.
        count: Option<u64>,
        /// The tasks that were not quiesced after the trigger had fired, each with its place and
        /// the tasks that can end the sleep there.
        stuck: Vec<String>,
    },
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Ended {
    /// It exited.
    Exited {
        /// The exit status.
        code: i32,
    },
    /// By a signal.
    Signaled {
        /// The signal's number.
        signal: i32,
    },
}

impl Ended {
    /// Formats the end as a line of the status file.
    pub fn to_line(self) -> String {
        match self {
            Self::Exited { code } => format!("exited {code}\n"),
            Self::Signaled { signal } => format!("signaled {signal}\n"),
        }
    }

    /// Parses a complete line of the status file. Returns `None` for a line without its newline.
    pub fn from_line(line: &str) -> Option<Self> {
        let (how, number) = line.strip_suffix('\n')?.split_once(' ')?;
        let number = number.parse().ok()?;
        match how {
            "exited" => Some(Self::Exited { code: number }),
            "signaled" => Some(Self::Signaled { signal: number }),
            _ => None,
        }
    }

    /// Returns the status that a shell reports: 128 plus the signal's number for a signal.
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

/// The result of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolRun {
    /// Its end; `None` if it was killed at its time limit.
    pub ended: Option<Ended>,
    /// Standard output, in which bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, in the same form.
    pub stderr: String,
    /// The duration in milliseconds.
    pub ms: u64,
}

impl ToolRun {
    /// Returns true when it exited with status 0.
    pub fn success(&self) -> bool {
        self.ended == Some(Ended::Exited { code: 0 })
    }
}

/// A file of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The path relative to the listing's root.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// The type of the file, with its content.
    #[serde(flatten)]
    pub kind: FileKind,
}

/// The types of files, and their contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum FileKind {
    /// Regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// SHA-256 of the content, in hexadecimal.
        sha256: String,
    },
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink {
        /// The target path.
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
    fn a_status_line_is_parsed_back() {
        for ended in [Ended::Exited { code: 3 }, Ended::Signaled { signal: 9 }] {
            assert_eq!(Ended::from_line(&ended.to_line()), Some(ended));
        }
    }

    #[test]
    fn an_incomplete_status_line_is_refused() {
        assert_eq!(Ended::from_line("exited 1"), None);
        assert_eq!(Ended::from_line(""), None);
        assert_eq!(Ended::from_line("exited \n"), None);
    }

    #[test]
    fn a_request_is_parsed_back() {
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
