// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The mapping of a guest's kernel: x86-64's tables of pages.

use std::collections::BTreeSet;
use std::ops::Range;

/// Size of a page, and of a table.
const PAGE: u64 = 4096;

/// Number of entries of a table.
const ENTRIES: u64 = 512;

const PRESENT: u64 = 1 << 0;
/// The entry maps a page of 2 MiB or 1 GiB, instead of referring to a table.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// CR0: paging is enabled.
const PG: u64 = 1 << 31;
/// CR4: tables have five levels.
const LA57: u64 = 1 << 12;

/// Maximum number of mappings; a kernel has some thousand. Entries beyond it are left out.
const MOST: usize = 1 << 20;

/// The registers with the addresses of a CPU's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// Its bit 31 is set if there are tables.
    pub cr0: u64,
    /// The address of the highest table, in bits from 12 on.
    pub cr3: u64,
    /// Its bit 12 is set if there are five levels of tables.
    pub cr4: u64,
}

/// Consecutive addresses of the kernel that are mapped to consecutive physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mapping {
    pub virtual_address: u64,
    pub physical: u64,
    pub size: u64,
}

/// Returns the mappings in the CPUs' tables of the upper half of the addresses, the kernel's, to
/// the memory in `ram`, in order. `read` reads a table at a physical address; it returns `None` for
/// one outside of the memory.
///
/// A guest may have made its tables in any way. Each is read only once, even if several entries
/// refer to it: the shadow of an address sanitiser maps terabytes to one page. So the time is
/// bounded by the size of the guest, and the result has a limit.
pub(super) fn mappings(
    cpus: &[Cpu],
    ram: &[Range<u64>],
    read: &dyn Fn(u64) -> Option<Box<[u64; ENTRIES as usize]>>,
) -> Vec<Mapping> {
    let mut walk = Walk {
        ram,
        read,
        seen: BTreeSet::new(),
        found: Vec::new(),
    };
    for cpu in cpus.iter().filter(|cpu| cpu.cr0 & PG != 0) {
        let levels = if cpu.cr4 & LA57 != 0 { 5 } else { 4 };
        walk.table(cpu.cr3 & ADDRESS, levels, 0, ENTRIES / 2);
    }
    // CPUs may map the same addresses in different tables.
    walk.found.sort_unstable();
    walk.found.dedup();
    walk.found
}

struct Walk<'a> {
    ram: &'a [Range<u64>],
    read: &'a dyn Fn(u64) -> Option<Box<[u64; ENTRIES as usize]>>,
    /// The tables that were read, with their levels.
    seen: BTreeSet<(u64, u32)>,
    found: Vec<Mapping>,
}

impl Walk<'_> {
    /// Reads the table of this level, which maps the addresses from `start` on, from its entry
    /// `first` on.
    fn table(&mut self, address: u64, level: u32, start: u64, first: u64) {
        if self.found.len() >= MOST || !self.seen.insert((address, level)) {
            return;
        }
        let Some(entries) = (self.read)(address) else {
            return;
        };
        let size = PAGE << (9 * (level - 1));
        for (index, entry) in (0..).zip(entries.iter().copied()).skip(first as usize) {
            if entry & PRESENT == 0 {
                continue;
            }
            let virtual_address = canonical(start.wrapping_add(index * size));
            match level {
                1 => self.add(virtual_address, entry & ADDRESS, size),
                2 | 3 if entry & LARGE != 0 => {
                    self.add(virtual_address, entry & ADDRESS & !(size - 1), size);
                }
                _ => self.table(entry & ADDRESS, level - 1, virtual_address, 0),
            }
        }
    }

    /// Adds the parts of a page that are in the memory.
    fn add(&mut self, virtual_address: u64, physical: u64, size: u64) {
        for ram in self.ram {
            let from = physical.max(ram.start);
            let to = physical.saturating_add(size).min(ram.end);
            if from >= to {
                continue;
            }
            let mapping = Mapping {
                virtual_address: virtual_address.wrapping_add(from - physical),
                physical: from,
                size: to - from,
            };
            match self.found.last_mut() {
                Some(last)
                    if last.virtual_address.wrapping_add(last.size) == mapping.virtual_address
                        && last.physical + last.size == mapping.physical =>
                {
                    last.size += mapping.size;
                }
                _ => self.found.push(mapping),
            }
        }
    }
}

/// Returns the address with the sign extension that x86-64 requires: the upper bits of the kernel's
/// are set.
fn canonical(address: u64) -> u64 {
    const TOP: u64 = 1 << 47;
    match address & TOP {
        0 => address,
        _ => address | !(TOP - 1),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TABLE: [u64; 512] = [0; 512];

    /// Returns a memory with tables at the given addresses.
    fn walk(cr3: u64, cr4: u64, tables: &[(u64, &[(usize, u64)])]) -> Vec<Mapping> {
        let mut memory = BTreeMap::new();
        for (address, entries) in tables {
            let mut table = TABLE;
            for &(index, entry) in *entries {
                table[index] = entry;
            }
            memory.insert(*address, table);
        }
        let ram = [0..0x4000_0000, 0x1_0000_0000..0x1_4000_0000];
        let cpu = Cpu { cr0: PG, cr3, cr4 };
        let off = Cpu {
            cr0: 0,
            cr3: 0x5000,
            ..cpu
        };
        mappings(&[off, cpu, cpu], &ram, &|address| {
            memory.get(&address).copied().map(Box::new)
        })
    }

    fn mapping(virtual_address: u64, physical: u64, size: u64) -> Mapping {
        Mapping {
            virtual_address,
            physical,
            size,
        }
    }

    #[test]
    fn the_kernels_text_and_direct_map_are_found() {
        let found = walk(
            0x1018, // with flags
            0,
            &[
                // The lower half is a task's.
                (0x1000, &[(0, 0x9001), (273, 0x2001), (511, 0x3001)]),
                // The direct map, in pages of 1 GiB; the last one is beyond the memory.
                (0x2000, &[(0, 0x81), (4, 0x1_0000_0081), (5, 0x1_4000_0081)]),
                (0x3000, &[(510, 0x4001)]),
                (0x4000, &[(8, 0x0100_0081), (9, 0x0120_0081), (10, 0x5001)]),
                (0x5000, &[(0, 0x7000_0001), (1, 0x6001), (2, 0x7000)]),
            ],
        );
        assert_eq!(
            found,
            [
                mapping(0xffff_8880_0000_0000, 0, 0x4000_0000),
                mapping(0xffff_8881_0000_0000, 0x1_0000_0000, 0x4000_0000),
                mapping(0xffff_ffff_8100_0000, 0x0100_0000, 0x40_0000),
                mapping(0xffff_ffff_8140_1000, 0x6000, 0x1000),
            ]
        );
    }

    #[test]
    fn five_levels_are_understood() {
        let found = walk(
            0x1000,
            LA57,
            &[
                (0x1000, &[(511, 0x2001)]),
                (0x2000, &[(511, 0x3001)]),
                (0x3000, &[(510, 0x4001)]),
                (0x4000, &[(8, 0x0100_0081)]),
            ],
        );
        assert_eq!(
            found,
            [mapping(0xffff_ffff_8100_0000, 0x0100_0000, 0x20_0000)]
        );
    }

    #[test]
    fn tables_that_refer_to_themselves_end() {
        let all: Vec<_> = (0..512).map(|index| (index, 0x1001)).collect();
        let found = walk(0x1000, 0, &[(0x1000, &all)]);
        assert_eq!(found.len(), 512);
        // No table at all.
        assert_eq!(walk(0xffff_f000, 0, &[]), []);
    }

    #[test]
    fn a_guest_full_of_tables_uses_bounded_memory() {
        // Each table refers to the next ones; the lowest map every other page.
        let ram = 0..1 << 32;
        let read = |address: u64| {
            let mixed = address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let next = |index: u64| ((mixed + index * 7919) % 0x8_0000) * 0x2000;
            let mut table = Box::new([0; 512]);
            for (index, entry) in (0..).zip(table.iter_mut()) {
                *entry = next(index) | PRESENT;
            }
            Some(table)
        };
        let cpu = Cpu {
            cr0: PG,
            cr3: 0x1000,
            cr4: 0,
        };
        let found = mappings(&[cpu], std::slice::from_ref(&ram), &read);
        assert!(
            (MOST / 2..MOST + 512).contains(&found.len()),
            "{}",
            found.len()
        );
    }
}
