// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Software breakpoints in the guest's memory.
//!
//! A breakpoint of gdb's `break` replaces an instruction of the guest by a trap. Accesses through
//! this module see the guest's original bytes; the guest itself sees the trap, as it would with a
//! debugger of its own.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::paging::Mapped;
use crate::kvm::memory::Memory;

/// The port of [`Trap::Port`]. No device uses it: on PCs it is a channel of an ISA DMA
/// controller, which our machine lacks. Its number is the opcode of `int3`, so that a jump into
/// the middle of the trap is noticed.
pub(in crate::kvm::monitor) const PORT: u16 = INT3 as u16;

/// `int3`, and `out %al, $imm8`.
const INT3: u8 = 0xcc;
const OUT: u8 = 0xe6;

/// The instruction that implements a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trap {
    /// `int3`, if KVM reports it.
    Int3,
    /// A write to [`PORT`], if KVM does not report `int3`: a CPU that QEMU emulates does not
    /// intercept `int3` (it treats it as a software interrupt), and neither does a KVM that is
    /// emulated. Every KVM reports port writes. The kernel may write to ports, user mode may not.
    Port,
}

impl Trap {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Int3 => &[INT3],
            Self::Port => &[OUT, INT3],
        }
    }

    /// Returns the distance in bytes from the trap's address to the program counter of a vCPU that
    /// has hit it.
    fn passed(self) -> u64 {
        match self {
            Self::Int3 => 0,
            Self::Port => 2,
        }
    }
}

/// A byte of a trap in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    physical: u64,
    original: u8,
    trap: u8,
}

/// A breakpoint that is temporarily removed.
#[derive(Debug)]
pub(super) struct Lifted {
    address: u64,
    places: Vec<Place>,
}

/// All breakpoints that are set.
#[derive(Debug)]
pub(super) struct Traps {
    trap: Trap,
    set: BTreeMap<u64, Vec<Place>>,
}

impl Traps {
    /// Returns an empty set.
    pub fn new(trap: Trap) -> Self {
        Self {
            trap,
            set: BTreeMap::new(),
        }
    }

    /// Returns the address of the breakpoint that a vCPU with this program counter has hit.
    pub fn hit(&self, pc: u64) -> Option<u64> {
        let address = pc.wrapping_sub(self.trap.passed());
        self.set.contains_key(&address).then_some(address)
    }

    /// Returns the address of the breakpoint in whose middle this program counter is.
    pub fn around(&self, pc: u64) -> Option<u64> {
        let (&address, places) = self.set.range(..pc).next_back()?;
        (pc - address < places.len() as u64).then_some(address)
    }

    /// Sets a breakpoint; the guest must be stopped. Returns false when that is not possible.
    pub fn insert(
        &mut self,
        memory: &Memory,
        address: u64,
        translate: impl Fn(u64) -> Option<Mapped>,
    ) -> bool {
        if self.set.contains_key(&address) {
            return true;
        }
        let mut places = Vec::new();
        for (next, &trap) in (0..).zip(self.trap.bytes()) {
            let byte = address.checked_add(next).and_then(&translate);
            let Some(Mapped { physical, user }) = byte else {
                return false;
            };
            let Ok(original) = memory.read_obj(GuestAddress(physical)) else {
                return false;
            };
            let refused = user && self.trap == Trap::Port;
            // Overlapping traps could not be removed in arbitrary order.
            if refused || self.places().any(|place| place.physical == physical) {
                return false;
            }
            places.push(Place {
                physical,
                original,
                trap,
            });
        }
        self.put_back(memory, Lifted { address, places });
        true
    }

    /// Removes a breakpoint; the guest must be stopped. Returns false when it is not set.
    pub fn remove(&mut self, memory: &Memory, address: u64) -> bool {
        self.lift(memory, address).is_some()
    }

    /// Removes a breakpoint temporarily; the guest must be stopped.
    pub fn lift(&mut self, memory: &Memory, address: u64) -> Option<Lifted> {
        let places = self.set.remove(&address)?;
        for place in &places {
            let at = GuestAddress(place.physical);
            // If the guest has overwritten the trap meanwhile, keep its bytes.
            if memory.read_obj(at).is_ok_and(|now: u8| now == place.trap) {
                let _ = memory.write_obj(place.original, at);
            }
        }
        Some(Lifted { address, places })
    }

    /// Sets a breakpoint again that was temporarily removed.
    pub fn put_back(&mut self, memory: &Memory, lifted: Lifted) {
        let Lifted {
            address,
            mut places,
        } = lifted;
        for place in &mut places {
            let at = GuestAddress(place.physical);
            // The address was in the guest's memory before, so this cannot fail.
            place.original = memory.read_obj(at).unwrap_or(place.original);
            let _ = memory.write_obj(place.trap, at);
        }
        self.set.insert(address, places);
    }

    /// Removes all breakpoints.
    pub fn clear(&mut self, memory: &Memory) {
        while let Some((&address, _)) = self.set.first_key_value() {
            self.remove(memory, address);
        }
    }

    /// Reads from the guest's memory, with the original bytes in place of traps. Returns false when
    /// the range is outside the memory.
    pub fn read(&self, memory: &Memory, physical: u64, to: &mut [u8]) -> bool {
        if memory.read_slice(to, GuestAddress(physical)).is_err() {
            return false;
        }
        for place in self.places() {
            if let Some(byte) = at(to, physical, place.physical)
                && *byte == place.trap
            {
                *byte = place.original;
            }
        }
        true
    }

    /// Writes to the guest's memory, keeping traps in place. Returns false when the range is
    /// outside the memory.
    pub fn write(&mut self, memory: &Memory, physical: u64, from: &[u8]) -> bool {
        let mut bytes = from.to_vec();
        // Check the range first, so that a failed write changes nothing.
        if !memory.check_range(GuestAddress(physical), bytes.len()) {
            return false;
        }
        for place in self.set.values_mut().flatten() {
            if let Some(byte) = at(&mut bytes, physical, place.physical) {
                place.original = std::mem::replace(byte, place.trap);
            }
        }
        memory.write_slice(&bytes, GuestAddress(physical)).is_ok()
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.set.values().flatten()
    }
}

/// Returns the byte at the address `wanted` of the bytes that begin at `start`.
fn at(bytes: &mut [u8], start: u64, wanted: u64) -> Option<&mut u8> {
    let offset = usize::try_from(wanted.checked_sub(start)?).ok()?;
    bytes.get_mut(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::memory;

    /// Offset of the virtual addresses here from the physical ones.
    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn memory() -> Memory {
        let memory = memory::map(1, None, false).unwrap();
        let bytes: Vec<u8> = (0..=255).collect();
        memory.write_slice(&bytes, GuestAddress(0x1000)).unwrap();
        memory
    }

    fn kernel(address: u64) -> Option<Mapped> {
        let physical = address.checked_sub(BASE)?;
        let user = false;
        Some(Mapped { physical, user })
    }

    fn raw<const N: usize>(memory: &Memory, physical: u64) -> [u8; N] {
        let mut bytes = [0; N];
        memory
            .read_slice(&mut bytes, GuestAddress(physical))
            .unwrap();
        bytes
    }

    #[test]
    fn removing_a_trap_restores_the_guests_bytes() {
        for (trap, there) in [(Trap::Int3, [0xcc, 0x11]), (Trap::Port, [0xe6, 0xcc])] {
            let memory = memory();
            let mut traps = Traps::new(trap);
            let address = BASE + 0x1010;
            assert!(traps.insert(&memory, address, kernel));
            assert!(traps.insert(&memory, address, kernel), "again");
            assert_eq!(raw(&memory, 0x1010), there);
            assert!(traps.remove(&memory, address));
            assert_eq!(raw(&memory, 0x1010), [0x10, 0x11]);
            assert!(!traps.remove(&memory, address));
        }
    }

    #[test]
    fn the_program_counter_is_at_the_trap_or_behind_it() {
        for (trap, pc) in [(Trap::Int3, 0x1010), (Trap::Port, 0x1012)] {
            let mut traps = Traps::new(trap);
            traps.insert(&memory(), BASE + 0x1010, kernel);
            assert_eq!(traps.hit(BASE + pc), Some(BASE + 0x1010));
            assert_eq!(traps.hit(BASE + pc + 1), None, "a trap of the guest's own");
        }
    }

    #[test]
    fn a_program_counter_in_the_middle_of_a_trap_is_found() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Port);
        let address = BASE + 0x1010;
        traps.insert(&memory, address, kernel);
        let around = [0, 1, 2].map(|offset| traps.around(address + offset));
        assert_eq!(around, [None, Some(address), None]);
        let lifted = traps.lift(&memory, address).unwrap();
        assert_eq!(raw(&memory, 0x1010), [0x10, 0x11]);
        // It is not set meanwhile.
        assert_eq!(traps.hit(address + 2), None);
        memory.write_obj(0x99u8, GuestAddress(0x1011)).unwrap();
        traps.put_back(&memory, lifted);
        assert_eq!(raw(&memory, 0x1010), [0xe6, 0xcc]);
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x1010), [0x10, 0x99]);
        traps = Traps::new(Trap::Int3);
        traps.insert(&memory, address, kernel);
        assert_eq!(traps.around(address + 1), None);
    }

    #[test]
    fn a_trap_may_straddle_two_pages() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Port);
        let apart = |address: u64| {
            let page = if address < 0x2000 { 0x5000 } else { 0x8000 };
            let physical = page + address % 0x1000;
            let user = false;
            Some(Mapped { physical, user })
        };
        assert!(traps.insert(&memory, 0x1fff, apart));
        assert_eq!(raw(&memory, 0x5fff), [0xe6]);
        assert_eq!(raw(&memory, 0x8000), [0xcc]);
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x5fff), [0]);
        assert_eq!(raw(&memory, 0x8000), [0]);
    }

    #[test]
    fn impossible_traps_are_refused_and_change_nothing() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Port);
        assert!(!traps.insert(&memory, 0x1010, kernel), "not mapped");
        assert!(
            !traps.insert(&memory, BASE + (1 << 20), kernel),
            "no memory"
        );
        assert!(!traps.insert(&memory, u64::MAX, kernel), "no second byte");
        let user = |physical| {
            let user = true;
            Some(Mapped { physical, user })
        };
        assert!(
            !traps.insert(&memory, 0x1010, user),
            "user mode may not use ports"
        );
        assert!(traps.insert(&memory, BASE + 0x1020, kernel));
        for address in [BASE + 0x101f, BASE + 0x1021] {
            assert!(!traps.insert(&memory, address, kernel), "overlapping");
        }
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x101f), [0x1f, 0x20, 0x21, 0x22]);
        let mut traps = Traps::new(Trap::Int3);
        assert!(traps.insert(&memory, 0x1010, user), "int3 works there");
    }

    #[test]
    fn debugger_accesses_do_not_see_traps() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Port);
        traps.insert(&memory, BASE + 0x1010, kernel);
        let mut bytes = [0; 4];
        assert!(traps.read(&memory, 0x100f, &mut bytes));
        assert_eq!(bytes, [0x0f, 0x10, 0x11, 0x12]);
        assert!(traps.write(&memory, 0x1011, &[0xaa, 0xbb]));
        assert_eq!(raw(&memory, 0x1010), [0xe6, 0xcc, 0xbb]);
        assert!(traps.read(&memory, 0x100f, &mut bytes));
        assert_eq!(bytes, [0x0f, 0x10, 0xaa, 0xbb]);
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x1010), [0x10, 0xaa, 0xbb]);
    }

    #[test]
    fn accesses_beyond_the_memory_fail() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Int3);
        let end = (1 << 20) - 1;
        assert!(!traps.read(&memory, end, &mut [0; 2]));
        assert!(!traps.write(&memory, end, &[1, 2]));
        assert_eq!(raw(&memory, end), [0]);
        assert!(!traps.write(&memory, u64::MAX, &[1, 2]));
    }

    #[test]
    fn a_trap_that_the_guest_has_overwritten_is_kept() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Int3);
        traps.insert(&memory, BASE + 0x1010, kernel);
        // For example when the guest switches a jump label.
        memory.write_obj(0xe9u8, GuestAddress(0x1010)).unwrap();
        let mut byte = [0];
        assert!(traps.read(&memory, 0x1010, &mut byte));
        assert_eq!(byte, [0xe9]);
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x1010), [0xe9]);
    }
}
