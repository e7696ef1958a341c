// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::DebuggerAddress;

/// What can go wrong with a machine on the host's side.
///
/// The messages leave out their source; whoever prints them walks the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The emulator is not installed.
    #[error("{binary} was not found; on Debian, `apt-get install qemu-system-x86` brings it")]
    NoEmulator {
        /// What was looked for.
        binary: String,
    },
    /// The emulator could not be executed.
    #[error("cannot run {binary}")]
    Spawn {
        /// What was to run.
        binary: String,
        /// Why not.
        source: io::Error,
    },
    /// A file that the machine needs cannot be used.
    #[error("cannot use {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A debugger cannot be waited for.
    #[error("cannot wait for a debugger at {address}")]
    Debugger {
        /// Where.
        address: DebuggerAddress,
        /// Why not.
        source: io::Error,
    },
    /// A pipe or socket to the machine failed.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The emulator ended before its guest ran.
    #[error("the emulator ended at its start ({status}): {words}")]
    DiedAtStart {
        /// Its exit status.
        status: String,
        /// What it wrote on standard error.
        words: String,
    },
    /// The emulator's control socket answered with an error.
    #[error("the emulator refused `{command}`: {words}")]
    Refused {
        /// The QMP command.
        command: String,
        /// Its words.
        words: String,
    },
    /// A machine that was not started to be saved.
    #[error("the machine cannot be saved: it was not started for that")]
    NotToBeSaved,
    /// What a directory has is no saved guest, or one that cannot be started.
    #[error("cannot start the guest saved in {directory}: {why}")]
    NoSnapshot {
        /// The directory.
        directory: PathBuf,
        /// Why not.
        why: String,
    },
    /// Something that this kind of machine cannot do.
    #[error("{kind} cannot {what}")]
    Unsupported {
        /// The kind of machine.
        kind: &'static str,
        /// What it cannot do.
        what: &'static str,
    },
    /// A machine that does not note what its guest changes, and was not started to.
    #[error("cannot tell what the guest has changed: the machine was not started for that")]
    NotTracked,
    /// A guest that began nowhere, and was not saved yet.
    #[error("cannot tell what the guest has changed: there is no saved guest to compare it with")]
    NoBase,
    /// What a guest has changed, to be saved over what it is compared with.
    #[error("cannot save what has changed over the guest that it is compared with, in {directory}")]
    OverBase {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory that has a saved guest already, for an emulator that could only write
    /// over it.
    #[error("there is a saved guest in {directory}")]
    AlreadySaved {
        /// The directory.
        directory: PathBuf,
    },
    /// A directory that a guest is being saved in, by somebody else.
    #[error("another guest is being saved in {directory}")]
    Saving {
        /// The directory.
        directory: PathBuf,
    },
    /// The emulator's control socket is closed: the machine has ended.
    #[error("the machine has ended, `{command}` cannot reach it")]
    Gone {
        /// The QMP command.
        command: String,
    },
    /// The emulator did not answer.
    #[error("the emulator did not answer `{command}` within {after:?}")]
    Silent {
        /// The QMP command.
        command: String,
        /// How long it was waited for.
        after: Duration,
    },
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
