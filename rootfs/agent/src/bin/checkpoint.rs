// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `checkpoint`: writes an image of a process tree to a file or to standard output.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Seek, Write},
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use crucible_agent::{cgroup::Cgroup, explain, stuck, sys};
use nix::{
    errno::Errno,
    sched::sched_yield,
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{SigSet, Signal},
    },
    unistd::Pid,
};

/// Time that a tree may need to quiesce after its cgroup reads as frozen.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// Checkpoint a tree of processes, so that `restart` can restart it.
///
/// The cgroup of the tree must be frozen, by you or with --freeze. The tree is not killed:
/// it continues when its cgroup is thawed.
///
/// Exit status: 0 saved, 1 not saved, 2 usage error.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Write the image to this file instead of standard output.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do not wait until the image is on the disk.
    #[arg(long)]
    no_sync: bool,
    /// Write the kernel's log to this file instead of standard error.
    #[arg(short, long, value_name = "LOG")]
    log: Option<PathBuf>,
    /// Freeze the cgroup of PID, and thaw it afterwards in any case.
    #[arg(long)]
    freeze: bool,
    /// Limit for the tasks to quiesce with --freeze.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 30,
        requires = "freeze"
    )]
    limit: u64,
    /// Check whether the tree can be saved; write no image.
    #[arg(long)]
    check: bool,
    /// Permit a tree whose mount namespace differs from the caller's. The image lists its mounts;
    /// restart it with `restart --equal-mounts`, where the mounts must be equal.
    #[arg(long)]
    own_mounts: bool,
    /// Pid of the root of the tree.
    pid: i32,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("checkpoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    if options.pid <= 0 {
        bail!("{} is not a process id", options.pid);
    }
    let log = options.log.as_deref().map(create).transpose()?;
    let stderr = io::stderr();
    let log = log.as_ref().map_or(stderr.as_fd(), |file| file.as_fd());
    match &options.output {
        Some(path) => {
            let part = part_of(path);
            let file = create(&part)?;
            let sync = || match options.no_sync {
                true => Ok(()),
                false => file.sync_all(),
            };
            let saved = frozen(options, log, || save(options, file.as_fd(), log))
                .and_then(|()| sync().context("cannot write the image to the disk"));
            if saved.is_err() || options.check {
                fs::remove_file(&part)?;
                return saved;
            }
            fs::rename(&part, path)
                .with_context(|| format!("cannot rename the image to {}", path.display()))
        }
        None => {
            let stdout = io::stdout();
            if stdout.is_terminal() && !options.check {
                bail!("the image would go to your terminal: use -o FILE or > FILE");
            }
            frozen(options, log, || save(options, stdout.as_fd(), log))
        }
    }
}

/// Returns the name of the image until it is complete.
fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

fn create(path: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

/// Runs the checkpoint; with --freeze, freezes the cgroup before and thaws it afterwards.
fn frozen(options: &Options, log: BorrowedFd<'_>, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if !options.freeze {
        return work();
    }
    let cgroup = Cgroup::of(&options.pid.to_string())
        .with_context(|| format!("cannot find the cgroup of process {}", options.pid))?;
    let own = Cgroup::of("self").context("cannot find my own cgroup")?;
    if cgroup.is_root() {
        bail!(
            "process {} is in the root cgroup, which cannot be frozen: move the tree to a cgroup of its own",
            options.pid
        );
    }
    if own.dir().starts_with(cgroup.dir()) {
        bail!(
            "checkpoint is itself in {} and would freeze, too: run it from a different cgroup",
            cgroup.dir().display()
        );
    }
    if cgroup.is_freezing()? {
        return work();
    }
    // A signal that ends this program must not leave the tree frozen.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ] {
        signals.add(signal);
    }
    signals.thread_block()?;
    cgroup.freeze().context("cannot freeze the cgroup")?;
    let done = match cgroup.wait_frozen(Duration::from_secs(options.limit)) {
        Ok(true) => work(),
        Ok(false) => name_stuck(options.pid, &cgroup, log).and_then(|count| {
            bail!(
                "{count} task(s) did not freeze within {} s, see above; the tree was thawed and \
                 continues",
                options.limit
            )
        }),
        Err(error) => Err(error.into()),
    };
    cgroup.thaw().context("cannot thaw the cgroup again")?;
    signals.thread_unblock()?;
    done
}

/// Logs the tasks of a tree and its freezing cgroup that have not quiesced. Returns their number.
fn name_stuck(root: i32, cgroup: &Cgroup, log: BorrowedFd<'_>) -> Result<usize> {
    let mut log = File::from(log.try_clone_to_owned()?);
    let tasks = stuck::tasks(Pid::from_raw(root), cgroup)
        .context("cannot list the tasks that are not at rest")?;
    for task in &tasks {
        writeln!(log, "{task}").context("cannot write the log")?;
    }
    Ok(tasks.len())
}

/// Calls the kernel; repeats the call while tasks that count as frozen have not quiesced.
fn save(options: &Options, image: BorrowedFd<'_>, log: BorrowedFd<'_>) -> Result<()> {
    let pid = Pid::from_raw(options.pid);
    let flag = |set, flag| if set { flag } else { 0 };
    let flags = flag(options.check, sys::CHECKPOINT_CHECK)
        | flag(options.own_mounts, sys::CHECKPOINT_OWN_MOUNTS);
    let deadline = Instant::now() + SETTLE_LIMIT;
    let mut result = sys::checkpoint(pid, image, flags, Some(log));
    if matches!(result, Err(Errno::EAGAIN)) {
        // Each attempt logs the same tasks, so keep only the last log of the repeated attempts.
        let mut last = File::from(memfd_create("log", MFdFlags::MFD_CLOEXEC)?);
        while matches!(result, Err(Errno::EAGAIN)) && Instant::now() < deadline && rewind(image) {
            sched_yield()?;
            last.set_len(0)?;
            last.rewind()?;
            result = sys::checkpoint(pid, image, flags, Some(last.as_fd()));
        }
        // The image is complete, or its error is known: neither depends on the log.
        if let Err(error) = append(&mut last, log) {
            eprintln!("checkpoint: cannot write the log: {error}");
        }
    }
    let Err(errno) = result else { return Ok(()) };
    // A dying root has no namespaces, possibly for a long time.
    if matches!(errno, Errno::EAGAIN | Errno::ESRCH)
        && let Ok(cgroup) = Cgroup::of(&options.pid.to_string())
    {
        name_stuck(options.pid, &cgroup, log)?;
    }
    bail!(
        "cannot save process {pid}: {} ({errno})",
        explain::checkpoint(errno)
    )
}

/// Appends a file, from its beginning, to the log.
fn append(file: &mut File, log: BorrowedFd<'_>) -> io::Result<()> {
    file.rewind()?;
    io::copy(file, &mut File::from(log.try_clone_to_owned()?)).map(drop)
}

/// Discards the output so far, which is impossible after a write to a pipe.
fn rewind(image: BorrowedFd<'_>) -> bool {
    nix::unistd::ftruncate(image, 0).is_ok()
        && nix::unistd::lseek(image, 0, nix::unistd::Whence::SeekSet).is_ok()
}
