// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A test fixture for a device, for tests and fuzzers: a transport with a little memory, whose
//! registers the test accesses as a driver does.
//!
//! A fuzz target fills the memory, including the rings, with its input:
//!
//! ```
//! # use crucible_vmm::kvm::devices::{harness::Fixture, rng::Rng};
//! let mut fixture = Fixture::new(|_events| Box::new(Rng::new()));
//! fixture.fill(b"any bytes at all");
//! fixture.start();
//! fixture.notify_all();
//! ```

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use virtio_bindings::virtio_mmio::*;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Bytes, GuestAddress, GuestRegionMmap};
use vmm_sys_util::epoll::{Epoll, EpollEvent};

use super::mmio::Transport;
use super::{Events, Interrupt, VirtioDevice};
use crate::kvm::memory::Memory;

/// The size of the fixture's memory in bytes; it begins at address 0.
pub const MEMORY: usize = 1 << 20;

/// The address of the first queue's descriptors; each queue has an area of this kind.
pub const QUEUES: u64 = 0x1000;

/// The size of a queue's area, a third of which is for each of its parts.
const STRIDE: u64 = 0x3000;

/// The address where memory begins that no queue uses: there are at most eight queues.
pub const BUFFERS: u64 = 0x2_0000;

/// The status of a driver that is ready.
const DRIVER_OK: u32 = 0b1111;

/// Returns the addresses of a queue's descriptors, available ring and used ring.
pub fn queue(index: u32) -> [u64; 3] {
    let base = QUEUES + u64::from(index) * STRIDE;
    [base, base + STRIDE / 3, base + STRIDE / 3 * 2]
}

/// An interrupt line that counts its interrupts.
#[derive(Debug, Default)]
pub struct Line(AtomicUsize);

impl Line {
    /// Returns the number of interrupts since the last call.
    pub fn take(&self) -> usize {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Interrupt for Line {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A device on its transport, with its own memory, interrupt line and event loop.
pub struct Fixture {
    /// The transport, which a test may access directly.
    pub transport: Transport,
    /// The memory.
    pub memory: Arc<Memory>,
    /// The interrupt line.
    pub line: Arc<Line>,
    epoll: Arc<Epoll>,
    queues: u32,
}

impl Fixture {
    /// Sets up the device that `make` returns. Panics if an operation of the host fails.
    pub fn new(make: impl FnOnce(Events) -> Box<dyn VirtioDevice>) -> Self {
        Self::over(Arc::new(memory()), make)
    }

    /// Sets up a device like [`new`](Self::new), with the memory of a different fixture.
    pub fn over(memory: Arc<Memory>, make: impl FnOnce(Events) -> Box<dyn VirtioDevice>) -> Self {
        let epoll = Arc::new(Epoll::new().expect("an epoll"));
        let events = Events::new(epoll.clone(), 40);
        let line = Arc::new(Line::default());
        let device = make(events.clone());
        let queues = device.queue_sizes().len() as u32;
        let transport = Transport::new(device, memory.clone(), line.clone(), events);
        Self {
            transport: transport.expect("a transport"),
            memory,
            line,
            epoll,
            queues,
        }
    }

    /// Writes `bytes` to memory from address 0 on, truncated to its size. This overwrites the
    /// rings.
    pub fn fill(&mut self, bytes: &[u8]) {
        let bytes = &bytes[..bytes.len().min(MEMORY)];
        self.memory
            .write_slice(bytes, GuestAddress(0))
            .expect("memory");
    }

    /// Reads a register.
    pub fn get(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    /// Writes a register.
    pub fn set(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    /// Returns the features that the device offers.
    pub fn offered(&mut self) -> u64 {
        let [low, high] = [0, 1].map(|half| {
            self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            u64::from(self.get(VIRTIO_MMIO_DEVICE_FEATURES))
        });
        high << 32 | low
    }

    /// Initialises the device like a driver that accepts all features and uses the largest queues.
    pub fn start(&mut self) {
        let features = self.offered();
        self.start_with(features);
    }

    /// Initialises the device like [`start`](Self::start), with only these features.
    pub fn start_with(&mut self, features: u64) {
        self.set(VIRTIO_MMIO_STATUS, 0);
        self.set(VIRTIO_MMIO_STATUS, 0b0011);
        for half in [0, 1] {
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.set(
                VIRTIO_MMIO_DRIVER_FEATURES,
                (features >> (32 * half)) as u32,
            );
        }
        self.set(VIRTIO_MMIO_STATUS, 0b1011);
        for index in 0..self.queues {
            self.set(VIRTIO_MMIO_QUEUE_SEL, index);
            let size = self.get(VIRTIO_MMIO_QUEUE_NUM_MAX);
            self.set(VIRTIO_MMIO_QUEUE_NUM, size);
            let [descriptors, available, used] = queue(index);
            for (register, address) in [
                (VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors),
                (VIRTIO_MMIO_QUEUE_AVAIL_LOW, available),
                (VIRTIO_MMIO_QUEUE_USED_LOW, used),
            ] {
                self.set(register, address as u32);
                self.set(register + 4, 0);
            }
            self.set(VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.set(VIRTIO_MMIO_STATUS, DRIVER_OK);
    }

    /// Notifies a queue.
    pub fn notify(&mut self, queue: u32) {
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }

    /// Notifies every queue, and runs the event loop once.
    pub fn notify_all(&mut self) {
        for queue in 0..self.queues {
            self.notify(queue);
        }
        self.turn();
    }

    /// Runs the event loop once, without waiting; returns the number of events.
    pub fn turn(&mut self) -> usize {
        let mut events = [EpollEvent::default(); 8];
        let count = self.epoll.wait(0, &mut events).expect("an epoll");
        for event in &events[..count] {
            self.transport.ready(event.data());
        }
        count
    }
}

/// Returns memory with a bitmap of the pages that devices write.
fn memory() -> Memory {
    const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
    const READ_WRITE: i32 = 3; // PROT_READ | PROT_WRITE
    let bitmap = Some(AtomicBitmap::new(MEMORY, PAGE));
    let mapping = MmapRegionBuilder::new_with_bitmap(MEMORY, bitmap)
        .with_mmap_prot(READ_WRITE)
        .build()
        .expect("memory");
    let region = GuestRegionMmap::new(mapping, GuestAddress(0)).expect("a region");
    Memory::from_regions(vec![region]).expect("regions")
}
