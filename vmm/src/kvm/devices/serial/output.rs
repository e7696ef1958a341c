// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sink of a UART's output.
//!
//! The output is written line by line, because each write is a system call. A sink that is
//! temporarily full never blocks the guest's CPU; the output is then buffered, and bytes that do
//! not fit are dropped and counted, with a note in their place.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use crate::kvm::devices::{Error, Events, Result, Source};

/// Maximum number of bytes to keep back while no newline follows.
const LINE_MAX: usize = 256;

/// Maximum number of bytes to buffer for a full sink.
const BUFFER_MAX: usize = 1 << 20;

/// The sink for the bytes that a UART sends.
pub struct Output {
    // Dropped before the sink, so that it leaves the event loop while the sink is open.
    source: Option<Source>,
    events: Option<Events>,
    sink: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    /// True when the sink was full, and an event will report when it is writable.
    waiting: bool,
    /// Number of bytes dropped since the last note.
    lost: u64,
    /// True when writing to the sink has failed permanently.
    gone: bool,
}

impl Output {
    /// Returns the output to a socket, which becomes non-blocking. `events` are the event tokens;
    /// one of them is used.
    pub fn stream(stream: UnixStream, events: Events) -> Result<Self> {
        stream.set_nonblocking(true).map_err(|source| Error::Io {
            what: "make the console's socket non-blocking",
            source,
        })?;
        let source = events.add(0, &stream);
        Ok(Self {
            source: Some(source),
            events: Some(events),
            ..Self::sink(stream)
        })
    }

    /// Returns the output to a sink that never blocks, such as a file or memory. If a write to it
    /// returns "would block", the remaining bytes are written together with later ones.
    pub fn sink(sink: impl Write + Send + 'static) -> Self {
        Self {
            source: None,
            events: None,
            sink: Box::new(sink),
            buffer: Vec::new(),
            waiting: false,
            lost: 0,
            gone: false,
        }
    }

    /// Takes bytes that the UART has sent.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.gone {
            return;
        }
        if self.buffer.len() + bytes.len() > BUFFER_MAX {
            self.lost += bytes.len() as u64;
            return;
        }
        self.buffer.extend(bytes);
        if !self.waiting && (bytes.contains(&b'\n') || self.buffer.len() >= LINE_MAX) {
            self.flush();
        }
    }

    /// Writes as much as the sink accepts.
    pub(super) fn flush(&mut self) {
        let mut done = 0;
        self.waiting = false;
        while done < self.buffer.len() {
            match self.sink.write(&self.buffer[done..]) {
                Ok(0) => self.gone = true,
                Ok(written) => done += written,
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => {
                        self.waiting = self.source.is_some();
                        break;
                    }
                    _ => self.gone = true,
                },
            }
            if self.gone {
                self.buffer = Vec::new();
                return;
            }
        }
        self.buffer.drain(..done);
        if self.lost > 0 && self.buffer.is_empty() {
            let note = format!("\n[{} bytes of the console's output are lost]\n", self.lost);
            self.lost = 0;
            self.buffer.extend(note.bytes());
            return self.flush();
        }
        if self.waiting
            && let Some(source) = &mut self.source
        {
            source.arm(EventSet::OUT);
        }
    }

    /// Handles an event of the sink.
    pub(super) fn ready(&mut self, token: u64) {
        let ours = |events: &Events| events.source(token).is_some();
        if self.events.as_ref().is_some_and(ours)
            && let Some(source) = &mut self.source
        {
            source.fired();
            self.flush();
        }
    }
}
