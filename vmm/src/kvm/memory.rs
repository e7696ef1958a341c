//! The guest's memory.

use std::fs::File;

use rustix::mm::{Advice, madvise};
use vm_memory::bitmap::{AtomicBitmap, NewBitmap};
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    GuestRegionMmap,
};

use super::failure::{During, Failure};

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
    fn ram_goes_around_the_devices() {
        assert_eq!(ranges(256), [(0, 256 << 20)]);
        assert_eq!(ranges(4096), [(0, HOLE), (ABOVE_HOLE, (4096 << 20) - HOLE)]);
    }
}
