// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's side of a queue, for tests.
//!
//! The mock of virtio-queue does not suffice: its used ring overlaps the end of its available ring,
//! and it never wraps around. So it cannot test event indices, on which much depends here.

use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use super::harness::{self, Fixture};
use crate::kvm::memory::Memory;

/// A descriptor's flags.
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;

/// The driver of one queue.
pub struct Driver {
    memory: Arc<Memory>,
    index: u32,
    size: u16,
    /// The next descriptor to use; descriptors are reused in turn.
    descriptor: u16,
    available: u16,
    /// The index up to which the driver has processed the used ring, as it last reported to the
    /// device.
    seen: u16,
}

impl Driver {
    pub fn new(fixture: &Fixture, index: u32, size: u16) -> Self {
        Self {
            memory: fixture.memory.clone(),
            index,
            size,
            descriptor: 0,
            available: 0,
            seen: 0,
        }
    }

    /// Returns the same driver with the memory of a different fixture.
    pub fn over(&self, fixture: &Fixture) -> Self {
        Self {
            memory: fixture.memory.clone(),
            ..*self
        }
    }

    fn put<T: vm_memory::ByteValued>(&self, address: u64, value: T) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    fn get<T: vm_memory::ByteValued>(&self, address: u64) -> T {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    /// Writes a raw descriptor.
    pub fn descriptor(&self, at: u16, address: u64, len: u32, flags: u16, next: u16) {
        let place = harness::queue(self.index)[0] + 16 * u64::from(at);
        self.put(place, address);
        self.put(place + 8, len);
        self.put(place + 12, flags);
        self.put(place + 14, next);
    }

    /// Makes the chain that begins at the descriptor `head` available.
    pub fn offer(&mut self, head: u16) {
        let ring = harness::queue(self.index)[1];
        self.put(ring + 4 + 2 * u64::from(self.available % self.size), head);
        self.available = self.available.wrapping_add(1);
        self.put(ring + 2, self.available);
    }

    /// Adds a chain of (address, length, true if the device writes) and returns its head.
    pub fn add(&mut self, buffers: &[(u64, u32, bool)]) -> u16 {
        let head = self.descriptor;
        for (n, &(address, len, write)) in buffers.iter().enumerate() {
            let here = self.descriptor;
            self.descriptor = (here + 1) % self.size;
            let more = if n + 1 < buffers.len() { NEXT } else { 0 };
            let flags = more | if write { WRITE } else { 0 };
            self.descriptor(here, address, len, flags, self.descriptor);
        }
        self.offer(head);
        head
    }

    /// Returns the next used chain and its length, if there is one. Requests an interrupt for the
    /// following one.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let [_, available, used] = harness::queue(self.index);
        if self.get::<u16>(used + 2) == self.seen {
            return None;
        }
        let element = used + 4 + 8 * u64::from(self.seen % self.size);
        self.seen = self.seen.wrapping_add(1);
        self.put(available + 4 + 2 * u64::from(self.size), self.seen);
        Some((self.get::<u32>(element) as u16, self.get(element + 4)))
    }

    /// Returns true when the device needs a notification of the chain that was added last.
    pub fn wants_notification(&self) -> bool {
        let event = harness::queue(self.index)[2] + 4 + 8 * u64::from(self.size);
        self.get::<u16>(event) == self.available.wrapping_sub(1)
    }

    /// Sets the available ring's index.
    pub fn set_available(&mut self, index: u16) {
        self.available = index;
        self.put(harness::queue(self.index)[1] + 2, index);
    }
}
