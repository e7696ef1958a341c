// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a UART's output goes.
//!
//! A line at a time, not a byte at a time: each is a system call. A sink that
//! takes nothing for a while never holds up the guest's CPU; its output is
//! buffered then, and what does not fit is counted and left out, with a note in its
//! place.

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;

use vmm_sys_util::epoll::EventSet;

use crate::kvm::devices::{Error, Events, Result, Source};

/// The longest run of bytes without a line's end to keep back.
const LINE_MAX: usize = 256;

/// The most to buffer for a sink that does not take it.
const BUFFER_MAX: usize = 1 << 20;

/// The sink for what a UART sends.
pub struct Output {
    // Before the sink, so that it leaves the event loop while that is open.
    source: Option<Source>,
    events: Option<Events>,
    sink: Box<dyn Write + Send>,
    buffer: Vec<u8>,
    /// The sink did not take everything, and will say when it does.
    waiting: bool,
    /// The bytes that were left out since the last note.
    lost: u64,
    /// Nobody will ever take anything.
    gone: bool,
}

impl Output {
    /// Sends to a socket, which becomes non-blocking. `events` are the
    /// event tokens; one is used.
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

    /// Sends to a sink that never blocks: a file, memory. Where it says
    /// "would block", what it did not take goes with what follows.
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

    /// Takes what was sent.
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

    /// Passes on all that the sink takes.
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

    /// The sink takes something again.
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
