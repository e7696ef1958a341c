use std::os::unix::net::UnixStream;
use std::path::PathBuf;
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

/// The guest that is wanted.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// The kernel: an ELF `vmlinux` with a PVH entry.
    pub kernel: PathBuf,
    /// Words to append to the kernel's command line.
    pub cmdline: Vec<String>,
    /// Number of CPUs. One makes event counts repeatable.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// `vda`, `vdb`, … in this order.
    pub disks: Vec<Disk>,
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
    /// The guest reset without a word: a triple fault, or the like.
    Reset,
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
    /// The kind of machine: `qemu`.
    pub kind: String,
    /// The emulator's version, in its own words.
    pub version: String,
    /// What executes guest code: `tcg` or `kvm`.
    pub accel: String,
    /// The command that started it.
    pub command: Vec<String>,
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

    /// Ends the machine at once and waits until it is gone.
    fn kill(&mut self) -> Result<()>;

    /// What this machine is.
    fn describe(&self) -> Description;
}
