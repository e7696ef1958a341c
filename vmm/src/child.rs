//! Starting a child that does not outlive us.
//!
//! The kernel's parent-death signal is sent when the *thread* that made the
//! child ends, not the process. So all children are made by one thread that
//! lives as long as the process.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Sender};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

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
pub(super) fn spawn(mut command: Command) -> io::Result<Child> {
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
        Err(io::Error::from_raw_os_error(
            rustix::io::Errno::SRCH.raw_os_error(),
        ))
    }
}
