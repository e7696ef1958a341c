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

/// Guest memory, mapped. The bitmap, where there is one, marks the pages that devices
/// have written; those that vCPUs write, KVM knows.
pub type Memory = GuestMemoryMmap<Option<AtomicBitmap>>;

/// RAM ends here at the latest and goes on at [`ABOVE_HOLE`]; what is between is for
/// devices, the interrupt controllers and KVM's own pages.
pub(super) const HOLE: u64 = 0xd000_0000;

/// Where RAM goes on.
const ABOVE_HOLE: u64 = 1 << 32;

/// The ranges of `mib` MiB of RAM: address and size in bytes.
pub(super) fn ranges(mib: u32) -> Vec<(u64, u64)> {
    let size = u64::from(mib) << 20;
    let below = size.min(HOLE);
    let mut ranges = vec![(0, below)];
    if size > below {
        ranges.push((ABOVE_HOLE, size - below));
    }
    ranges
}

/// Maps memory of `mib` MiB: none of it touched yet, or with the content of `pages`, a
/// file that stays as it is. With `track` device writes are noted.
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
            let file = file.try_clone().during("share the memory's file")?;
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

/// Gives the memory to a virtual machine. With `track` KVM notes which pages change.
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
        // SAFETY: the range is that of a mapping, which stays: the caller sees to it.
        unsafe { vm.set_user_memory_region(region) }.during("give the guest its memory")?;
    }
    Ok(())
}

/// Runs of at least so many pages are mapped; shorter ones are read, which is less work.
const WORTH_MAPPING: u64 = 16;

/// How many runs are mapped at most: the kernel has a limit for a process
/// (`vm.max_map_count`, 65,530 unless it was changed), and each may make two mappings more.
const MAPPINGS: usize = 8192;

/// Lays the pages that `changes` has, one run after the other, over the memory. Nothing
/// else uses it yet.
pub(super) fn lay(memory: &Memory, changes: &File, runs: &[Run]) -> Result<(), Failure> {
    const WHAT: &str = "lay changed pages over the guest's memory";
    let mut from = 0;
    let mut mappings = 0;
    for &(first, count) in runs {
        for (address, size) in pieces(memory, first * PAGE as u64, count * PAGE as u64)? {
            if size >= WORTH_MAPPING * PAGE as u64 && mappings < MAPPINGS {
                mappings += 1;
                let host = memory.get_host_address(address).during(WHAT)?;
                // SAFETY: the range lies in a mapping that `memory` owns, private to this
                // process and of whole pages; `pieces` has made sure of both. It stays
                // memory that can be read and written, with another content.
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

/// Where in the memory a part of its file is: addresses and sizes in bytes. An error if any
/// of it is nowhere.
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

/// Beyond the end of a file there is no memory, but SIGBUS.
fn check_length(mib: u32, file: &File) -> Result<(), Failure> {
    let wanted = u64::from(mib) << 20;
    let length = file.metadata().during("look at the memory's file")?.len();
    if length != wanted {
        return Err(Failure::new(format!(
            "use a file of {length} bytes as memory of {wanted}"
        )));
    }
    Ok(())
}

/// A guest that boots touches its memory almost evenly, and each first touch is an exit.
/// On nested virtualisation that is most of a boot.
fn ask_for_huge_pages(memory: &Memory) {
    for region in memory.iter() {
        // SAFETY: the range is that of a mapping which `memory` owns, and the advice
        // does not change what is in it.
        let advised = unsafe {
            madvise(
                region.as_ptr().cast(),
                region.len() as usize,
                Advice::LinuxHugepage,
            )
        };
        // A kernel without huge pages says EINVAL, and the guest runs without them.
        let _ = advised;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_file_is_found_on_both_sides_of_the_devices() {
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
    fn changed_pages_are_laid_over_mapped_or_read() {
        let file = tempfile::tempfile().unwrap();
        let changes: Vec<u8> = (0..41).flat_map(|page| [page as u8; PAGE]).collect();
        file.write_all_at(&changes, 0).unwrap();
        let memory = map(1, None, false).unwrap();
        lay(&memory, &file, &[(3, 1), (10, 40)]).unwrap();
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
    fn ram_goes_around_the_devices() {
        assert_eq!(ranges(256), [(0, 256 << 20)]);
        assert_eq!(ranges(4096), [(0, HOLE), (ABOVE_HOLE, (4096 << 20) - HOLE)]);
    }
}
