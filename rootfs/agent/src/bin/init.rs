// SPDX-License-Identifier: Apache-2.0 OR MIT
//! PID 1 of a container: starts the workload as PID 2, reaps orphans, writes the workload's
//! status to a file, and ends with the same status.

use std::{
    ffi::CString,
    fs::File,
    io::{self, Read, Write},
    os::{fd::FromRawFd, unix::ffi::OsStringExt},
    path::PathBuf,
    process::exit,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use crucible_protocol::Ended;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, chdir, execve, fork, setsid},
};

/// Runs the first process of a container.
#[derive(Parser)]
struct Options {
    /// A pipe; the workload starts when it delivers a byte.
    #[arg(long)]
    go_fd: i32,
    /// File for the workload's status, in one line.
    #[arg(long)]
    status: PathBuf,
    /// The workload's working directory.
    #[arg(long)]
    cwd: PathBuf,
    /// Path of the program, then its arguments.
    #[arg(last = true, required = true)]
    argv: Vec<std::ffi::OsString>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    // SAFETY: the agent opened this descriptor for us and no other code here uses it.
    let go = unsafe { File::from_raw_fd(options.go_fd) };
    fcntl(&go, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).context("the pipe in --go-fd is not open")?;
    setsid().context("cannot begin a session")?;
    chdir(&options.cwd)
        .with_context(|| format!("cannot enter {}: make it first", options.cwd.display()))?;
    let argv = to_c(options.argv)?;
    let env = to_c(std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        name
    }))?;
    // SAFETY: this program has one thread.
    match unsafe { fork() }.context("cannot fork")? {
        ForkResult::Child => start(go, &argv, &env),
        ForkResult::Parent { child } => {
            drop(go);
            let ended = reap_until(child)?;
            record(&options.status, ended)
                .with_context(|| format!("cannot write {}", options.status.display()))?;
            exit(ended.shell_status());
        }
    }
}

fn to_c(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Vec<CString>> {
    words
        .into_iter()
        .map(|word| CString::new(word.into_vec()).context("a word holds a NUL byte"))
        .collect()
}

/// Waits for the start byte. There is no system call between its read and `execve`, so a
/// trigger that is armed meanwhile counts only the workload's own calls.
fn start(mut go: File, argv: &[CString], env: &[CString]) -> Result<()> {
    let mut byte = [0];
    if go.read(&mut byte)? == 0 {
        bail!("the agent gave up before the workload was started");
    }
    let Err(errno) = execve(&argv[0], argv, env);
    eprintln!("init: cannot run {}: {errno}", argv[0].to_string_lossy());
    exit(127);
}

/// Reaps children until the workload ends.
fn reap_until(workload: Pid) -> Result<Ended> {
    loop {
        let ended = match waitpid(Pid::from_raw(-1), None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == workload => Ended::Exited { code },
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == workload => Ended::Signaled {
                signal: signal as i32,
            },
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(errno) => bail!("cannot wait for the workload: {errno}"),
        };
        return Ok(ended);
    }
}

fn record(path: &std::path::Path, ended: Ended) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(ended.to_line().as_bytes())?;
    file.sync_all()
}
