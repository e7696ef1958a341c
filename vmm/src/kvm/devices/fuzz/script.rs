// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scripts of a driver's operations on a device, in bytes: each step is a byte that selects the
//! operation, followed by its operands. All bytes are a valid script, and most small changes of a
//! script change one step. Valid values have a short encoding and wild ones a long one, so that the
//! fuzzer finds both.

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};

use super::Input;
use crate::kvm::devices::harness::{self, BUFFERS, Fixture, MEMORY};

/// The first byte of a step, modulo the number of kinds.
mod step {
    pub const DESCRIPTOR: u8 = 0;
    pub const OFFER: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const TURN: u8 = 3;
    pub const FILL: u8 = 4;
    pub const REGISTER: u8 = 5;
    pub const START: u8 = 6;
    pub const HOST: u8 = 7;
    pub const SAVE: u8 = 8;
    pub const POKE: u8 = 9;
    pub const AVAILABLE: u8 = 10;
    pub const READ: u8 = 11;
    pub const KINDS: u8 = 12;
}

/// The byte that precedes a wild value, in place of a valid one.
const WILD: u8 = 0xff;

/// Distance between buffers in bytes; a script identifies them by number.
const BUFFER: u64 = 256;

/// Maximum number of queues of a device.
const QUEUES: usize = 6;

/// Runs a script on a fixture that was not started yet. `host` is called for operations of the
/// host, and reads their operands.
pub(super) fn run(
    fixture: &mut Fixture,
    mut input: Input<'_>,
    mut host: impl FnMut(&mut Input<'_>),
) {
    let mut available = [0u16; QUEUES];
    fixture.start();
    while let Some(()) = play(fixture, &mut input, &mut available, &mut host) {}
    fixture.notify_all();
    let broken = fixture.transport.broken().is_some();
    let reported = fixture.get(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET != 0;
    assert_eq!(broken, reported, "DEVICE_NEEDS_RESET");
}

fn play(
    fixture: &mut Fixture,
    input: &mut Input<'_>,
    available: &mut [u16; QUEUES],
    host: &mut impl FnMut(&mut Input<'_>),
) -> Option<()> {
    match input.u8()? % step::KINDS {
        step::DESCRIPTOR => {
            let [table, ..] = harness::queue(queue(input)?.into());
            let place = table + 16 * u64::from(input.u8()?);
            let address = match input.u8()? {
                WILD => input.u64()?,
                buffer => BUFFERS + u64::from(buffer) * BUFFER,
            };
            let len = match input.u8()? {
                WILD => input.u32()?,
                len => len.into(),
            };
            put(fixture, place, &address.to_le_bytes());
            put(fixture, place + 8, &len.to_le_bytes());
            put(fixture, place + 12, &[input.u8()?, 0, input.u8()?, 0]);
        }
        step::OFFER => {
            let queue = queue(input)?;
            let [_, ring, _] = harness::queue(queue.into());
            let index = &mut available[usize::from(queue)];
            fixture.set(VIRTIO_MMIO_QUEUE_SEL, queue.into());
            let max = fixture.get(VIRTIO_MMIO_QUEUE_NUM_MAX);
            let entry = u64::from(*index) % u64::from(max.max(1));
            put(fixture, ring + 4 + 2 * entry, &[input.u8()?, 0]);
            *index = index.wrapping_add(1);
            put(fixture, ring + 2, &index.to_le_bytes());
        }
        step::NOTIFY => fixture.notify(queue(input)?.into()),
        step::TURN => {
            fixture.turn();
        }
        step::FILL => {
            let place = BUFFERS + u64::from(input.u8()?) * BUFFER;
            let bytes = input.bytes();
            put(fixture, place, bytes);
        }
        step::REGISTER => {
            let register = u32::from(input.u8()?) * 4;
            fixture.set(register, input.u32()?);
        }
        step::START => {
            // Each bit of the first byte disables a feature.
            let features = match input.u8()? {
                0 => fixture.offered(),
                less => fixture.offered() & !u64::from(less) | u64::from(less & 1) << 32,
            };
            *available = [0; QUEUES];
            fixture.start_with(features);
        }
        step::HOST => host(input),
        step::SAVE => {
            // In any state of a driver, the device can be saved and the result restored.
            let state = super::again(&fixture.transport.save());
            let restored = fixture.transport.restore(&state);
            restored.expect("its own state");
            fixture.transport.resume();
        }
        step::POKE => {
            let place = u64::from(input.u32()?) % (MEMORY as u64 - 2);
            put(fixture, place, &input.u16()?.to_le_bytes());
        }
        step::AVAILABLE => {
            let queue = queue(input)?;
            let [_, ring, _] = harness::queue(queue.into());
            available[usize::from(queue)] = input.u16()?;
            put(
                fixture,
                ring + 2,
                &available[usize::from(queue)].to_le_bytes(),
            );
        }
        _ => {
            let offset = input.u16()?;
            let len = usize::from(offset >> 12) % 9;
            fixture
                .transport
                .read(u64::from(offset & 0xfff), &mut [0; 8][..len]);
        }
    }
    Some(())
}

fn queue(input: &mut Input<'_>) -> Option<u8> {
    input.u8().map(|queue| queue % QUEUES as u8)
}

fn put(fixture: &Fixture, address: u64, bytes: &[u8]) {
    // Ignore a failure: the last queue's table does not have all descriptors that can be named.
    let _ = fixture.memory.write_slice(bytes, GuestAddress(address));
}

/// Writes scripts, for the seeds of the fuzz targets.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Returns a script without steps; `before` precedes the steps of a target.
    pub fn new(before: &[u8]) -> Self {
        Self(before.to_vec())
    }

    fn add(mut self, kind: u8, bytes: &[u8]) -> Self {
        self.0.push(kind);
        self.0.extend(bytes);
        self
    }

    /// Sets descriptor `at` of a queue: buffer number, length, flags (1: has a next descriptor; 2:
    /// for the device to write), number of the next descriptor.
    pub fn descriptor(self, queue: u8, at: u8, buffer: u8, len: u8, flags: u8, next: u8) -> Self {
        self.add(step::DESCRIPTOR, &[queue, at, buffer, len, flags, next])
    }

    /// Sets a descriptor with an arbitrary address and length.
    pub fn wild(self, queue: u8, at: u8, address: u64, len: u32, flags: u8, next: u8) -> Self {
        let mut bytes = vec![queue, at, WILD];
        bytes.extend(address.to_le_bytes());
        bytes.push(WILD);
        bytes.extend(len.to_le_bytes());
        bytes.extend([flags, next]);
        self.add(step::DESCRIPTOR, &bytes)
    }

    /// Makes a chain available.
    pub fn offer(self, queue: u8, head: u8) -> Self {
        self.add(step::OFFER, &[queue, head])
    }

    /// Notifies a queue.
    pub fn notify(self, queue: u8) -> Self {
        self.add(step::NOTIFY, &[queue])
    }

    /// Runs the event loop once.
    pub fn turn(self) -> Self {
        self.add(step::TURN, &[])
    }

    /// Fills a buffer with at most 255 bytes.
    pub fn fill(self, buffer: u8, bytes: &[u8]) -> Self {
        let len = u8::try_from(bytes.len()).expect("255 bytes at most");
        let mut all = vec![buffer, len];
        all.extend(bytes);
        self.add(step::FILL, &all)
    }

    /// Writes a register.
    pub fn register(self, offset: u8, value: u32) -> Self {
        let [a, b, c, d] = value.to_le_bytes();
        self.add(step::REGISTER, &[offset / 4, a, b, c, d])
    }

    /// Resets and starts the device without some of its lowest eight features.
    pub fn start(self, without: u8) -> Self {
        self.add(step::START, &[without])
    }

    /// Performs an operation of the host; the target defines the bytes.
    pub fn host(self, bytes: &[u8]) -> Self {
        self.add(step::HOST, bytes)
    }

    /// Saves the device and restores the result.
    pub fn save(self) -> Self {
        self.add(step::SAVE, &[])
    }

    /// Sets a queue's available index.
    pub fn available(self, queue: u8, index: u16) -> Self {
        let [low, high] = index.to_le_bytes();
        self.add(step::AVAILABLE, &[queue, low, high])
    }

    /// Reads `len` bytes, at most 8, of the transport's address range.
    pub fn read(self, offset: u16, len: u16) -> Self {
        let [low, high] = (offset & 0xfff | len << 12).to_le_bytes();
        self.add(step::READ, &[low, high])
    }

    /// Returns the script.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}
