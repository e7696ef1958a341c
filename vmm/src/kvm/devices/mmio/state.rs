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

/// The state of a transport with its device and queues.
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
    /// Returns the state of the transport and its device. No vCPU and no event may use them
    /// meanwhile. The machine may continue after a [`resume`](Self::resume).
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

    /// Replaces the state by a saved one. The memory must have been restored before. Raises no
    /// interrupt and accesses no queue; [`resume`](Self::resume) does. On an error the state is
    /// unchanged.
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
            .then_some(Error::Protocol("the error occurred before the snapshot"));
        Ok(())
    }

    fn check(&self, state: &TransportState) -> Result<()> {
        let given_up = VIRTIO_CONFIG_S_FAILED | VIRTIO_CONFIG_S_NEEDS_RESET;
        let steps = state.status & !given_up;
        let reachable =
            (0..=STEPS.len()).any(|n| STEPS[..n].iter().fold(0, |bits, s| bits | s) == steps);
        if !reachable {
            return Err(Error::State("the status is invalid"));
        }
        if state.interrupt_status & !(VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG) != 0 {
            return Err(Error::State("the interrupt status is invalid"));
        }
        let negotiated = steps & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        if negotiated
            && (state.driver_features & !self.offered() != 0
                || state.driver_features & 1 << VIRTIO_F_VERSION_1 == 0)
        {
            return Err(Error::State("the features do not match this device"));
        }
        Ok(())
    }

    /// Returns the saved queues. Fails if the device cannot have them.
    ///
    /// The indices need not be checked: any index is within the ring, modulo its size. One that is
    /// inconsistent with the driver's is detected at the next notification, as it would be without
    /// a snapshot.
    fn check_queues(&self, state: &TransportState) -> Result<Vec<Ring>> {
        let negotiated = state.status & VIRTIO_CONFIG_S_FEATURES_OK != 0;
        let event_idx = negotiated && state.driver_features & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        if state.queues.len() != self.rings.len() {
            return Err(Error::State("the number of queues differs"));
        }
        let queues = state.queues.iter().zip(&self.rings);
        queues
            .map(|(saved, ring)| {
                if saved.max_size != ring.queue.max_size() {
                    return Err(Error::State("the size of a queue differs"));
                }
                if saved.event_idx_enabled != event_idx || saved.ready && !negotiated {
                    return Err(Error::State("a queue contradicts the negotiated features"));
                }
                let queue =
                    Queue::try_from(*saved).map_err(|_| Error::State("a queue is invalid"))?;
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

/// Serialises queues: the states of virtio-queue do not implement serde's traits.
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
