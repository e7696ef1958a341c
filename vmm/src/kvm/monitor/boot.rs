// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Loads the kernel and its boot parameters, and sets the state in which the first vCPU starts.

use std::fs::File;
use std::path::Path;

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{BzImage, Cmdline, KernelLoader, KernelLoaderResult, load_cmdline};
use vm_memory::{Bytes, GuestAddress};

use super::mptable;
use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::{Memory, ranges};

/// Addresses in the guest's memory below the kernel.
mod layout {
    pub const GDT: u64 = 0x500;
    pub const START_INFO: u64 = 0x6000;
    pub const MEMORY_MAP: u64 = 0x6800;
    /// The zero page of the 64-bit boot protocol.
    pub const BOOT_PARAMS: u64 = 0x7000;
    pub const STACK: u64 = 0x8ff0;
    /// Three levels of page tables.
    pub const PAGE_TABLES: u64 = 0x9000;
    pub const CMDLINE: u64 = 0x2_0000;
    pub const KERNEL: u64 = 0x10_0000;
}

/// Maximum length of the command line: `COMMAND_LINE_SIZE` of x86.
const CMDLINE_SIZE: usize = 2048;

/// Xen's `XEN_HVM_START_MAGIC_VALUE` (`include/xen/interface/hvm/start_info.h`).
const START_MAGIC: u32 = 0x336e_c578;

/// `E820_TYPE_RAM`; PVH's memory map has the same numbers.
const RAM: u32 = 1;

/// Offset of the 64-bit boot protocol's entry from the address where the kernel was loaded
/// (`Documentation/arch/x86/boot.rst`).
const ENTRY_64: u64 = 0x200;

/// The protocol by which the first vCPU enters the kernel, with the address of the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// PVH: 32-bit protected mode without paging (`docs/misc/pvh.pandoc` of Xen).
    Pvh(u64),
    /// The 64-bit boot protocol: long mode, with identity-mapped memory.
    Linux64(u64),
}

/// Loads the kernel and writes all structures that it reads before its own memory management works.
pub(super) fn load(
    memory: &Memory,
    kernel: &Path,
    cmdline: &Cmdline,
    mib: u32,
    vcpus: u8,
) -> Result<Entry, Failure> {
    let mut file = File::open(kernel).during(format!("open {}", kernel.display()))?;
    load_cmdline(memory, GuestAddress(layout::CMDLINE), cmdline)
        .during("write the kernel's command line")?;
    mptable::write(memory, vcpus)?;
    // A kernel below 1 MiB would overwrite the structures there.
    let lowest = Some(GuestAddress(layout::KERNEL));
    let as_elf = Elf::load(memory, None, &mut file, lowest);
    match as_elf {
        Ok(loaded) => {
            let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
                return Err(Failure::new(format!(
                    "boot {}: it has no PVH entry (CONFIG_PVH)",
                    kernel.display()
                )));
            };
            write_start_info(memory, mib)?;
            Ok(Entry::Pvh(entry.0))
        }
        Err(_) => {
            let loaded = BzImage::load(memory, lowest, &mut file, lowest).during(format!(
                "load {}: it is neither an ELF vmlinux nor a bzImage",
                kernel.display()
            ))?;
            write_boot_params(memory, &loaded, mib)?;
            write_page_tables(memory)?;
            Ok(Entry::Linux64(loaded.kernel_load.0 + ENTRY_64))
        }
    }
}

/// Returns the RAM ranges that the guest may use: without the range from the MP table to 1 MiB,
/// where PCs have no RAM.
fn memory_map(mib: u32) -> Vec<(u64, u64)> {
    let mut map = vec![(0, mptable::ADDRESS)];
    for (start, size) in ranges(mib) {
        let begin = start.max(layout::KERNEL);
        map.push((begin, start + size - begin));
    }
    map
}

fn write_start_info(memory: &Memory, mib: u32) -> Result<(), Failure> {
    let map: Vec<_> = memory_map(mib)
        .into_iter()
        .map(|(addr, size)| hvm_memmap_table_entry {
            addr,
            size,
            type_: RAM,
            reserved: 0,
        })
        .collect();
    let info = hvm_start_info {
        magic: START_MAGIC,
        version: 1,
        cmdline_paddr: layout::CMDLINE,
        memmap_paddr: layout::MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut params = BootParams::new(&info, GuestAddress(layout::START_INFO));
    params.set_sections(&map, GuestAddress(layout::MEMORY_MAP));
    PvhBootConfigurator::write_bootparams(&params, memory).during("write PVH's start info")
}

fn write_boot_params(
    memory: &Memory,
    loaded: &KernelLoaderResult,
    mib: u32,
) -> Result<(), Failure> {
    let mut params = boot_params {
        hdr: loaded
            .setup_header
            .ok_or_else(|| Failure::new("find the bzImage's setup header"))?,
        ..Default::default()
    };
    // Loader type "undefined"; the command line is below 4 GiB, so 32 bits are enough.
    params.hdr.type_of_loader = 0xff;
    params.hdr.cmd_line_ptr = layout::CMDLINE as u32;
    params.hdr.cmdline_size = CMDLINE_SIZE as u32;
    for (index, (addr, size)) in memory_map(mib).into_iter().enumerate() {
        params.e820_table[index] = boot_e820_entry {
            addr,
            size,
            r#type: RAM,
        };
        params.e820_entries += 1;
    }
    LinuxBootConfigurator::write_bootparams(
        &BootParams::new(&params, GuestAddress(layout::BOOT_PARAMS)),
        memory,
    )
    .during("write the boot parameters")
}

/// Identity-maps the first GiB, by pages of 2 MiB.
fn write_page_tables(memory: &Memory) -> Result<(), Failure> {
    const PRESENT_WRITABLE: u64 = 0b11;
    const HUGE: u64 = 1 << 7;
    let [top, middle, low] = [0, 1, 2].map(|level| layout::PAGE_TABLES + level * 0x1000);
    let mut entries = vec![
        (top, middle | PRESENT_WRITABLE),
        (middle, low | PRESENT_WRITABLE),
    ];
    entries.extend((0..512).map(|i| (low + i * 8, (i << 21) | PRESENT_WRITABLE | HUGE)));
    for (address, entry) in entries {
        memory
            .write_obj(entry, GuestAddress(address))
            .during("write the first page tables")?;
    }
    Ok(())
}

/// Returns the kernel's command line as the loader needs it.
pub(super) fn cmdline(text: &str) -> Result<Cmdline, Failure> {
    let mut line = Cmdline::new(CMDLINE_SIZE).during("allocate the kernel's command line")?;
    line.insert_str(text)
        .during("set the kernel's command line")?;
    Ok(line)
}

/// Returns the registers of the first vCPU at its start.
pub(super) fn registers(entry: Entry) -> kvm_regs {
    // Bit 1 of the flags is always set.
    let mut regs = kvm_regs {
        rflags: 2,
        rsp: layout::STACK,
        ..Default::default()
    };
    match entry {
        Entry::Pvh(address) => {
            regs.rip = address;
            regs.rbx = layout::START_INFO;
        }
        Entry::Linux64(address) => {
            regs.rip = address;
            regs.rsi = layout::BOOT_PARAMS;
        }
    }
    regs
}

/// Returns the special registers of the first vCPU at its start, based on the ones that KVM
/// initialised. Writes the descriptor table that they refer to.
pub(super) fn special_registers(
    memory: &Memory,
    entry: Entry,
    mut sregs: kvm_sregs,
) -> Result<kvm_sregs, Failure> {
    const PE: u64 = 1;
    const PG: u64 = 1 << 31;
    const PAE: u64 = 1 << 5;
    const LME_LMA: u64 = (1 << 8) | (1 << 10);

    let long = matches!(entry, Entry::Linux64(_));
    let code = segment(2, 0xb, true, long);
    let data = segment(3, 0x3, true, false);
    // A 32-bit busy TSS of 0x67 bytes, which VMX requires at each VM entry.
    let task = kvm_segment {
        limit: 0x67,
        db: 0,
        g: 0,
        ..segment(4, 0xb, false, false)
    };
    let table = [
        0,
        0,
        descriptor(&code),
        descriptor(&data),
        descriptor(&task),
    ];
    for (index, entry) in table.iter().enumerate() {
        memory
            .write_obj(*entry, GuestAddress(layout::GDT + index as u64 * 8))
            .during("write the first descriptor table")?;
    }
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = (table.len() * 8 - 1) as u16;
    sregs.cs = code;
    sregs.ds = data;
    sregs.es = data;
    sregs.fs = data;
    sregs.gs = data;
    sregs.ss = data;
    sregs.tr = task;
    sregs.cr0 |= PE;
    if long {
        sregs.cr0 |= PG;
        sregs.cr3 = layout::PAGE_TABLES;
        sregs.cr4 |= PAE;
        sregs.efer |= LME_LMA;
    }
    Ok(sregs)
}

/// Returns a flat present segment of 4 GiB for ring 0.
fn segment(index: u16, type_: u8, code_or_data: bool, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector: index * 8,
        type_,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: u8::from(code_or_data),
        l: u8::from(long),
        g: 1,
        avl: 0,
        unusable: 0,
        padding: 0,
    }
}

/// Returns the segment in the format of a descriptor table (Intel SDM 3A, 3.4.5).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 {
        u64::from(segment.limit) >> 12
    } else {
        u64::from(segment.limit)
    };
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7;
    let flags = u64::from(segment.avl)
        | u64::from(segment.l) << 1
        | u64::from(segment.db) << 2
        | u64::from(segment.g) << 3;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit >> 16 & 0xf) << 48
        | flags << 52
        | (segment.base >> 24 & 0xff) << 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_match_the_manual() {
        assert_eq!(
            descriptor(&segment(2, 0xb, true, false)),
            0x00cf_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&segment(2, 0xb, true, true)),
            0x00af_9b00_0000_ffff
        );
        assert_eq!(
            descriptor(&segment(3, 0x3, true, false)),
            0x00cf_9300_0000_ffff
        );
    }

    #[test]
    fn the_memory_map_excludes_the_mp_table() {
        assert_eq!(memory_map(16), [(0, 0x9_fc00), (0x10_0000, 15 << 20)]);
    }
}
