// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which pages of the guest's memory have changed.
//!
//! KVM notes those that vCPUs and it itself write (`KVM_MEM_LOG_DIRTY_PAGES`; on huge pages,
//! too, since it maps what it logs by pages of 4 KiB), the memory's own bitmap those that
//! devices write. Neither is there unless it is asked for.

use kvm_ioctls::VmFd;
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::Memory;
use crate::kvm::saved::format::Run;
use crate::kvm::saved::{PAGE, pages_of};

/// One bit for each page, numbered as in the memory's file.
pub(super) struct Dirty {
    /// Since the guest was what changes are counted from.
    since_base: Vec<u64>,
    /// Since all of it was saved last. Whether that comes to stand, it is too early to say
    /// then; and devices go on.
    since_save: Vec<u64>,
}

impl Dirty {
    /// Those of `changed`, which a guest of `mib` MiB began with.
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

    /// Adds what has changed since it was asked last. No vCPU runs, no device works.
    pub fn collect(&mut self, vm: &VmFd, memory: &Memory) -> Result<(), Failure> {
        let mut word = 0;
        for (slot, region) in (0..).zip(memory.iter()) {
            let size = region.len() as usize;
            let by_kvm = vm
                .get_dirty_log(slot, size)
                .during("ask KVM for changed pages")?;
            let by_devices = bitmap(region).map(AtomicBitmap::get_and_reset);
            // Regions are of whole MiB, so each begins with a word of its own.
            let words = (size / PAGE).div_ceil(64);
            for noted in [Some(by_kvm), by_devices].into_iter().flatten() {
                for mine in [&mut self.since_base, &mut self.since_save] {
                    for (mine, noted) in mine[word..word + words].iter_mut().zip(&noted) {
                        *mine |= noted;
                    }
                }
            }
            word += words;
        }
        Ok(())
    }

    /// All of the guest is being saved, as it was when it was asked last.
    pub fn saved(&mut self) {
        self.since_save.fill(0);
    }

    /// That came to stand: from there on changes are counted.
    pub fn base(&mut self) {
        self.since_base.clone_from(&self.since_save);
    }

    /// Whether a page has changed.
    pub fn contains(&self, page: u64) -> bool {
        self.since_base[page as usize / 64] & 1 << (page % 64) != 0
    }
}

fn bitmap(region: &GuestRegionMmap<Option<AtomicBitmap>>) -> Option<&AtomicBitmap> {
    let mapping: &vm_memory::MmapRegion<Option<AtomicBitmap>> = region;
    mapping.bitmap().as_ref()
}
