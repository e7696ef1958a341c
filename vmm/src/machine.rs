// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fmt;
use std::num::NonZeroU16;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Alert, HostFault, MemoryDump, Result};

/// A raw disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The image file.
    pub path: PathBuf,
    /// True when the guest may only read the image; such an image may be shared by several
    /// machines.
    pub readonly: bool,
}

impl Disk {
    /// Returns a disk that the guest may only read.
    pub fn readonly(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: true,
        }
    }

    /// Returns a disk that the guest may write to.
    pub fn writable(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            readonly: false,
        }
    }
}

/// The address at which a machine listens for a debugger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebuggerAddress {
    /// A TCP port of the loopback interface.
    Port(u16),
    /// The path of a Unix socket, which the machine creates.
    Socket(PathBuf),
}

impl FromStr for DebuggerAddress {
    type Err = String;

    /// Parses a number as a port, and anything else as a path.
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.chars().all(|digit| digit.is_ascii_digit()) {
            return Ok(Self::Socket(text.into()));
        }
        match text.parse::<NonZeroU16>() {
            Ok(port) => Ok(Self::Port(port.get())),
            Err(_) => Err("ports range from 1 to 65535; \
                       anything that is not a number is treated as a path"
                .into()),
        }
    }
}

impl fmt::Display for DebuggerAddress {
    /// Formats the address as gdb's `target remote` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, ":{port}"),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The state from which a guest starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Start {
    /// At its kernel's first instruction.
    #[default]
    Boot,
    /// Also at the kernel's first instruction, but the guest will be [saved](Machine::save) in this
    /// directory, which must exist. Our own monitor replaces a snapshot that the directory
    /// contains; QEMU refuses to ([`Error::AlreadySaved`](crate::Error::AlreadySaved)).
    BootForSnapshot(PathBuf),
    /// From the snapshot in this directory. The machine must have the same configuration as the
    /// saved one, except for the content of its disks and for paths on the host. The directory must
    /// exist for as long as the guest runs, because the guest reads its memory from there on
    /// demand. The guest never writes to it.
    Saved(PathBuf),
    /// From the [incremental snapshot](Machine::save_changes) in `changes`, on top of its base
    /// snapshot in `base`. The requirements of `Saved` hold for both directories. QEMU does not
    /// support this.
    Changed {
        /// The directory of the base snapshot: exactly the one to which the changes are relative.
        base: PathBuf,
        /// The directory of the incremental snapshot.
        changes: PathBuf,
    },
}

impl Start {
    /// Returns the name of this start in a record, `warm` or `cold`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Saved(_) | Self::Changed { .. } => "warm",
            Self::Boot | Self::BootForSnapshot(_) => "cold",
        }
    }
}

/// The configuration of a guest.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// The kernel: an ELF `vmlinux` with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// Parameters to append to the kernel's command line.
    pub cmdline: Vec<String>,
    /// Number of CPUs. With a single CPU, event counts are repeatable.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The disks `vda`, `vdb`, … in this order.
    pub disks: Vec<Disk>,
    /// The state from which the guest starts.
    pub start: Start,
    /// True to track which memory pages the guest changes, as [`Machine::save_changes`] needs.
    /// Tracking makes the guest a little slower. QEMU does not support it.
    pub track_changes: bool,
    /// Address at which debuggers may connect by gdb's remote protocol. The guest waits for the
    /// first connection; further debuggers may connect later.
    pub debugger: Option<DebuggerAddress>,
    /// The file to which all output of the guest's console goes.
    pub console_log: PathBuf,
    /// The file to which the guest's memory goes if the guest crashes, see
    /// [`Machine::memory_dump`].
    pub dump: Option<PathBuf>,
    /// The directory for a [recording](crate::qemu::Recording) of the guest. It requires QEMU with
    /// emulation, one CPU and a cold boot.
    pub record: Option<PathBuf>,
    /// A directory for the machine's own files (the emulator's messages).
    pub run_dir: PathBuf,
}

impl MachineSpec {
    /// Returns a guest with one CPU and 1024 MiB of memory, with its logs in `run_dir`.
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
            dump: None,
            record: None,
            run_dir,
        }
    }
}

/// The end of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "exit")]
pub enum Exit {
    /// The guest shut down or restarted in order, and announced it on its console.
    Shutdown,
    /// The guest reset without an announcement. QEMU does not distinguish this from a triple fault.
    Reset,
    /// The guest triple faulted.
    TripleFault {
        /// The vCPU's registers, as lines of text.
        registers: Vec<String>,
    },
    /// KVM could not continue to run the guest.
    Kvm {
        /// The exit reason or error that KVM reported.
        detail: String,
        /// The vCPU's registers, as lines of text.
        registers: Vec<String>,
    },
    /// The guest's kernel panicked; the console's alerts contain the report.
    Panic,
    /// [`Machine::kill`] ended the machine.
    Killed,
    /// The machine failed on the host's side.
    HostError {
        /// Description of the failure: the report of the machine's process, or else its exit
        /// status.
        detail: String,
        /// The signal that killed the machine's process: `SIGKILL` (which the kernel also sends
        /// when memory runs out), `SIGSYS` (its seccomp filter), `SIGBUS` (a truncated memory
        /// file), …; `None` if it exited.
        signal: Option<i32>,
    },
}

/// The program and the accelerator that ran the guest, for the record of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The backend: `qemu` or `kvm`.
    pub kind: String,
    /// The emulator's version, as it prints it.
    pub version: String,
    /// The accelerator: `tcg` or `kvm`.
    pub accel: String,
    /// `cold` if the guest was booted, `warm` if it started from a snapshot.
    pub start: String,
    /// The command line of the machine's process.
    pub command: Vec<String>,
}

/// A phase of a machine's start, before its guest's first instruction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// A short description of the phase.
    pub name: String,
    /// True when the time is spent in KVM, in `ioctl(2)`.
    pub in_kvm: bool,
    /// The duration in microseconds.
    pub micros: u64,
}

/// The state of a guest that does not answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStates {
    /// True when the guest's kernel answered. If it did not, it does not even serve interrupts, and
    /// only `registers` has its state.
    pub answered: bool,
    /// The kernel's list of tasks with their stacks, as printed.
    pub lines: Vec<String>,
    /// The registers of each CPU.
    pub registers: Vec<String>,
}

/// The size of an incremental snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// Number of pages of 4 KiB that differ from the base.
    pub pages: u64,
    /// Number of pages that the guest has.
    pub of: u64,
}

/// A running guest. Dropping it kills the guest and leaves no process behind.
pub trait Machine: Send {
    /// Returns the byte stream to the guest's agent (the port
    /// [`CHANNEL_PORT`](crate::CHANNEL_PORT)). Each call returns a new handle to the same stream.
    fn channel(&self) -> Result<UnixStream>;

    /// Returns the second byte stream, for terminals (the port
    /// [`TERMINAL_PORT`](crate::TERMINAL_PORT)).
    fn terminal(&self) -> Result<UnixStream>;

    /// Returns the console's alerts: those already raised, then each new one as it is raised. The
    /// receiver is disconnected when the machine has ended and its console has been read to the
    /// end.
    fn alerts(&self) -> Receiver<Alert>;

    /// Waits until the console has shown [`CONSOLE_MARK`](crate::CONSOLE_MARK) with this token;
    /// the alerts from before it have then been raised.
    /// Returns false after `timeout`, or if the machine has ended without it.
    fn wait_mark(&self, token: &str, timeout: Duration) -> bool;

    /// Returns the last lines of the console, at most `lines`.
    fn console_tail(&self, lines: usize) -> Vec<String>;

    /// Returns the end of the machine, or `None` while it runs.
    fn try_exit(&mut self) -> Result<Option<Exit>>;

    /// Waits at most `timeout` for the machine to end. Returns `None` if it still runs.
    fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>>;

    /// Returns the first failure of the host's disk while the machine ran, if there was one. A
    /// guest that it affects may behave in any way, or not notice. The fault is also returned when
    /// the machine has ended.
    fn host_fault(&mut self) -> Option<HostFault>;

    /// Returns the dump of the guest's memory, an ELF core file, once the machine has ended. There
    /// is one only if the [configuration](MachineSpec::dump) requests it, and if the guest has
    /// panicked, triple faulted, or reset without an announcement. It does not affect the reported
    /// end of the machine.
    fn memory_dump(&self) -> Option<MemoryDump> {
        None
    }

    /// Requests the states of the guest's tasks from its kernel by SysRq, which works even while
    /// the tasks hang. Waits for the answer for at most `timeout`.
    fn task_states(&mut self, timeout: Duration) -> Result<TaskStates>;

    /// Stops the guest's CPUs.
    fn pause(&mut self) -> Result<()>;

    /// Resumes the guest's CPUs.
    fn resume(&mut self) -> Result<()>;

    /// Pauses the guest and saves it in the directory with which it was
    /// [started](Start::BootForSnapshot). The snapshot is complete once this returns; on an error,
    /// or if a process is killed meanwhile, the directory is unchanged. With our own monitor the
    /// guest can then be resumed.
    fn save(&mut self) -> Result<()>;

    /// Saves the guest like [`save`](Self::save), but in any existing directory. QEMU cannot save a
    /// guest in a directory with which it was not started:
    /// [`Error::Unsupported`](crate::Error::Unsupported).
    fn save_in(&mut self, directory: &Path) -> Result<()>;

    /// Pauses the guest and saves only differences from its base snapshot: the one that it started
    /// from, or the last one that contains all of it. Needs
    /// [`track_changes`](MachineSpec::track_changes). The incremental snapshot can be started only
    /// together with its base ([`Start::Changed`]). There are no chains: a guest that started from
    /// an incremental snapshot is compared with the base of that snapshot.
    ///
    /// Errors are [`NotTracked`](crate::Error::NotTracked), [`NoBase`](crate::Error::NoBase),
    /// [`OverBase`](crate::Error::OverBase), and those of [`save`](Self::save). QEMU always returns
    /// [`Unsupported`](crate::Error::Unsupported), because its migration stream contains all memory
    /// or none.
    fn save_changes(&mut self, directory: &Path) -> Result<Changes>;

    /// Kills the machine's process and waits until it is gone.
    fn kill(&mut self) -> Result<()>;

    /// Returns the pid of the process that the guest runs in.
    fn pid(&self) -> u32;

    /// Returns the number of instructions that the guest has executed, if the machine counts them:
    /// a recorded one does.
    fn instructions(&self) -> Option<u64> {
        None
    }

    /// Returns the directory of the guest's recording, if it is recorded.
    fn recording(&self) -> Option<&Path> {
        None
    }

    /// Returns the phases of that process's start, if it reports them.
    fn phases(&self) -> &[Phase] {
        &[]
    }

    /// Returns true when a debugger may stop the guest for any length of time: a timeout then does
    /// not indicate a hang.
    fn is_debugged(&self) -> bool;

    /// Describes the machine, for the record of a run.
    fn describe(&self) -> Description;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_a_port_and_anything_else_a_path() {
        assert_eq!("1234".parse(), Ok(DebuggerAddress::Port(1234)));
        let path = DebuggerAddress::Socket("/run/1234".into());
        assert_eq!("/run/1234".parse(), Ok(path));
        for text in ["0", "65536", ""] {
            assert!(text.parse::<DebuggerAddress>().is_err(), "{text}");
        }
    }
}
