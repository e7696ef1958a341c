// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Walks the guest's page tables as its CPU does (Intel SDM 3A, 4.5).

use kvm_bindings::kvm_sregs;
use vm_memory::{Bytes, GuestAddress};

use crate::kvm::memory::Memory;

/// Size of the smallest page in bytes.
pub(super) const PAGE: u64 = 1 << PAGE_SHIFT;
const PAGE_SHIFT: u32 = 12;

/// Bits of control registers and of EFER.
const CR0_PG: u64 = 1 << 31;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

/// Bits of an entry. Bits 12 to 51 are the address.
const PRESENT: u64 = 1 << 0;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Number of address bits that index a table.
const INDEX_BITS: u32 = 9;

/// Levels at which an entry may map a page, of 2 MiB or 1 GiB.
const LARGE_LEVELS: std::ops::RangeInclusive<u32> = 1..=2;

/// Offset of the user mode's tables from the kernel's, with page table isolation.
const USER_TABLES: u64 = PAGE;

/// Difference between the kernel's link address and its load address (`__START_KERNEL_map`).
const KERNEL: u64 = 0xffff_ffff_8000_0000;

/// The translation of a virtual address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapped {
    /// The guest-physical address, which may be outside the guest's memory.
    pub physical: u64,
    /// True when user mode may access it.
    pub user: bool,
}

/// The state by which a vCPU translates addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paging {
    enabled: bool,
    long: bool,
    levels: u32,
    tables: u64,
}

impl Paging {
    /// Returns the paging mode of a vCPU's special registers.
    pub fn of(sregs: &kvm_sregs) -> Self {
        Self {
            enabled: sregs.cr0 & CR0_PG != 0,
            long: sregs.efer & EFER_LMA != 0,
            levels: if sregs.cr4 & CR4_LA57 != 0 { 5 } else { 4 },
            tables: sregs.cr3 & ADDRESS,
        }
    }

    /// Translates `address`. Returns `None` if it is not mapped, or with 32-bit page tables, which
    /// the kernels of our guests never use.
    pub fn translate(&self, memory: &Memory, address: u64) -> Option<Mapped> {
        if !self.enabled {
            // This allows breakpoints before the kernel has set up its first tables: it runs at its
            // load address, and is not relocated.
            let physical = address.checked_sub(KERNEL).unwrap_or(address);
            return Some(Mapped {
                physical,
                user: false,
            });
        }
        if !self.long || !self.is_canonical(address) {
            return None;
        }
        let kernels = self.tables & !USER_TABLES;
        self.walk(memory, self.tables, address).or_else(|| {
            // In user mode, the tables may lack the kernel.
            let other = (address as i64) < 0 && kernels != self.tables;
            other.then(|| self.walk(memory, kernels, address))?
        })
    }

    /// Returns true when the untranslated high bits equal the highest translated bit.
    fn is_canonical(&self, address: u64) -> bool {
        let unused = u64::BITS - PAGE_SHIFT - self.levels * INDEX_BITS;
        ((address << unused) as i64 >> unused) as u64 == address
    }

    fn walk(&self, memory: &Memory, mut table: u64, address: u64) -> Option<Mapped> {
        let mut user = true;
        for level in (0..self.levels).rev() {
            let shift = PAGE_SHIFT + level * INDEX_BITS;
            let index = address >> shift & ((1 << INDEX_BITS) - 1);
            // Tables may be outside the guest's memory.
            let entry: u64 = memory.read_obj(GuestAddress(table + 8 * index)).ok()?;
            if entry & PRESENT == 0 {
                return None;
            }
            user &= entry & USER != 0;
            if level == 0 || LARGE_LEVELS.contains(&level) && entry & LARGE != 0 {
                let offset = (1 << shift) - 1;
                return Some(Mapped {
                    physical: entry & ADDRESS & !offset | address & offset,
                    user,
                });
            }
            table = entry & ADDRESS;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::memory;

    /// Address of the tables: one table for each of four or five levels.
    const TABLES: u64 = 0x1_0000;

    const KERNEL_TEXT: u64 = 0xffff_ffff_8123_4567;

    fn memory() -> Memory {
        memory::map(4, None, false).unwrap()
    }

    fn long(levels: u64) -> Paging {
        Paging::of(&kvm_sregs {
            cr0: CR0_PG,
            cr3: TABLES | 0x18,
            cr4: if levels == 5 { CR4_LA57 } else { 0 },
            efer: EFER_LMA,
            ..Default::default()
        })
    }

    /// Maps `address`: the entry of each table refers to the next table, the last one is `entry`.
    fn map(memory: &Memory, tables: u64, levels: u32, last: u32, address: u64, entry: u64) {
        for (depth, level) in (last..levels).rev().enumerate() {
            let table = tables + depth as u64 * 2 * PAGE;
            let index = address >> (PAGE_SHIFT + level * INDEX_BITS) & 511;
            let value = match level == last {
                true => entry,
                false => (table + 2 * PAGE) | PRESENT | USER,
            };
            let at = GuestAddress(table + 8 * index);
            memory.write_obj(value, at).unwrap();
        }
    }

    fn physical(paging: Paging, memory: &Memory, address: u64) -> Option<u64> {
        let mapped = paging.translate(memory, address);
        mapped.map(|mapped| mapped.physical)
    }

    #[test]
    fn pages_of_each_size_are_found() {
        for levels in [4, 5] {
            for (last, size) in [(0, 1 << 12), (1, 1 << 21), (2, 1u64 << 30)] {
                let memory = memory();
                // The attributes above and below the address are not part of it.
                let large = if last > 0 { LARGE } else { 0 };
                let entry = (5 * size) | PRESENT | (1 << 63) | large;
                map(&memory, TABLES, levels, last, KERNEL_TEXT, entry);
                let mapped = long(levels.into()).translate(&memory, KERNEL_TEXT);
                let physical = 5 * size + KERNEL_TEXT % size;
                let user = false;
                assert_eq!(mapped, Some(Mapped { physical, user }), "{levels} {last}");
            }
        }
    }

    #[test]
    fn the_attribute_bit_of_a_large_page_is_not_part_of_its_address() {
        let memory = memory();
        let pat = 1 << 12;
        map(
            &memory,
            TABLES,
            4,
            1,
            0x40_0123,
            0x20_0000 | pat | LARGE | PRESENT,
        );
        assert_eq!(physical(long(4), &memory, 0x40_0123), Some(0x20_0123));
    }

    #[test]
    fn a_user_page_needs_the_user_bit_at_all_levels() {
        let memory = memory();
        map(&memory, TABLES, 4, 0, 0x40_0000, 0x3000 | PRESENT | USER);
        let mapped = long(4).translate(&memory, 0x40_0000).unwrap();
        assert!(mapped.user);
        map(&memory, TABLES, 4, 0, 0x40_1000, 0x4000 | PRESENT);
        assert!(!long(4).translate(&memory, 0x40_1000).unwrap().user);
    }

    #[test]
    fn unmapped_addresses_are_not_translated() {
        let memory = memory();
        // Absent at the first level, and at a later one.
        assert_eq!(physical(long(4), &memory, KERNEL_TEXT), None);
        map(&memory, TABLES, 4, 0, KERNEL_TEXT, 0x3000);
        assert_eq!(physical(long(4), &memory, KERNEL_TEXT), None);
        // Non-canonical addresses.
        map(&memory, TABLES, 4, 0, 0, 0x3000 | PRESENT);
        assert_eq!(physical(long(4), &memory, 0x8), Some(0x3008));
        assert_eq!(physical(long(4), &memory, 1 << 48), None);
        assert_eq!(physical(long(4), &memory, 1 << 63), None);
        // A table beyond the memory.
        let high = 1 << 39;
        map(&memory, TABLES, 4, 3, high, 0x000f_ffff_ffff_f000 | PRESENT);
        assert_eq!(physical(long(4), &memory, high), None);
    }

    #[test]
    fn the_kernel_is_found_from_user_mode() {
        let memory = memory();
        let entry = 0x7000 | PRESENT;
        // The map leaves out every second page, for the tables of user mode.
        map(&memory, TABLES, 4, 0, KERNEL_TEXT, entry);
        let user = Paging {
            tables: TABLES | USER_TABLES,
            ..long(4)
        };
        let found = physical(user, &memory, KERNEL_TEXT);
        assert_eq!(found, Some(0x7000 + KERNEL_TEXT % PAGE));
        map(&memory, TABLES, 4, 0, 0x40_0000, entry);
        assert_eq!(physical(user, &memory, 0x40_0000), None);
    }

    #[test]
    fn without_paging_the_kernel_is_where_it_was_loaded() {
        let paging = Paging::of(&kvm_sregs::default());
        let memory = memory();
        assert_eq!(physical(paging, &memory, 0x10_0010), Some(0x10_0010));
        assert_eq!(physical(paging, &memory, KERNEL_TEXT), Some(0x123_4567));
    }

    #[test]
    fn tables_of_32_bits_are_not_supported() {
        let paging = Paging {
            long: false,
            ..long(4)
        };
        assert_eq!(physical(paging, &memory(), 0x1000), None);
    }
}
