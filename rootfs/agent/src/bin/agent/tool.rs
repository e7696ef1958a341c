// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs programs outside of containers, up to a limit.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use crucible_protocol::ToolRun;
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    poll::{PollFd, PollFlags, poll},
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use crate::reaper::Reaper;
use crucible_agent::cgroup::poll_timeout;

/// Maximum number of bytes of each output in a message.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// A running program.
pub struct Tool {
    /// Its pid; it is the leader of its own process group.
    pub pid: Pid,
    out: File,
    err: File,
    begun: Instant,
}

/// Starts a program with its output in unnamed files, so that it never blocks on a reader.
pub fn spawn(reaper: &mut Reaper, command: &mut Command) -> Result<Tool> {
    let (out, err) = (unnamed()?, unnamed()?);
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    let pid = Pid::from_raw(child.id() as i32);
    reaper.watch(pid);
    Ok(Tool {
        pid,
        out,
        err,
        begun,
    })
}

impl Tool {
    /// Waits for the tool's end; kills it at the limit.
    pub fn finish(self, reaper: &mut Reaper, limit: Duration) -> Result<ToolRun> {
        let deadline = self.begun + limit;
        let ended = loop {
            reaper.reap()?;
            if let Some(ended) = reaper.ended(self.pid) {
                break Some(ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break None;
            }
            let mut fds = [PollFd::new(reaper.fd().as_fd(), PollFlags::POLLIN)];
            poll(&mut fds, poll_timeout(left))?;
        };
        if ended.is_none() {
            // The tool may have ended meanwhile.
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        reaper.forget(self.pid);
        Ok(ToolRun {
            ended,
            stdout: content(self.out)?,
            stderr: content(self.err)?,
            ms: self.begun.elapsed().as_millis() as u64,
        })
    }
}

/// Runs the program of a request.
pub fn exec(
    reaper: &mut Reaper,
    argv: &[String],
    env: &BTreeMap<String, String>,
    cwd: &str,
    limit: Duration,
) -> Result<ToolRun> {
    let (program, args) = argv.split_first().context("no program to run was given")?;
    let mut command = Command::new(program);
    command.args(args).envs(env).current_dir(cwd);
    spawn(reaper, &mut command)?.finish(reaper, limit)
}

fn unnamed() -> Result<File> {
    let path = format!("{}/output", crucible_protocol::KEEP_DIR);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .open(&path)
        .with_context(|| format!("cannot create {path}"))?;
    fs::remove_file(&path)?;
    Ok(file)
}

fn content(file: File) -> Result<String> {
    use std::os::unix::fs::FileExt;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(OUTPUT_LIMIT);
    let mut bytes = vec![0; (length - from) as usize];
    file.read_exact_at(&mut bytes, from)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads the first line from a pipe, or all bytes if it is closed before.
pub fn first_line(reaper: &mut Reaper, mut pipe: File, limit: Duration) -> Result<Option<String>> {
    let deadline = Instant::now() + limit;
    let mut text = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let mut fds = [
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(reaper.fd().as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, poll_timeout(left))?;
        if fds[0].any() == Some(true) {
            let mut buffer = [0; 256];
            let n = pipe.read(&mut buffer)?;
            text.extend(&buffer[..n]);
            if n == 0 || text.contains(&b'\n') {
                let text = String::from_utf8(text)?;
                return Ok(text.strip_suffix('\n').map(str::to_owned));
            }
        } else {
            reaper.reap()?;
        }
    }
}

/// Starts a program that inherits one more descriptor, and closes the descriptor here.
pub fn with_fd(reaper: &mut Reaper, command: &mut Command, fd: OwnedFd) -> Result<Tool> {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    spawn(reaper, command)
}
