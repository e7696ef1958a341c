// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The connection to gdb. Each packet is sent with one write.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use gdbstub::conn::Connection;
use rustix::net::RecvFlags;

/// A connection by a Unix or TCP socket: the operations used here are the same for both.
#[derive(Debug)]
pub(super) struct Line {
    stream: Arc<UnixStream>,
    unsent: Vec<u8>,
}

impl Line {
    /// Returns a connection on this socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self {
            stream: Arc::new(socket.into()),
            unsent: Vec::new(),
        }
    }

    /// Returns a second handle, for reading.
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

/// The receiving side of the connection.
#[derive(Debug)]
pub(super) struct Reader(Arc<UnixStream>);

impl Reader {
    /// Reads some bytes; returns 0 at the end of the connection.
    pub fn read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        (&*self.0).read(bytes)
    }

    /// Returns true when gdb has closed the connection and all of its data has been read.
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
