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
use super::wire::MemoryConfig;

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

/// Maps memory of `mib` MiB, none of it touched yet. With `track` device writes are noted.
pub(super) fn map(mib: u32, what: &MemoryConfig, track: bool) -> Result<Memory, Failure> {
    let file = file(mib, what)?;
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, size) in ranges(mib) {
        let bitmap = track.then(|| AtomicBitmap::with_len(size as usize));
        let mut builder = MmapRegionBuilder::new_with_bitmap(size as usize, bitmap)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(match what {
                MemoryConfig::Anonymous => {
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE
                }
                MemoryConfig::Shared(_) => libc::MAP_SHARED,
                MemoryConfig::Private(_) => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            });
        if let Some(file) = &file {
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
    if let MemoryConfig::Anonymous = what {
        ask_for_huge_pages(&memory);
    }
    Ok(memory)
}

/// The file that is the memory, of the right size.
fn file(mib: u32, what: &MemoryConfig) -> Result<Option<File>, Failure> {
    let size = u64::from(mib) << 20;
    let (path, file) = match what {
        MemoryConfig::Anonymous => return Ok(None),
        MemoryConfig::Shared(path) => {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true);
            (path, options.open(path))
        }
        MemoryConfig::Private(path) => (path, File::open(path)),
    };
    let file = file.during(format!("open {}", path.display()))?;
    if let MemoryConfig::Shared(_) = what {
        file.set_len(size)
            .during(format!("set the size of {}", path.display()))?;
    }
    // Beyond the end of a file there is no memory, but SIGBUS.
    let there = file
        .metadata()
        .during(format!("look at {}", path.display()))?
        .len();
    if there != size {
        return Err(Failure::new(format!(
            "use {} as memory: it has {there} bytes, not {size}",
            path.display()
        )));
    }
    Ok(Some(file))
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

/// Has what is in the memory's files, if it has files, reach the disk.
pub(super) fn sync(memory: &Memory) -> Result<(), Failure> {
    for region in memory.iter() {
        if let Some(file) = region.file_offset() {
            file.file().sync_data().during("write the guest's memory")?;
        }
    }
    Ok(())
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
