// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the program whose image is damaged: starts it, freezes it at the event, checkpoints and
//! kills it.

use std::{
    ffi::{CString, OsString},
    fs::{File, OpenOptions},
    io::{Read, Seek},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use crucible_agent::{
    cgroup::{self, Cgroup},
    explain, sys,
};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        memfd::{MFdFlags, memfd_create},
        wait::waitpid,
    },
    unistd::{
        Gid, Pid, Uid, dup2_stderr, dup2_stdin, dup2_stdout, execv, pipe2, read, setgroups,
        setresgid, setresuid, setsid, write,
    },
};

/// Time limit for the program to reach its event, and for its tasks to exit once killed.
const LIMIT: Duration = Duration::from_secs(60);

/// Returns the image of a program that was frozen at an event.
///
/// # Errors
/// Fails if the program does not reach the event, or cannot be checkpointed.
pub fn image(argv: &[OsString], at: &str, user: u32) -> Result<Vec<u8>> {
    let cgroup = Cgroup::create(Path::new(cgroup::ROOT).join("torture.victim"))
        .context("cannot create a cgroup")?;
    let (go, gate) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let dir = cgroup.open()?;
    // SAFETY: this program has a single thread.
    let Some(root) = (unsafe { sys::fork_container(dir.as_fd()) }).context("cannot fork")? else {
        let error = become_victim(&go, argv, user).unwrap_err();
        eprintln!("torture: cannot start the program: {error:#}");
        std::process::exit(127);
    };
    cgroup
        .arm(at)
        .with_context(|| format!("the kernel rejected the trigger {at:?}"))?;
    write(&gate, b"g").context("the program exited before it was started")?;
    let image = save(&cgroup, root, at);
    cgroup.kill().context("cannot kill the program")?;
    waitpid(root, None).context("cannot reap the program")?;
    ensure!(cgroup.wait_empty(LIMIT)?, "the program cannot be killed");
    cgroup.remove().context("cannot remove its cgroup")?;
    image
}

fn save(cgroup: &Cgroup, root: Pid, at: &str) -> Result<Vec<u8>> {
    if !cgroup.wait_frozen(LIMIT)? {
        bail!("the program did not reach {at}, or could not be frozen there");
    }
    let mut image = File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC)?);
    let (flags, log) = (sys::CHECKPOINT_OWN_MOUNTS, std::io::stderr());
    sys::checkpoint(root, image.as_fd(), flags, Some(log.as_fd())).map_err(|errno| {
        anyhow::anyhow!(
            "cannot checkpoint the program: {}",
            explain::checkpoint(errno)
        )
    })?;
    image.rewind()?;
    let mut bytes = Vec::new();
    image.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn become_victim(go: &OwnedFd, argv: &[OsString], user: u32) -> Result<std::convert::Infallible> {
    setsid()?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2_stdin(&null)?;
    read(go, &mut [0])?;
    let (uid, gid) = (Uid::from_raw(user), Gid::from_raw(user));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    let argv: Vec<_> = argv
        .iter()
        .map(|word| CString::new(word.clone().into_vec()))
        .collect::<std::result::Result<_, _>>()?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(execv(&argv[0], &argv)?)
}
