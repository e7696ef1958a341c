// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fmt;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Alert, Result};

/// A disk image, raw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image file.
    pub path: PathBuf,
    /// Whether the guest may only read it; such an image may be shared by many
    /// machines.
    pub readonly: bool,
}

impl Disk {
    /// A disk that the guest only reads.
    pub fn readonly(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: true,
        }
    }

    /// A disk that the guest writes to.
    pub fn writable(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: false,
        }
    }
}

/// Where a machine waits for a debugger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebuggerAddress {
    /// A TCP port of this host, for this host.
    Port(u16),
    /// A Unix socket, made new.
    Socket(PathBuf),
}

impl FromStr for DebuggerAddress {
    type Err = String;

    /// A number is a port, all else is a path.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.chars().all(|digit| digit.is_ascii_digit()) {
            return Ok(Self::Socket(text.into()));
        }
        match text.parse::<NonZeroU16>() {
            Ok(port) => Ok(Self::Port(port.get())),
            Err(_) => Err("ports are from 1 to 65535; all that is no number is a path".into()),
        }
    }
}

impl fmt::Display for DebuggerAddress {
    /// As gdb's `target remote` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, ":{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Where a guest begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// At its kernel's first instruction.
    #[default]
    Boot,
    /// There too; but it is to be [saved](Machine::save) in this directory, which is
    /// there. Our own machine saves it over another saved guest, if there is one; QEMU
    /// refuses to ([`Error::AlreadySaved`](crate::Error::AlreadySaved)).
    ToBeSaved(PathBuf),
    /// Where the guest stood that was saved in this directory. Its machine must have been
    /// the same, but for its disks' content and what is on the host. The directory must
    /// stay for as long as the guest runs, which reads its memory from there when it
    /// needs it, and writes nothing to it.
    Saved(PathBuf),
    /// Where the guest stood whose [changes](Machine::save_changes) against the one in
    /// `base` were saved in `changes`. For both directories the same goes. Not on QEMU.
    Changed {
        /// Where all of a guest was saved: the very one that the changes were counted from.
        base: PathBuf,
        /// Where the changes were saved.
        changes: PathBuf,
    },
}

impl Start {
    /// Its name in a record.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Saved(_) | Self::Changed { .. } => "warm",
            Self::Boot | Self::ToBeSaved(_) => "cold",
        }
    }
}

/// The guest that is wanted.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// The kernel: an ELF `vmlinux` with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// Words to append to the kernel's command line.
    pub cmdline: Vec<String>,
    /// Number of CPUs. One makes event counts repeatable.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// `vda`, `vdb`, … in this order.
    pub disks: Vec<Disk>,
    /// Where the guest begins.
    pub start: Start,
    /// Whether it is noted which pages of its memory the guest changes, for
    /// [`Machine::save_changes`]. It makes the guest a little slower. Not on QEMU.
    pub track_changes: bool,
    /// Where a debugger may connect by gdb's remote protocol. The guest waits for the first
    /// one; others may come later.
    pub debugger: Option<DebuggerAddress>,
    /// Where everything that the guest's console prints goes.
    pub console_log: PathBuf,
    /// A directory for the machine's own files (the emulator's messages).
    pub run_dir: PathBuf,
}

impl MachineSpec {
    /// A guest with one CPU and 1024 MiB, its logs in `run_dir`.
    pub fn new(kernel: impl Into<PathBuf>, run_dir: impl Into<PathBuf>) -> Self {
        let run_dir = run_dir.into();
        Self {
            kernel: kernel.into(),
            cmdline: Vec::new(),
            vcpus: 1,
            memory_mib: 1024,
            disks: Vec::new(),
            start: Start::Boot,
            track_changes: false,
            debugger: None,
            console_log: run_dir.join("console.log"),
            run_dir,
        }
    }
}

/// How a machine ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "exit")]
pub enum Exit {
    /// The guest shut down or restarted in order (it said so on its console).
    Shutdown,
    /// The guest reset without a word. QEMU does not tell it from a triple fault.
    Reset,
    /// The guest triple faulted.
    TripleFault {
        /// The vCPU's registers, as lines of text.
        registers: Vec<String>,
    },
    /// KVM could not go on with the guest.
    Kvm {
        /// What it said.
        detail: String,
        /// The vCPU's registers, as lines of text.
        registers: Vec<String>,
    },
    /// The guest's kernel panicked; the console's alerts have the lines.
    Panic,
    /// [`Machine::kill`] ended it.
    Killed,
    /// The host's side failed.
    HostError {
        /// What is known about it.
        detail: String,
    },
}

/// What was running, for the record of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The kind of machine: `qemu` or `kvm`.
    pub kind: String,
    /// The emulator's version, in its own words.
    pub version: String,
    /// What executes guest code: `tcg` or `kvm`.
    pub accel: String,
    /// Whether it was booted, `cold`, or began where another was saved, `warm`.
    pub start: String,
    /// The command that started it.
    pub command: Vec<String>,
}

/// A part of what a machine does before its guest's first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// What is done in it.
    pub name: String,
    /// Whether it is KVM that does it, asked by `ioctl(2)`.
    pub in_kvm: bool,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// What a guest that does not answer is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStates {
    /// Whether the guest's kernel answered. Where it did not, not even its
    /// interrupts are served, and `registers` is all there is.
    pub answered: bool,
    /// The kernel's list of tasks with their stacks, as printed.
    pub lines: Vec<String>,
    /// The registers of each CPU.
    pub registers: Vec<String>,
}

/// What was saved of a guest that differs from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// How many pages of 4 KiB differ.
    pub pages: u64,
    /// How many the guest has.
    pub of: u64,
}

/// A running guest. Dropping it kills it and leaves no process behind.
pub trait Machine: Send {
    /// The byte stream to the guest's agent (the port
    /// [`CHANNEL_PORT`](crate::CHANNEL_PORT)). Each call gives another handle
    /// on the same stream.
    fn channel(&self) -> Result<UnixStream>;

    /// A second byte stream, for terminals (the port
    /// [`TERMINAL_PORT`](crate::TERMINAL_PORT)).
    fn terminal(&self) -> Result<UnixStream>;

    /// The console's alerts: those already raised, then each as it comes. The
    /// receiver is disconnected when the machine has ended and its console was
    /// read to the end.
    fn alerts(&self) -> Receiver<Alert>;

    /// The last lines of the console, at most `lines`.
    fn console_tail(&self, lines: usize) -> Vec<String>;

    /// How it ended, or `None` while it runs.
    fn try_exit(&mut self) -> Result<Option<Exit>>;

    /// Waits until it ends, for at most `timeout`; `None` if it still runs.
    fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>>;

    /// Asks the guest's kernel, past whatever it is busy with, what its tasks
    /// are doing. Waits for the answer for at most `timeout`.
    fn task_states(&mut self, timeout: Duration) -> Result<TaskStates>;

    /// Stops the guest's CPUs.
    fn pause(&mut self) -> Result<()>;

    /// Lets them go on.
    fn resume(&mut self) -> Result<()>;

    /// Saves the guest, paused from then on, in the directory that it was
    /// [started](Start::ToBeSaved) for. What is there is whole once this returns; on an
    /// error, or should anybody be killed meanwhile, it is what it was before. In our own
    /// machine the guest may then be resumed.
    fn save(&mut self) -> Result<()>;

    /// The same, in any directory that is there. QEMU cannot save a guest in a directory
    /// that it was not started for: [`Error::Unsupported`](crate::Error::Unsupported).
    fn save_in(&mut self, directory: &Path) -> Result<()>;

    /// Saves the guest, paused from then on, as what differs from another saved guest: the
    /// one that it began with, or as which all of it was saved last. Needs
    /// [`track_changes`](MachineSpec::track_changes). It can be started only together with
    /// that one, [`Start::Changed`]; so there are no chains: a guest that began with changes
    /// is compared with what those were compared with.
    ///
    /// Errors are [`NotTracked`](crate::Error::NotTracked), [`NoBase`](crate::Error::NoBase),
    /// [`OverBase`](crate::Error::OverBase), and those of [`save`](Self::save). On QEMU it is
    /// always [`Unsupported`](crate::Error::Unsupported), since its stream has all memory or
    /// none.
    fn save_changes(&mut self, directory: &Path) -> Result<Changes>;

    /// Ends the machine at once and waits until it is gone.
    fn kill(&mut self) -> Result<()>;

    /// The process that the guest runs in.
    fn pid(&self) -> u32;

    /// What that process did before the guest ran, where it tells.
    fn phases(&self) -> &[Phase] {
        &[]
    }

    /// Whether a debugger may hold the guest, for as long as it likes: then nothing that
    /// takes long means anything.
    fn is_debugged(&self) -> bool;

    /// What this machine is.
    fn describe(&self) -> Description;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_port_and_all_else_a_path() {
        assert_eq!("1234".parse(), Ok(DebuggerAddress::Port(1234)));
        let path = DebuggerAddress::Socket("/run/1234".into());
        assert_eq!("/run/1234".parse(), Ok(path));
        for text in ["0", "65536", ""] {
            assert!(text.parse::<DebuggerAddress>().is_err(), "{text}");
        }
    }
}
