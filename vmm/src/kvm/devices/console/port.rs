// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A port: a socket on the host's side, two queues on the guest's side.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};
use vm_memory::{Permissions, ReadVolatile, VolatileMemoryError, WriteVolatile};
use vmm_sys_util::epoll::EventSet;

use crate::kvm::devices::queue::{self, Outcome, Rings, Segment, Step};
use crate::kvm::devices::{Error, Events, Result, Source};
use crate::kvm::memory::Memory;

/// Maximum number of bytes to read into one chain.
const CHAIN_MAX: u64 = 64 << 10;

/// Maximum number of bytes to write for one notification: a reader may consume them as fast as they
/// are written, so the socket alone is not a bound.
const TRANSMIT_MAX: usize = 1 << 20;

/// Maximum number of bytes on their way to the guest that a snapshot includes. A socket holds less,
/// with the host's default limits.
const BACKLOG_MAX: usize = 1 << 20;

pub(super) struct Port {
    // Dropped before the socket, so that it leaves the event loop while the socket is open.
    source: Source,
    stream: UnixStream,
    /// True when the guest has opened the port.
    pub guest_open: bool,
    /// True until the host's end has been closed for sending.
    pub host_open: bool,
    /// True when the socket may have data to read.
    readable: bool,
    /// True when writing to the host's end has failed permanently.
    gone: bool,
    /// Bytes for the guest that precede those in the socket.
    backlog: VecDeque<u8>,
    /// Number of bytes of the first chain to the host that have been sent.
    sent: u32,
    /// True when there is a buffer for further data from the socket.
    wants_input: bool,
    /// True when there is data to send when the socket is writable.
    wants_output: bool,
}

/// A port's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortState {
    guest_open: bool,
    pub host_open: bool,
    sent: u32,
    backlog: Vec<u8>,
}

impl PortState {
    /// Returns true when the state is valid. `sent` may have any value: it is compared with the
    /// chain's length when it is used.
    pub fn is_valid(&self) -> bool {
        self.backlog.len() <= BACKLOG_MAX
    }
}

/// The result of an attempt to read or write.
enum Attempt {
    Done(usize),
    WouldBlock,
    /// The other end is closed.
    Failed,
}

impl Port {
    pub fn new(stream: UnixStream, events: &Events, index: u64) -> Result<Self> {
        stream.set_nonblocking(true).map_err(|source| Error::Io {
            what: "make a port's socket non-blocking",
            source,
        })?;
        Ok(Self {
            source: events.add(index, &stream),
            stream,
            guest_open: false,
            host_open: true,
            readable: true,
            gone: false,
            backlog: VecDeque::new(),
            sent: 0,
            wants_input: false,
            wants_output: false,
        })
    }

    /// Discards the state of the driver, whose chains are gone. Bytes on their way to the guest are
    /// kept for the next driver.
    pub fn reset(&mut self) {
        self.guest_open = false;
        self.sent = 0;
        self.wants_input = false;
        self.wants_output = false;
    }

    /// Records that the socket became readable or writable, or both.
    pub fn fired(&mut self) {
        self.source.fired();
        self.readable = true;
    }

    /// Arms the event source for exactly the events that allow progress.
    pub fn arm(&mut self) {
        let mut wanted = EventSet::empty();
        wanted.set(EventSet::IN, self.wants_input);
        wanted.set(EventSet::OUT, self.wants_output);
        self.source.arm(wanted);
    }

    /// Transfers bytes from the host to the guest, if the guest has the port `open`.
    pub fn receive(&mut self, rings: &mut Rings<'_>, queue: usize, open: bool) -> Result<()> {
        self.wants_input = false;
        if !open || !self.host_open && self.backlog.is_empty() {
            return Ok(());
        }
        let outcome = rings.drain(queue, |memory, chain| {
            if !chain.readable().is_empty() || queue::total(chain.writable()) == 0 {
                return Err(Error::Protocol("a receive buffer that is not writable"));
            }
            match self.fill(memory, chain.writable())? {
                0 => Ok(Step::Keep),
                filled => Ok(Step::Used(filled)),
            }
        })?;
        self.wants_input = outcome == Outcome::Kept && self.host_open;
        Ok(())
    }

    /// Fills a chain with available bytes; returns their number, 0 if there are none.
    fn fill(&mut self, memory: &Memory, segments: &[Segment]) -> Result<u32> {
        if !self.backlog.is_empty() {
            let written = queue::write(memory, segments, self.backlog.make_contiguous())?;
            self.backlog.drain(..written);
            return Ok(written as u32);
        }
        let mut filled = 0;
        for &segment in segments {
            for slice in queue::slices(memory, segment, 0, Permissions::Write)? {
                let mut slice = slice?;
                while self.readable && !slice.is_empty() && u64::from(filled) < CHAIN_MAX {
                    let len = slice.len().min(CHAIN_MAX as usize);
                    let mut part = slice.subslice(0, len)?;
                    match attempt(|| self.stream.read_volatile(&mut part)) {
                        Attempt::Done(0) | Attempt::Failed => {
                            self.readable = false;
                            self.host_open = false;
                        }
                        Attempt::WouldBlock => self.readable = false,
                        Attempt::Done(read) => {
                            // A short read means that the socket is empty. Reading again would be a
                            // system call in vain: the event loop reports new data anyway.
                            self.readable = read == len;
                            filled += read as u32;
                            slice = slice.offset(read)?;
                        }
                    }
                }
            }
        }
        Ok(filled)
    }

    /// Transfers bytes from the guest to the host.
    pub fn transmit(&mut self, rings: &mut Rings<'_>, queue: usize) -> Result<()> {
        let mut budget = TRANSMIT_MAX;
        let outcome = rings.drain(queue, |memory, chain| {
            if !chain.writable().is_empty() {
                return Err(Error::Protocol("a transmit buffer that is not readable"));
            }
            let step = self.send(memory, chain.readable(), &mut budget)?;
            if let Step::Used(_) = step {
                self.sent = 0;
            }
            Ok(step)
        })?;
        self.wants_output = outcome == Outcome::Kept;
        Ok(())
    }

    /// Sends the remaining bytes of a chain.
    fn send(&mut self, memory: &Memory, segments: &[Segment], budget: &mut usize) -> Result<Step> {
        let mut skip = self.sent;
        for &segment in segments {
            let here = skip.min(segment.len);
            skip -= here;
            for slice in queue::slices(memory, segment, here, Permissions::Read)? {
                let mut slice = slice?;
                while !slice.is_empty() && !self.gone {
                    if *budget == 0 {
                        return Ok(Step::Later);
                    }
                    let len = slice.len().min(*budget);
                    let part = slice.subslice(0, len)?;
                    match attempt(|| self.stream.write_volatile(&part)) {
                        Attempt::Failed => self.gone = true,
                        Attempt::WouldBlock => return Ok(Step::Keep),
                        Attempt::Done(written) => {
                            *budget -= written;
                            self.sent += written as u32;
                            slice = slice.offset(written)?;
                        }
                    }
                }
            }
        }
        Ok(Step::Used(0))
    }

    /// Returns the state. Data in the socket for the guest moves to the backlog, so that the guest
    /// receives it whether this machine continues or the snapshot is restored. The event loop will
    /// not report that data again, but the transport notifies the queue when it is resumed.
    pub fn save(&mut self) -> PortState {
        let mut part = [0; 4096];
        while self.host_open && self.backlog.len() + part.len() <= BACKLOG_MAX {
            match attempt(|| self.stream.read(&mut part)) {
                // The end of the stream is found again when the guest has read the backlog.
                Attempt::Done(0) | Attempt::WouldBlock | Attempt::Failed => break,
                Attempt::Done(read) => self.backlog.extend(&part[..read]),
            }
        }
        PortState {
            guest_open: self.guest_open,
            host_open: self.host_open,
            sent: self.sent,
            backlog: self.backlog.iter().copied().collect(),
        }
    }

    /// Replaces the state by a valid one, except for the host's end.
    pub fn restore(&mut self, state: &PortState) {
        self.guest_open = state.guest_open;
        self.host_open = true;
        self.readable = true;
        self.sent = state.sent;
        self.backlog = state.backlog.iter().copied().collect();
        self.wants_input = false;
        self.wants_output = false;
    }
}

/// Repeats an operation until it is not interrupted by a signal.
fn attempt<E: Interruptible>(mut what: impl FnMut() -> Result<usize, E>) -> Attempt {
    loop {
        return match what() {
            Ok(count) => Attempt::Done(count),
            Err(error) => match error.kind() {
                Some(ErrorKind::Interrupted) => continue,
                Some(ErrorKind::WouldBlock) => Attempt::WouldBlock,
                _ => Attempt::Failed,
            },
        };
    }
}

/// An error of the standard library, or one of vm-memory that wraps it.
trait Interruptible {
    fn kind(&self) -> Option<ErrorKind>;
}

impl Interruptible for std::io::Error {
    fn kind(&self) -> Option<ErrorKind> {
        Some(self.kind())
    }
}

impl Interruptible for VolatileMemoryError {
    fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::IOError(error) => Some(error.kind()),
            _ => None,
        }
    }
}
