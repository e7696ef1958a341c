// SPDX-License-Identifier: Apache-2.0 OR MIT
//! virtio-blk (virtio 1.2, section 5.2): a raw file or block device as a disk.
//!
//! Requests are executed synchronously, by transfers directly between the file and the guest's
//! memory. So no request is in flight when the machine is paused, and there is hardly any state to
//! save.
//!
//! Flushes are acknowledged and not passed on, as on QEMU's command line: a scratch disk need not
//! survive a crash of the host, and written data is in the host's page cache when the process dies.

mod request;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::mem::offset_of;
use std::path::Path;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_blk::*;
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::queue::{Rings, Step};
use super::{DeviceState, Error, Result, VirtioDevice};
use crate::{FaultKind, HostFault};
use request::Request;

/// Bytes in a sector, whatever the disk's block size.
const SECTOR: u64 = 512;

/// Sufficient for the requests that a guest has ready at one time: Linux keeps half as many
/// requests, and each is completed when its notification returns.
const QUEUE_SIZE: u16 = 128;

/// Maximum number of data segments in one request: the capacity of a chain, minus header and
/// status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Maximum number of bytes in one segment; Linux's largest requests have 1280 KiB.
const SIZE_MAX: u32 = 256 << 10;

/// Maximum number of sectors in one discard or write of zeros: 1 GiB.
const ZERO_MAX: u32 = 1 << 21;

/// Maximum number of bytes to transfer for one notification: the size of one maximal request. The
/// event loop transfers the rest later.
const BUDGET: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// The configuration space, up to the fields for secure erase, which are not offered.
type Config = virtio_blk_config;
const CONFIG_SIZE: usize = offset_of!(Config, max_secure_erase_sectors);

/// A disk.
pub struct Block {
    file: File,
    /// The file's current offset, if it is known.
    position: Option<u64>,
    sectors: u64,
    readonly: bool,
    serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    config: [u8; CONFIG_SIZE],
    reporter: Option<Reporter>,
    /// The kinds of faults that were reported.
    reported: Vec<FaultKind>,
}

/// Receives the faults of a disk's file.
type Reporter = Box<dyn Fn(HostFault) + Send>;

/// A disk's part of a snapshot, without the disk's contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockState {
    sectors: u64,
    readonly: bool,
}

impl Block {
    /// Opens a raw image or block device; see [`new`](Self::new).
    pub fn open(path: &Path, readonly: bool, serial: &str) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(!readonly).open(path);
        let file = file.map_err(|source| Error::Io {
            what: "open a disk",
            source,
        })?;
        Self::new(file, readonly, serial)
    }

    /// Returns a disk with the whole sectors that `file` has now. `serial` is truncated to 20
    /// bytes.
    ///
    /// The file must have been opened for this disk alone (it must not be a duplicate of a
    /// descriptor that is used elsewhere), because it is read and written at its offset.
    pub fn new(mut file: File, readonly: bool, serial: &str) -> Result<Self> {
        // The metadata of a block device have no length; seeking to the end works for both.
        let size = file.seek(SeekFrom::End(0)).map_err(|source| Error::Io {
            what: "determine a disk's size",
            source,
        })?;
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let sectors = size / SECTOR;
        Ok(Self {
            file,
            position: None,
            sectors,
            readonly,
            serial: id,
            config: config(sectors),
            reporter: None,
            reported: Vec::new(),
        })
    }

    /// Makes the disk call `report` when the host fails to read or write its file: once for each
    /// kind of fault, because a guest can repeat the request forever.
    pub fn on_fault(mut self, report: impl Fn(HostFault) + Send + 'static) -> Self {
        self.reporter = Some(Box::new(report));
        self
    }

    /// Reports that the host failed to `what` in the file, in the infinitive.
    fn fault(&mut self, what: &str, error: &std::io::Error) {
        let fault = HostFault::new(what, error);
        if let Some(report) = &self.reporter
            && !self.reported.contains(&fault.kind)
        {
            self.reported.push(fault.kind);
            report(fault);
        }
    }
}

/// Returns the configuration space (virtio 1.2, 5.2.4).
fn config(sectors: u64) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(offset_of!(Config, capacity), &sectors.to_le_bytes());
    put(offset_of!(Config, size_max), &SIZE_MAX.to_le_bytes());
    put(offset_of!(Config, seg_max), &SEG_MAX.to_le_bytes());
    let [zero_max, one, page] = [ZERO_MAX, 1, 8u32].map(u32::to_le_bytes);
    put(offset_of!(Config, max_discard_sectors), &zero_max);
    put(offset_of!(Config, max_discard_seg), &one);
    put(offset_of!(Config, discard_sector_alignment), &page);
    put(offset_of!(Config, max_write_zeroes_sectors), &zero_max);
    put(offset_of!(Config, max_write_zeroes_seg), &one);
    put(offset_of!(Config, write_zeroes_may_unmap), &[1]);
    config
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        // Discard is offered whether or not the file supports it: the guest's view must not depend
        // on the file system from which a snapshot is restored. If the file does not support it,
        // the request fails.
        let kind: u64 = if self.readonly {
            1 << VIRTIO_BLK_F_RO
        } else {
            1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
        };
        kind | 1 << VIRTIO_BLK_F_SIZE_MAX | 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_FLUSH
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        super::read_config(&self.config, offset, data);
    }

    fn activate(&mut self, _features: u64) {}

    fn reset(&mut self) {}

    fn notify(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<()> {
        let mut budget = BUDGET;
        rings.drain(queue, |memory, chain| {
            let request = Request::parse(memory, chain)?;
            // Execute the first request whatever its size: refusing one that is too large costs
            // nothing.
            if request.cost() > budget && budget < BUDGET {
                return Ok(Step::Later);
            }
            budget = budget.saturating_sub(request.cost());
            self.execute(memory, &request).map(Step::Used)
        })?;
        Ok(())
    }

    fn save(&mut self) -> DeviceState {
        DeviceState::Block(BlockState {
            sectors: self.sectors,
            readonly: self.readonly,
        })
    }

    fn restore(&mut self, state: &DeviceState) -> Result<()> {
        let here = BlockState {
            sectors: self.sectors,
            readonly: self.readonly,
        };
        // The guest has read both values, and would not notice a change.
        match state {
            DeviceState::Block(state) if *state == here => Ok(()),
            DeviceState::Block(_) => Err(Error::State("the disk's size or mode has changed")),
            _ => Err(Error::State("it belongs to a different device")),
        }
    }
}
