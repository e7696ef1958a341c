// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Restarts a damaged or forged image once, and checks for leftovers of the restart.

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

/// Restarts images, each in its own cgroup and pid namespace.
pub struct Attempt {
    user: u32,
    /// True when restored tasks run for a while.
    runs: bool,
    parent: Cgroup,
}

impl Attempt {
    /// Makes a cgroup below which the user may create tasks.
    pub fn prepare(user: u32) -> Result<Self> {
        let parent = Cgroup::create(Path::new(cgroup::ROOT).join("torture"))
            .context("cannot create a cgroup")?;
        give(&parent, user)?;
        Ok(Self {
            user,
            runs: true,
            parent,
        })
    }

    /// Leaves restored tasks frozen until they are killed.
    pub fn keep_frozen(&mut self) {
        self.runs = false;
    }

    /// Removes the cgroup.
    pub fn finish(self) -> Result<()> {
        self.parent.remove().context("tasks remain in the cgroup")
    }

    /// Restarts an image and kills the tasks that it creates.
    ///
    /// # Errors
    /// Fails if the kernel hangs, gives a task rights that the user does not have, or leaves tasks.
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
                check_credentials(cgroup, self.user, caller)?;
                if self.runs {
                    cgroup.thaw()?;
                    cgroup.wait_empty(RUN)?;
                }
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
                // The log contains file names from the image, which need not be UTF-8.
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
        // Makes the same mounts as the victim, because an image restarts only under equal mounts.
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

/// Checks that every task has the user's ids, and no capability, group, limit or privilege that the
/// caller of restart(2) does not have.
fn check_credentials(cgroup: &Cgroup, user: u32, caller: Pid) -> Result<()> {
    let caller = caller.to_string();
    let of_caller = Credentials::read(&caller)?.context("the caller of restart(2) is gone")?;
    let procs = fs::read_to_string(cgroup.dir().join("cgroup.threads"))?;
    for pid in procs.split_whitespace() {
        // A timer of the image may have killed the task, although it is frozen.
        if let Some(task) = Credentials::read(pid)? {
            task.check(user, &of_caller)?;
        }
    }
    Ok(())
}

/// The credentials and limits of a task, as `/proc` shows them.
struct Credentials {
    status: String,
    limits: String,
}

impl Credentials {
    /// Reads the credentials; returns `None` if the task has exited.
    fn read(pid: &str) -> Result<Option<Self>> {
        let read = |name: &str| {
            let path = PathBuf::from("/proc").join(pid).join(name);
            match fs::read_to_string(&path) {
                Err(error) if is_gone(&error) => Ok(None),
                text => text.map(Some).with_context(|| path.display().to_string()),
            }
        };
        Ok(match (read("status")?, read("limits")?) {
            (Some(status), Some(limits)) => Some(Self { status, limits }),
            _ => None,
        })
    }

    fn field(&self, name: &str) -> Result<&str> {
        self.status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
            .with_context(|| format!("a task has no {name}"))
    }

    fn set(&self, name: &str) -> Result<u64> {
        Ok(u64::from_str_radix(self.field(name)?, 16)?)
    }

    /// Returns the hard limits by name; `unlimited` is the highest.
    fn hard_limits(&self) -> Vec<(&str, u64)> {
        // "Max cpu time              unlimited            unlimited            seconds"
        let limit = |line: &'_ str| -> Option<(usize, u64)> {
            let name = line.find("  ")?;
            let hard = line[name..].split_whitespace().nth(1)?;
            let hard = match hard {
                "unlimited" => u64::MAX,
                number => number.parse().ok()?,
            };
            Some((name, hard))
        };
        self.limits
            .lines()
            .filter_map(|line| limit(line).map(|(name, hard)| (&line[..name], hard)))
            .collect()
    }

    fn check(&self, user: u32, caller: &Self) -> Result<()> {
        for name in ["Uid", "Gid"] {
            let ids = self.field(name)?;
            let foreign = ids.split_whitespace().any(|id| id != user.to_string());
            ensure!(!foreign, "a restored task has {name} {ids}");
        }
        ensure!(
            self.field("Groups")?.is_empty(),
            "a restored task has groups"
        );
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let (set, allowed) = (self.set(name)?, caller.set(name)?);
            let more = set & !allowed;
            ensure!(more == 0, "a restored task has {name} {set:x}");
        }
        // Both only become stricter.
        for name in ["NoNewPrivs", "Seccomp"] {
            let (task, least) = (self.field(name)?, caller.field(name)?);
            let (task, least): (u32, u32) = (task.parse()?, least.parse()?);
            ensure!(task >= least, "a restored task has {name} {task}");
        }
        let of_caller = caller.hard_limits();
        for (name, hard) in self.hard_limits() {
            let most = of_caller.iter().find(|(other, _)| *other == name);
            let most = most
                .with_context(|| format!("the caller has no limit {name}"))?
                .1;
            ensure!(hard <= most, "a restored task has the limit {name} {hard}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(cap_inh: &str, no_new_privs: &str, files: &str) -> Credentials {
        Credentials {
            status: format!(
                "Name:\tx\nUid:\t5\t5\t5\t5\nGid:\t5\t5\t5\t5\nGroups:\t \n\
                 CapInh:\t{cap_inh}\nCapPrm:\t0\nCapEff:\t0\nCapBnd:\t1ff\nCapAmb:\t0\n\
                 NoNewPrivs:\t{no_new_privs}\nSeccomp:\t0\n"
            ),
            limits: format!(
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max cpu time              unlimited            unlimited            seconds   \n\
                 Max open files            1024                 {files:<20} files     \n\
                 Max nice priority         0                    0                    \n"
            ),
        }
    }

    #[test]
    fn a_task_has_no_more_than_its_caller() {
        let caller = credentials("0", "0", "4096");
        let check = |task: Credentials| task.check(5, &caller).map_err(|error| error.to_string());
        assert_eq!(check(credentials("0", "0", "4096")), Ok(()));
        assert_eq!(check(credentials("0", "1", "1024")), Ok(()));
        for (task, word) in [
            (credentials("1", "0", "4096"), "CapInh"),
            (credentials("0", "0", "4097"), "Max open files"),
            (credentials("0", "0", "unlimited"), "Max open files"),
        ] {
            let error = check(task).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        let strict = credentials("0", "1", "4096");
        let loose = credentials("0", "0", "4096").check(5, &strict);
        assert!(loose.unwrap_err().to_string().contains("NoNewPrivs"));
        assert!(caller.check(6, &caller).is_err());
    }
}
