// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tracks which pages of the guest's memory have changed.
//!
//! KVM logs the pages that vCPUs and KVM itself write (`KVM_MEM_LOG_DIRTY_PAGES`; this works on
//! huge pages too, because KVM maps logged memory by pages of 4 KiB). The memory's own bitmap marks
//! the pages that devices write. Both exist only if the configuration requests them.

use kvm_ioctls::VmFd;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::Memory;
use crate::kvm::saved::format::Run;
use crate::kvm::saved::{PAGE, pages_of};

/// Bitmaps with one bit for each page, numbered as in the memory's file.
pub(super) struct Dirty {
    /// Pages changed since the base snapshot.
    since_base: Vec<u64>,
    /// Pages changed since the last complete save. They replace `since_base` only when the parent
    /// confirms that the save was committed; until then, devices may write further pages.
    since_save: Vec<u64>,
}

impl Dirty {
    /// Returns bitmaps for a guest of `mib` MiB that started with the pages in `changed` replaced.
    pub fn new(mib: u32, changed: &[Run]) -> Self {
        let mut since_base = vec![0; pages_of(mib).div_ceil(64) as usize];
        for &(first, count) in changed {
            for page in first..first + count {
                since_base[page as usize / 64] |= 1 << (page % 64);
            }
        }
        Self {
            since_save: since_base.clone(),
            since_base,
        }
    }

    /// Adds the pages that have changed since the last call. All vCPUs and devices must be paused.
    pub fn collect(&mut self, vm: &VmFd, memory: &Memory) -> Result<(), Failure> {
        let mut word = 0;
        for (slot, region) in (0..).zip(memory.iter()) {
            let size = region.len() as usize;
            let by_kvm = vm
                .get_dirty_log(slot, size)
                .during("read KVM's dirty log")?;
            let by_devices = bitmap(region).map(AtomicBitmap::get_and_reset);
            // The size of a region is a multiple of 1 MiB, so each begins at a new word.
            let words = (size / PAGE).div_ceil(64);
            for bitmap in [Some(by_kvm), by_devices].into_iter().flatten() {
                for mine in [&mut self.since_base, &mut self.since_save] {
                    for (mine, changed) in mine[word..word + words].iter_mut().zip(&bitmap) {
                        *mine |= changed;
                    }
                }
            }
            word += words;
        }
        Ok(())
    }

    /// Records that a complete save has begun, of the state at the last call of
    /// [`collect`](Self::collect).
    pub fn saved(&mut self) {
        self.since_save.fill(0);
    }

    /// Makes the last complete save, which was committed, the base of changes.
    pub fn base(&mut self) {
        self.since_base.clone_from(&self.since_save);
    }

    /// Returns true when a page has changed since the base snapshot.
    pub fn contains(&self, page: u64) -> bool {
        self.since_base[page as usize / 64] & 1 << (page % 64) != 0
    }
}

fn bitmap(region: &GuestRegionMmap<Option<AtomicBitmap>>) -> Option<&AtomicBitmap> {
    let mapping: &vm_memory::MmapRegion<Option<AtomicBitmap>> = region;
    mapping.bitmap().as_ref()
}
