// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's memory.

use std::fs::File;
use std::os::unix::fs::FileExt;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    Address, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap,
    GuestMemoryRegion, GuestRegionMmap,
};

use super::failure::{During, Failure};
use super::saved::PAGE;
use super::saved::format::Run;

/// Mapped guest memory. The bitmap, if there is one, marks the pages that devices have written; KVM
/// tracks those that vCPUs write.
pub type Memory = GuestMemoryMmap<Option<AtomicBitmap>>;

/// Upper bound of the RAM below 4 GiB; further RAM begins at [`ABOVE_HOLE`]. The range between is
/// for devices, the interrupt controllers and KVM's own pages.
pub(super) const HOLE: u64 = 0xd000_0000;

/// Address at which RAM continues above the hole.
const ABOVE_HOLE: u64 = 1 << 32;

/// Returns the ranges of `mib` MiB of RAM: address and size in bytes.
pub(super) fn ranges(mib: u32) -> Vec<(u64, u64)> {
    let size = u64::from(mib) << 20;
    let below = size.min(HOLE);
    let mut ranges = vec![(0, below)];
    if size > below {
        ranges.push((ABOVE_HOLE, size - below));
    }
    ranges
}

/// Maps memory of `mib` MiB, either empty or with the content of `pages`, a file that is mapped
/// privately and never modified. With `track` the memory has a bitmap for device writes.
pub(super) fn map(mib: u32, pages: Option<&File>, track: bool) -> Result<Memory, Failure> {
    if let Some(file) = pages {
        check_length(mib, file)?;
    }
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, size) in ranges(mib) {
        let bitmap = track.then(|| AtomicBitmap::with_len(size as usize));
        let mut builder = MmapRegionBuilder::new_with_bitmap(size as usize, bitmap)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(match pages {
                None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                Some(_) => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            });
        if let Some(file) = pages {
            let file = file
                .try_clone()
                .during("duplicate the descriptor of the memory's file")?;
            builder = builder.with_file_offset(FileOffset::new(file, offset));
        }
        let region = builder.build().during("map the guest's memory")?;
        let region = GuestRegionMmap::new(region, GuestAddress(start))
            .ok_or_else(|| Failure::new("place the guest's memory"))?;
        regions.push(region);
        offset += size;
    }
    let memory = Memory::from_regions(regions).during("place the guest's memory")?;
    if pages.is_none() {
        ask_for_huge_pages(&memory);
    }
    Ok(memory)
}

/// Registers the memory with a virtual machine. With `track` KVM logs which pages change.
///
/// # Safety
/// The memory must stay mapped for as long as a vCPU of the machine may run.
pub(super) unsafe fn register(vm: &VmFd, memory: &Memory, track: bool) -> Result<(), Failure> {
    for (slot, region) in (0..).zip(memory.iter()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: if track { KVM_MEM_LOG_DIRTY_PAGES } else { 0 },
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is a whole mapping, which the caller keeps mapped.
        unsafe { vm.set_user_memory_region(region) }.during("register the guest's memory")?;
    }
    Ok(())
}

/// Minimum size in pages of a run that is mapped; reading is cheaper for shorter ones.
const WORTH_MAPPING: u64 = 16;

/// Maximum number of runs that are mapped. The kernel limits the mappings of a process
/// (`vm.max_map_count`, 65,530 by default), and each run can add two mappings.
const MAPPINGS: usize = 8192;

/// Replaces the pages in `runs` by the content of `changes`, which has the runs in order. No
/// other code may use the memory yet.
pub(super) fn overlay(memory: &Memory, changes: &File, runs: &[Run]) -> Result<(), Failure> {
    const WHAT: &str = "replace changed pages of the guest's memory";
    let mut from = 0;
    let mut mappings = 0;
    for &(first, count) in runs {
        for (address, size) in pieces(memory, first * PAGE as u64, count * PAGE as u64)? {
            if size >= WORTH_MAPPING * PAGE as u64 && mappings < MAPPINGS {
                mappings += 1;
                let host = memory.get_host_address(address).during(WHAT)?;
                // SAFETY: the range lies in a mapping that `memory` owns, is private to this
                // process and consists of whole pages; `pieces` has checked both. The new mapping
                // is also readable and writable; only its content differs.
                unsafe {
                    mmap(
                        host.cast(),
                        size as usize,
                        ProtFlags::READ | ProtFlags::WRITE,
                        MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                        changes,
                        from,
                    )
                }
                .during(WHAT)?;
            } else {
                let mut bytes = vec![0; size as usize];
                changes.read_exact_at(&mut bytes, from).during(WHAT)?;
                memory.write_slice(&bytes, address).during(WHAT)?;
            }
            from += size;
        }
    }
    Ok(())
}

/// Returns the addresses and sizes, in bytes, at which a part of the memory's file is mapped in
/// the guest. Fails if any of it is beyond the guest's memory.
fn pieces(
    memory: &Memory,
    mut offset: u64,
    mut size: u64,
) -> Result<Vec<(GuestAddress, u64)>, Failure> {
    let mut pieces = Vec::new();
    for region in memory.iter() {
        if size > 0 && offset < region.len() {
            let here = size.min(region.len() - offset);
            pieces.push((region.start_addr().unchecked_add(offset), here));
            size -= here;
            offset = 0;
        } else {
            offset = offset.saturating_sub(region.len());
        }
    }
    match size {
        0 => Ok(pieces),
        _ => Err(Failure::new("use pages beyond the guest's memory")),
    }
}

/// Fails if the file does not have the memory's length: an access to a page of the mapping beyond
/// the end of the file would raise SIGBUS.
fn check_length(mib: u32, file: &File) -> Result<(), Failure> {
    let wanted = u64::from(mib) << 20;
    let length = file
        .metadata()
        .during("read the length of the memory's file")?
        .len();
    if length != wanted {
        return Err(Failure::new(format!(
            "use a file of {length} bytes as memory of {wanted}"
        )));
    }
    Ok(())
}

/// Requests huge pages. A guest that boots touches its memory almost evenly, and each first touch
/// of a page is an exit; under nested virtualisation these exits are most of the boot time.
fn ask_for_huge_pages(memory: &Memory) {
    for region in memory.iter() {
        // SAFETY: the range is a whole mapping which `memory` owns, and the advice does not
        // change its content.
        let advised = unsafe {
            madvise(
                region.as_ptr().cast(),
                region.len() as usize,
                Advice::LinuxHugepage,
            )
        };
        // A kernel without huge pages returns EINVAL, and the guest runs without them.
        let _ = advised;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_file_is_found_on_both_sides_of_the_hole() {
        let memory = map(4096, None, false).unwrap();
        let pieces = |offset, size| {
            let pieces = pieces(&memory, offset, size)?;
            let pairs = pieces.into_iter().map(|(address, size)| (address.0, size));
            Ok::<Vec<_>, Failure>(pairs.collect())
        };
        assert_eq!(pieces(0, 4096).unwrap(), [(0, 4096)]);
        assert_eq!(
            pieces(HOLE - 4096, 12288).unwrap(),
            [(HOLE - 4096, 4096), (ABOVE_HOLE, 8192)]
        );
        assert_eq!(pieces(HOLE, 4096).unwrap(), [(ABOVE_HOLE, 4096)]);
        pieces((4096 << 20) - 4096, 8192).unwrap_err();
    }

    #[test]
    fn changed_pages_are_mapped_or_read() {
        let file = tempfile::tempfile().unwrap();
        let changes: Vec<u8> = (0..41).flat_map(|page| [page as u8; PAGE]).collect();
        file.write_all_at(&changes, 0).unwrap();
        let memory = map(1, None, false).unwrap();
        overlay(&memory, &file, &[(3, 1), (10, 40)]).unwrap();
        for page in 0..256 {
            let expected = match page {
                3 => 0,
                10..50 => page - 9,
                _ => 0,
            };
            let mut bytes = [0xff; PAGE];
            let address = GuestAddress(page * PAGE as u64);
            memory.read_slice(&mut bytes, address).unwrap();
            assert_eq!(bytes, [expected as u8; PAGE], "{page}");
        }
    }

    #[test]
    fn ram_skips_the_hole() {
        assert_eq!(ranges(256), [(0, 256 << 20)]);
        assert_eq!(ranges(4096), [(0, HOLE), (ABOVE_HOLE, (4096 << 20) - HOLE)]);
    }
}
