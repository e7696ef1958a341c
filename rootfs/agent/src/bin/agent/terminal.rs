// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A shell on a pseudo-terminal that is connected to a virtio port.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{fd::AsFd, unix::process::CommandExt},
    path::Path,
    process::{Command, Stdio, exit},
};

use anyhow::{Context, Result};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{Winsize, openpty},
    unistd::setsid,
};

/// Runs a shell until it ends.
pub fn serve(port: &Path, rows: u16, columns: u16) -> Result<()> {
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(port)
        .with_context(|| format!("cannot open {}", port.display()))?;
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).context("cannot open a pseudo-terminal")?;
    let slave = File::from(pty.slave);
    let mut shell = Command::new("/bin/bash");
    shell
        .arg("-l")
        .current_dir(crucible_protocol::WORK_DIR)
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave));
    // SAFETY: between fork and exec the closure makes two system calls and does not allocate.
    unsafe {
        shell.pre_exec(|| {
            setsid()?;
            nix::errno::Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
            Ok(())
        });
    }
    let mut child = shell.spawn().context("cannot run bash")?;
    drop(shell);
    copy(port, File::from(pty.master))?;
    exit(child.wait()?.code().unwrap_or(1))
}

/// Copies in both directions until no process has the terminal open.
fn copy(mut port: File, mut terminal: File) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [
            PollFd::new(terminal.as_fd(), PollFlags::POLLIN),
            PollFd::new(port.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::NONE)?;
        let [from_shell, from_host] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        if !from_shell.is_empty() {
            // A pty master reports EIO when no process has the slave open.
            match terminal.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(n) => port.write_all(&buffer[..n])?,
            }
        }
        if from_host.contains(PollFlags::POLLIN) {
            let n = port.read(&mut buffer)?;
            terminal.write_all(&buffer[..n])?;
        } else if from_host.contains(PollFlags::POLLHUP) {
            return Ok(());
        }
    }
}
