// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `restart`: restarts a process tree from an image.

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::{AsFd, FromRawFd},
    path::PathBuf,
    process::{ExitCode, exit},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Parser};
use crucible_agent::{cgroup::Cgroup, explain, sys};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SigHandler, raise, signal},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Limit for the restarted tasks to be frozen.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Exit status for a failed restart.
const FAILED: u8 = 125;

/// Restart a tree of processes from an image of `checkpoint`.
///
/// Exit status: 0 on success, or with --copy-status the status of the tree's root, including
/// its signal; 125 if the tree was not restarted; 2 usage error.
#[derive(Parser)]
#[command(version, group = ArgGroup::new("where").required(true).args(["pids", "pidns"]))]
struct Options {
    /// Restart in this pid namespace, where the pids of the image must be free.
    #[arg(long)]
    pids: bool,
    /// Restart in a new pid namespace, with its own /proc.
    #[arg(long)]
    pidns: bool,
    /// Accept the image of a tree that had its own mounts (`checkpoint --own-mounts`), if the
    /// mounts here are equal to them.
    #[arg(long)]
    equal_mounts: bool,
    /// Wait until the root of the tree ends (the default).
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Print the root's pid and exit.
    #[arg(long)]
    no_wait: bool,
    /// End with the status of the tree's root.
    #[arg(long, conflicts_with = "no_wait")]
    copy_status: bool,
    /// Read the image from this file instead of standard input.
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Write the kernel's log to this file instead of standard error.
    #[arg(short, long, value_name = "LOG")]
    log: Option<PathBuf>,
    /// Create the tasks in this cgroup (v2) instead of a new one.
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Leave the tasks frozen, each at the site at which it was checkpointed.
    #[arg(long, requires = "cgroup")]
    frozen: bool,
    /// Write the root's pid to this descriptor when the tree is restarted.
    #[arg(long, hide = true)]
    ready_fd: Option<i32>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("restart: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    let stdin = io::stdin();
    let image = options
        .input
        .as_ref()
        .map(|path| File::open(path).with_context(|| format!("cannot open {}", path.display())))
        .transpose()?;
    if image.is_none() && stdin.is_terminal() {
        bail!("there is no image: use -i FILE or < FILE");
    }
    let image = image.as_ref().map_or(stdin.as_fd(), |file| file.as_fd());
    let log = options
        .log
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot create {}", path.display())))
        .transpose()?;
    let stderr = io::stderr();
    let log = log.as_ref().map_or(stderr.as_fd(), |file| file.as_fd());
    // SAFETY: a caller that passes --ready-fd hands ownership of that descriptor over.
    let ready = options.ready_fd.map(|fd| unsafe { File::from_raw_fd(fd) });

    let cgroup = match &options.cgroup {
        Some(dir) => Cgroup::at(dir),
        None => new_cgroup()?,
    };
    let root = restart(options, &cgroup, image, log).inspect_err(|_| {
        if options.cgroup.is_none() {
            discard(&cgroup);
        }
    })?;
    // The tasks start in turn, and each needs time to freeze.
    if !cgroup.wait_frozen(SETTLE_LIMIT)? {
        bail!(
            "the tasks were restarted, but did not freeze in {}",
            cgroup.dir().display()
        );
    }
    if let Some(mut ready) = ready {
        writeln!(ready, "{root}").context("cannot write to --ready-fd")?;
    }
    if !options.frozen {
        cgroup.thaw().context("cannot thaw the tasks")?;
    }
    if options.no_wait {
        println!("{root}");
        return Ok(ExitCode::SUCCESS);
    }
    let status = wait_for(root)?;
    if options.cgroup.is_none() {
        discard(&cgroup);
    }
    if options.copy_status {
        end_like(status);
    }
    Ok(ExitCode::SUCCESS)
}

/// Creates a frozen cgroup below the caller's, so that the tasks start frozen and are thawed
/// together.
fn new_cgroup() -> Result<Cgroup> {
    let own = Cgroup::of("self").context("cannot find my own cgroup")?;
    let dir = own.dir().join(format!("restart.{}", std::process::id()));
    let cgroup = Cgroup::create(&dir)
        .with_context(|| format!("cannot create {}: use --cgroup DIR", dir.display()))?;
    cgroup.freeze().context("cannot freeze the new cgroup")?;
    Ok(cgroup)
}

/// Kills the remaining tasks of a cgroup that this program created, and removes it. If that
/// fails, the cgroup stays; an empty cgroup does no harm.
fn discard(cgroup: &Cgroup) {
    let gone = cgroup
        .kill()
        .and_then(|()| cgroup.wait_empty(Duration::from_secs(10)))
        .and_then(|_| cgroup.remove());
    if let Err(error) = gone {
        eprintln!("restart: cannot remove {}: {error}", cgroup.dir().display());
    }
}

fn restart(
    options: &Options,
    cgroup: &Cgroup,
    image: std::os::fd::BorrowedFd<'_>,
    log: std::os::fd::BorrowedFd<'_>,
) -> Result<Pid> {
    let dir = cgroup
        .open()
        .with_context(|| format!("cannot open {}", cgroup.dir().display()))?;
    if options.pidns {
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
            .context("cannot create new namespaces: you need CAP_SYS_ADMIN")?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .context("cannot make the mounts private")?;
    }
    let flag = |set, flag| if set { flag } else { 0 };
    let flags = flag(options.pidns, sys::RESTART_MOUNT_PROC)
        | flag(options.equal_mounts, sys::RESTART_EQUAL_MOUNTS);
    sys::restart(Some(dir.as_fd()), image, flags, Some(log))
        .map_err(|errno| anyhow::anyhow!("cannot restart: {} ({errno})", explain::restart(errno)))
}

fn wait_for(root: Pid) -> Result<WaitStatus> {
    loop {
        match waitpid(root, None) {
            Ok(status @ (WaitStatus::Exited(..) | WaitStatus::Signaled(..))) => return Ok(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => bail!("cannot wait for process {root}: {errno}"),
        }
    }
}

/// Ends this program with the given status or signal.
fn end_like(status: WaitStatus) -> ! {
    match status {
        WaitStatus::Exited(_, code) => exit(code),
        WaitStatus::Signaled(_, number, _) => {
            // SAFETY: the default action runs no handler of this program. Setting it fails only
            // for SIGKILL, which has no other action.
            let _ = unsafe { signal(number, SigHandler::SigDfl) };
            let _ = raise(number);
            exit(128 + number as i32)
        }
        _ => exit(i32::from(FAILED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_the_two_places_is_required() {
        assert!(Options::try_parse_from(["restart"]).is_err());
        assert!(Options::try_parse_from(["restart", "--pids", "--pidns"]).is_err());
        assert!(Options::try_parse_from(["restart", "--pidns", "--no-wait"]).is_ok());
        assert!(Options::try_parse_from(["restart", "--pids", "--wait", "--no-wait"]).is_err());
    }
}
