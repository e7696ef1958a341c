// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest of the probe: instructions that Linux needs in ring 0, in long mode.
//!
//! It marks each step in memory before it tries it; so where KVM stops, it is known at
//! what. After the last it counts, and says by a port write after each round that it did.

use std::arch::global_asm;

/// Where things are in its memory, all of it mapped to itself.
pub(super) mod layout {
    pub const GDT: u64 = 0x500;
    pub const IDT: u64 = 0x1000;
    pub const PAGE_TABLES: u64 = 0x2000;
    pub const STACK: u64 = 0x7000;
    /// The step that is being tried.
    pub const STEP: u64 = 0x7000;
    pub const CODE: u64 = 0x8000;
    /// How much there is of it.
    pub const MIB: u32 = 1;
}

/// The port at which it ends each round.
pub(super) const PORT: u16 = 0x80;

/// So often it counts in a round; each takes two instructions.
pub(super) const COUNTS: u64 = 4096;

/// The steps, as people know them.
pub(super) const STEPS: [&str; 5] = [
    "enter long mode",
    "int3 (the kernel's jump labels and alternatives are patched by it)",
    "lock cmpxchg16b",
    "xsave64",
    "count",
];

/// The vector of `int3`.
pub(super) const BREAKPOINT: u64 = 3;

global_asm!(
    ".pushsection .rodata.crucible_probe, \"a\"",
    // The compiler may put this into another object file than what uses it.
    ".globl crucible_probe_code, crucible_probe_handler, crucible_probe_end",
    ".hidden crucible_probe_code, crucible_probe_handler, crucible_probe_end",
    ".balign 16",
    "crucible_probe_code:",
    "mov byte ptr [{step}], 1",
    "int3",
    "mov byte ptr [{step}], 2",
    "xor eax, eax",
    "xor edx, edx",
    "mov ebx, 1",
    "xor ecx, ecx",
    "lock cmpxchg16b [0x7100]",
    "mov byte ptr [{step}], 3",
    "mov eax, 3",
    "xor edx, edx",
    "xsave64 [0x7200]",
    "mov byte ptr [{step}], 4",
    "2:",
    "mov ecx, {counts}",
    "3:",
    "dec ecx",
    "jnz 3b",
    "out {port}, al",
    "jmp 2b",
    ".balign 16",
    "crucible_probe_handler:",
    "iretq",
    "crucible_probe_end:",
    ".popsection",
    step = const layout::STEP,
    counts = const COUNTS,
    port = const PORT,
);

unsafe extern "C" {
    #[link_name = "crucible_probe_code"]
    static CODE: u8;
    #[link_name = "crucible_probe_handler"]
    static HANDLER: u8;
    #[link_name = "crucible_probe_end"]
    static END: u8;
}

/// Its code, and where in it the handler of `int3` begins.
pub(super) fn code() -> (&'static [u8], u64) {
    let [start, handler, end] = [&raw const CODE, &raw const HANDLER, &raw const END];
    // SAFETY: the assembly above puts the three labels in this order into one read-only
    // section of this program.
    unsafe {
        let length = end.offset_from_unsigned(start);
        let handler = handler.offset_from_unsigned(start) as u64;
        (std::slice::from_raw_parts(start, length), handler)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_what_was_written() {
        let (code, handler) = code();
        assert!(code.len() < ((u64::from(layout::MIB) << 20) - layout::CODE) as usize);
        assert_eq!(code[8], 0xcc, "int3 after the first mark");
        assert_eq!(&code[handler as usize..], [0x48, 0xcf], "iretq");
    }
}
