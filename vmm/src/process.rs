// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The part of a machine that all backends share: a child process with a console and sockets.
//! Starts it, waits for its exit, kills it. The [`Backend`] does the rest.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use libc::SIGSYS;

use crate::bridge::{self, Kind};
use crate::child::{self, Sockets, share, stderr_text};
use crate::confine::Confinement;
use crate::console::Console;
use crate::dump::{DumpThread, Dumper};
use crate::qemu::record;
use crate::states::{self, Probe};
use crate::{
    Alert, AlertKind, Changes, Description, Error, Exit, HostFault, Machine, MachineSpec,
    MemoryDump, Phase, Result, Start, TaskStates,
};

/// The operations that differ between backends.
pub trait Backend: Probe + Send {
    /// The backend's name, as in [`Description`].
    const NAME: &'static str;

    /// The name of its process in messages.
    const PROCESS: &'static str;

    /// The name of the file that receives the standard error of its process.
    const MESSAGES: &'static str;

    /// Returns the emulator's version, as it prints it.
    fn version(&self) -> String;

    /// Returns the accelerator: `tcg` or `kvm`.
    fn accel(&self) -> &str;

    /// Waits until the process closes its control socket. Returns false when it did not within
    /// `timeout`.
    fn wait_closed(&self, timeout: Duration) -> bool;

    /// Returns the end of the guest, as far as the process has reported it. `announced_shutdown` is
    /// true if the guest's kernel announced a shutdown or restart on the console.
    ///
    /// # Errors
    /// Returns a description of the end, for a process that has reported nothing conclusive.
    fn end(&self, announced_shutdown: bool) -> Result<End, String>;

    /// Returns the first failure of the host's disk that the process has reported.
    fn host_fault(&self) -> Option<HostFault>;

    /// Returns the part that writes a dump of the guest's memory.
    fn dumper(&self) -> Result<Arc<dyn Dumper>>;

    /// [`Machine::phases`].
    fn phases(&self) -> &[Phase];

    /// [`Machine::instructions`].
    fn instructions(&self) -> Option<u64> {
        None
    }

    /// Asks the process to end before it is killed, if it has something to complete.
    fn complete(&self) {}

    /// [`Machine::pause`].
    fn pause(&mut self) -> Result<()>;

    /// [`Machine::resume`].
    fn resume(&mut self) -> Result<()>;

    /// [`Machine::save_in`].
    fn save_in(&mut self, directory: &Path) -> Result<()>;

    /// [`Machine::save_changes`].
    fn save_changes(&mut self, directory: &Path) -> Result<Changes>;
}

/// The end of a guest, as its process reported it.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The guest ended.
    Guest(Exit),
    /// The process itself failed, with this message.
    Process(String),
}

/// A guest in a child process.
pub struct ProcessMachine<B: Backend> {
    backend: B,
    child: Child,
    console: Console,
    channel: UnixStream,
    terminal: UnixStream,
    messages: PathBuf,
    description: Description,
    start: Start,
    is_debugged: bool,
    recording: Option<PathBuf>,
    dumping: Option<DumpThread>,
    dump: Option<MemoryDump>,
    exit: Option<Exit>,
}

/// The sockets to a process that only its backend uses.
pub(crate) struct Own {
    pub control: UnixStream,
    pub saved: UnixStream,
}

impl<B: Backend> ProcessMachine<B> {
    /// Starts `command` in the root directory, with `files` at their descriptor numbers and with
    /// no other descriptor of this process, in `confinement`. `connect` makes sure that the
    /// guest runs; if it fails, no process is left running.
    pub(crate) fn launch(
        spec: &MachineSpec,
        mut command: Command,
        files: Vec<(i32, File)>,
        confinement: Confinement,
        connect: impl FnOnce(Own) -> Result<B>,
    ) -> Result<Self> {
        let messages = spec.run_dir.join(B::MESSAGES);
        let command_line: Vec<_> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        let mut sockets =
            Sockets::hand_over(&mut command, &messages, files, spec.debugger.as_ref())?;
        if let Some(directory) = &spec.record {
            let start = |name: &str, alive, kind| {
                let started = bridge::start(&directory.join(name), alive, kind);
                started.map_err(failed("connect to the machine's process"))
            };
            sockets.channel = start(record::CHANNEL, sockets.channel, Kind::Line)?;
            sockets.console = start(record::CONSOLE, sockets.console, Kind::Plain)?;
        }
        confinement.apply(command.current_dir("/"));
        let mut console = Console::start(sockets.console, &spec.console_log)?;
        let mut child = child::spawn(command, &command_line[0])?;
        let connected = connect(Own {
            control: sockets.control,
            saved: sockets.saved,
        });
        let backend = match connected {
            Ok(backend) => backend,
            Err(error) => {
                // A process that hangs must be killed; killing one that has exited is harmless.
                let _ = child.kill();
                let status = child.wait();
                console.join();
                return Err(match (status, error) {
                    (Ok(status), Error::Gone { .. }) => Error::DiedAtStart {
                        status: fate::<B>(status),
                        stderr: stderr_text(&messages),
                    },
                    (_, error) => error,
                });
            }
        };
        let mut machine = Self {
            description: Description {
                kind: B::NAME.into(),
                version: backend.version(),
                accel: backend.accel().into(),
                start: spec.start.name().into(),
                command: command_line,
            },
            backend,
            child,
            console,
            channel: sockets.channel,
            terminal: sockets.terminal,
            messages,
            start: spec.start.clone(),
            is_debugged: spec.debugger.is_some(),
            recording: spec.record.clone(),
            dumping: None,
            dump: None,
            exit: None,
        };
        if let Some(path) = &spec.dump {
            let dumper = machine.backend.dumper()?;
            let ending = machine.console.ending()?;
            machine.dumping = Some(DumpThread::start(dumper, ending, path.clone())?);
        }
        Ok(machine)
    }

    /// Returns the backend.
    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    /// Reaps the process, which has exited or is about to, and determines the end of the machine.
    fn reap(&mut self, killed: bool) -> Result<()> {
        let status =
            child::reap(&mut self.child).map_err(failed("wait for the machine's process"))?;
        self.console.join();
        // The dump's thread ends with the connection to the process.
        self.dump = self.dumping.take().and_then(DumpThread::join);
        let signal = status.signal();
        let exit = if signal == Some(SIGSYS) {
            // Report this first: a forbidden system call is serious whatever else happened.
            Exit::HostError {
                detail: fate::<B>(status),
                signal,
            }
        } else if self.console.has_alert(AlertKind::Panic) {
            Exit::Panic
        } else if killed {
            Exit::Killed
        } else {
            match self.backend.end(self.console.announced_shutdown()) {
                Ok(End::Guest(exit)) => exit,
                Ok(End::Process(detail)) => Exit::HostError { detail, signal },
                Err(known) => Exit::HostError {
                    detail: format!(
                        "{} ({known}); {}",
                        fate::<B>(status),
                        stderr_text(&self.messages)
                    ),
                    signal,
                },
            }
        };
        self.exit = Some(exit);
        Ok(())
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// Describes the end of a process, as far as its status shows it.
fn fate<B: Backend>(status: ExitStatus) -> String {
    let process = B::PROCESS;
    if status.signal() == Some(SIGSYS) {
        // The process's seccomp filters raise this signal.
        return format!("{process} made a system call that its filter forbids (SIGSYS)");
    }
    format!("{process} ended with {status}")
}

impl<B: Backend> Machine for ProcessMachine<B> {
    fn channel(&self) -> Result<UnixStream> {
        share(&self.channel)
    }

    fn terminal(&self) -> Result<UnixStream> {
        share(&self.terminal)
    }

    fn alerts(&self) -> Receiver<Alert> {
        self.console.alerts()
    }

    fn wait_mark(&self, token: &str, timeout: Duration) -> bool {
        self.console.wait_mark(token, timeout)
    }

    fn console_tail(&self, lines: usize) -> Vec<String> {
        self.console.tail(lines)
    }

    fn try_exit(&mut self) -> Result<Option<Exit>> {
        self.wait(Duration::ZERO)
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Exit>> {
        if self.exit.is_none() && self.backend.wait_closed(timeout) {
            self.reap(false)?;
        }
        Ok(self.exit.clone())
    }

    fn host_fault(&mut self) -> Option<HostFault> {
        self.backend
            .host_fault()
            .or_else(|| self.console.host_fault())
    }

    fn memory_dump(&self) -> Option<MemoryDump> {
        self.dump.clone()
    }

    fn task_states(&mut self, timeout: Duration) -> Result<TaskStates> {
        states::capture(&mut self.backend, &self.console, Instant::now() + timeout)
    }

    fn pause(&mut self) -> Result<()> {
        self.backend.pause()
    }

    fn resume(&mut self) -> Result<()> {
        self.backend.resume()
    }

    fn save(&mut self) -> Result<()> {
        match &self.start {
            Start::BootForSnapshot(directory) => self.backend.save_in(directory),
            _ => Err(Error::NoSnapshotDirectory),
        }
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        self.backend.save_in(directory)
    }

    fn save_changes(&mut self, directory: &Path) -> Result<Changes> {
        self.backend.save_changes(directory)
    }

    fn kill(&mut self) -> Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        self.backend.complete();
        self.child
            .kill()
            .map_err(failed("kill the machine's process"))?;
        self.reap(true)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn instructions(&self) -> Option<u64> {
        self.backend.instructions()
    }

    fn recording(&self) -> Option<&Path> {
        self.recording.as_deref()
    }

    fn phases(&self) -> &[Phase] {
        self.backend.phases()
    }

    fn is_debugged(&self) -> bool {
        self.is_debugged
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }
}

impl<B: Backend> Drop for ProcessMachine<B> {
    fn drop(&mut self) {
        // An error cannot be reported here; the parent-death signal is the safety net.
        let _ = self.kill();
    }
}
