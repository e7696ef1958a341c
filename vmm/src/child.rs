// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The process that a machine runs in: what it inherits, and that it does not outlive us.
//!
//! It gets its control socket, the console and the channel as open file descriptors; so
//! there are no socket files to clean up, and all are connected before the guest runs.
//!
//! The kernel's parent-death signal is sent when the *thread* that made the
//! child ends, not the process. So all children are made by one thread that
//! lives as long as the process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, set_parent_process_death_signal,
};

use crate::{DebuggerAddress, Error, MachineSpec, Result};

/// The file descriptors at which the child finds its ends of our sockets.
pub(crate) mod fd {
    pub const CONTROL: i32 = 3;
    pub const CONSOLE: i32 = 4;
    pub const CHANNEL: i32 = 5;
    pub const TERMINAL: i32 = 6;
    /// The state of a saved machine, where there is one.
    pub const STATE: i32 = 7;
    /// The socket at which a debugger is waited for, where one is.
    pub const DEBUGGER: i32 = 8;
    /// The socket that our own monitor saves its guest by.
    pub const SAVED: i32 = 9;
    /// The pages of a guest that was saved by it, where it begins with one.
    pub const PAGES: i32 = 10;
    /// Those of its pages that differ, where it begins with such.
    pub const CHANGES: i32 = 11;
}

/// Our ends of a child's sockets.
pub(crate) struct Sockets {
    pub control: UnixStream,
    pub console: UnixStream,
    pub channel: UnixStream,
    pub terminal: UnixStream,
    pub saved: UnixStream,
}

impl Sockets {
    /// Has `command`, once it runs, find the other ends and `files` at their numbers, and a
    /// socket at `debugger`, and write what it says on standard error to the file `messages`.
    pub fn hand_over(
        command: &mut Command,
        messages: &Path,
        files: Vec<(i32, File)>,
        debugger: Option<&DebuggerAddress>,
    ) -> Result<Self> {
        let log = File::create(messages).map_err(|source| Error::File {
            path: messages.to_owned(),
            source,
        })?;
        let mut mappings = Vec::new();
        let mut ours = |child_fd| {
            let (near, far) = UnixStream::pair().map_err(|source| Error::Io {
                what: "make a socket pair",
                source,
            })?;
            mappings.push(FdMapping {
                parent_fd: OwnedFd::from(far),
                child_fd,
            });
            Ok(near)
        };
        let sockets = Self {
            control: ours(fd::CONTROL)?,
            console: ours(fd::CONSOLE)?,
            channel: ours(fd::CHANNEL)?,
            terminal: ours(fd::TERMINAL)?,
            saved: ours(fd::SAVED)?,
        };
        mappings.extend(files.into_iter().map(|(child_fd, file)| FdMapping {
            parent_fd: file.into(),
            child_fd,
        }));
        if let Some(address) = debugger {
            mappings.push(FdMapping {
                parent_fd: listen(address)?,
                child_fd: fd::DEBUGGER,
            });
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .fd_mappings(mappings)
            .map_err(|error| Error::Io {
                what: "hand the sockets to the emulator",
                source: io::Error::other(error),
            })?;
        Ok(sockets)
    }
}

/// A socket that waits at this address. A Unix socket's file stays when nobody waits any
/// more; the next one takes its place.
fn listen(address: &DebuggerAddress) -> Result<OwnedFd> {
    let listening = match address {
        DebuggerAddress::Port(port) => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map(OwnedFd::from)
        }
        DebuggerAddress::Socket(path) => {
            let is_socket = fs::metadata(path).is_ok_and(|it| it.file_type().is_socket());
            if is_socket && UnixStream::connect(path).is_err() {
                // If it cannot be removed, binding says why.
                let _ = fs::remove_file(path);
            }
            UnixListener::bind(path).map(OwnedFd::from)
        }
    };
    listening.map_err(|source| Error::Debugger {
        address: address.clone(),
        source,
    })
}

/// Takes the socket at `number` that this process was started with. To be called once
/// for each number, before anything else opens files.
pub(crate) fn inherited(number: i32) -> io::Result<UnixStream> {
    // Whoever starts the monitor by hand has something else there, or nothing.
    // SAFETY: the descriptor is only looked at.
    let there = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
    rustix::net::sockopt::socket_type(there)?;
    // SAFETY: it is open, and nobody else in this process owns it.
    Ok(unsafe { UnixStream::from_raw_fd(number) })
}

/// Takes the file at `number`, likewise.
pub(crate) fn inherited_file(number: i32) -> io::Result<File> {
    // SAFETY: the descriptor is only looked at.
    let there = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(there)?;
    // SAFETY: it is open, and nobody else in this process owns it.
    Ok(unsafe { File::from_raw_fd(number) })
}

/// Another handle on the same socket.
pub(crate) fn share(stream: &UnixStream) -> Result<UnixStream> {
    stream.try_clone().map_err(|source| Error::Io {
        what: "share a socket",
        source,
    })
}

/// Says which file of a guest is missing: the child's own messages say less. Makes the
/// directory for its logs.
pub(crate) fn check_files(spec: &MachineSpec) -> Result<()> {
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

/// What a child wrote on standard error, in one line.
pub(crate) fn last_words(messages: &Path) -> String {
    match fs::read_to_string(messages) {
        Ok(text) if !text.trim().is_empty() => text.trim().replace('\n', "; "),
        _ => "it said nothing".into(),
    }
}

/// How long a process may take to end once it has closed its sockets.
const ENDING: Duration = Duration::from_secs(10);

/// Waits for a child that has ended or is about to. One that stays, as it might that was
/// taken over by its guest, is killed.
pub(crate) fn reap(child: &mut Child) -> io::Result<ExitStatus> {
    reap_within(child, ENDING)
}

fn reap_within(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    // It is ours and not reaped yet, so its number is no other's.
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut ended = [PollFd::new(&process, PollFlags::IN)];
        match poll(&mut ended, Some(&left)) {
            Ok(0) => child.kill()?,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        return child.wait();
    }
}

struct Job {
    command: Command,
    done: Sender<io::Result<Child>>,
}

static SPAWNER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::spawn(move || {
        for Job { mut command, done } in jobs {
            // Nobody waits any more if this fails, and the child is then
            // dropped with the result.
            let _ = done.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// Spawns `command`; the child is killed when this process ends, however it
/// ends.
pub(crate) fn spawn(command: Command, binary: &str) -> Result<Child> {
    start(command).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => Error::NoEmulator {
            binary: binary.into(),
        },
        _ => Error::Spawn {
            binary: binary.into(),
            source,
        },
    })
}

fn start(mut command: Command) -> io::Result<Child> {
    let parent = getpid();
    // SAFETY: between fork and exec only async-signal-safe calls are made: the
    // closure makes two system calls and does not allocate.
    unsafe {
        command.pre_exec(move || die_with(parent));
    }
    let (done, result) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send(Job { command, done })
        .map_err(|_| io::Error::other("the spawning thread is gone"))?;
    result
        .recv()
        .map_err(|_| io::Error::other("the spawning thread is gone"))?
}

fn die_with(parent: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the signal was set.
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(Errno::SRCH.into())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sh(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        spawn(command, "sh").unwrap()
    }

    #[test]
    fn a_child_that_ends_is_reaped_with_its_status() {
        let status = reap(&mut sh("exit 3")).unwrap();
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_child_that_stays_is_killed() {
        let status = reap_within(&mut sh("exec sleep 3600"), Duration::ZERO).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
