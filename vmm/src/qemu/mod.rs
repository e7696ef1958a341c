//! Guests run by QEMU's `microvm`: no PCI, no firmware tables, devices on
//! virtio-mmio, the kernel entered directly by PVH.
//!
mod command;
mod probe;
mod qmp;
mod snapshot;
mod tsc;

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use serde_json::json;

use self::qmp::Qmp;
use crate::child::{self, Sockets, fd, last_words, share};
use crate::console::Console;
use crate::states;
use crate::{
    Alert, AlertKind, Changes, Description, Error, Exit, Machine, MachineSpec, Result, Start,
    TaskStates,
};

/// Debian's name of the emulator.
const BINARY: &str = "qemu-system-x86_64";

/// How long QEMU may take to answer a command. It is the host that is slow
/// then, not the guest, so this is generous.
const ANSWER: Duration = Duration::from_secs(60);

/// What executes the guest's code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accel {
    /// Emulation. Works everywhere.
    #[default]
    Tcg,
    /// The host's KVM. That `/dev/kvm` can be opened does not mean that it can
    /// run a kernel; so this is for those who know that theirs does.
    Kvm,
}

impl Accel {
    fn argument(self) -> &'static str {
        match self {
            Self::Tcg => "tcg,thread=multi",
            Self::Kvm => "kvm",
        }
    }

    fn cpu(self) -> &'static str {
        match self {
            Self::Tcg => "max",
            Self::Kvm => "host",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// How to run QEMU.
#[derive(Debug, Clone)]
pub struct Options {
    /// The emulator: a path, or a name to be found in `PATH`.
    pub binary: PathBuf,
    /// What executes the guest's code.
    pub accel: Accel,
    /// Whether the guest finds a CPU with virtualisation, AMD's. With emulation only.
    pub nested: bool,
    /// Features that the guest's CPU does not have, by QEMU's names.
    pub without: Vec<String>,
    /// The first words of the kernel's command line, instead of those that our machines
    /// have.
    pub words: Option<Vec<String>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: BINARY.into(),
            accel: Accel::default(),
            nested: false,
            without: Vec::new(),
            words: None,
        }
    }
}

/// What must be the same for a guest that QEMU has saved to be started by it: the
/// program, and the machine but for the content of its disks.
pub fn identity(spec: &MachineSpec, options: &Options) -> Result<String> {
    let program = find(&options.binary)?;
    let metadata = fs::metadata(&program).map_err(|source| Error::File {
        path: program.clone(),
        source,
    })?;
    let program = format!(
        "{} {} {}.{}",
        program.display(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    );
    // Paths tell what is on a disk that may only be read, and nothing of the others.
    let mut disks = spec.disks.clone();
    for disk in disks.iter_mut().filter(|disk| !disk.readonly) {
        disk.path = PathBuf::new();
    }
    let spec = MachineSpec {
        disks,
        start: Start::Boot,
        ..spec.clone()
    };
    // The guest was told the rate of this host's clock, which another boot may change.
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(path).map_err(|source| Error::File {
        path: path.into(),
        source,
    })?;
    Ok(format!(
        "{program}\n{boot}{}",
        command::arguments(&spec, options, &[]).join("\n")
    ))
}

/// The program itself: what stands in `PATH` under this name, or at this path.
pub fn find(binary: &Path) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    if binary.components().count() > 1 {
        return Ok(binary.to_owned());
    }
    env::split_paths(&path)
        .map(|directory| directory.join(binary))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Error::NoEmulator {
            binary: binary.to_string_lossy().into_owned(),
        })
}

fn unsupported(what: &'static str) -> Error {
    Error::Unsupported { kind: "QEMU", what }
}

/// A guest in a QEMU process.
pub struct QemuMachine {
    child: Child,
    qmp: Qmp,
    console: Console,
    channel: UnixStream,
    terminal: UnixStream,
    description: Description,
    messages: PathBuf,
    start: Start,
    saved: bool,
    is_debugged: bool,
    exit: Option<Exit>,
}

impl QemuMachine {
    /// Starts the guest that `spec` describes.
    pub fn start(spec: &MachineSpec, options: &Options) -> Result<Self> {
        if spec.track_changes || matches!(spec.start, Start::Changed { .. }) {
            return Err(unsupported("note what a guest changes"));
        }
        child::check_files(spec)?;
        let messages = spec.run_dir.join("qemu.log");
        let binary = options.binary.to_string_lossy().into_owned();
        // A guest that was saved knows it already; it takes a while to find out.
        let timing = match (options.accel, &spec.start) {
            (Accel::Tcg, Start::Boot | Start::ToBeSaved(_)) => tsc::kernel_words(),
            _ => Vec::new(),
        };
        snapshot::ready(&spec.start)?;
        let arguments = command::arguments(spec, options, &timing);
        let mut command = Command::new(&options.binary);
        command.args(&arguments);
        let state = snapshot::state_to_load(spec)?;
        let files = state.map(|file| (fd::STATE, file));
        let sockets = Sockets::hand_over(
            &mut command,
            &messages,
            files.into_iter().collect(),
            spec.debugger.as_ref(),
        )?;
        let console = Console::start(sockets.console, &spec.console_log)?;
        let mut child = child::spawn(command, &binary)?;
        let qmp = match Qmp::connect(sockets.control, ANSWER) {
            Ok(qmp) => qmp,
            Err(error) => return Err(died(&mut child, error, &messages)),
        };
        let mut qmp = qmp;
        if let Err(error) = snapshot::load(&mut qmp, spec) {
            return Err(died(&mut child, error, &messages));
        }
        let mut words = vec![binary];
        words.extend(arguments);
        Ok(Self {
            description: Description {
                kind: "qemu".into(),
                version: qmp.version().to_owned(),
                accel: options.accel.name().into(),
                start: spec.start.name().into(),
                command: words,
            },
            child,
            qmp,
            console,
            channel: sockets.channel,
            terminal: sockets.terminal,
            messages,
            start: spec.start.clone(),
            saved: false,
            is_debugged: spec.debugger.is_some(),
            exit: None,
        })
    }

    /// Reaps the process, which has ended or is about to, and tells why.
    fn reap(&mut self, killed: bool) -> Result<Exit> {
        let status = self.child.wait().map_err(|source| Error::Io {
            what: "wait for the emulator",
            source,
        })?;
        self.console.join();
        let reason = self.qmp.end().reason;
        let exit = if self.console.has_alert(AlertKind::Panic) {
            Exit::Panic
        } else if killed {
            Exit::Killed
        } else {
            match reason.as_deref() {
                Some("guest-shutdown") => Exit::Shutdown,
                Some("guest-reset") if self.console.said_goodbye() => Exit::Shutdown,
                Some("guest-reset") => Exit::Reset,
                Some("guest-panic") => Exit::Panic,
                other => Exit::HostError {
                    detail: format!(
                        "{} ended with {status} ({}); {}",
                        self.description.command[0],
                        other.unwrap_or("without giving a reason"),
                        last_words(&self.messages),
                    ),
                },
            }
        };
        self.exit = Some(exit.clone());
        Ok(exit)
    }
}

impl Machine for QemuMachine {
    fn channel(&self) -> Result<UnixStream> {
        share(&self.channel)
    }

    fn terminal(&self) -> Result<UnixStream> {
        share(&self.terminal)
    }

    fn alerts(&self) -> Receiver<Alert> {
        self.console.alerts()
    }

    fn console_tail(&self, lines: usize) -> Vec<String> {
        self.console.tail(lines)
    }

    fn try_exit(&mut self) -> Result<Option<Exit>> {
        self.wait(Duration::ZERO)
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>> {
        if self.exit.is_none() && self.qmp.wait_closed(timeout) {
            self.reap(false)?;
        }
        Ok(self.exit.clone())
    }

    fn task_states(&mut self, timeout: Duration) -> Result<TaskStates> {
        states::capture(&mut self.qmp, &self.console, Instant::now() + timeout)
    }

    fn pause(&mut self) -> Result<()> {
        self.qmp.execute("stop", json!({}), ANSWER).map(|_| ())
    }

    fn resume(&mut self) -> Result<()> {
        if self.saved {
            return Err(Error::Refused {
                command: "cont".into(),
                words: "its memory is that of the saved guest".into(),
            });
        }
        self.qmp.execute("cont", json!({}), ANSWER).map(|_| ())
    }

    fn save(&mut self) -> Result<()> {
        let Start::ToBeSaved(directory) = &self.start else {
            return Err(Error::NotToBeSaved);
        };
        // Also where it fails: then it may have been saved all the same.
        self.saved = true;
        snapshot::save(&mut self.qmp, directory)
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        match &self.start {
            Start::ToBeSaved(promised) if promised == directory => self.save(),
            _ => Err(unsupported(
                "save a guest where it was not started for that",
            )),
        }
    }

    fn save_changes(&mut self, _: &Path) -> Result<Changes> {
        Err(unsupported("save what has changed only"))
    }

    fn kill(&mut self) -> Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        self.child.kill().map_err(|source| Error::Io {
            what: "kill the emulator",
            source,
        })?;
        self.reap(true).map(|_| ())
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn is_debugged(&self) -> bool {
        self.is_debugged
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }
}

impl Drop for QemuMachine {
    fn drop(&mut self) {
        // Nobody is left to tell; the parent-death signal is the safety net.
        let _ = self.kill();
    }
}

fn died(child: &mut Child, error: Error, messages: &Path) -> Error {
    // A QEMU that is silent must go; one that is gone does not mind.
    let _ = child.kill();
    match (child.wait(), error) {
        (Ok(status), Error::Gone { .. }) => Error::DiedAtStart {
            status: status.to_string(),
            words: last_words(messages),
        },
        (_, error) => error,
    }
}
