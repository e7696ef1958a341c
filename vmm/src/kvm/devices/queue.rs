// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queues, in the form in which devices use them: one validated chain of descriptors at a time,
//! with a bound on the work that one notification can cause.

use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::bitmap::MS;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use super::{Error, Result};
use crate::kvm::memory::Memory;

/// A range of the guest's memory, as a descriptor specifies it. Its address is not validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The guest-physical address.
    pub addr: GuestAddress,
    /// Its length in bytes.
    pub len: u32,
}

/// A chain of descriptors: first those that the device reads, then those that it writes.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    /// Segments of both kinds; the second kind begins at index `writable`.
    segments: Vec<Segment>,
    writable: usize,
}

impl Chain {
    /// Returns the segments that the device may read.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.writable]
    }

    /// Returns the segments that the device may write.
    pub fn writable(&self) -> &[Segment] {
        &self.segments[self.writable..]
    }

    /// Adds a descriptor; readable ones come first (virtio 1.2, 2.7.4.2).
    fn push(&mut self, descriptor: &Descriptor) -> Result<()> {
        let written = descriptor.is_write_only();
        if !written && self.segments.len() > self.writable {
            return Err(Error::Protocol("a readable buffer after a writable one"));
        }
        self.segments.push(Segment {
            addr: descriptor.addr(),
            len: descriptor.len(),
        });
        if !written {
            self.writable = self.segments.len();
        }
        Ok(())
    }
}

/// Returns the total length of segments in bytes.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// Returns the guest's memory of a segment without its first `skip` bytes. Fails if any of it is
/// outside the memory.
pub fn slices<'a>(
    memory: &'a Memory,
    segment: Segment,
    skip: u32,
    access: Permissions,
) -> Result<impl Iterator<Item = Result<VolatileSlice<'a, MS<'a, Memory>>>>> {
    let addr = segment.addr.0.checked_add(u64::from(skip));
    let addr = addr.ok_or(Error::Protocol("a buffer beyond the address space"))?;
    let len = segment.len.saturating_sub(skip) as usize;
    let slices = GuestMemory::get_slices(memory, GuestAddress(addr), len, access)?;
    Ok(slices.map(|slice| slice.map_err(Error::from)))
}

/// Fills `buf` from the beginning of `segments`; fails if they are shorter than `buf`.
pub fn read(memory: &Memory, segments: &[Segment], buf: &mut [u8]) -> Result<()> {
    let mut done = 0;
    for segment in segments {
        let len = (segment.len as usize).min(buf.len() - done);
        memory.read_slice(&mut buf[done..done + len], segment.addr)?;
        done += len;
    }
    if done < buf.len() {
        return Err(Error::Protocol("a buffer is too short to read from"));
    }
    Ok(())
}

/// Writes `buf` to `segments`, as much as fits; returns the number of bytes written.
pub fn write(memory: &Memory, segments: &[Segment], buf: &[u8]) -> Result<usize> {
    let mut done = 0;
    for segment in segments {
        let len = (segment.len as usize).min(buf.len() - done);
        memory.write_slice(&buf[done..done + len], segment.addr)?;
        done += len;
    }
    Ok(done)
}

/// The result of processing a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The device has completed it, and written this many bytes to it.
    Used(u32),
    /// The device cannot process it yet, nor any chain after it. The chain stays in the queue.
    Keep,
    /// The device has reached its limit for now, and will continue with the same chain after other
    /// events were handled.
    Later,
}

/// The reason why [`Rings::drain`] has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The queue is empty. The driver sends a notification when it adds a chain.
    Empty,
    /// The device kept the next chain. The driver need not send a notification.
    Kept,
    /// The limit was reached; the transport will notify the queue again.
    Later,
}

/// A queue and its state in the transport.
#[derive(Debug)]
pub(super) struct Ring {
    pub queue: Queue,
    /// True when chains were used since the last interrupt for the driver.
    pub used: bool,
    /// The transport must notify the queue again.
    pub again: bool,
}

impl Ring {
    pub fn new(size: u16) -> Result<Self> {
        Ok(Self {
            queue: Queue::new(size)?,
            used: false,
            again: false,
        })
    }

    pub fn reset(&mut self) {
        self.queue.reset();
        self.used = false;
        self.again = false;
    }

    /// Returns the next chain, or `None` if the driver has added none.
    fn next(&mut self, memory: &Memory) -> Result<Option<Chain>> {
        let size = usize::from(self.queue.size());
        if self.queue.avail_idx(memory, Ordering::Acquire)?.0 == self.queue.next_avail() {
            return Ok(None);
        }
        let mut descriptors = self
            .queue
            .iter(memory)?
            .next()
            .ok_or(Error::Protocol("the available ring cannot be read"))?;
        let mut chain = Chain {
            head: descriptors.head_index(),
            ..Chain::default()
        };
        // For a loop, or an indirect table, which is not offered, the iterator would make up to
        // 65,535 steps. A chain is never longer than its queue.
        let mut ended = false;
        for descriptor in descriptors.by_ref().take(size) {
            ended = !descriptor.has_next();
            chain.push(&descriptor)?;
        }
        // The specification forbids longer chains (2.7.5), and devices rely on it.
        if total(&chain.segments) > u32::MAX.into() {
            return Err(Error::Protocol("a chain of more than 4 GiB"));
        }
        // The iterator silently stops at an index that is out of range, or an address that is not
        // in memory.
        if !ended {
            return Err(Error::Protocol("a chain of descriptors has no end"));
        }
        Ok(Some(chain))
    }
}

/// A device's queues, lent to it for one call, and the guest's memory.
pub struct Rings<'a> {
    pub(super) memory: &'a Memory,
    pub(super) rings: &'a mut [Ring],
}

impl Rings<'_> {
    /// Returns the guest's memory.
    pub fn memory(&self) -> &Memory {
        self.memory
    }

    /// Passes the chains of a queue to `handle`, in order, until none is left or `handle` stops;
    /// but at most as many chains as the queue holds, because a different vCPU may add chains
    /// concurrently. A queue that is not ready is treated as empty.
    pub fn drain(
        &mut self,
        queue: usize,
        mut handle: impl FnMut(&Memory, &Chain) -> Result<Step>,
    ) -> Result<Outcome> {
        let memory = self.memory;
        let Some(ring) = self.rings.get_mut(queue).filter(|ring| ring.queue.ready()) else {
            return Ok(Outcome::Empty);
        };
        let mut budget = ring.queue.size();
        loop {
            let Some(chain) = ring.next(memory)? else {
                // With event indices, this requests a notification of the next chain, and detects a
                // chain that was added meanwhile. Count this too: a driver may add chains and
                // withdraw them endlessly.
                if !ring.queue.enable_notification(memory)? {
                    return Ok(Outcome::Empty);
                }
                if budget == 0 {
                    ring.again = true;
                    return Ok(Outcome::Later);
                }
                budget -= 1;
                continue;
            };
            let step = match budget.checked_sub(1) {
                Some(left) => {
                    budget = left;
                    handle(memory, &chain)?
                }
                None => Step::Later,
            };
            match step {
                Step::Used(len) => {
                    ring.queue.add_used(memory, chain.head, len)?;
                    ring.used = true;
                }
                Step::Keep => {
                    ring.queue.go_to_previous_position();
                    return Ok(Outcome::Kept);
                }
                Step::Later => {
                    ring.queue.go_to_previous_position();
                    ring.again = true;
                    return Ok(Outcome::Later);
                }
            }
        }
    }
}
