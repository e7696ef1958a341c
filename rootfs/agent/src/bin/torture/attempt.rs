// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Restarts a damaged or forged image once, and checks what the restart leaves behind.

use std::{
    fs::{self, File},
    io::{self, Read, Seek, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use crucible_agent::{
    cgroup::{self, Cgroup},
    sys,
};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        memfd::{MFdFlags, memfd_create},
        prctl::set_keepcaps,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{ForkResult, Gid, Pid, Uid, chown, fork, pipe2, setgroups, setresgid, setresuid},
};

/// The capability number of `CAP_CHECKPOINT_RESTORE`.
const CAP_CHECKPOINT_RESTORE: u32 = 40;

/// Time limit for restart(2) of one image, and for killed tasks to exit.
const LIMIT: Duration = Duration::from_secs(60);

/// Time that the tasks of a restored forgery may run before they are killed.
const RUN: Duration = Duration::from_millis(20);

/// The kernel's response to an image.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// restart(2) created the tasks.
    Restored,
    /// restart(2) failed.
    Refused {
        /// The error that restart(2) returned.
        errno: Errno,
        /// The first line of its log.
        reason: String,
    },
}

/// Restarts images, each in a cgroup and a pid namespace of its own.
pub struct Attempt {
    user: u32,
    parent: Cgroup,
}

impl Attempt {
    /// Makes a cgroup below which the user may create tasks.
    pub fn prepare(user: u32) -> Result<Self> {
        let parent = Cgroup::create(Path::new(cgroup::ROOT).join("torture"))
            .context("cannot create a cgroup")?;
        give(&parent, user)?;
        Ok(Self { user, parent })
    }

    /// Removes the cgroup.
    pub fn finish(self) -> Result<()> {
        self.parent.remove().context("tasks remain in the cgroup")
    }

    /// Restarts an image and kills the tasks that it creates.
    ///
    /// # Errors
    /// Fails if the kernel hangs, gives a task rights that the user does not have, or leaves tasks
    /// behind.
    pub fn restart(&self, image: &[u8]) -> Result<Outcome> {
        let cgroup = Cgroup::create(self.parent.dir().join("tasks"))?;
        give(&cgroup, self.user)?;
        cgroup.freeze()?;
        let outcome = self.restart_in(&cgroup, image);
        cgroup.kill()?;
        ensure!(cgroup.wait_empty(LIMIT)?, "tasks cannot be killed");
        cgroup.remove().context("tasks remain in the cgroup")?;
        outcome
    }

    fn restart_in(&self, cgroup: &Cgroup, image: &[u8]) -> Result<Outcome> {
        let mut file = memory_file(c"image")?;
        file.write_all(image)?;
        file.rewind()?;
        let mut log = memory_file(c"log")?;
        let (answer, to_answer) = pipe2(OFlag::O_CLOEXEC)?;
        let (hold, release) = pipe2(OFlag::O_CLOEXEC)?;
        // SAFETY: this program has a single thread.
        let caller = match unsafe { fork() }? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => {
                drop((answer, release));
                let response = self.call(cgroup, file.as_fd(), log.as_fd());
                let response = response.unwrap_or_else(|error| format!("error {error:#}"));
                // This process is the parent of the restarted tasks, so it must live until they
                // have been inspected.
                let done = File::from(to_answer)
                    .write_all(response.as_bytes())
                    .and_then(|()| File::from(hold).read_to_end(&mut Vec::new()));
                std::process::exit(i32::from(done.is_err()));
            }
        };
        drop((to_answer, hold));
        let response = read_answer(answer.into(), caller)?;
        let outcome = match response.split_once(' ') {
            Some(("restored", _)) => {
                check_credentials(cgroup, self.user)?;
                cgroup.thaw()?;
                cgroup.wait_empty(RUN)?;
                Outcome::Restored
            }
            Some(("refused", errno)) => {
                ensure!(
                    !cgroup.events()?.populated,
                    "the image was refused, but tasks remain in the cgroup"
                );
                log.rewind()?;
                let mut text = Vec::new();
                log.read_to_end(&mut text)?;
                // The log contains file names from the image, which may not be UTF-8.
                let text = String::from_utf8_lossy(&text);
                Outcome::Refused {
                    errno: Errno::from_raw(errno.parse()?),
                    reason: text.lines().next().unwrap_or("no reason").to_owned(),
                }
            }
            _ => bail!("the caller of restart(2) failed: {response}"),
        };
        cgroup.kill()?;
        drop(release);
        match waitpid(caller, Some(WaitPidFlag::WUNTRACED))? {
            WaitStatus::Exited(_, 0) => Ok(outcome),
            // No image may affect the caller of restart(2), not even by the exit signal of its
            // root.
            status => {
                if matches!(status, WaitStatus::Stopped(..)) {
                    kill(caller, Signal::SIGKILL)?;
                }
                bail!("the caller of restart(2) did not exit normally: {status:?}");
            }
        }
    }

    /// In the child: switches to the user and calls restart(2).
    fn call(&self, cgroup: &Cgroup, image: BorrowedFd<'_>, log: BorrowedFd<'_>) -> Result<String> {
        self.parent.attach(std::process::id())?;
        let dir = cgroup.open()?;
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // Mounts the same as the victim, because an image restarts only under equal mounts.
        mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
        become_user(self.user)?;
        let flags = sys::RESTART_EQUAL_MOUNTS;
        Ok(
            match sys::restart(Some(dir.as_fd()), image, flags, Some(log)) {
                Ok(root) => format!("restored {root}"),
                Err(errno) => format!("refused {}", errno as i32),
            },
        )
    }
}

/// Lets a user create tasks in a cgroup.
fn give(cgroup: &Cgroup, user: u32) -> Result<()> {
    let procs = cgroup.dir().join("cgroup.procs");
    chown(&procs, Some(Uid::from_raw(user)), Some(Gid::from_raw(user)))
        .with_context(|| format!("cannot change the owner of {}", procs.display()))
}

fn memory_file(name: &std::ffi::CStr) -> Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

/// Waits for the answer of the process that calls restart(2). Kills that process on timeout, if a
/// hung kernel permits it.
fn read_answer(mut answer: File, caller: Pid) -> Result<String> {
    use nix::poll::{PollFd, PollFlags, poll};
    let ready = poll(
        &mut [PollFd::new(answer.as_fd(), PollFlags::POLLIN)],
        cgroup::poll_timeout(LIMIT),
    )?;
    if ready == 0 {
        kill(caller, Signal::SIGKILL)?;
        bail!("restart(2) did not return within {} s", LIMIT.as_secs());
    }
    let mut response = vec![0; 4096];
    let length = answer.read(&mut response)?;
    response.truncate(length);
    String::from_utf8(response).context("the answer is not UTF-8")
}

/// Drops all capabilities except `CAP_CHECKPOINT_RESTORE`, and all groups.
fn become_user(user: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    set_keepcaps(true)?;
    setresuid(uid, uid, uid)?;
    sys::set_capabilities(1 << CAP_CHECKPOINT_RESTORE)?;
    Ok(())
}

/// Returns true for the error of a /proc file whose task has exited, before or after the open.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ESRCH as i32)
}

/// Checks that every task has the user's ids, and no capability or group that the caller of
/// restart(2) does not have.
fn check_credentials(cgroup: &Cgroup, user: u32) -> Result<()> {
    let procs = fs::read_to_string(cgroup.dir().join("cgroup.threads"))?;
    for pid in procs.split_whitespace() {
        let path = PathBuf::from("/proc").join(pid).join("status");
        let status = match fs::read_to_string(&path) {
            // A timer of the image may have killed the task, although it is frozen.
            Err(error) if is_gone(&error) => continue,
            status => status.with_context(|| path.display().to_string())?,
        };
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(str::trim)
                .with_context(|| format!("{} has no {name}", path.display()))
        };
        for name in ["Uid", "Gid"] {
            let ids = field(name)?;
            let foreign = ids.split_whitespace().any(|id| id != user.to_string());
            ensure!(!foreign, "a restored task has {name} {ids}");
        }
        for name in ["CapPrm", "CapEff", "CapAmb"] {
            let set = u64::from_str_radix(field(name)?, 16)?;
            ensure!(
                set & !(1 << CAP_CHECKPOINT_RESTORE) == 0,
                "a restored task has {name} {set:x}"
            );
        }
        ensure!(field("Groups")?.is_empty(), "a restored task has groups");
    }
    Ok(())
}
