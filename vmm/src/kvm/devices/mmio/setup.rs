// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The initialisation of a device by its driver: device status, features and queues (virtio 1.2,
//! sections 2.1, 2.2 and 3.1.1).

use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::QueueT;

use super::Transport;
use crate::kvm::devices::Error;

/// The steps of a driver's initialisation, in order (virtio 1.2, 3.1.1).
pub(super) const STEPS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_DRIVER_OK,
];

impl Transport {
    pub(super) fn set_driver_features(&mut self, value: u32) {
        if !self.has(VIRTIO_CONFIG_S_DRIVER)
            || self.has(VIRTIO_CONFIG_S_FEATURES_OK)
            || self.out_of_order()
        {
            return;
        }
        let value = u64::from(value);
        match self.driver_features_sel {
            0 => self.driver_features = self.driver_features >> 32 << 32 | value,
            1 => self.driver_features = self.driver_features & 0xffff_ffff | value << 32,
            // These features do not exist, so store a value that is not accepted.
            _ if value != 0 => self.driver_features = u64::MAX,
            _ => {}
        }
    }

    pub(super) fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        // Only a reset clears bits. The driver must not set NEEDS_RESET, but it writes back the
        // bits that it has read.
        let owned = self.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        if owned & !value != 0 {
            return;
        }
        self.status |= value & VIRTIO_CONFIG_S_FAILED;
        for step in STEPS {
            if value & step == 0 || self.out_of_order() {
                return;
            }
            if self.has(step) {
                continue;
            }
            if step == VIRTIO_CONFIG_S_FEATURES_OK && !self.accept_features() {
                return;
            }
            self.status |= step;
            if step == VIRTIO_CONFIG_S_DRIVER_OK {
                self.device.activate(self.driver_features);
            }
        }
    }

    /// Returns true when the driver's features are among those offered, and include the required
    /// ones.
    fn accept_features(&mut self) -> bool {
        let features = self.driver_features;
        if features & !self.offered() != 0 || features & 1 << VIRTIO_F_VERSION_1 == 0 {
            return false;
        }
        for ring in &mut self.rings {
            ring.queue
                .set_event_idx(features & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
        }
        true
    }

    pub(super) fn set_up_queue(&mut self, offset: u32, value: u32) {
        let allowed = self.has(VIRTIO_CONFIG_S_FEATURES_OK)
            && !self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.out_of_order();
        let Some(ring) = self.rings.get_mut(self.queue_sel as usize) else {
            return;
        };
        let queue = &mut ring.queue;
        // A driver may stop a queue at any time, but set it up only in this phase.
        if offset == VIRTIO_MMIO_QUEUE_READY && value & 1 == 0 {
            return queue.set_ready(false);
        }
        if !allowed || queue.ready() {
            return;
        }
        // The setters ignore invalid values. If the driver does not notice this, the device fails
        // when the queue is used.
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_READY => {
                queue.set_ready(true);
                if !queue.is_valid(&*self.memory) {
                    queue.set_ready(false);
                    self.fail(Error::Protocol("a ring is not in the guest's memory"));
                }
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.device.reset();
        for ring in &mut self.rings {
            ring.reset();
        }
        self.status = 0;
        self.interrupt_status = 0;
        self.queue_sel = 0;
        self.device_features_sel = 0;
        self.driver_features_sel = 0;
        self.driver_features = 0;
        self.broken = None;
    }
}
