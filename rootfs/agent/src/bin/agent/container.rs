// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The container of a workload: a cgroup, a pid and a mount namespace, and `init` in them.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::Write,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crucible_agent::{
    cgroup::{self, Cgroup, poll_timeout, reread},
    stuck, sys,
};
use crucible_protocol::{Ended, Freeze, RUN_DIR, Stopped, TOOLS_DIR, Trigger};
use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    mount::{MsFlags, mount},
    poll::{PollFd, PollFlags, poll},
    sched::sched_yield,
    sys::signal::{SigSet, SigmaskHow, sigprocmask},
    unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, execve, pipe2},
};

use crate::reaper::Reaper;

/// Limit for `init` and the workload to reach the start line.
const START_LIMIT: Duration = Duration::from_secs(60);

/// `wait4`, in which `init` sleeps after it has started the workload.
const INIT_WAITS: &str = "61 ";

/// `read`, in which the workload sleeps until it is released.
const WORKLOAD_WAITS: &str = "0 ";

/// Returns the parent cgroup of all containers.
pub fn parent_dir() -> PathBuf {
    Path::new(cgroup::ROOT).join("crucible")
}

/// A container that was started, restarted or adopted.
pub struct Container {
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Pid of its first process in the agent's namespace.
    pub root: Pid,
    /// The agent's child that ends with the root's status: the root itself, or the tool
    /// that restarted it. `None` if there is no such child.
    pub waited: Option<Pid>,
    trigger: Option<Trigger>,
    started: Instant,
    time_fired: bool,
}

/// The request `Start`.
pub struct Start<'a> {
    /// Program and arguments.
    pub argv: &'a [String],
    /// The whole environment.
    pub env: &'a BTreeMap<String, String>,
    /// Working directory.
    pub cwd: &'a str,
    /// The event to freeze at.
    pub trigger: Option<Trigger>,
}

/// Returns the cgroup of a run.
pub fn cgroup_dir(run: &str) -> Result<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if run.is_empty() || !run.chars().all(plain) {
        bail!("{run:?} is not a valid name of a run: letters, digits, '-' and '_' only");
    }
    Ok(parent_dir().join(run))
}

impl Container {
    /// Starts a workload with its trigger armed. The trigger is armed while `init` and
    /// the workload's process sleep, so it counts from the workload's `execve`.
    pub fn start(run: &str, start: &Start<'_>, reaper: &mut Reaper) -> Result<Self> {
        let cgroup = Cgroup::create(cgroup_dir(run)?)
            .with_context(|| format!("cannot make a cgroup for {run}"))?;
        let dir = cgroup.open()?;
        create_outputs()?;
        let (go, mut gate) = pipe2(OFlag::O_CLOEXEC).map(|(r, w)| (r, File::from(w)))?;
        let (argv, env) = init_command(start, go.as_raw_fd())?;
        // SAFETY: the agent has one thread.
        let Some(root) = unsafe { sys::fork_container(dir.as_fd()) }
            .context("cannot make a container; it needs pid and mount namespaces")?
        else {
            let error = enter(&go, &argv, &env).unwrap_err();
            eprintln!("crucible-agent: container: {error:#}");
            std::process::exit(127);
        };
        drop(go);
        reaper.watch(root);
        let mut container = Self::adopt(cgroup, root, Some(root));
        container.wait_for_start_line(reaper)?;
        if let Some(trigger) = start.trigger.clone() {
            container.arm(trigger)?;
        }
        gate.write_all(b"g")
            .context("the workload ended before it started")?;
        Ok(Self {
            started: Instant::now(),
            ..container
        })
    }

    /// Adopts a container that a different tool created in a cgroup of the agent.
    pub fn adopt(cgroup: Cgroup, root: Pid, waited: Option<Pid>) -> Self {
        Self {
            cgroup,
            root,
            waited,
            trigger: None,
            started: Instant::now(),
            time_fired: false,
        }
    }

    /// Arms a trigger. A time counts from now, or from the start of the workload.
    pub fn arm(&mut self, trigger: Trigger) -> Result<()> {
        if let Some(line) = trigger.freeze_at() {
            self.cgroup.arm(&line).with_context(|| {
                format!("this kernel rejects the trigger {line:?}; does it have our series?")
            })?;
        }
        self.trigger = Some(trigger);
        self.started = Instant::now();
        Ok(())
    }

    fn wait_for_start_line(&self, reaper: &mut Reaper) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            reaper.reap()?;
            if let Some(ended) = reaper.ended(self.root) {
                bail!(
                    "the container ended before the workload began ({ended}): {}",
                    fs::read_to_string(format!("{RUN_DIR}/stderr")).unwrap_or_default()
                );
            }
            if self.at_start_line().unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the container did not reach its start line");
            }
            sched_yield()?;
        }
    }

    fn at_start_line(&self) -> Option<bool> {
        let root = self.root;
        let syscall = |pid: &str| fs::read_to_string(format!("/proc/{pid}/syscall")).ok();
        let children = fs::read_to_string(format!("/proc/{root}/task/{root}/children")).ok()?;
        let workload = children.split_whitespace().next()?;
        Some(
            syscall(&root.to_string())?.starts_with(INIT_WAITS)
                && syscall(workload)?.starts_with(WORKLOAD_WAITS),
        )
    }

    /// Waits until the trigger has fired and the tree has quiesced, or the root has ended.
    pub fn wait(&mut self, limit: Duration, reaper: &mut Reaper) -> Result<Stopped> {
        let deadline = Instant::now() + limit;
        let mut events = self.cgroup.open_file("cgroup.events")?;
        let counts = self
            .trigger
            .as_ref()
            .is_some_and(|t| t.freeze_at().is_some());
        let mut freeze_at = if counts {
            Some(self.cgroup.open_file("cgroup.freeze_at")?)
        } else {
            None
        };
        loop {
            let watched = freeze_at.as_mut().map(reread).transpose()?;
            reread(&mut events)?;
            reaper.reap()?;
            let trigger = watched.map(|_| self.cgroup.trigger()).transpose()?;
            let count = trigger.map(|t| t.count);
            if let Some(stopped) = self.ended(reaper, count)? {
                return Ok(stopped);
            }
            let time_left = self.time_left();
            if time_left == Some(Duration::ZERO) {
                self.time_fired = true;
            }
            let fired = self.time_fired || trigger.is_some_and(|t| t.fired);
            if fired {
                // The event froze the tasks; this keeps them frozen until the agent thaws them.
                self.cgroup.freeze()?;
                if self.cgroup.events()?.frozen && self.sleeps(deadline)? {
                    self.trigger = None;
                    self.time_fired = false;
                    return Ok(Stopped::Frozen(Freeze {
                        tid: trigger.map_or(0, |t| self.inner_tid(t.tid)),
                        count: self.cgroup.trigger().map_or(0, |t| t.count),
                    }));
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let stuck = if fired { self.stuck()? } else { Vec::new() };
                return Ok(Stopped::Timeout {
                    fired,
                    count,
                    stuck,
                });
            }
            let left = time_left.filter(|_| !fired).map_or(left, |t| t.min(left));
            let mut fds = vec![
                PollFd::new(reaper.fd().as_fd(), PollFlags::POLLIN),
                PollFd::new(events.as_fd(), PollFlags::POLLPRI),
            ];
            if let Some(file) = &freeze_at {
                fds.push(PollFd::new(file.as_fd(), PollFlags::POLLPRI));
            }
            poll(&mut fds, poll_timeout(left))?;
        }
    }

    /// Describes the tasks that have not quiesced.
    fn stuck(&self) -> Result<Vec<String>> {
        let tasks = stuck::tasks(self.root, &self.cgroup)?;
        Ok(tasks.iter().map(ToString::to_string).collect())
    }

    /// Waits until no frozen task is runnable. Returns false at the deadline.
    fn sleeps(&self, deadline: Instant) -> Result<bool> {
        while !self.cgroup.is_asleep()? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            sched_yield()?;
        }
        Ok(true)
    }

    fn time_left(&self) -> Option<Duration> {
        match self.trigger {
            Some(Trigger::Time { ms }) if !self.time_fired => {
                Some(Duration::from_millis(ms).saturating_sub(self.started.elapsed()))
            }
            _ => None,
        }
    }

    fn ended(&self, reaper: &Reaper, count: Option<u64>) -> Result<Option<Stopped>> {
        let root = match self.waited {
            Some(pid) => match reaper.ended(pid) {
                None => return Ok(None),
                ended => ended,
            },
            None if self.cgroup.events()?.populated => return Ok(None),
            None => None,
        };
        if let Some(Trigger::List { .. }) = self.trigger {
            let events = fs::read(self.cgroup.dir().join("cgroup.freeze_at"))?;
            fs::write(format!("{RUN_DIR}/events"), events)?;
        }
        let line = fs::read_to_string(format!("{RUN_DIR}/status")).unwrap_or_default();
        Ok(Some(Stopped::Exited {
            root,
            workload: Ended::from_line(&line),
            count,
        }))
    }

    /// Returns the tid of a thread in the container's pid namespace.
    fn inner_tid(&self, tid: i32) -> i32 {
        fs::read_to_string(format!("/proc/{tid}/status"))
            .ok()
            .and_then(|text| {
                let line = text.lines().find_map(|l| l.strip_prefix("NSpid:"))?;
                line.split_whitespace().next_back()?.parse().ok()
            })
            .unwrap_or(0)
    }

    /// Kills all tasks and waits until they have been reaped; then removes the cgroup.
    pub fn kill(self, limit: Duration, reaper: &mut Reaper) -> Result<()> {
        let deadline = Instant::now() + limit;
        self.cgroup.kill().context("cannot kill the container")?;
        if !self.cgroup.wait_empty(limit)? {
            bail!("killed tasks have not ended; the SysRq task list shows where they hang");
        }
        // A restart tool ends when its tree has ended.
        if let Some(pid) = self.waited {
            loop {
                reaper.reap()?;
                if reaper.ended(pid).is_some() {
                    break;
                }
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    bail!("process {pid} has not ended, although all its tasks have");
                }
                let mut fds = [PollFd::new(reaper.fd().as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, poll_timeout(left))?;
            }
            reaper.forget(pid);
        }
        self.cgroup
            .remove()
            .context("cannot remove the container's cgroup")
    }
}

/// Creates the files for the workload's output.
fn create_outputs() -> Result<()> {
    fs::create_dir_all(RUN_DIR)?;
    for name in ["stdout", "stderr"] {
        File::create_new(format!("{RUN_DIR}/{name}"))
            .with_context(|| format!("{RUN_DIR}/{name} exists already; prepare the run first"))?;
    }
    Ok(())
}

/// Opens the workload's standard streams in the container's mount namespace: a descriptor from
/// a different namespace would be shared with the outside.
fn open_streams() -> Result<()> {
    let append = |name: &str| {
        let path = format!("{RUN_DIR}/{name}");
        let file = OpenOptions::new().append(true).open(&path);
        file.with_context(|| format!("cannot open {path}"))
    };
    let (null, out, err) = (
        File::open("/dev/null")?,
        append("stdout")?,
        append("stderr")?,
    );
    dup2_stdin(&null)?;
    dup2_stdout(&out)?;
    dup2_stderr(&err)?;
    Ok(())
}

fn init_command(start: &Start<'_>, go_fd: i32) -> Result<(Vec<CString>, Vec<CString>)> {
    let (program, args) = start
        .argv
        .split_first()
        .context("no program to run was given")?;
    let program = find_program(program, start.env, start.cwd)?;
    let mut argv = vec![
        format!("{TOOLS_DIR}/init"),
        format!("--go-fd={go_fd}"),
        format!("--status={RUN_DIR}/status"),
        format!("--cwd={}", start.cwd),
        "--".into(),
        program,
    ];
    argv.extend_from_slice(args);
    let argv = argv.into_iter().map(CString::new).collect::<Result<_, _>>();
    let env = start
        .env
        .iter()
        .map(|(k, v)| CString::new(format!("{k}={v}")));
    Ok((argv?, env.collect::<Result<_, _>>()?))
}

/// Finds a program in the PATH, so that `execve` is called only once.
fn find_program(name: &str, env: &BTreeMap<String, String>, cwd: &str) -> Result<String> {
    if name.contains('/') {
        return Ok(Path::new(cwd).join(name).to_string_lossy().into_owned());
    }
    env.get("PATH")
        .into_iter()
        .flat_map(|path| path.split(':'))
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| Path::new(path).is_file())
        .with_context(|| format!("{name} is not in the workload's PATH"))
}

/// Runs in the child, from `clone3` to the `execve` of `init`.
fn enter(go: &OwnedFd, argv: &[CString], env: &[CString]) -> Result<std::convert::Infallible> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make the mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).context("cannot mount /proc")?;
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    fcntl(go, FcntlArg::F_SETFD(FdFlag::empty()))?;
    open_streams()?;
    Ok(execve(&argv[0], argv, env)?)
}
