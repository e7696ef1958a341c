// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory that a guest leaves when it crashes, with guests of a few instructions.

mod fixture;
mod guests;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crucible_vmm::qemu::{Options, QemuMachine};
use crucible_vmm::{Disk, Exit, Machine, MachineSpec};

use fixture::{Fixture, MEMORY_MIB, PATIENCE};
use guests::{ADDRESS, Guest};

/// Number of RBX among the registers of a core file, and its value in these guests.
const RBX: usize = 5;
const MARK: u64 = 0x1234_5678;

const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;

/// Reads a little-endian number of `N` bytes.
fn number<const N: usize>(bytes: &[u8], at: u64) -> u64 {
    let mut number = [0; 8];
    number[..N].copy_from_slice(&bytes[at as usize..][..N]);
    u64::from_le_bytes(number)
}

/// Checks a dump: the code at its address, and the registers of the first CPU.
fn check(dump: &Path, kernel: &Path, registers: bool) {
    let bytes = fs::read(dump).unwrap();
    assert_eq!(bytes[..4], *b"\x7fELF");
    let (table, count) = (number::<8>(&bytes, 32), number::<2>(&bytes, 56));
    let segment = |index: u64| table + index * 56;
    let find = |kind, physical| {
        (0..count)
            .map(segment)
            .find(|&at| number::<4>(&bytes, at) == kind && number::<8>(&bytes, at + 24) == physical)
            .map(|at| number::<8>(&bytes, at + 8))
            .expect("a segment")
    };
    let memory = find(PT_LOAD, 0) as usize;
    // The guest's code is the end of its kernel's file.
    let kernel = fs::read(kernel).unwrap();
    let code = &kernel[kernel.len() - 16..];
    let loaded = &bytes[memory + ADDRESS as usize..][..1 << 20];
    assert!(loaded.windows(code.len()).any(|window| window == code));
    if registers {
        let note = find(PT_NOTE, 0);
        let rbx = note + 12 + 8 + 112 + RBX as u64 * 8;
        assert_eq!(number::<8>(&bytes, rbx), MARK);
    }
    let metadata = fs::metadata(dump).unwrap();
    assert!(metadata.len() > u64::from(MEMORY_MIB) << 20);
    assert!(metadata.blocks() * 512 < 4 << 20, "not sparse");
    assert_eq!(metadata.mode() & 0o777, 0o600);
}

#[test]
fn a_guest_on_kvm_that_crashes_leaves_its_memory() {
    for guest in [Guest::TripleFault, Guest::Reset] {
        let registers = matches!(guest, Guest::TripleFault);
        let Some(mut fixture) = Fixture::with(guest, 2) else {
            return;
        };
        fixture.exit();
        let dump = fixture.machine.memory_dump().unwrap().unwrap();
        check(
            &dump,
            &fixture.directory.path().join("guest.elf"),
            registers,
        );
    }
}

#[test]
fn a_guest_that_is_killed_leaves_none() {
    let Some(mut fixture) = Fixture::start(Guest::Loop) else {
        return;
    };
    fixture.wait_for("looping");
    fixture.machine.kill().unwrap();
    assert_eq!(fixture.machine.memory_dump(), None);
    assert!(!fixture.directory.path().join("guest-memory.elf").exists());
}

fn qemu(directory: &Path, guest: &Guest, dump: &Path) -> (QemuMachine, std::path::PathBuf) {
    let disk = directory.join("disk");
    fs::write(&disk, [0; 512]).unwrap();
    let kernel = guest.write(directory);
    let spec = MachineSpec {
        memory_mib: MEMORY_MIB,
        disks: vec![Disk::writable(disk)],
        dump: Some(dump.to_owned()),
        ..MachineSpec::new(&kernel, directory)
    };
    (
        QemuMachine::start(&spec, &Options::default()).unwrap(),
        kernel,
    )
}

#[test]
fn a_guest_of_qemu_that_crashes_leaves_its_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("guest-memory.elf");
    let (mut machine, kernel) = qemu(directory.path(), &Guest::TripleFault, &path);
    assert_eq!(machine.wait(PATIENCE).unwrap(), Some(Exit::Reset));
    assert_eq!(machine.memory_dump(), Some(Ok(path.clone())));
    // Its note has a different form for a CPU in 32-bit mode.
    check(&path, &kernel, false);
}

#[test]
fn a_dump_that_cannot_be_written_changes_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none/guest-memory.elf");
    let (mut machine, _) = qemu(directory.path(), &Guest::TripleFault, &path);
    assert_eq!(machine.wait(PATIENCE).unwrap(), Some(Exit::Reset));
    let why = machine.memory_dump().unwrap().unwrap_err();
    assert!(why.contains("No such file"), "{why}");
    assert_eq!(machine.host_fault(), None);
}
