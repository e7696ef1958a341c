// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A machine as far as it is a process of ours with a console and sockets: starting it,
//! waiting for its end, ending it. Its [`Kind`] knows the rest.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use libc::SIGSYS;

use crate::child::{self, Sockets, last_words, share};
use crate::console::Console;
use crate::states::{self, Probe};
use crate::{
    Alert, AlertKind, Changes, Description, Error, Exit, Machine, MachineSpec, Phase, Result,
    Start, TaskStates,
};

/// What differs from one kind of machine to another.
pub trait Kind: Probe + Send {
    /// Its name, as in [`Description`].
    const NAME: &'static str;

    /// What its process is called.
    const PROCESS: &'static str;

    /// The file for what its process says on standard error.
    const MESSAGES: &'static str;

    /// The emulator's version, in its own words.
    fn version(&self) -> String;

    /// What executes guest code: `tcg` or `kvm`.
    fn accel(&self) -> &str;

    /// Waits until the process closes its control socket. False if it did not within
    /// `timeout`.
    fn wait_closed(&self, timeout: Duration) -> bool;

    /// How the guest ended, as far as the process has told. `said_goodbye`: the guest had
    /// announced it on its console.
    ///
    /// # Errors
    /// What is known where the process has told nothing that makes sense.
    fn end(&self, said_goodbye: bool) -> Result<Exit, String>;

    /// [`Machine::phases`].
    fn phases(&self) -> &[Phase];

    /// [`Machine::pause`].
    fn pause(&mut self) -> Result<()>;

    /// [`Machine::resume`].
    fn resume(&mut self) -> Result<()>;

    /// [`Machine::save_in`].
    fn save_in(&mut self, directory: &Path) -> Result<()>;

    /// [`Machine::save_changes`].
    fn save_changes(&mut self, directory: &Path) -> Result<Changes>;
}

/// A guest in a process of ours.
pub struct ProcessMachine<K: Kind> {
    kind: K,
    child: Child,
    console: Console,
    channel: UnixStream,
    terminal: UnixStream,
    messages: PathBuf,
    description: Description,
    start: Start,
    is_debugged: bool,
    exit: Option<Exit>,
}

/// The sockets to a process that only its kind knows how to use.
pub(crate) struct Own {
    pub control: UnixStream,
    pub saved: UnixStream,
}

impl<K: Kind> ProcessMachine<K> {
    /// Starts `command` with `files` at their numbers. `connect` makes sure that the guest
    /// runs; where it fails, nothing is left running.
    pub(crate) fn launch(
        spec: &MachineSpec,
        mut command: Command,
        files: Vec<(i32, File)>,
        connect: impl FnOnce(Own) -> Result<K>,
    ) -> Result<Self> {
        let messages = spec.run_dir.join(K::MESSAGES);
        let words: Vec<_> = [command.get_program()]
            .into_iter()
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        let sockets = Sockets::hand_over(&mut command, &messages, files, spec.debugger.as_ref())?;
        let mut console = Console::start(sockets.console, &spec.console_log)?;
        let mut child = child::spawn(command, &words[0])?;
        let connected = connect(Own {
            control: sockets.control,
            saved: sockets.saved,
        });
        let kind = match connected {
            Ok(kind) => kind,
            Err(error) => {
                // One that is silent must go; one that is gone does not mind.
                let _ = child.kill();
                let status = child.wait();
                console.join();
                return Err(match (status, error) {
                    (Ok(status), Error::Gone { .. }) => Error::DiedAtStart {
                        status: fate::<K>(status),
                        words: last_words(&messages),
                    },
                    (_, error) => error,
                });
            }
        };
        Ok(Self {
            description: Description {
                kind: K::NAME.into(),
                version: kind.version(),
                accel: kind.accel().into(),
                start: spec.start.name().into(),
                command: words,
            },
            kind,
            child,
            console,
            channel: sockets.channel,
            terminal: sockets.terminal,
            messages,
            start: spec.start.clone(),
            is_debugged: spec.debugger.is_some(),
            exit: None,
        })
    }

    /// Reaps the process, which has ended or is about to, and tells why.
    fn reap(&mut self, killed: bool) -> Result<()> {
        let status =
            child::reap(&mut self.child).map_err(failed("wait for the machine's process"))?;
        self.console.join();
        let exit = if status.signal() == Some(SIGSYS) {
            // Whatever else happened, this must not have.
            Exit::HostError {
                detail: fate::<K>(status),
            }
        } else if self.console.has_alert(AlertKind::Panic) {
            Exit::Panic
        } else if killed {
            Exit::Killed
        } else {
            self.kind
                .end(self.console.said_goodbye())
                .unwrap_or_else(|known| Exit::HostError {
                    detail: format!(
                        "{} ({known}); {}",
                        fate::<K>(status),
                        last_words(&self.messages)
                    ),
                })
        };
        self.exit = Some(exit);
        Ok(())
    }
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { what, source }
}

/// How a process ended, as far as its status tells.
fn fate<K: Kind>(status: ExitStatus) -> String {
    let process = K::PROCESS;
    if status.signal() == Some(SIGSYS) {
        // Its filters have it so.
        return format!("{process} made a system call that it is not allowed (SIGSYS)");
    }
    format!("{process} ended with {status}")
}

impl<K: Kind> Machine for ProcessMachine<K> {
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
        if self.exit.is_none() && self.kind.wait_closed(timeout) {
            self.reap(false)?;
        }
        Ok(self.exit.clone())
    }

    fn task_states(&mut self, timeout: Duration) -> Result<TaskStates> {
        states::capture(&mut self.kind, &self.console, Instant::now() + timeout)
    }

    fn pause(&mut self) -> Result<()> {
        self.kind.pause()
    }

    fn resume(&mut self) -> Result<()> {
        self.kind.resume()
    }

    fn save(&mut self) -> Result<()> {
        match &self.start {
            Start::ToBeSaved(directory) => self.kind.save_in(directory),
            _ => Err(Error::NotToBeSaved),
        }
    }

    fn save_in(&mut self, directory: &Path) -> Result<()> {
        self.kind.save_in(directory)
    }

    fn save_changes(&mut self, directory: &Path) -> Result<Changes> {
        self.kind.save_changes(directory)
    }

    fn kill(&mut self) -> Result<()> {
        if self.exit.is_some() {
            return Ok(());
        }
        self.child
            .kill()
            .map_err(failed("kill the machine's process"))?;
        self.reap(true)
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn phases(&self) -> &[Phase] {
        self.kind.phases()
    }

    fn is_debugged(&self) -> bool {
        self.is_debugged
    }

    fn describe(&self) -> Description {
        self.description.clone()
    }
}

impl<K: Kind> Drop for ProcessMachine<K> {
    fn drop(&mut self) {
        // Nobody is left to tell; the parent-death signal is the safety net.
        let _ = self.kill();
    }
}
