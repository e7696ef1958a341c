// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The MP table, which describes processors and interrupts to the guest.
//!
//! Source: Intel MultiProcessor Specification 1.4, chapter 4. Linux reads it if there is no ACPI
//! (`arch/x86/kernel/mpparse.c`).

use vm_memory::{Bytes, GuestAddress};

use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::Memory;

/// The last kilobyte of base memory is one of the places where the kernel looks for the table.
pub(super) const ADDRESS: u64 = 0x9_fc00;

/// The addresses at which KVM has the registers of the local APICs and the I/O APIC.
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;

/// Number of pins of KVM's I/O APIC.
pub(super) const IO_APIC_PINS: u8 = 24;

/// Entry types (4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types (4.3.4).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the table for `vcpus` processors, whose APIC IDs are 0, 1, ….
pub(super) fn write(memory: &Memory, vcpus: u8) -> Result<(), Failure> {
    memory
        .write_slice(&table(vcpus), GuestAddress(ADDRESS))
        .during("write the MP table")
}

fn table(vcpus: u8) -> Vec<u8> {
    let mut entries = Entries::default();
    for id in 0..vcpus {
        // Version of an integrated APIC; all processors are enabled, and the first is the boot
        // processor.
        let flags = if id == 0 { 0b11 } else { 0b01 };
        let mut entry = vec![PROCESSOR, id, 0x14, flags];
        // Signature and features are 0: Linux uses CPUID instead.
        entry.extend([0; 16]);
        entries.push(&entry);
    }
    entries.push(b"\x01\x00ISA   ");
    let io_apic_id = vcpus;
    let mut entry = vec![IOAPIC, io_apic_id, 0x11, 1];
    entry.extend(IO_APIC.to_le_bytes());
    entries.push(&entry);
    for pin in 0..IO_APIC_PINS {
        entries.push(&[IO_INTERRUPT, INT, 0, 0, 0, pin, io_apic_id, pin]);
    }
    entries.push(&[LOCAL_INTERRUPT, EXT_INT, 0, 0, 0, 0, 0xff, 0]);
    entries.push(&[LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, 0xff, 1]);

    let mut config = b"PCMP".to_vec();
    let length = 44 + entries.bytes.len() as u16;
    config.extend(length.to_le_bytes());
    config.extend([4, 0]);
    config.extend(b"CRUCIBLEMACHINE     ");
    config.extend([0; 6]);
    config.extend(entries.count.to_le_bytes());
    config.extend(LOCAL_APIC.to_le_bytes());
    config.extend([0; 4]);
    config.extend(entries.bytes);
    set_checksum(&mut config, 7);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend((ADDRESS as u32 + 16).to_le_bytes());
    pointer.extend([1, 4, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut pointer, 10);
    pointer.extend(config);
    pointer
}

#[derive(Default)]
struct Entries {
    bytes: Vec<u8>,
    count: u16,
}

impl Entries {
    fn push(&mut self, entry: &[u8]) {
        debug_assert!(entry[0] == PROCESSOR || entry.len() == 8);
        debug_assert!(entry[0] != BUS || self.count > 0);
        self.bytes.extend(entry);
        self.count += 1;
    }
}

/// Sets the byte at `at` so that the sum of all bytes of the table is 0.
fn set_checksum(table: &mut [u8], at: usize) {
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[at] = 0u8.wrapping_sub(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_specification() {
        let table = table(8);
        assert!(table.len() <= 1024, "it fits below the end of base memory");
        let (pointer, config) = table.split_at(16);
        for part in [pointer, config] {
            let sum = part.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum, 0);
        }
        assert_eq!(
            usize::from(config[4]) + usize::from(config[5]) * 256,
            config.len()
        );
        assert_eq!(
            u16::from_le_bytes([config[34], config[35]]),
            8 + 1 + 1 + 24 + 2
        );
    }
}
