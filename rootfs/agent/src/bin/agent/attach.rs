// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a program whose standard streams are pieces on a virtio port.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use crucible_protocol::{
    Ended,
    stdio::{Last, MAX_PIECE, Piece, Pieces, Stream, WINDOW},
};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{Winsize, openpty},
    unistd::setsid,
};

/// Maximum number of bytes of each stream to pass on after the program's end: more than a pipe
/// holds. A process that the program has left behind may write forever.
const REST: usize = 1 << 20;

/// The character by which a user ends a terminal's input (Ctrl-D).
const END_OF_INPUT: u8 = 0x04;

/// Runs the program, and ends once the host has answered the last piece.
pub fn serve(port: &Path, argv: &[String], cwd: &str, terminal: Option<(u16, u16)>) -> Result<()> {
    let mut port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(port)
        .with_context(|| format!("cannot open {}", port.display()))?;
    taken(WINDOW, &mut port)?;
    let mut pieces = Pieces::default();
    let last = match Program::start(argv, cwd, terminal)? {
        Ok(mut program) => Last::Ended(program.run(&mut port, &mut pieces)?),
        Err(error) => Last::NotRun {
            status: match error.kind() {
                ErrorKind::NotFound => 127,
                _ => 126,
            },
            message: error.to_string(),
        },
    };
    Piece::Last(last).write(&mut port)?;
    loop {
        while let Some(piece) = pieces.take()? {
            if piece == Piece::Bye {
                return Ok(());
            }
        }
        read_port(&mut port, &mut pieces)?;
    }
}

/// Adds the bytes that have arrived, at least one.
fn read_port(port: &mut File, pieces: &mut Pieces) -> Result<()> {
    let mut buffer = [0; 1 << 14];
    match port.read(&mut buffer)? {
        0 => bail!("the host has closed the port"),
        n => pieces.add(&buffer[..n]),
    }
    Ok(())
}

/// A running program.
struct Program {
    child: Child,
    /// A descriptor that is readable once the program has ended.
    pidfd: OwnedFd,
    terminal: bool,
    input: Option<File>,
    /// Input that the program has not read yet; the host sends at most one window of it.
    pending: Vec<u8>,
    /// True when the input has ended.
    complete: bool,
    outputs: [(Stream, Option<File>); 2],
}

impl Program {
    /// Starts the program. The inner error is the reason why it cannot be run.
    fn start(
        argv: &[String],
        cwd: &str,
        terminal: Option<(u16, u16)>,
    ) -> Result<std::io::Result<Self>> {
        let (name, args) = argv.split_first().context("no program to run was given")?;
        let mut command = Command::new(name);
        command.args(args).current_dir(cwd);
        let master = match terminal {
            Some(size) => Some(on_terminal(&mut command, size)?),
            None => {
                command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped());
                None
            }
        };
        let controls = terminal.is_some();
        // SAFETY: between fork and exec the closure makes two system calls and does not allocate.
        unsafe {
            command.pre_exec(move || {
                setsid()?;
                if controls {
                    Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
                }
                Ok(())
            });
        }
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(Err(error)),
        };
        // The command keeps the program's end of the terminal open.
        drop(command);
        let (input, output, error) = match master {
            Some(master) => (Some(master.try_clone()?), Some(master), None),
            None => (
                child
                    .stdin
                    .take()
                    .map(|pipe| File::from(OwnedFd::from(pipe))),
                child
                    .stdout
                    .take()
                    .map(|pipe| File::from(OwnedFd::from(pipe))),
                child
                    .stderr
                    .take()
                    .map(|pipe| File::from(OwnedFd::from(pipe))),
            ),
        };
        for file in [&input, &output, &error].into_iter().flatten() {
            fcntl(file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Ok(Self {
            pidfd: pidfd(&child)?,
            child,
            terminal: controls,
            input,
            pending: Vec::new(),
            complete: false,
            outputs: [(Stream::Output, output), (Stream::Error, error)],
        }))
    }

    /// Passes pieces on until the program has ended.
    fn run(&mut self, port: &mut File, pieces: &mut Pieces) -> Result<Ended> {
        loop {
            let mut fds = vec![
                PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(port.as_fd(), PollFlags::POLLIN),
            ];
            let waits = self.input.as_ref().filter(|_| !self.pending.is_empty());
            fds.extend(waits.map(|input| PollFd::new(input.as_fd(), PollFlags::POLLOUT)));
            let open = self.outputs.iter().filter_map(|(_, file)| file.as_ref());
            fds.extend(open.map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
            poll(&mut fds, PollTimeout::NONE)?;
            let happened = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
            let (ended, from_host) = (happened(&fds[0]), fds[1].revents());
            drop(fds);
            match from_host {
                Some(events) if events.contains(PollFlags::POLLIN) => read_port(port, pieces)?,
                Some(events) if events.contains(PollFlags::POLLHUP) => {
                    bail!("the host has closed the port")
                }
                _ => {}
            }
            while let Some(piece) = pieces.take()? {
                self.obey(piece, port)?;
            }
            self.feed(port)?;
            let mut left = REST;
            for index in 0..self.outputs.len() {
                // After the program's end the agent reads at most `REST` bytes of each stream.
                while self.pass_on(index, port)? && ended && left > 0 {
                    left = left.saturating_sub(MAX_PIECE);
                }
            }
            if ended {
                return Ok(how(self.child.wait()?));
            }
        }
    }

    /// Handles a piece from the host.
    fn obey(&mut self, piece: Piece, port: &mut File) -> Result<()> {
        match piece {
            Piece::Input(data) if data.is_empty() && self.terminal => {
                self.pending.push(END_OF_INPUT);
            }
            Piece::Input(data) if data.is_empty() => self.complete = true,
            Piece::Input(data) if self.input.is_some() => self.pending.extend(data),
            Piece::Input(data) => taken(data.len(), port)?,
            Piece::Closed(closed) => {
                for (stream, file) in &mut self.outputs {
                    if *stream == closed {
                        *file = None;
                    }
                }
            }
            Piece::Size { rows, columns } => {
                if let Some(terminal) = self.input.as_ref().filter(|_| self.terminal) {
                    resize(terminal.as_fd(), (rows, columns))?;
                }
            }
            Piece::Bye | Piece::Written(..) | Piece::Taken(_) | Piece::Last(_) => {
                bail!("the host has sent an unexpected piece")
            }
        }
        Ok(())
    }

    /// Writes as much input as the program takes now.
    fn feed(&mut self, port: &mut File) -> Result<()> {
        while let Some(input) = self.input.as_mut().filter(|_| !self.pending.is_empty()) {
            match input.write(&self.pending) {
                Ok(count) => {
                    self.pending.drain(..count);
                    taken(count, port)?;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Its reader is gone.
                Err(_) => {
                    taken(self.pending.len(), port)?;
                    self.pending.clear();
                    self.input = None;
                }
            }
        }
        if self.complete && self.pending.is_empty() {
            self.input = None;
        }
        Ok(())
    }

    /// Passes on a piece of output. Returns false when there is none.
    fn pass_on(&mut self, index: usize, port: &mut File) -> Result<bool> {
        let (stream, file) = &mut self.outputs[index];
        let Some(from) = file else { return Ok(false) };
        let mut buffer = vec![0; MAX_PIECE];
        match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            // A pseudo-terminal reports EIO when no process has it open.
            Ok(0) | Err(_) => {
                *file = None;
                Ok(false)
            }
            Ok(count) => {
                buffer.truncate(count);
                Piece::Written(*stream, buffer).write(port)?;
                Ok(true)
            }
        }
    }
}

fn taken(count: usize, port: &mut File) -> Result<()> {
    Ok(Piece::Taken(count as u32).write(port)?)
}

/// Gives the program a new terminal of this size. Returns the other end.
fn on_terminal(command: &mut Command, (rows, columns): (u16, u16)) -> Result<File> {
    let pty = openpty(&winsize((rows, columns)), None).context("cannot open a pseudo-terminal")?;
    let slave = File::from(pty.slave);
    command
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave));
    let master = File::from(pty.master);
    // Close this end on exec. Otherwise the program has both ends, and the terminal is never
    // closed.
    fcntl(&master, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(master)
}

fn winsize((rows, columns): (u16, u16)) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn resize(terminal: BorrowedFd<'_>, size: (u16, u16)) -> Result<()> {
    let size = winsize(size);
    // SAFETY: TIOCSWINSZ reads a `winsize`.
    let result = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(result).context("cannot resize the terminal")?;
    Ok(())
}

fn pidfd(child: &Child) -> Result<OwnedFd> {
    // SAFETY: the ioctl reads a structure of numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    let fd = Errno::result(fd).context("cannot open a pidfd")?;
    // SAFETY: the kernel has just returned this descriptor, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn how(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Exited { code },
        (None, signal) => Ended::Signaled {
            signal: signal.unwrap_or_default(),
        },
    }
}
