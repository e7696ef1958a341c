// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The headers of a core file.
//!
//! The file has the memory once. Its first program headers describe that by physical address, as
//! QEMU's dumps do. [`add_virtual`] replaces them by those of the kernel's own addresses, with
//! which a debugger reads variables and stacks; each has its physical address, too.

use std::io;
use std::ops::Range;

use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileHeader64,
    Ident, NT_PRSTATUS, NoteHeader64, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramFlags,
    ProgramHeader64, ProgramType,
};
use object::pod::{Pod, bytes_of, bytes_of_slice, from_bytes};
use object::{LittleEndian as LE, U16, U32, U64};

use super::sparse::Sparse;
use super::tables::{self, Cpu, Mapping};

type Header = FileHeader64<LE>;
type Segment = ProgramHeader64<LE>;

const PAGE: u64 = 4096;

/// Maximum number of segments to read: those of the memory's ranges.
const MOST_READ: u16 = 64;

/// Maximum number of segments of a file; the number 0xffff has a special meaning.
const MOST: usize = 0xfffe - 1;

/// Size of `struct elf_prstatus`, and the offsets of its fields (`include/linux/elfcore.h`).
const STATUS: usize = 336;
const STATUS_PID: usize = 32;
const STATUS_REGISTERS: usize = 112;

/// The general registers of a CPU, in the order of `struct user_regs_struct`.
pub type Status = [u64; 27];

/// Returns `length`, rounded up to a multiple of `unit`.
fn align(length: u64, unit: u64) -> u64 {
    length.next_multiple_of(unit)
}

fn header(segments: usize, offset: u64) -> Header {
    Header {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(LE, ET_CORE),
        e_machine: U16::new(LE, EM_X86_64),
        e_version: U32::new(LE, EV_CURRENT.0.into()),
        e_entry: U64::default(),
        e_phoff: U64::new(LE, offset),
        e_shoff: U64::default(),
        e_flags: U32::default(),
        e_ehsize: U16::new(LE, size_of::<Header>() as u16),
        e_phentsize: U16::new(LE, size_of::<Segment>() as u16),
        e_phnum: U16::new(LE, segments as u16),
        e_shentsize: U16::default(),
        e_shnum: U16::default(),
        e_shstrndx: U16::default(),
    }
}

fn segment(kind: ProgramType, offset: u64, mapping: Mapping) -> Segment {
    Segment {
        p_type: U32::new(LE, kind),
        p_flags: match kind {
            PT_LOAD => U32::new(LE, ProgramFlags(PF_R.0 | PF_W.0 | PF_X.0)),
            _ => U32::default(),
        },
        p_offset: U64::new(LE, offset),
        p_vaddr: U64::new(LE, mapping.virtual_address),
        p_paddr: U64::new(LE, mapping.physical),
        p_filesz: U64::new(LE, mapping.size),
        p_memsz: U64::new(LE, mapping.size),
        p_align: U64::default(),
    }
}

/// Begins the file of a guest with these ranges of memory (address and size) and CPUs. Returns the
/// offset at which the ranges follow one another.
pub fn begin(file: &mut Sparse, ranges: &[(u64, u64)], cpus: &[Status]) -> io::Result<u64> {
    let segments = ranges.len() + 1;
    let table = size_of::<Header>() as u64;
    let notes_at = table + (segments * size_of::<Segment>()) as u64;
    let notes: Vec<u8> = (0..)
        .zip(cpus)
        .flat_map(|(n, cpu)| status(n, cpu))
        .collect();
    let memory = align(notes_at + notes.len() as u64, PAGE);
    let mut list = vec![segment(
        PT_NOTE,
        notes_at,
        Mapping {
            virtual_address: 0,
            physical: 0,
            size: notes.len() as u64,
        },
    )];
    let mut offset = memory;
    for &(physical, size) in ranges {
        let mapping = Mapping {
            virtual_address: 0,
            physical,
            size,
        };
        list.push(segment(PT_LOAD, offset, mapping));
        offset += size;
    }
    file.write(0, bytes_of(&header(segments, table)))?;
    file.write(table, bytes_of_slice(&list))?;
    file.write(notes_at, &notes)?;
    Ok(memory)
}

/// Returns the note with a CPU's registers.
fn status(number: u32, registers: &Status) -> Vec<u8> {
    let mut content = vec![0; STATUS];
    // gdb numbers its threads from 1 on, and takes 0 for none.
    content[STATUS_PID..STATUS_PID + 4].copy_from_slice(&(number + 1).to_le_bytes());
    for (register, place) in registers
        .iter()
        .zip(content[STATUS_REGISTERS..].chunks_exact_mut(8))
    {
        place.copy_from_slice(&register.to_le_bytes());
    }
    let head = NoteHeader64::<LE> {
        n_namesz: U32::new(LE, 5),
        n_descsz: U32::new(LE, STATUS as u32),
        n_type: U32::new(LE, NT_PRSTATUS),
    };
    [bytes_of(&head), b"CORE\0\0\0\0", &content].concat()
}

/// Adds the kernel's addresses, as the CPUs' tables map them, to a file that has the memory by its
/// physical addresses, and completes the file. If no table maps any address, the file stays
/// unchanged.
pub(super) fn add_virtual(file: &mut Sparse, cpus: &[Cpu]) -> io::Result<()> {
    let old = segments(file)?;
    let kind = |segment: &&Segment, kind| segment.p_type.get(LE) == kind;
    let loads: Vec<&Segment> = old.iter().filter(|one| kind(one, PT_LOAD)).collect();
    let ram: Vec<Range<u64>> = loads
        .iter()
        .map(|one| {
            let start = one.p_paddr.get(LE);
            start..start.saturating_add(one.p_filesz.get(LE))
        })
        .collect();
    let place = |physical: u64| {
        let index = ram.iter().position(|range| range.contains(&physical))?;
        let offset = loads[index].p_offset.get(LE);
        offset.checked_add(physical - ram[index].start)
    };
    let read = |physical: u64| {
        let mut table = Box::new([0; 512]);
        let mut bytes = [0; PAGE as usize];
        file.read(place(physical)?, &mut bytes).ok()?;
        for (entry, bytes) in table.iter_mut().zip(bytes.chunks_exact(8)) {
            *entry = u64::from_le_bytes(bytes.try_into().ok()?);
        }
        Some(table)
    };
    let mut found = tables::mappings(cpus, &ram, &read);
    if found.is_empty() {
        return file.finish();
    }
    let notes = old.iter().filter(|one| kind(one, PT_NOTE)).copied();
    let mut new: Vec<Segment> = notes.collect();
    let room = MOST - new.len();
    if found.len() > room {
        // The large ones are the kernel's own text and memory.
        found.sort_unstable_by_key(|mapping| std::cmp::Reverse(mapping.size));
        found.truncate(room);
        found.sort_unstable();
    }
    for mapping in found {
        if let Some(offset) = place(mapping.physical) {
            new.push(segment(PT_LOAD, offset, mapping));
        }
    }
    let table = align(file.length(), 8);
    file.write(table, bytes_of_slice(&new))?;
    file.write(0, bytes_of(&header(new.len(), table)))?;
    file.finish()
}

/// Reads the program headers of the file.
fn segments(file: &Sparse) -> io::Result<Vec<Segment>> {
    let header: Header = read::<_, { size_of::<Header>() }>(file, 0)?;
    let count = header.e_phnum.get(LE);
    let ident = header.e_ident;
    let known = (ident.magic, ident.class, ident.data) == (ELFMAG, ELFCLASS64, ELFDATA2LSB)
        && usize::from(header.e_phentsize.get(LE)) == size_of::<Segment>()
        && count <= MOST_READ;
    if !known {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the dump has no header of a core file",
        ));
    }
    (0..u64::from(count))
        .map(|index| {
            let offset = index * size_of::<Segment>() as u64;
            let at = header.e_phoff.get(LE).checked_add(offset);
            let at = at.ok_or(io::ErrorKind::InvalidData)?;
            read::<_, { size_of::<Segment>() }>(file, at)
        })
        .collect()
}

/// Reads a structure of `N` bytes.
fn read<T: Pod, const N: usize>(file: &Sparse, offset: u64) -> io::Result<T> {
    let mut bytes = [0; N];
    file.read(offset, &mut bytes)?;
    // Structures of a file have no alignment.
    let (value, _) = from_bytes(&bytes).map_err(|()| io::ErrorKind::InvalidData)?;
    Ok(*value)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a dump with two ranges of memory, and tables that map the second one's beginning.
    fn dump() -> (Sparse, u64) {
        let mut file = Sparse::new(tempfile::tempfile().unwrap());
        let ranges = [(0, 8 * PAGE), (1 << 32, 4 * PAGE)];
        let mut status = Status::default();
        status[16] = 0xffff_ffff_8100_0042;
        let memory = begin(&mut file, &ranges, &[status, status]).unwrap();
        let mut page = |number: u64, entries: &[(usize, u64)]| {
            let mut bytes = vec![0; PAGE as usize];
            for &(index, entry) in entries {
                bytes[index * 8..][..8].copy_from_slice(&entry.to_le_bytes());
            }
            file.write(memory + number * PAGE, &bytes).unwrap();
        };
        page(1, &[(511, 0x2001)]);
        page(2, &[(510, 0x3001)]);
        page(3, &[(8, 0x4001)]);
        page(
            4,
            &[(0, (1 << 32) | 1), (1, (1 << 32) | 0x1001), (3, 0x7001)],
        );
        page(8, &[(0, 0x6c6c_6568)]);
        page(11, &[(511, 1)]);
        (file, memory)
    }

    #[test]
    fn the_kernels_addresses_are_added() {
        let (mut file, memory) = dump();
        let cpu = Cpu {
            cr0: 1 << 31,
            cr3: 0x1000,
            cr4: 0,
        };
        add_virtual(&mut file, &[cpu, cpu]).unwrap();
        let segments = segments(&file).unwrap();
        let of = |one: &Segment| {
            let number = |field: U64<LE>| field.get(LE);
            (
                number(one.p_vaddr),
                number(one.p_paddr),
                number(one.p_offset),
                number(one.p_filesz),
            )
        };
        assert_eq!(segments.len(), 3);
        assert_eq!(segments[0].p_type.get(LE), PT_NOTE);
        let text = 0xffff_ffff_8100_0000;
        let high = 1 << 32;
        assert_eq!(of(&segments[1]), (text, high, memory + 8 * PAGE, 2 * PAGE));
        assert_eq!(
            of(&segments[2]),
            (text + 3 * PAGE, 7 * PAGE, memory + 7 * PAGE, PAGE)
        );
    }

    #[test]
    fn without_tables_the_physical_addresses_stay() {
        let (mut file, memory) = dump();
        add_virtual(&mut file, &[]).unwrap();
        let segments = segments(&file).unwrap();
        assert_eq!(segments.len(), 3);
        assert_eq!(segments[2].p_paddr.get(LE), 1 << 32);
        assert_eq!(segments[2].p_offset.get(LE), memory + 8 * PAGE);
    }

    #[test]
    fn a_file_that_is_no_dump_is_refused() {
        let mut file = Sparse::new(tempfile::tempfile().unwrap());
        assert!(add_virtual(&mut file, &[]).is_err());
        file.write(0, &[0x7f; 100]).unwrap();
        assert!(add_virtual(&mut file, &[]).is_err());
    }
}
