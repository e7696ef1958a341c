// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::DebuggerAddress;

/// Errors of a machine on the host's side.
///
/// The messages leave out their source; a caller that prints an error walks the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The emulator is not installed.
    #[error("{binary} was not found; on Debian, `apt-get install qemu-system-x86` installs it")]
    NoEmulator {
        /// The program that was looked up.
        binary: String,
    },
    /// The machine's process could not be executed.
    #[error("cannot run {binary}")]
    Spawn {
        /// The program.
        binary: String,
        /// The error of execve(2).
        source: io::Error,
    },
    /// A file that the machine needs cannot be used.
    #[error("cannot use {path}")]
    File {
        /// The file's path.
        path: PathBuf,
        /// The error of the failed operation.
        source: io::Error,
    },
    /// No socket can listen for a debugger.
    #[error("cannot listen for a debugger at {address}")]
    Debugger {
        /// The requested address.
        address: DebuggerAddress,
        /// The error of bind(2).
        source: io::Error,
    },
    /// A pipe or socket to the machine failed.
    #[error("cannot {what}")]
    Io {
        /// The failed operation, in the infinitive.
        what: &'static str,
        /// The error of the operation.
        source: io::Error,
    },
    /// The machine's process exited before its guest ran.
    #[error("the machine's process exited during its start ({status}): {stderr}")]
    DiedAtStart {
        /// The exit status of the process.
        status: String,
        /// The process's output on standard error, in one line.
        stderr: String,
    },
    /// The machine's process answered a request with an error.
    #[error("the machine's process refused `{command}`: {reason}")]
    Refused {
        /// The control command.
        command: String,
        /// The error message of the reply.
        reason: String,
    },
    /// The machine was not started with a directory for a snapshot.
    #[error("the machine cannot be saved: it was not started with a directory for a snapshot")]
    NoSnapshotDirectory,
    /// A directory contains no snapshot, or one that cannot be started.
    #[error("cannot start the snapshot in {directory}: {why}")]
    NoSnapshot {
        /// The directory.
        directory: PathBuf,
        /// The reason.
        why: String,
    },
    /// A directory contains no recording, or one that cannot be replayed here.
    #[error("cannot replay the recording in {directory}: {why}")]
    NoRecording {
        /// The directory.
        directory: PathBuf,
        /// The reason.
        why: String,
    },
    /// The debugger made QEMU quit, and the replay is not at the end of the recording.
    #[error("the debugger ended the replay by `monitor quit`, before the end of the recording")]
    ReplayQuit,
    /// This backend does not support an operation.
    #[error("{kind} cannot {what}")]
    Unsupported {
        /// The backend's name.
        kind: &'static str,
        /// The operation, in the infinitive.
        what: &'static str,
    },
    /// The machine does not track which pages its guest changes, because it was started without
    /// tracking.
    #[error(
        "cannot determine what the guest has changed: \
         the machine was not started to track changes"
    )]
    NotTracked,
    /// The guest did not start from a snapshot and has not been saved yet.
    #[error("cannot determine the guest's changes: there is no snapshot to compare it with")]
    NoBase,
    /// An incremental snapshot was to overwrite its own base.
    #[error("cannot save the changes over the snapshot that they are based on, in {directory}")]
    OverBase {
        /// The directory.
        directory: PathBuf,
    },
    /// The directory already contains a snapshot, and the backend cannot replace a snapshot
    /// atomically.
    #[error("{directory} contains a snapshot already")]
    AlreadySaved {
        /// The directory.
        directory: PathBuf,
    },
    /// A different process is saving a guest in the same directory.
    #[error("another process is saving a guest in {directory}")]
    Saving {
        /// The directory.
        directory: PathBuf,
    },
    /// The control socket is closed: the machine's process has exited.
    #[error("the machine has ended, `{command}` cannot reach it")]
    Gone {
        /// The control command.
        command: String,
    },
    /// The machine's process did not reply in time.
    #[error("the machine's process did not answer `{command}` within {after:?}")]
    Silent {
        /// The control command.
        command: String,
        /// The timeout that expired.
        after: Duration,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
