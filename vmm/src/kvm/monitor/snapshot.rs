// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a monitor saves of its guest, but for its memory.

use std::fs::File;

use serde::{Deserialize, Serialize};

use super::state::{VcpuState, VmState};
use crate::kvm::devices::mmio::TransportState;
use crate::kvm::devices::serial::SerialState;
use crate::kvm::failure::{During, Failure};
use crate::kvm::saved::format;

/// All of a guest but its memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The disks' sizes are the guest's to know; so are their number and what may be
    /// written, which the transports' features tell.
    pub transports: Vec<TransportState>,
    /// The serial line.
    pub serial: SerialState,
    /// The vCPUs.
    pub vcpus: Vec<VcpuState>,
    /// KVM's own devices.
    pub vm: VmState,
}

impl Snapshot {
    /// As it is saved.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        serde_json::to_vec(self).during("write down the guest's state")
    }

    /// Reads it from a saved guest's file; only what this build wrote.
    pub fn read(file: &mut File, build: &str) -> Result<Self, Failure> {
        let bytes = format::read(file).during("read the guest's state")?;
        let parts = format::open(&bytes, build)
            .map_err(|why| Failure::new(format!("start the guest that was saved: {why}")))?;
        serde_json::from_slice(parts.state)
            .during("understand the state of the guest that was saved")
    }
}
