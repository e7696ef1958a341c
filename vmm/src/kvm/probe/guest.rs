// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest of the probe: instructions that Linux needs in ring 0, in long mode.
//!
//! The guest records each step in memory before it executes it, so the step at which KVM fails is
//! known. After the last step it runs a counting loop, and writes to a port after each round.

use std::arch::global_asm;

/// Addresses in the guest's memory, which is identity-mapped.
pub(super) mod layout {
    pub const GDT: u64 = 0x500;
    pub const IDT: u64 = 0x1000;
    pub const PAGE_TABLES: u64 = 0x2000;
    pub const STACK: u64 = 0x7000;
    /// The step that is being executed.
    pub const STEP: u64 = 0x7000;
    pub const CODE: u64 = 0x8000;
    /// Size of the memory in MiB.
    pub const MIB: u32 = 1;
}

/// The port to which the guest writes at the end of each round.
pub(super) const PORT: u16 = 0x80;

/// Iterations of the counting loop in a round; each takes two instructions.
pub(super) const COUNTS: u64 = 4096;

/// The steps, in the terms of messages.
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
    // The compiler may place this in a different object file than its users.
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

/// Returns the guest's code, and the offset in it of the handler of `int3`.
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
    fn the_labels_delimit_the_code() {
        let (code, handler) = code();
        assert!(code.len() < ((u64::from(layout::MIB) << 20) - layout::CODE) as usize);
        assert_eq!(code[8], 0xcc, "int3 after the first mark");
        assert_eq!(&code[handler as usize..], [0x48, 0xcf], "iretq");
    }
}
