// SPDX-License-Identifier: Apache-2.0 OR MIT
//! virtio-rng (virtio 1.2, section 5.4): the host's random numbers.

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::queue::{self, Rings, Step};
use super::{DeviceState, Error, Result, VirtioDevice};

/// Linux asks for one buffer at a time.
const QUEUE_SIZE: u16 = 8;

/// The most bytes that one chain is given; the driver asks again if it wants more.
const MAX: usize = 4096;

/// A source of random numbers.
#[derive(Debug, Default)]
pub struct Rng;

/// A random number generator's part of a snapshot: nothing, and least of all
/// a number that two clones would share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngState {}

impl Rng {
    /// One that asks the host's kernel.
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
                return Err(Error::Protocol("random numbers do not go to the device"));
            }
            let mut random = [0; MAX];
            let wanted = queue::total(chain.writable()).min(MAX as u64) as usize;
            // A driver waits for at least one byte (5.4.6.2). Once its
            // pool is initialised the host's kernel always has some.
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
            _ => Err(Error::State("it is another device's")),
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::kvm::devices::driver::Driver;
    use crate::kvm::devices::harness::{BUFFERS, Bench};

    fn bench() -> (Bench, Driver) {
        let mut bench = Bench::new(|_| Box::new(Rng::new()));
        bench.start();
        let driver = Driver::new(&bench, 0, QUEUE_SIZE);
        (bench, driver)
    }

    #[test]
    fn fills_buffers() {
        let (mut bench, mut driver) = bench();
        let head = driver.add(&[(BUFFERS, 24, true), (BUFFERS + 0x100, 8, true)]);
        bench.notify(0);
        assert_eq!(driver.used(), Some((head, 32)));
        let mut bytes = [0u8; 24];
        bench
            .memory
            .read_slice(&mut bytes, GuestAddress(BUFFERS))
            .unwrap();
        assert_ne!(bytes, [0; 24]);
        let after: u64 = bench.memory.read_obj(GuestAddress(BUFFERS + 24)).unwrap();
        assert_eq!(after, 0);
        assert_eq!(bench.line.take(), 1);
    }

    #[test]
    fn gives_a_bounded_amount() {
        let (mut bench, mut driver) = bench();
        let head = driver.add(&[(BUFFERS, 0x8_0000, true)]);
        bench.notify(0);
        assert_eq!(driver.used(), Some((head, MAX as u32)));
        let head = driver.add(&[(BUFFERS, 0, true)]);
        bench.notify(0);
        assert_eq!(driver.used(), Some((head, 0)));
    }

    #[test]
    fn takes_no_input_and_no_address_outside_of_memory() {
        for buffer in [(BUFFERS, 8, false), (1 << 40, 8, true), (u64::MAX, 8, true)] {
            let (mut bench, mut driver) = bench();
            driver.add(&[buffer]);
            bench.notify(0);
            assert_eq!(driver.used(), None);
            assert!(bench.transport.broken().is_some(), "{buffer:x?}");
        }
    }
}
