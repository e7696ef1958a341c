// SPDX-License-Identifier: Apache-2.0 OR MIT
//! virtio-rng (virtio 1.2, section 5.4): the host's random numbers.

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::queue::{self, Rings, Step};
use super::{DeviceState, Error, Result, VirtioDevice};

/// Linux requests one buffer at a time.
const QUEUE_SIZE: u16 = 8;

/// Maximum number of bytes for one chain; a driver that needs more makes another request.
const MAX: usize = 4096;

/// A source of random numbers.
#[derive(Debug, Default)]
pub struct Rng;

/// A random number generator's part of a snapshot. It is empty: two clones must not share random
/// numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {}

impl Rng {
    /// Returns a device that uses the host kernel's random numbers.
    pub fn new() -> Self {
        Self
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn notify(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<()> {
        rings.drain(queue, |memory, chain| {
            if !chain.readable().is_empty() {
                return Err(Error::Protocol("a readable buffer for random numbers"));
            }
            let mut random = [0; MAX];
            let wanted = queue::total(chain.writable()).min(MAX as u64) as usize;
            // The device must return at least one byte (5.4.6.2). The host's kernel always has some
            // after its pool is initialised.
            let given = getrandom(&mut random[..wanted], GetRandomFlags::empty()).unwrap_or(0);
            let written = queue::write(memory, chain.writable(), &random[..given])?;
            Ok(Step::Used(written as u32))
        })?;
        Ok(())
    }

    fn save(&mut self) -> DeviceState {
        DeviceState::Rng(RngState {})
    }

    fn restore(&mut self, state: &DeviceState) -> Result<()> {
        match state {
            DeviceState::Rng(RngState {}) => Ok(()),
            _ => Err(Error::State("it belongs to a different device")),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kvm::devices::driver::Driver;
    use crate::kvm::devices::harness::{BUFFERS, Fixture};

    fn fixture() -> (Fixture, Driver) {
        let mut fixture = Fixture::new(|_| Box::new(Rng::new()));
        fixture.start();
        let driver = Driver::new(&fixture, 0, QUEUE_SIZE);
        (fixture, driver)
    }

    #[test]
    fn fills_buffers() {
        let (mut fixture, mut driver) = fixture();
        let head = driver.add(&[(BUFFERS, 24, true), (BUFFERS + 0x100, 8, true)]);
        fixture.notify(0);
        assert_eq!(driver.used(), Some((head, 32)));
        let mut bytes = [0u8; 24];
        fixture
            .memory
            .read_slice(&mut bytes, GuestAddress(BUFFERS))
            .unwrap();
        assert_ne!(bytes, [0; 24]);
        let after: u64 = fixture.memory.read_obj(GuestAddress(BUFFERS + 24)).unwrap();
        assert_eq!(after, 0);
        assert_eq!(fixture.line.take(), 1);
    }

    #[test]
    fn returns_a_bounded_amount() {
        let (mut fixture, mut driver) = fixture();
        let head = driver.add(&[(BUFFERS, 0x8_0000, true)]);
        fixture.notify(0);
        assert_eq!(driver.used(), Some((head, MAX as u32)));
        let head = driver.add(&[(BUFFERS, 0, true)]);
        fixture.notify(0);
        assert_eq!(driver.used(), Some((head, 0)));
    }

    #[test]
    fn refuses_input_and_addresses_outside_of_memory() {
        for buffer in [(BUFFERS, 8, false), (1 << 40, 8, true), (u64::MAX, 8, true)] {
            let (mut fixture, mut driver) = fixture();
            driver.add(&[buffer]);
            fixture.notify(0);
            assert_eq!(driver.used(), None);
            assert!(fixture.transport.broken().is_some(), "{buffer:x?}");
        }
    }
}
