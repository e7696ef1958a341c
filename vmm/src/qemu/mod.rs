//! Guests run by QEMU's `microvm`: no PCI, no firmware tables, devices on
//! virtio-mmio, the kernel entered directly by PVH.
//!
//! QEMU gets its control socket, the console and the channel as open file
//! descriptors; so there are no socket files to clean up, and all three are
//! connected before the guest runs.

mod command;
mod qmp;
mod spawn;
mod states;
mod tsc;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};

use self::command::fd;
use self::qmp::Qmp;
use crate::console::Console;
use crate::{Alert, AlertKind, Description, Error, Exit, Machine, MachineSpec, Result, TaskStates};

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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            binary: BINARY.into(),
            accel: Accel::default(),
        }
    }
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
    exit: Option<Exit>,
}

impl QemuMachine {
    /// Starts the guest that `spec` describes.
    pub fn start(spec: &MachineSpec, options: &Options) -> Result<Self> {
        check_files(spec)?;
        let messages = spec.run_dir.join("qemu.log");
        let log = File::create(&messages).map_err(|source| Error::File {
            path: messages.clone(),
            source,
        })?;
        let (qmp, qmp_far) = pair()?;
        let (console, console_far) = pair()?;
        let (channel, channel_far) = pair()?;
        let (terminal, terminal_far) = pair()?;

        let binary = options.binary.to_string_lossy().into_owned();
        let arguments = command::arguments(spec, options);
        let mut command = Command::new(&options.binary);
        command
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .fd_mappings(vec![
                mapping(qmp_far, fd::QMP),
                mapping(console_far, fd::CONSOLE),
                mapping(channel_far, fd::CHANNEL),
                mapping(terminal_far, fd::TERMINAL),
            ])
            .map_err(|error| Error::Io {
                what: "hand the sockets to the emulator",
                source: io::Error::other(error),
            })?;
        let console = Console::start(console, &spec.console_log)?;
        let mut child = spawn::spawn(command).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoEmulator {
                binary: binary.clone(),
            },
            _ => Error::Spawn {
                binary: binary.clone(),
                source,
            },
        })?;
        let qmp = match Qmp::connect(qmp, ANSWER) {
            Ok(qmp) => qmp,
            Err(error) => return Err(died(&mut child, error, &messages)),
        };
        let mut words = vec![binary];
        words.extend(arguments);
        Ok(Self {
            description: Description {
                kind: "qemu".into(),
                version: qmp.version().to_owned(),
                accel: options.accel.name().into(),
                command: words,
            },
            child,
            qmp,
            console,
            channel,
            terminal,
            messages,
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

fn pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().map_err(|source| Error::Io {
        what: "make a socket pair",
        source,
    })
}

fn share(stream: &UnixStream) -> Result<UnixStream> {
    stream.try_clone().map_err(|source| Error::Io {
        what: "share a socket",
        source,
    })
}

fn mapping(far: UnixStream, child_fd: i32) -> FdMapping {
    FdMapping {
        parent_fd: OwnedFd::from(far),
        child_fd,
    }
}

/// QEMU's own messages about a missing file do not say which option it was.
fn check_files(spec: &MachineSpec) -> Result<()> {
    let disks = spec.disks.iter().map(|disk| &disk.path);
    for path in disks.chain([&spec.kernel]) {
        File::open(path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
    }
    fs::create_dir_all(&spec.run_dir).map_err(|source| Error::File {
        path: spec.run_dir.clone(),
        source,
    })
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

fn last_words(messages: &Path) -> String {
    match fs::read_to_string(messages) {
        Ok(text) if !text.trim().is_empty() => text.trim().replace('\n', "; "),
        _ => "it said nothing".into(),
    }
}
