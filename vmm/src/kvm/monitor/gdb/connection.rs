// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The way to gdb: a packet is one write.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use gdbstub::conn::Connection;
use rustix::net::RecvFlags;

/// A connection, Unix or TCP: what is done here is the same with both.
#[derive(Debug)]
pub(super) struct Line {
    stream: Arc<UnixStream>,
    unsent: Vec<u8>,
}

impl Line {
    /// On this socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            stream: Arc::new(socket.into()),
            unsent: Vec::new(),
        }
    }

    /// Another handle, to read from.
    pub fn reader(&self) -> Reader {
        Reader(Arc::clone(&self.stream))
    }
}

impl Connection for Line {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.unsent.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = (&*self.stream).write_all(&self.unsent);
        self.unsent.clear();
        result
    }
}

/// What gdb says.
#[derive(Debug)]
pub(super) struct Reader(Arc<UnixStream>);

impl Reader {
    /// Some of it; nothing at its end.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(bytes)
    }

    /// Whether gdb has closed it, and said nothing before.
    pub fn is_at_end(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = rustix::net::recv(&*self.0, &mut [0], flags);
        matches!(peeked, Ok((0, _)))
    }
}

impl AsRawFd for Reader {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
