// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The child process that a machine runs in: the descriptors that it inherits, and its end with
//! this process.
//!
//! The child gets its control socket, the console and the channel as open file descriptors, so
//! there are no socket files to clean up, and all are connected before the guest runs.
//!
//! The kernel sends the parent-death signal when the *thread* that created the child ends, not when
//! the process does. All children are therefore spawned by one thread that lives as long as the
//! process.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::process::{
    Pid, PidfdFlags, Resource, Signal, getpid, getppid, getrlimit, pidfd_open,
    set_parent_process_death_signal,
};

use crate::{DebuggerAddress, Error, MachineSpec, Result, Start};

/// The descriptor numbers of the child's ends of the socket pairs, and of the files it inherits.
pub(crate) mod fd {
    pub const CONTROL: i32 = 3;
    pub const CONSOLE: i32 = 4;
    pub const CHANNEL: i32 = 5;
    pub const TERMINAL: i32 = 6;
    /// The device state of a snapshot, if the machine starts from one.
    pub const STATE: i32 = 7;
    /// The listening socket for a debugger, if the machine has one.
    pub const DEBUGGER: i32 = 8;
    /// The socket through which our own monitor receives save requests and their descriptors.
    pub const SNAPSHOT: i32 = 9;
    /// The memory pages of a snapshot of our own monitor, if the machine starts from one.
    pub const PAGES: i32 = 10;
    /// The pages of an incremental snapshot, if the machine starts from one.
    pub const CHANGES: i32 = 11;
}

/// The parent's ends of a child's sockets.
pub(crate) struct Sockets {
    pub control: UnixStream,
    pub console: UnixStream,
    pub channel: UnixStream,
    pub terminal: UnixStream,
    pub saved: UnixStream,
}

impl Sockets {
    /// Makes `command`, when it runs, inherit the other ends of the sockets, `files` at their
    /// numbers and a listening socket for `debugger`. Standard error of the child goes to the file
    /// `messages`.
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
        let mut mappings: Vec<FdMapping> = Vec::new();
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
            saved: ours(fd::SNAPSHOT)?,
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
        let promised: Vec<_> = mappings.iter().map(|mapping| mapping.child_fd).collect();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .fd_mappings(mappings)
            .map_err(|error| Error::Io {
                what: "pass the sockets to the machine's process",
                source: io::Error::other(error),
            })?;
        // SAFETY: between fork and exec only async-signal-safe calls are made: the closure makes
        // system calls and does not allocate. It runs after the closure of `fd_mappings`.
        unsafe {
            command.pre_exec(move || close_others(&promised));
        }
        Ok(sockets)
    }
}

/// Makes exec(2) close all descriptors but `promised` and the standard ones. Others may have been
/// open, without `FD_CLOEXEC`, when this process was started, or be opened by a library.
fn close_others(promised: &[i32]) -> io::Result<()> {
    let first = libc::STDERR_FILENO + 1;
    // SAFETY: the call changes flags of descriptors and touches no memory.
    let done = unsafe {
        let flags = libc::CLOSE_RANGE_CLOEXEC;
        libc::syscall(libc::SYS_close_range, first, u32::MAX, flags)
    };
    if done != 0 {
        // Linux before 5.11.
        close_each(first);
    }
    for &number in promised {
        // SAFETY: it was just placed at this number, and only its flags are changed.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    Ok(())
}

/// Makes exec(2) close the descriptors from `first` on, one by one, up to the limit of this
/// process.
fn close_each(first: i32) {
    let limit = getrlimit(Resource::Nofile).current;
    let end = limit.map_or(MOST_FILES, |limit| limit.min(MOST_FILES as u64) as i32);
    for number in first..end {
        // SAFETY: the call only changes flags of the descriptor, and fails if there is none.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
    }
}

/// A bound for the time that [`close_each`] takes.
const MOST_FILES: i32 = 1 << 16;

/// Returns a socket that listens at this address. The file of a Unix socket outlives its listener,
/// so a file at which no process listens is replaced.
fn listen(address: &DebuggerAddress) -> Result<OwnedFd> {
    let listening = match address {
        DebuggerAddress::Port(port) => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).map(OwnedFd::from)
        }
        DebuggerAddress::Socket(path) => {
            let is_socket = fs::metadata(path).is_ok_and(|it| it.file_type().is_socket());
            if is_socket && UnixStream::connect(path).is_err() {
                // If the removal fails, bind() reports the reason.
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

/// Takes ownership of the socket that this process inherited at `number`. Call it once for each
/// number, before this process opens other files.
pub(crate) fn inherited(number: i32) -> io::Result<UnixStream> {
    // A monitor that is started by hand may have a different descriptor at this number, or none.
    // SAFETY: the descriptor is only inspected.
    let there = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
    rustix::net::sockopt::socket_type(there)?;
    // SAFETY: the descriptor is open, and no other code in this process owns it.
    Ok(unsafe { UnixStream::from_raw_fd(number) })
}

/// Takes ownership of the file that this process inherited at `number`, as [`inherited`] does.
pub(crate) fn inherited_file(number: i32) -> io::Result<File> {
    // SAFETY: the descriptor is only inspected.
    let there = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(there)?;
    // SAFETY: the descriptor is open, and no other code in this process owns it.
    Ok(unsafe { File::from_raw_fd(number) })
}

/// Returns a second handle to the same socket.
pub(crate) fn share(stream: &UnixStream) -> Result<UnixStream> {
    stream.try_clone().map_err(|source| Error::Io {
        what: "duplicate a socket",
        source,
    })
}

/// Returns `spec` with absolute paths, because the child runs in the root directory: QEMU takes
/// firmware from its current one. Creates the directory for its logs.
///
/// # Errors
/// Names the first kernel or disk file that cannot be opened: the child's own messages are less
/// specific.
pub(crate) fn prepare(spec: &MachineSpec) -> Result<MachineSpec> {
    let mut spec = spec.clone();
    let disks = spec.disks.iter_mut().map(|disk| &mut disk.path);
    for path in disks.chain([&mut spec.kernel]) {
        File::open(&path).map_err(|source| Error::File {
            path: path.clone(),
            source,
        })?;
        *path = absolute(path)?;
    }
    match &mut spec.start {
        Start::Boot => {}
        Start::BootForSnapshot(directory) | Start::Saved(directory) => {
            *directory = absolute(directory)?;
        }
        Start::Changed { base, changes } => {
            *base = absolute(base)?;
            *changes = absolute(changes)?;
        }
    }
    if let Some(directory) = &mut spec.record {
        *directory = absolute(directory)?;
    }
    fs::create_dir_all(&spec.run_dir).map_err(|source| Error::File {
        path: spec.run_dir.clone(),
        source,
    })?;
    Ok(spec)
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::File {
        path: path.to_owned(),
        source,
    })
}

/// Returns a child's standard error, joined into one line.
pub(crate) fn stderr_text(messages: &Path) -> String {
    match fs::read_to_string(messages) {
        Ok(text) if !text.trim().is_empty() => text.trim().replace('\n', "; "),
        _ => "it printed nothing on standard error".into(),
    }
}

/// Maximum time for a process to exit after it has closed its sockets.
const ENDING: Duration = Duration::from_secs(10);

/// Waits for a child that has exited or is about to. A child that does not exit in time, which a
/// monitor compromised by its guest may do, is killed.
pub(crate) fn reap(child: &mut Child) -> io::Result<ExitStatus> {
    reap_within(child, ENDING)
}

fn reap_within(child: &mut Child, limit: Duration) -> io::Result<ExitStatus> {
    // The child is ours and not yet reaped, so its pid cannot have been reused.
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
            // If this fails, the receiver is gone, and the child is dropped with the result.
            let _ = done.send(command.spawn());
        }
    });
    Mutex::new(sender)
});

/// Spawns `command`. The kernel kills the child when this process ends, for whatever reason.
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
        .map_err(|_| io::Error::other("the spawning thread has ended"))?;
    result
        .recv()
        .map_err(|_| io::Error::other("the spawning thread has ended"))?
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
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn sh(script: &str) -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        spawn(command, "sh").unwrap()
    }

    #[test]
    fn descriptors_that_are_not_promised_are_closed_on_old_kernels_too() {
        let open = |closed: bool| {
            let (near, far) = io::pipe().unwrap();
            // Unused numbers, without FD_CLOEXEC.
            let files = [near.as_fd(), far.as_fd()].map(|fd| {
                let fd = rustix::io::fcntl_dupfd_cloexec(fd, 200).unwrap();
                rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
                fd
            });
            let [first, second] = files.each_ref().map(AsRawFd::as_raw_fd);
            let mut command = Command::new("/bin/ls");
            command.arg("/proc/self/fd");
            if closed {
                let close = || {
                    close_each(3);
                    Ok(())
                };
                // SAFETY: the closure only makes system calls.
                unsafe { command.pre_exec(close) };
            }
            let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
            let has = |number: i32| output.lines().any(|line| line == number.to_string());
            assert!(has(1), "{output}");
            [has(first), has(second)]
        };
        assert_eq!(open(false), [true, true]);
        assert_eq!(open(true), [false, false]);
    }

    #[test]
    fn a_child_that_exits_is_reaped_with_its_status() {
        let status = reap(&mut sh("exit 3")).unwrap();
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_child_that_does_not_exit_is_killed() {
        let status = reap_within(&mut sh("exec sleep 3600"), Duration::ZERO).unwrap();
        assert_eq!(status.signal(), Some(libc::SIGKILL));
    }
}
