// SPDX-License-Identifier: Apache-2.0 OR MIT
//! virtio-blk (virtio 1.2, section 5.2): a raw file or block device as a disk.
//!
//! Requests are done at once, straight between the file and the guest's memory. So
//! nothing is in flight when the machine is at rest, and there is hardly any
//! state to save.
//!
//! Flushes are acknowledged and not passed on, as on QEMU's command line: a
//! scratch disk need not outlive its host, and what was written is in the
//! host's page cache when the process dies.

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
use request::Request;

/// Bytes in a sector, whatever the disk's blocks are.
const SECTOR: u64 = 512;

/// Enough for what a guest has ready at one time: Linux keeps half as many
/// requests, and each is done when its notification returns.
const QUEUE_SIZE: u16 = 128;

/// The most segments of data in one request: what a chain can hold beside header and
/// status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// The most bytes in one segment; Linux's largest requests have 1280 KiB.
const SIZE_MAX: u32 = 256 << 10;

/// The most sectors in one discard or write of zeros: 1 GiB.
const ZERO_MAX: u32 = 1 << 21;

/// The most bytes to move for one notification; the rest is done later by
/// the event loop. As much as one request may have.
const BUDGET: u64 = SEG_MAX as u64 * SIZE_MAX as u64;

/// The configuration space, of which we have what comes before secure erasing.
type Config = virtio_blk_config;
const CONFIG_SIZE: usize = offset_of!(Config, max_secure_erase_sectors);

/// A disk.
pub struct Block {
    file: File,
    /// Where the file's own offset is, if that is known.
    position: Option<u64>,
    sectors: u64,
    readonly: bool,
    serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    config: [u8; CONFIG_SIZE],
}

/// A disk's part of a snapshot; its contents are not in it.
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

    /// A disk of as many whole sectors as `file` has now. `serial` is cut off
    /// after 20 bytes.
    ///
    /// The file must be opened for this disk alone (not a duplicate of a
    /// descriptor that others use): it is read and written at its offset.
    pub fn new(mut file: File, readonly: bool, serial: &str) -> Result<Self> {
        // Metadata has no length for a block device; its end has.
        let size = file.seek(SeekFrom::End(0)).map_err(|source| Error::Io {
            what: "find a disk's size",
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
        })
    }
}

/// The configuration space, virtio 1.2, 5.2.4.
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
        // Discarding is offered whether or not the file can: a guest's view must not
        // depend on which file system a snapshot is restored from. Where the
        // file cannot, the request says so.
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
            // The first request is done whatever it costs: it is refused if
            // it is too large, and then costs nothing.
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
        // The guest has read both, and would not ask again.
        match state {
            DeviceState::Block(state) if *state == here => Ok(()),
            DeviceState::Block(_) => Err(Error::State("the disk has changed its size or mode")),
            _ => Err(Error::State("it is another device's")),
        }
    }
}
