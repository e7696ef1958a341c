// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of a guest that a monitor saves, without its memory.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::state::{VcpuState, VmState};
use crate::kvm::devices::mmio::TransportState;
use crate::kvm::devices::serial::SerialState;
use crate::kvm::failure::{During, Failure};
use crate::kvm::saved::format;

/// The complete state of a guest except its memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The virtio transports. The number of disks, their sizes and whether they are writable are
    /// part of the state that the guest has seen; the transports' features include the latter.
    pub transports: Vec<TransportState>,
    /// The serial port.
    pub serial: SerialState,
    /// The vCPUs.
    pub vcpus: Vec<VcpuState>,
    /// KVM's own devices.
    pub vm: VmState,
}

impl Snapshot {
    /// Serialises the state as JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec(self).during("serialise the guest's state")
    }

    /// Reads the state from a snapshot's file. Fails if a different build wrote it.
    pub fn read(file: &mut File, build: &str) -> Result<Self, Failure> {
        let bytes = format::read(file).during("read the guest's state")?;
        let parts = format::open(&bytes, build)
            .map_err(|why| Failure::new(format!("start the snapshot: {why}")))?;
        serde_json::from_slice(parts.state).during("parse the snapshot's state")
    }
}
