// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Passes bytes between a stream of ours and a process that writes to a file and reads a FIFO.
//!
//! A recorded QEMU writes that way, since a file is never full. Its log does not contain its waits
//! for a socket to become writable, so a replay with a socket would diverge there.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use crucible_protocol::line::{self, Received, Receiver};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Mode, inotify, mknodat};
use rustix::io::Errno;

/// Returns the file that the process writes to.
pub(crate) fn output(base: &Path) -> PathBuf {
    base.with_extension("out")
}

/// Returns the FIFO that the process reads.
pub(crate) fn input(base: &Path) -> PathBuf {
    base.with_extension("in")
}

/// Makes both files, which the confined process may not create.
pub(crate) fn make(base: &Path) -> io::Result<[PathBuf; 2]> {
    let files = [output(base), input(base)];
    File::create(&files[0])?;
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &files[1], FileType::Fifo, mode, 0)?;
    Ok(files)
}

/// Removes the FIFO.
pub(crate) fn remove_input(base: &Path) -> io::Result<()> {
    match fs::remove_file(input(base)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The encoding in which a stream's bytes are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Unchanged.
    Plain,
    /// The encoding of [`line`].
    Line,
}

/// Starts to pass bytes. `alive` is closed at its other end when the process ends; output that it
/// has written by then is passed. Returns the stream.
pub(crate) fn start(base: &Path, alive: UnixStream, kind: Kind) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let file = File::open(output(base))?;
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    inotify::add_watch(&changes, output(base), inotify::WatchFlags::MODIFY)?;
    // With our own reader open, this does not wait for a reader.
    let fifo = OpenOptions::new()
        .read(true)
        .write(true)
        .open(input(base))?;
    let from = theirs.try_clone()?;
    let (asks, asked) = mpsc::channel();
    thread::spawn(move || match kind {
        Kind::Plain => copy(&from, &fifo),
        Kind::Line => answer(&from, &fifo, &asked),
    });
    thread::spawn(move || {
        // An error means that the reader has closed its end, or that the guest is not one of ours.
        let _ = match kind {
            Kind::Plain => follow(&file, &changes, &theirs, &alive),
            Kind::Line => {
                let messages = Messages {
                    to: &theirs,
                    receiver: Receiver::default(),
                    asks,
                };
                follow(&file, &changes, messages, &alive)
            }
        };
        let _ = theirs.shutdown(Shutdown::Both);
    });
    Ok(ours)
}

/// A reader of a guest's line, which passes on only the messages.
struct Messages<'a> {
    to: &'a UnixStream,
    receiver: Receiver,
    asks: mpsc::Sender<()>,
}

impl Write for Messages<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let mut bytes = buffer;
        while let Some(received) = self.receiver.take(&mut bytes) {
            match received {
                // The other thread ends with its reader.
                Received::Asks => drop(self.asks.send(())),
                Received::Bytes(bytes) => self.to.write_all(bytes)?,
                Received::Garbage(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Sends the available bytes each time that the guest asks for them.
fn answer(mut from: impl Read, mut to: impl Write, asked: &mpsc::Receiver<()>) -> io::Result<()> {
    let mut buffer = [0; 1 + line::MOST];
    while asked.recv().is_ok() {
        let count = match from.read(&mut buffer[1..])? {
            0 => break,
            count => count,
        };
        buffer[0] = count as u8;
        to.write_all(&buffer[..=count])?;
    }
    Ok(())
}

/// Copies all bytes. [`io::copy`] would splice, which locks the FIFO while it waits for the
/// socket: the process could not even open it.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Copies a file that grows, until the process that writes it has ended.
fn follow(
    file: &File,
    changes: &OwnedFd,
    mut to: impl Write,
    alive: &UnixStream,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut ended = false;
    loop {
        copy(file, &mut to)?;
        if ended {
            return Ok(());
        }
        let mut wanted = [
            PollFd::new(changes, PollFlags::IN),
            PollFd::new(alive, PollFlags::IN),
        ];
        match poll(&mut wanted, None) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        ended = !wanted[1].revents().is_empty();
        let mut reader = inotify::Reader::new(changes, &mut space);
        loop {
            match reader.next() {
                Ok(_) => {}
                Err(Errno::WOULDBLOCK) => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::time::Timespec;

    use super::*;

    /// Time for which a test waits for bytes that must not arrive.
    const MOMENT: Timespec = Timespec {
        tv_sec: 0,
        tv_nsec: 20_000_000,
    };

    #[test]
    fn a_writer_is_never_held_and_nothing_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("channel");
        make(&base).unwrap();
        let (alive, process) = UnixStream::pair().unwrap();
        let mut stream = start(&base, alive, Kind::Plain).unwrap();
        // More bytes than a socket buffers while its other end does not read.
        let mut out = OpenOptions::new().write(true).open(output(&base)).unwrap();
        for turn in 0..100_u8 {
            out.write_all(&[turn; 10_000]).unwrap();
        }
        stream.write_all(b"question").unwrap();
        let mut fifo = File::open(input(&base)).unwrap();
        let mut question = [0; 8];
        fifo.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        drop(process);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all.len(), 1_000_000);
        assert!(
            all.chunks(10_000)
                .zip(0..)
                .all(|(chunk, turn)| chunk == [turn; 10_000])
        );
    }

    #[test]
    fn a_guest_on_a_line_gets_what_it_asks_for() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("channel");
        make(&base).unwrap();
        let (alive, process) = UnixStream::pair().unwrap();
        let mut stream = start(&base, alive, Kind::Line).unwrap();
        let mut out = OpenOptions::new().write(true).open(output(&base)).unwrap();
        let mut fifo = File::open(input(&base)).unwrap();
        let question = [7; 40];
        stream.write_all(&question).unwrap();
        let mut got: Vec<u8> = Vec::new();
        while got.len() < question.len() {
            // Nothing is sent until the guest asks.
            let mut buffer = [0; 64];
            let mut waiting = [PollFd::new(&fifo, PollFlags::IN)];
            assert_eq!(poll(&mut waiting, Some(&MOMENT)).unwrap(), 0);
            out.write_all(&[line::ASKS]).unwrap();
            fifo.read_exact(&mut buffer[..1]).unwrap();
            let count = usize::from(buffer[0]);
            assert!((1..=line::MOST).contains(&count), "{count}");
            fifo.read_exact(&mut buffer[..count]).unwrap();
            got.extend(&buffer[..count]);
        }
        assert_eq!(got, question);
        out.write_all(&[line::TELLS, 5, 0, 0, 0]).unwrap();
        out.write_all(b"right").unwrap();
        drop(process);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"right");
    }
}
