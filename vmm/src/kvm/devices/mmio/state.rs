// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The transport's part of a snapshot.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::*;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueState, QueueT};

use super::Transport;
use super::setup::STEPS;
use crate::kvm::devices::queue::Ring;
use crate::kvm::devices::{DeviceState, Error, Result};

/// A transport with its device and queues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    status: u32,
    interrupt_status: u32,
    queue_sel: u32,
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    #[serde(with = "queues")]
    queues: Vec<QueueState>,
    device: DeviceState,
}

impl Transport {
    /// The state of transport and device. No vCPU and no event may use it
    /// meanwhile. The machine may go on after a [`resume`](Self::resume).
    pub fn save(&mut self) -> TransportState {
        TransportState {
            status: self.status,
            interrupt_status: self.interrupt_status,
            queue_sel: self.queue_sel,
            device_features_sel: self.device_features_sel,
            driver_features_sel: self.driver_features_sel,
            driver_features: self.driver_features,
            queues: self.rings.iter().map(|ring| ring.queue.state()).collect(),
            device: self.device.save(),
        }
    }

    /// Takes on a saved state. The memory must have been restored before.
    /// Raises no interrupt and touches no queue; [`resume`](Self::resume) does.
    /// On an error it stays as it is.
    pub fn restore(&mut self, state: &TransportState) -> Result<()> {
        self.check(state)?;
        let rings = self.check_queues(state)?;
        self.device.restore(&state.device)?;
        self.rings = rings;
        self.status = state.status;
        self.interrupt_status = state.interrupt_status;
        self.queue_sel = state.queue_sel;
        self.device_features_sel = state.device_features_sel;
        self.driver_features_sel = state.driver_features_sel;
        self.driver_features = state.driver_features;
        if self.has(VIRTIO_CONFIG_S_DRIVER_OK) {
            self.device.activate(self.driver_features);
        }
        self.broken = (state.status & VIRTIO_CONFIG_S_NEEDS_RESET != 0)
            .then_some(Error::Protocol("it did so before the snapshot"));
        Ok(())
    }

    fn check(&self, state: &TransportState) -> Result<()> {
        let given_up = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
        let steps = state.status & !given_up;
        let reachable =
            (0..=STEPS.len()).any(|n| STEPS[..n].iter().fold(0, |bits, s| bits | s) == steps);
        if !reachable {
            return Err(Error::State("no driver reaches this status"));
        }
        if state.interrupt_status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) != 0 {
            return Err(Error::State("no such interrupts"));
        }
        let negotiated = steps & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if negotiated
            && (state.driver_features & !self.offered() != 0
                || state.driver_features & 1 << VIRTIO_F_VERSION_1 == 0)
        {
            return Err(Error::State("its features are not this device's"));
        }
        Ok(())
    }

    /// The saved queues, if the device could have them.
    ///
    /// The indices need no check: any is in the ring, modulo its size. One that
    /// does not fit the driver's is found at the next notification, as it would be
    /// without a snapshot.
    fn check_queues(&self, state: &TransportState) -> Result<Vec<Ring>> {
        let negotiated = state.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let event_idx = negotiated && state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        if state.queues.len() != self.rings.len() {
            return Err(Error::State("it has another number of queues"));
        }
        let queues = state.queues.iter().zip(&self.rings);
        queues
            .map(|(saved, ring)| {
                if saved.max_size != ring.queue.max_size() {
                    return Err(Error::State("a queue has another size"));
                }
                if saved.event_idx_enabled != event_idx || saved.ready && !negotiated {
                    return Err(Error::State("a queue is not as negotiated"));
                }
                let queue =
                    Queue::try_from(*saved).map_err(|_| Error::State("a queue is out of shape"))?;
                if queue.ready() && !queue.is_valid(&*self.memory) {
                    return Err(Error::State("a ring is not in memory"));
                }
                Ok(Ring {
                    queue,
                    used: false,
                    again: false,
                })
            })
            .collect()
    }
}

/// Queues as serde sees them: virtio-queue's own states have no serde.
mod queues {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use virtio_queue::QueueState;

    #[derive(Serialize, Deserialize)]
    #[serde(remote = "QueueState")]
    struct Remote {
        max_size: u16,
        next_avail: u16,
        next_used: u16,
        event_idx_enabled: bool,
        size: u16,
        ready: bool,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    }

    #[derive(Serialize, Deserialize)]
    struct Local(#[serde(with = "Remote")] QueueState);

    pub fn serialize<S: Serializer>(queues: &[QueueState], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(queues.iter().map(|queue| Local(*queue)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<QueueState>, D::Error> {
        let queues = Vec::<Local>::deserialize(from)?;
        Ok(queues.into_iter().map(|Local(queue)| queue).collect())
    }
}
