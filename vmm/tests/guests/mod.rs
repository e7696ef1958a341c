// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests of a few instructions, as ELF files with a PVH entry: 32-bit protected mode, flat
//! segments, no paging. They run even on a KVM that emulates all code.

// Each test program uses only part of this module.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::arch::global_asm;
use std::fs;
use std::path::{Path, PathBuf};

/// The address at which guests are loaded.
pub const ADDRESS: u64 = 0x10_0000;

/// The address of the first page with a mark.
pub const MARKS: usize = 0x20_0000;

/// Number of pages with a mark.
pub const MARKED_PAGES: usize = 0x800;

/// Number of pages that a step of [`Guest::Steps`] changes and no other step changes.
pub const STEP_PAGES: usize = 16;

/// The page that a device fills with random bytes in each step.
pub const RANDOM: usize = 0x70_0000;

/// Placeholder for a number that is later written into the code.
const PLACEHOLDER: u32 = 0x7ace_401d;
/// Address at which [`Guest::Count`] keeps its count, a 32-bit number.
pub const COUNTER: u32 = 0x30_0000;

global_asm!(
    ".pushsection .rodata.crucible_guests, \"a\"",
    ".code32",
    // Sends a text over the serial line. Uses EAX, EDX and ESI.
    ".macro say text",
    "call 90f",
    ".asciz \"\\text\"",
    "90: popl %esi",
    "movl $0x3f8, %edx",
    "91: lodsb",
    "testb %al, %al",
    "jz 92f",
    "outb %al, %dx",
    "jmp 91b",
    "92:",
    ".endm",
    // Resets the machine by the keyboard controller.
    ".macro reset",
    "movb $0xfe, %al",
    "outb %al, $0x64",
    "93: jmp 93b",
    ".endm",
    // The next pseudo-random number, in EBX.
    ".macro shuffle",
    "imull $1103515245, %ebx",
    "addl $12345, %ebx",
    ".endm",
    //
    "guest_reset:",
    "say \"first line\\nsecond line\\n\"",
    "reset",
    //
    "guest_triple_fault:",
    "movl $0x12345678, %ebx",
    "pushl $0",
    "pushl $0",
    "lidt (%esp)",
    "ud2",
    //
    "guest_loop:",
    // Set EBX before the output: the test reads the register after the output.
    "movl $0x12345678, %ebx",
    "say \"looping\\n\"",
    "1: jmp 1b",
    //
    // Leaves a mark in each page of 8 MiB.
    "guest_marked:",
    "movl ${placeholder}, %ebx",
    "movl $0x200000, %edi",
    "movl $0x800, %ecx",
    "1: movl %ebx, (%edi)",
    "addl $0x1000, %edi",
    "decl %ecx",
    "jnz 1b",
    "say \"marked\\n\"",
    "2: jmp 2b",
    //
    // For each '9' on the serial line: changes memory, by the CPU and by a device.
    "guest_steps:",
    "movl $0x200000, %edi",
    "movl $0x800, %ecx",
    "1: movl $1, (%edi)",
    "addl $0x1000, %edi",
    "decl %ecx",
    "jnz 1b",
    "xorl %ebx, %ebx",
    "say \"ready\\n\"",
    "2: movw $0x3fd, %dx",
    "inb %dx, %al",
    "testb $1, %al",
    "jz 2b",
    "movw $0x3f8, %dx",
    "inb %dx, %al",
    "cmpb $0x39, %al",
    "jne 2b",
    "incl %ebx",
    // One page becomes zeros; every second one of the others is set to the step's number.
    "movl %ebx, %edi",
    "shll $12, %edi",
    "movl $0, 0x300000(%edi)",
    "shll $5, %edi",
    "addl $0x400000, %edi",
    "movl $0x10, %ecx",
    "3: movl %ebx, 8(%edi)",
    "addl $0x2000, %edi",
    "decl %ecx",
    "jnz 3b",
    // The second device, a random number generator, fills a page.
    "movl ${window}, %edi",
    "addl $0x1000, %edi",
    "movl $0, 0x70(%edi)",
    "movl $3, 0x70(%edi)",
    "movl $1, 0x24(%edi)",
    "movl $1, 0x20(%edi)",
    "movl $0xb, 0x70(%edi)",
    "movl $0, 0x30(%edi)",
    "movl $8, 0x38(%edi)",
    "movl $0x600000, 0x80(%edi)",
    "movl $0x601000, 0x90(%edi)",
    "movl $0x602000, 0xa0(%edi)",
    "movl $1, 0x44(%edi)",
    "movl $0xf, 0x70(%edi)",
    // A single available buffer of 4096 bytes, which the device writes.
    "movl $0x700000, 0x600000",
    "movl $0, 0x600004",
    "movl $0x1000, 0x600008",
    "movl $2, 0x60000c",
    "movl $0, 0x602000",
    "movl $0, 0x601004",
    "movl $0x10000, 0x601000",
    "movl $0, 0x50(%edi)",
    "4: cmpw $1, 0x602002",
    "jne 4b",
    "say \"step\\n\"",
    "jmp 2b",
    // Counts in EBX and in memory, by a function whose first instruction is one byte long.
    "guest_count:",
    "say \"counting\\n\"",
    "movl $0, %ebx",
    "1: call guest_step",
    "jmp 1b",
    ".globl guest_step",
    "guest_step:",
    "pushl %eax",
    "incl %ebx",
    "movl %ebx, {counter}",
    "popl %eax",
    "ret",
    //
    // Executes an int3 and a single step, each with a handler that counts in EBX.
    "guest_traps:",
    "call 1f",
    "1: popl %esi",
    "addl $(guest_handler - 1b), %esi",
    "movl %cs, %eax",
    "shll $16, %eax",
    "movw %si, %ax",
    // An interrupt gate (Intel SDM 3A, 6.11).
    "movl %esi, %edx",
    "movw $0x8e00, %dx",
    ".irp vector, 1, 3",
    "movl %eax, {idt} + 8 * \\vector",
    "movl %edx, {idt} + 8 * \\vector + 4",
    ".endr",
    "pushl ${idt}",
    "pushw $0x1f",
    "lidt (%esp)",
    "addl $6, %esp",
    "xorl %ebx, %ebx",
    "int3",
    // The trap flag takes effect after the next instruction.
    "pushfl",
    "orl $0x100, (%esp)",
    "popfl",
    "nop",
    "cmpl $2, %ebx",
    "jne 2f",
    // Debug register 6 must report a single step.
    "movl %dr6, %eax",
    "testl $0x4000, %eax",
    "jz 2f",
    "say \"trapped twice\\n\"",
    "2: reset",
    "guest_handler:",
    "incl %ebx",
    "andl $~0x100, 8(%esp)",
    "iretl",
    //
    // Writes and reads all over the window, with all access sizes.
    "guest_noise:",
    "movl $1, %ebx",
    "movl ${noise}, %ecx",
    "1: shuffle",
    "movl %ebx, %edi",
    "shrl $12, %edi",
    "andl $0x3fff, %edi",
    "addl ${window}, %edi",
    "shuffle",
    "movl %ebx, %eax",
    "shrl $16, %eax",
    "testb $1, %al",
    "jz 2f",
    "movb %al, (%edi)",
    "movw %ax, (%edi)",
    "movl (%edi), %eax",
    "2: andl $~3, %edi",
    "movl %eax, (%edi)",
    "decl %ecx",
    "jnz 1b",
    "say \"still here\\n\"",
    "reset",
    //
    // Sets up each device as a driver does, with queues in memory with arbitrary content.
    "guest_driver:",
    "movl $1, %ebx",
    // Fill 1 MiB.
    "movl $0x200000, %edi",
    "movl $0x40000, %ecx",
    "1: shuffle",
    "movl %ebx, %eax",
    "shrl $13, %eax",
    "stosl",
    "decl %ecx",
    "jnz 1b",
    "movl ${rounds}, %ecx",
    "2: shuffle",
    "movl %ebx, %ebp",
    "shrl $4, %ebp",
    "andl $0x3000, %ebp",
    "addl ${window}, %ebp",
    // Status: reset, driver. Features: VIRTIO_F_VERSION_1.
    "movl $0, 0x70(%ebp)",
    "movl $3, 0x70(%ebp)",
    "movl $1, 0x24(%ebp)",
    "movl $1, 0x20(%ebp)",
    "movl $0xb, 0x70(%ebp)",
    // Each queue of 8: its three rings anywhere in the megabyte.
    "xorl %esi, %esi",
    "3: movl %esi, 0x30(%ebp)",
    "movl $8, 0x38(%ebp)",
    ".irp register, 0x80, 0x90, 0xa0",
    "shuffle",
    "movl %ebx, %eax",
    "shrl $8, %eax",
    "andl $0xffff0, %eax",
    "addl $0x200000, %eax",
    "movl %eax, \\register(%ebp)",
    ".endr",
    "movl $1, 0x44(%ebp)",
    "incl %esi",
    "cmpl $6, %esi",
    "jne 3b",
    "movl $0xf, 0x70(%ebp)",
    "xorl %esi, %esi",
    "4: movl %esi, 0x50(%ebp)",
    "incl %esi",
    "cmpl $6, %esi",
    "jne 4b",
    "decl %ecx",
    "jnz 2b",
    "say \"still here\\n\"",
    "reset",
    //
    // Reads the last sector of the first device, a disk of 1 MiB, until that fails.
    "guest_reads:",
    "movl ${window}, %edi",
    "movl $0, 0x70(%edi)",
    "movl $3, 0x70(%edi)",
    "movl $1, 0x24(%edi)",
    "movl $1, 0x20(%edi)",
    "movl $0xb, 0x70(%edi)",
    "movl $0, 0x30(%edi)",
    "movl $8, 0x38(%edi)",
    "movl $0x600000, 0x80(%edi)",
    "movl $0x601000, 0x90(%edi)",
    "movl $0x602000, 0xa0(%edi)",
    "movl $1, 0x44(%edi)",
    "movl $0xf, 0x70(%edi)",
    // A request: a header, whose first word 0 means to read, a sector and a status.
    "movl $0x610000, 0x600000",
    "movl $16, 0x600008",
    "movl $0x10001, 0x60000c",
    "movl $0x611000, 0x600010",
    "movl $512, 0x600018",
    "movl $0x20003, 0x60001c",
    "movl $0x612000, 0x600020",
    "movl $1, 0x600028",
    "movl $2, 0x60002c",
    "movl $2047, 0x610008",
    "say \"reading\\n\"",
    "xorl %ebx, %ebx",
    "1: incl %ebx",
    "movw %bx, 0x601002",
    "movl $0, 0x50(%edi)",
    "2: cmpw %bx, 0x602002",
    "jne 2b",
    "cmpb $0, 0x612000",
    "je 1b",
    "say \"failed\\n\"",
    "3: jmp 3b",
    "guest_end:",
    ".code64",
    ".popsection",
    placeholder = const PLACEHOLDER,
    counter = const COUNTER,
    idt = const 0x31_0000,
    noise = const 4000,
    rounds = const 60,
    window = const 0xd000_0000u32,
    options(att_syntax),
);

unsafe extern "C" {
    #[link_name = "guest_reset"]
    static RESET: u8;
    #[link_name = "guest_triple_fault"]
    static TRIPLE_FAULT: u8;
    #[link_name = "guest_loop"]
    static LOOP: u8;
    #[link_name = "guest_marked"]
    static MARKED: u8;
    #[link_name = "guest_steps"]
    static STEPS: u8;
    #[link_name = "guest_count"]
    static COUNT: u8;
    #[link_name = "guest_step"]
    static STEP: u8;
    #[link_name = "guest_traps"]
    static TRAPS: u8;
    #[link_name = "guest_noise"]
    static NOISE: u8;
    #[link_name = "guest_driver"]
    static DRIVER: u8;
    #[link_name = "guest_reads"]
    static READS: u8;
    #[link_name = "guest_end"]
    static END: u8;
}

/// The behaviour of a guest.
#[derive(Debug, Clone, Copy)]
pub enum Guest {
    /// Prints two lines, and resets the machine.
    Reset,
    /// Causes a triple fault, with 0x12345678 in EBX.
    TripleFault,
    /// Prints `looping`, and loops forever with interrupts disabled.
    Loop,
    /// Writes this number to the first bytes of each of [`MARKED_PAGES`] pages from [`MARKS`] on,
    /// prints `marked`, and loops with the number in EBX.
    Marked(u32),
    /// Writes marks as [`Marked`](Self::Marked) does and prints `ready`; then, for each `9` on its
    /// serial line, adds 1 to EBX, writes to [`STEP_PAGES`] pages that it has not written to
    /// before, fills one with zeros, makes a device fill [`RANDOM`], and prints `step`. Supports up
    /// to 12 steps.
    Steps,
    /// Prints `counting`, and counts the calls of a function in EBX and at [`COUNTER`].
    Count,
    /// Handles its own `int3` and single step, prints `trapped twice`, and resets.
    Traps,
    /// Accesses the devices' registers at random, prints `still here`, and resets.
    Noise,
    /// Starts all devices with random queues, prints `still here`, and resets.
    Driver,
    /// Prints `reading`, reads the last sector of its disk of 1 MiB again and again, and prints
    /// `failed` when that fails.
    Reads,
}

/// Returns the address of the function that [`Guest::Count`] calls: `push %eax`, `inc %ebx`, …
pub fn function() -> u64 {
    let [base, step] = [&raw const RESET, &raw const STEP];
    // SAFETY: both labels are in one section of this program, in this order.
    ADDRESS + unsafe { step.offset_from_unsigned(base) } as u64
}

impl Guest {
    /// Writes the guest's ELF file to a directory and returns its path.
    pub fn write(self, directory: &Path) -> PathBuf {
        let [base, end] = [&raw const RESET, &raw const END];
        let start = match self {
            Self::Reset => &raw const RESET,
            Self::TripleFault => &raw const TRIPLE_FAULT,
            Self::Loop => &raw const LOOP,
            Self::Marked(_) => &raw const MARKED,
            Self::Steps => &raw const STEPS,
            Self::Count => &raw const COUNT,
            Self::Traps => &raw const TRAPS,
            Self::Noise => &raw const NOISE,
            Self::Driver => &raw const DRIVER,
            Self::Reads => &raw const READS,
        };
        // SAFETY: the assembly above has these labels in one read-only section of this program, the
        // first and the last being `base` and `end`.
        let (code, entry) = unsafe {
            let length = end.offset_from_unsigned(base);
            let entry = start.offset_from_unsigned(base) as u64;
            (std::slice::from_raw_parts(base, length), entry)
        };
        let path = directory.join("guest.elf");
        let mut code = code.to_vec();
        if let Self::Marked(mark) = self {
            let placeholder = PLACEHOLDER.to_le_bytes();
            let at = code.windows(4).position(|bytes| bytes == placeholder);
            let at = at.expect("the placeholder");
            code[at..at + 4].copy_from_slice(&mark.to_le_bytes());
        }
        fs::write(&path, elf(&code, ADDRESS + entry)).expect("a file");
        path
    }
}

/// Returns an ELF file that loads `code` at [`ADDRESS`], with the note that contains its PVH entry.
fn elf(code: &[u8], entry: u64) -> Vec<u8> {
    const HEADER: u64 = 64;
    const PROGRAM_HEADER: u64 = 56;
    const LOAD: u32 = 1;
    const NOTE: u32 = 4;
    /// `XEN_ELFNOTE_PHYS32_ENTRY`.
    const PHYS32_ENTRY: u32 = 18;

    let mut note = Vec::new();
    for word in [4, 8, PHYS32_ENTRY] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"Xen\0");
    note.extend(entry.to_le_bytes());

    // 64 bits, little-endian; executable, x86-64.
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend(2u16.to_le_bytes());
    file.extend(62u16.to_le_bytes());
    file.extend(1u32.to_le_bytes());
    file.extend(entry.to_le_bytes());
    file.extend(HEADER.to_le_bytes());
    file.extend(0u64.to_le_bytes());
    file.extend(0u32.to_le_bytes());
    // Two program headers, no sections.
    for half in [HEADER as u16, PROGRAM_HEADER as u16, 2, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let at = HEADER + 2 * PROGRAM_HEADER;
    let parts = [
        (NOTE, at, 0, note.len()),
        (LOAD, at + note.len() as u64, ADDRESS, code.len()),
    ];
    for (kind, offset, address, size) in parts {
        file.extend(kind.to_le_bytes());
        // Readable, executable.
        file.extend(5u32.to_le_bytes());
        for word in [offset, address, address, size as u64, size as u64, 4] {
            file.extend(word.to_le_bytes());
        }
    }
    file.extend(note);
    file.extend(code);
    file
}
