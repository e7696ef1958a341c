//! Guests run by our own monitor on KVM: see [`monitor`].

mod control;
mod cpuid;
pub mod devices;
mod failure;
pub mod memory;
pub mod monitor;
mod phases;
pub mod probe;
pub mod saved;
mod wire;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use libc::SIGSYS;

use self::control::Control;
use self::saved::format::Manifest;
use self::wire::{Config, DiskConfig, Ended, Request};
use crate::child::{self, Sockets, fd, last_words, share};
use crate::cmdline;
use crate::console::Console;
use crate::states;
use crate::{
    Alert, AlertKind, Changes, Description, Error, Exit, Machine, MachineSpec, Phase, Result,
    Start, TaskStates,
};

/// The command that runs [`monitor::main`].
#[derive(Debug, Clone)]
pub struct Options {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

/// A guest in a monitor process.
pub struct KvmMachine {
    child: Child,
    control: Control,
    console: Console,
    channel: UnixStream,
    terminal: UnixStream,
    saved: UnixStream,
    build: String,
    memory_mib: u32,
    tracked: bool,
    /// The saved guest that changes are counted from.
    base: Option<Manifest>,
    description: Description,
    messages: PathBuf,
    start: Start,
    is_debugged: bool,
    exit: Option<Exit>,
}

/// The kernel's command line. `reboot=k`, by the keyboard controller, tells a reset that
/// was asked for from a triple fault.
fn kernel_cmdline(spec: &MachineSpec) -> String {
    cmdline::kernel(spec, "k", &[])
}

/// What must be the same for a guest that a monitor has saved to be started by one: the
/// program, the host, and the machine but for the content of its disks.
pub fn identity(spec: &MachineSpec, options: &Options) -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    let boot = fs::read_to_string(path).map_err(|source| Error::File {
        path: path.into(),
        source,
    })?;
    let disks: Vec<_> = spec
        .disks
        .iter()
        .map(|disk| match disk.readonly {
            true => disk.path.to_string_lossy().into_owned(),
            false => String::new(),
        })
        .collect();
    Ok(format!(
        "{}\n{boot}{}\n{} MiB, {} vCPUs\n{}\n{}",
        build(&options.program)?,
        spec.kernel.display(),
        spec.memory_mib,
        spec.vcpus,
        kernel_cmdline(spec),
        disks.join("\n")
    ))
}

/// The name of the build that `program` is.
fn build(program: &Path) -> Result<String> {
    let metadata = fs::metadata(program).map_err(|source| Error::File {
        path: program.to_owned(),
        source,
    })?;
    Ok(format!(
        "{} {} {}.{:09}",
        env!("CARGO_PKG_VERSION"),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec()
    ))
}

/// How the monitor ended, as far as its status tells.
fn fate(status: ExitStatus) -> String {
    if status.signal() == Some(SIGSYS) {
        // `confine` has it so.
        return "the monitor made a system call that it is not allowed (SIGSYS)".into();
    }
    format!("the monitor ended with {status}")
}

impl KvmMachine {
    /// Starts the guest that `spec` describes.
    pub fn start(spec: &MachineSpec, options: &Options) -> Result<Self> {
        child::check_files(spec)?;
        let began = phases::now();
        let messages = spec.run_dir.join("monitor.log");
        let binary = options.program.to_string_lossy().into_owned();
        let mut command = Command::new(&options.program);
        command.args(&options.arguments);
        let build = build(&options.program)?;
        let mut files = Vec::new();
        let mut base = None;
        let mut changes = None;
        if let Some(beginning) = saved::begin(&spec.start, &build)? {
            files.push((fd::PAGES, beginning.base.pages));
            base = Some(beginning.base.manifest);
            let state = match beginning.changes {
                None => beginning.base.state,
                Some(opened) => {
                    files.push((fd::CHANGES, opened.pages));
                    changes = opened.manifest.changes.map(|changes| changes.runs);
                    opened.state
                }
            };
            files.push((fd::STATE, state));
        }
        let sockets = Sockets::hand_over(&mut command, &messages, files, spec.debugger.as_ref())?;
        let mut console = Console::start(sockets.console, &spec.console_log)?;
        let mut child = child::spawn(command, &binary)?;
        let config = Config {
            kernel: spec.kernel.clone(),
            cmdline: kernel_cmdline(spec),
            vcpus: spec.vcpus,
            memory_mib: spec.memory_mib,
            disks: spec
                .disks
                .iter()
                .map(|disk| DiskConfig {
                    path: disk.path.clone(),
                    readonly: disk.readonly,
                })
                .collect(),
            saved: base.is_some(),
            changes,
            track: spec.track_changes,
            debugger: spec.debugger.is_some(),
            build: build.clone(),
            began,
        };
        let control = match Control::start(sockets.control, &config) {
            Ok(control) => control,
            Err(error) => {
                // One that is silent must go; one that is gone does not mind.
                let _ = child.kill();
                let status = child.wait();
                console.join();
                return Err(match (status, error) {
                    (Ok(status), Error::Gone { .. }) => Error::DiedAtStart {
                        status: fate(status),
                        words: last_words(&messages),
                    },
                    (_, error) => error,
                });
            }
        };
        let mut words = vec![binary];
        words.extend(
            options
                .arguments
                .iter()
                .map(|word| word.to_string_lossy().into_owned()),
        );
        Ok(Self {
            description: Description {
                kind: "kvm".into(),
                version: env!("CARGO_PKG_VERSION").into(),
                accel: "kvm".into(),
                start: spec.start.name().into(),
                command: words,
            },
            child,
            control,
            console,
            channel: sockets.channel,
            terminal: sockets.terminal,
            saved: sockets.saved,
            build,
            memory_mib: spec.memory_mib,
            tracked: spec.track_changes,
            base,
            messages,
            start: spec.start.clone(),
            is_debugged: spec.debugger.is_some(),
            exit: None,
        })
    }

    /// Reaps the process, which has ended or is about to, and tells why.
    fn reap(&mut self, killed: bool) -> Result<Exit> {
        let status = self.child.wait().map_err(|source| Error::Io {
            what: "wait for the monitor",
            source,
        })?;
        self.console.join();
        let exit = if status.signal() == Some(SIGSYS) {
            // Whatever else happened, this must not have.
            Exit::HostError {
                detail: fate(status),
            }
        } else if self.console.has_alert(AlertKind::Panic) {
            Exit::Panic
        } else if killed {
            Exit::Killed
        } else {
            match self.control.ended() {
                Some(Ended::Reset) if self.console.said_goodbye() => Exit::Shutdown,
                Some(Ended::Reset) => Exit::Reset,
                Some(Ended::TripleFault { registers }) => Exit::TripleFault { registers },
                Some(Ended::Kvm { detail, registers }) => Exit::Kvm { detail, registers },
                Some(Ended::Monitor { detail }) => Exit::HostError { detail },
                None => Exit::HostError {
                    detail: format!("{}; {}", fate(status), last_words(&self.messages)),
                },
            }
        };
        self.exit = Some(exit.clone());
        Ok(exit)
    }
}

impl Machine for KvmMachine {
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
        if self.exit.is_none() && self.control.wait_closed(timeout) {
            self.reap(false)?;
        }
        Ok(self.exit.clone())
    }

    fn task_states(&mut self, timeout: Duration) -> Result<TaskStates> {
        states::capture(&mut &self.control, &self.console, Instant::now() + timeout)
    }

    fn pause(&mut self) -> Result<()> {
        self.control.ask("pause", &Request::Pause).map(|_| ())
    }

    fn resume(&mut self) -> Result<()> {
        self.control.ask("resume", &Request::Resume).map(|_| ())
    }

    fn save(&mut self) -> Result<()> {
        let Start::ToBeSaved(directory) = &self.start else {
            return Err(Error::NotToBeSaved);
        };
        let directory = directory.clone();
        self.save_in(&directory)
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        let write = || saved::write(directory, &self.build, self.memory_mib, None, &self.saved);
        let (_, manifest) = self.control.ask_and("save", &Request::Save, write)?;
        self.control.ask("save", &Request::Base)?;
        self.base = Some(manifest);
        Ok(())
    }

    fn save_changes(&mut self, directory: &Path) -> Result<Changes> {
        if !self.tracked {
            return Err(Error::NotTracked);
        }
        let base = self.base.as_ref().ok_or(Error::NoBase)?;
        let write = || {
            let base = Some(base);
            saved::write(directory, &self.build, self.memory_mib, base, &self.saved)
        };
        let ask = self.control.ask_and("save", &Request::SaveChanges, write);
        let (_, manifest) = ask?;
        Ok(Changes {
            pages: manifest.changes.map_or(0, |changes| changes.pages()),
            of: saved::pages_of(self.memory_mib),
        })
    }

    fn kill(&mut self) -> Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        self.child.kill().map_err(|source| Error::Io {
            what: "kill the monitor",
            source,
        })?;
        self.reap(true).map(|_| ())
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn phases(&self) -> &[Phase] {
        self.control.phases()
    }

    fn is_debugged(&self) -> bool {
        self.is_debugged
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }
}

impl Drop for KvmMachine {
    fn drop(&mut self) {
        // Nobody is left to tell; the parent-death signal is the safety net.
        let _ = self.kill();
    }
}
