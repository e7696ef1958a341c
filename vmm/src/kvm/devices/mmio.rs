// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2).
//!
//! # Notifications
//! A write to QueueNotify is served in the vCPU thread that wrote it, instead
//! of by a separate thread that KVM wakes through an ioeventfd. The guest's CPU
//! waits meanwhile, but on a host with one CPU to spare it would wait anyway, for
//! two more context switches. And once vCPUs are stopped nothing is in flight:
//! all state to save is in the guest's memory and in the device.
//!
//! The time for which a vCPU is blocked is bounded: by the number of chains in a queue, and by a
//! device's own limits in bytes. The event loop does the remaining work in portions of the same
//! size, and handles other events in between.
//!
//! # Protocol errors of the guest
//! The transport sets DEVICE_NEEDS_RESET and notifies the guest by a configuration change
//! interrupt. The device does nothing more until it is reset.

mod setup;
mod state;
#[cfg(test)]
mod tests;

pub use state::TransportState;

use std::sync::Arc;

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::queue::{Ring, Rings};
use super::{Error, Events, Interrupt, Result, Source, VirtioDevice, WAKE};
use crate::kvm::memory::Memory;

/// The size of a transport's address range in bytes.
pub const SIZE: u64 = 0x1000;

/// "virt", as MagicValue.
const MAGIC: u32 = 0x7472_6976;
/// The version of the register layout.
const VERSION: u32 = 2;
/// virtio-mmio has no registered vendors; drivers ignore this.
const VENDOR: u32 = 0;

/// The features that every transport offers. Event indices avoid most interrupts and notifications,
/// each of which is an exit. Indirect descriptors are not offered: a queue that is served
/// synchronously never fills up, so they would only cost the driver an allocation for each request.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A device on its transport.
pub struct Transport {
    device: Box<dyn VirtioDevice>,
    memory: Arc<Memory>,
    interrupt: Arc<dyn Interrupt>,
    events: Events,
    wake: Wake,
    rings: Vec<Ring>,
    status: u32,
    interrupt_status: u32,
    queue_sel: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    broken: Option<Error>,
}

impl Transport {
    /// Puts a device on a transport. `events` must be the ones that the device was given, if any.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: Arc<Memory>,
        interrupt: Arc<dyn Interrupt>,
        events: Events,
    ) -> Result<Self> {
        let rings = device
            .queue_sizes()
            .iter()
            .map(|&size| Ring::new(size))
            .collect::<Result<_>>()?;
        Ok(Self {
            device,
            memory,
            interrupt,
            wake: Wake::new(&events)?,
            events,
            rings,
            status: 0,
            interrupt_status: 0,
            queue_sel: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            driver_features: 0,
            broken: None,
        })
    }

    /// Returns the error of the guest's driver because of which the device needs a reset, if there
    /// is one.
    pub fn broken(&self) -> Option<&Error> {
        self.broken.as_ref()
    }

    /// Handles a read of `data.len()` bytes at `offset` of the transport's address range.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(u64::from(VIRTIO_MMIO_CONFIG)) {
            self.device.read_config(offset, data);
        } else if let Ok(data) = <&mut [u8; 4]>::try_from(data) {
            // Registers have 32 bits; accesses of other sizes read as zero.
            *data = self.register(offset as u32).to_le_bytes();
        }
    }

    fn register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered(), self.device_features_sel),
            VIRTIO_MMIO_QUEUE_NUM_MAX => self
                .selected()
                .map_or(0, |ring| ring.queue.max_size().into()),
            VIRTIO_MMIO_QUEUE_READY => self.selected().map_or(0, |ring| ring.queue.ready().into()),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt_status,
            VIRTIO_MMIO_STATUS => self.status,
            // There is no shared memory: regions have the length -1.
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH if offset.is_multiple_of(4) => {
                u32::MAX
            }
            // ConfigGeneration stays 0: no configuration space of our devices ever changes.
            _ => 0,
        }
    }

    /// Handles a write of `data` at `offset` of the transport's address range.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        // The configuration spaces are read-only, and registers are only written with 32 bits.
        let (Ok(offset), Ok(data)) = (u32::try_from(offset), <[u8; 4]>::try_from(data)) else {
            return;
        };
        let value = u32::from_le_bytes(data);
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_sel = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.set_driver_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_sel = value,
            VIRTIO_MMIO_QUEUE_NOTIFY => self.notify(value as usize),
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt_status &= !value,
            VIRTIO_MMIO_STATUS => self.set_status(value),
            VIRTIO_MMIO_QUEUE_NUM
            | VIRTIO_MMIO_QUEUE_READY
            | VIRTIO_MMIO_QUEUE_DESC_LOW..=VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.set_up_queue(offset, value);
            }
            _ => {}
        }
    }

    /// Handles an event of the event loop with this token, one of the transport's.
    pub fn ready(&mut self, token: u64) {
        match self.events.source(token) {
            Some(WAKE) => {
                self.wake.0.fired();
                let again: Vec<_> = (0..self.rings.len())
                    .filter(|&queue| std::mem::take(&mut self.rings[queue].again))
                    .collect();
                self.serve(|device, rings| {
                    again
                        .iter()
                        .try_for_each(|&queue| device.notify(queue, rings))
                });
            }
            // Call the device even without a driver, so that it records that the source is no
            // longer armed.
            Some(source) => self.call(|device, rings| device.ready(source, rings)),
            None => {}
        }
    }

    /// Resumes the device. Call this right before the machine runs: after
    /// [`restore`](Self::restore), when the rest of the machine has also been restored, and after
    /// [`save`](Self::save), if the same machine continues.
    ///
    /// An interrupt that the guest has not acknowledged is raised again: the edge may have been
    /// lost between the device and the saved state of the interrupt controller, and a spurious
    /// interrupt is harmless. So is a notification of each queue, which continues deferred work and
    /// delivers data that the save has read from sockets.
    pub fn resume(&mut self) {
        if self.interrupt_status != 0 {
            self.interrupt.raise();
        }
        for queue in 0..self.rings.len() {
            self.notify(queue);
        }
    }

    fn offered(&self) -> u64 {
        FEATURES | self.device.features()
    }

    fn selected(&self) -> Option<&Ring> {
        self.rings.get(self.queue_sel as usize)
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }

    /// Returns true when the driver has given up, or the device needs a reset.
    fn out_of_order(&self) -> bool {
        self.status & (VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET) != 0
    }

    /// Returns true when the device may use its queues.
    fn live(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK) && !self.out_of_order()
    }

    fn notify(&mut self, queue: usize) {
        if queue < self.rings.len() {
            self.serve(|device, rings| device.notify(queue, rings));
        }
    }

    /// Calls the device, if it may use its queues.
    fn serve(&mut self, work: impl FnOnce(&mut dyn VirtioDevice, &mut Rings<'_>) -> Result<()>) {
        if self.live() {
            self.call(work);
        }
    }

    /// Calls the device, with its queues if it may use them, and handles the consequences:
    /// interrupts, errors and deferred work.
    fn call(&mut self, work: impl FnOnce(&mut dyn VirtioDevice, &mut Rings<'_>) -> Result<()>) {
        let live = self.live();
        let mut rings = Rings {
            memory: &self.memory,
            rings: if live { &mut self.rings } else { &mut [] },
        };
        let mut result = work(&mut *self.device, &mut rings);
        let mut interrupt = false;
        if live {
            for ring in self.rings.iter_mut().filter(|ring| ring.used) {
                ring.used = false;
                match ring.queue.needs_notification(&*self.memory) {
                    Ok(needed) => interrupt |= needed,
                    Err(error) => result = result.and(Err(error.into())),
                }
            }
        }
        if interrupt {
            self.interrupt(VIRTIO_MMIO_INT_VRING);
        }
        match result {
            Err(error) => self.fail(error),
            Ok(()) if self.rings.iter().any(|ring| ring.again) => self.wake.arm(),
            Ok(()) => {}
        }
    }

    fn fail(&mut self, error: Error) {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        for ring in &mut self.rings {
            ring.again = false;
        }
        self.broken = Some(error);
        if self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            self.interrupt(VIRTIO_MMIO_INT_CONFIG);
        }
    }

    fn interrupt(&mut self, reason: u32) {
        self.interrupt_status |= reason;
        self.interrupt.raise();
    }
}

/// Returns the 32 bits of `features` that the guest selected.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

/// Makes the event loop call the transport again, after other events that are ready.
///
/// The event is always ready, because it is never read; only whether it is armed matters.
struct Wake(
    Source,
    #[expect(dead_code, reason = "keeps the source's descriptor open")] EventFd,
);

impl Wake {
    fn new(events: &Events) -> Result<Self> {
        let always = EventFd::new(EFD_NONBLOCK)
            .and_then(|event| event.write(1).map(|()| event))
            .map_err(|source| Error::Io {
                what: "create an event for a device",
                source,
            })?;
        Ok(Self(events.add(WAKE, &always), always))
    }

    fn arm(&mut self) {
        self.0.arm(EventSet::IN);
    }
}
