// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queues, as devices use them: one chain of descriptors at a time, checked,
//! with an end to the work that one notification can cause.

use std::sync::atomic::Ordering;

use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::bitmap::MS;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions, VolatileSlice};

use super::{Error, Result};
use crate::kvm::memory::Memory;

/// A piece of the guest's memory, as a descriptor names it. It may lie anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins.
    pub addr: GuestAddress,
    /// Its length in bytes.
    pub len: u32,
}

/// A chain of descriptors: first what the device reads, then what it writes.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    /// Both parts; the second begins at `writable`.
    segments: Vec<Segment>,
    writable: usize,
}

impl Chain {
    /// What the device may read.
    pub fn readable(&self) -> &[Segment] {
        &self.segments[..self.writable]
    }

    /// What the device is to write.
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

/// The total length of some segments in bytes.
pub fn total(segments: &[Segment]) -> u64 {
    segments.iter().map(|s| u64::from(s.len)).sum()
}

/// The guest's memory behind a segment without its first `skip` bytes. An error if
/// any of it is not there.
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

/// Fills `buf` from the beginning of `segments`; an error if they are
/// shorter than it.
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

/// Writes `buf` to `segments`, as much as they take; returns how much that was.
pub fn write(memory: &Memory, segments: &[Segment], buf: &[u8]) -> Result<usize> {
    let mut done = 0;
    for segment in segments {
        let len = (segment.len as usize).min(buf.len() - done);
        memory.write_slice(&buf[done..done + len], segment.addr)?;
        done += len;
    }
    Ok(done)
}

/// What a device did with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It is done with it, having written this many bytes to it.
    Used(u32),
    /// It cannot use it yet, nor any after it. It will be offered it again.
    Keep,
    /// It has done enough for now. It wants to go on with the same chain as
    /// soon as others had their turn.
    Later,
}

/// Why a device's run over a queue ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// There are no more chains. The driver will notify when it adds one.
    Empty,
    /// The device kept the next chain. The driver need not notify.
    Kept,
    /// It was enough for now; the transport sees to it that the queue is
    /// notified again.
    Later,
}

/// A queue and what the transport needs to know of it.
#[derive(Debug)]
pub(super) struct Ring {
    pub queue: Queue,
    /// Chains were used since the driver was last notified of them.
    pub used: bool,
    /// To be notified again.
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

    /// The next chain, or `None` if the driver has added none.
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
        // The iterator follows a loop, or an indirect table, which we do not
        // offer, for up to 65,535 steps. A chain is never longer than its queue.
        let mut ended = false;
        for descriptor in descriptors.by_ref().take(size) {
            ended = !descriptor.has_next();
            chain.push(&descriptor)?;
        }
        // A driver may make none longer than that (2.7.5), and devices count with it.
        if total(&chain.segments) > u32::MAX.into() {
            return Err(Error::Protocol("a chain of more than 4 GiB"));
        }
        // It ends early, without a word, where it meets an index that is out
        // of range or an address that is not there.
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
    /// The guest's memory.
    pub fn memory(&self) -> &Memory {
        self.memory
    }

    /// Gives the chains of a queue to `handle`, in order, until it has none
    /// left or `handle` wants no more; but no more chains than the queue
    /// holds, since another vCPU may be adding to it all the while. A queue
    /// that is not ready is an empty one.
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
                // With event indices, this asks for a notification of the
                // next chain; and it sees one that has come meanwhile. A
                // driver may add chains and take them back for ever.
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
