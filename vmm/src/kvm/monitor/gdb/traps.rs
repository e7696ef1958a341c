// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Breakpoints in the guest's memory.
//!
//! A breakpoint of gdb's `break` is an instruction of ours in place of the guest's. Who
//! reads or writes the memory by us sees what the guest has there; the guest itself sees
//! the trap, as it would that of a debugger of its own.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::paging::Mapped;
use crate::kvm::memory::Memory;

/// The port of [`Trap::Port`]. Nothing is there: it is a channel of an ISA DMA
/// controller, which our machine has not. Its number is that of `int3`, so that what
/// jumps into the middle of the trap does not go on unseen.
pub(in crate::kvm::monitor) const PORT: u16 = INT3 as u16;

/// `int3`, and `out %al, $imm8`.
const INT3: u8 = 0xcc;
const OUT: u8 = 0xe6;

/// What stands for a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trap {
    /// `int3`, where KVM tells of it.
    Int3,
    /// A write to [`PORT`], where it does not: a CPU that QEMU emulates knows no
    /// intercept of `int3` (it takes that for a software interrupt's), nor does a KVM
    /// that is emulated. Any KVM tells of ports. The kernel may write to them, user mode
    /// may not.
    Port,
}

impl Trap {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Int3 => &[INT3],
            Self::Port => &[OUT, INT3],
        }
    }

    /// How far behind its address a vCPU stands that has met it.
    fn passed(self) -> u64 {
        match self {
            Self::Int3 => 0,
            Self::Port => 2,
        }
    }
}

/// A byte of a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    physical: u64,
    original: u8,
    trap: u8,
}

/// A breakpoint that is to come back soon.
#[derive(Debug)]
pub(super) struct Lifted {
    address: u64,
    places: Vec<Place>,
}

/// All that are set.
#[derive(Debug)]
pub(super) struct Traps {
    trap: Trap,
    set: BTreeMap<u64, Vec<Place>>,
}

impl Traps {
    /// None yet.
    pub fn new(trap: Trap) -> Self {
        Self {
            trap,
            set: BTreeMap::new(),
        }
    }

    /// The address of the breakpoint that a vCPU has met whose program counter is this.
    pub fn met(&self, pc: u64) -> Option<u64> {
        let address = pc.wrapping_sub(self.trap.passed());
        self.set.contains_key(&address).then_some(address)
    }

    /// The address of the breakpoint that this program counter is in the middle of.
    pub fn around(&self, pc: u64) -> Option<u64> {
        let (&address, places) = self.set.range(..pc).next_back()?;
        (pc - address < places.len() as u64).then_some(address)
    }

    /// Sets one; the guest must stand still. False: it cannot be.
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
            // Two traps, one upon the other, could not be taken back in any order.
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

    /// Takes one back; the guest must stand still. False: there is none.
    pub fn remove(&mut self, memory: &Memory, address: u64) -> bool {
        self.lift(memory, address).is_some()
    }

    /// Takes one away for a while; the guest must stand still.
    pub fn lift(&mut self, memory: &Memory, address: u64) -> Option<Lifted> {
        let places = self.set.remove(&address)?;
        for place in &places {
            let at = GuestAddress(place.physical);
            // Where the guest has put something else meanwhile, that is what it wants.
            if memory.read_obj(at).is_ok_and(|now: u8| now == place.trap) {
                let _ = memory.write_obj(place.original, at);
            }
        }
        Some(Lifted { address, places })
    }

    /// Sets it again.
    pub fn put_back(&mut self, memory: &Memory, lifted: Lifted) {
        let Lifted {
            address,
            mut places,
        } = lifted;
        for place in &mut places {
            let at = GuestAddress(place.physical);
            // It was memory before, and is.
            place.original = memory.read_obj(at).unwrap_or(place.original);
            let _ = memory.write_obj(place.trap, at);
        }
        self.set.insert(address, places);
    }

    /// Takes all back.
    pub fn clear(&mut self, memory: &Memory) {
        while let Some((&address, _)) = self.set.first_key_value() {
            self.remove(memory, address);
        }
    }

    /// Reads from the guest's memory what the guest has there. False: it is none.
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

    /// Writes to the guest's memory, behind the traps. False: it is none.
    pub fn write(&mut self, memory: &Memory, physical: u64, from: &[u8]) -> bool {
        let mut bytes = from.to_vec();
        // First find out whether it can be done, as nothing shall be half done.
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

/// The byte at `wanted` of those that begin at `start`.
fn at(bytes: &mut [u8], start: u64, wanted: u64) -> Option<&mut u8> {
    let offset = usize::try_from(wanted.checked_sub(start)?).ok()?;
    bytes.get_mut(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::memory;

    /// Addresses here are this much above memory.
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
    fn the_guests_bytes_come_back() {
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
    fn a_vcpu_stands_at_the_trap_or_behind_it() {
        for (trap, pc) in [(Trap::Int3, 0x1010), (Trap::Port, 0x1012)] {
            let mut traps = Traps::new(trap);
            traps.insert(&memory(), BASE + 0x1010, kernel);
            assert_eq!(traps.met(BASE + pc), Some(BASE + 0x1010));
            assert_eq!(traps.met(BASE + pc + 1), None, "a trap of the guest's own");
        }
    }

    #[test]
    fn a_vcpu_may_stand_in_the_middle_of_one() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Port);
        let address = BASE + 0x1010;
        traps.insert(&memory, address, kernel);
        let around = [0, 1, 2].map(|offset| traps.around(address + offset));
        assert_eq!(around, [None, Some(address), None]);
        let lifted = traps.lift(&memory, address).unwrap();
        assert_eq!(raw(&memory, 0x1010), [0x10, 0x11]);
        // It is none meanwhile.
        assert_eq!(traps.met(address + 2), None);
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
    fn a_trap_may_lie_on_two_pages() {
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
    fn what_cannot_be_is_refused_and_changes_nothing() {
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
        assert!(!traps.insert(&memory, 0x1010, user), "it may not use ports");
        assert!(traps.insert(&memory, BASE + 0x1020, kernel));
        for address in [BASE + 0x101f, BASE + 0x1021] {
            assert!(!traps.insert(&memory, address, kernel), "upon the other");
        }
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x101f), [0x1f, 0x20, 0x21, 0x22]);
        let mut traps = Traps::new(Trap::Int3);
        assert!(traps.insert(&memory, 0x1010, user), "int3 works there");
    }

    #[test]
    fn who_reads_and_writes_by_us_does_not_see_them() {
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
    fn beyond_the_memory_nothing_is_read_or_written() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Int3);
        let end = (1 << 20) - 1;
        assert!(!traps.read(&memory, end, &mut [0; 2]));
        assert!(!traps.write(&memory, end, &[1, 2]));
        assert_eq!(raw(&memory, end), [0]);
        assert!(!traps.write(&memory, u64::MAX, &[1, 2]));
    }

    #[test]
    fn what_the_guest_has_put_there_stays() {
        let memory = memory();
        let mut traps = Traps::new(Trap::Int3);
        traps.insert(&memory, BASE + 0x1010, kernel);
        // A jump label is switched, say.
        memory.write_obj(0xe9u8, GuestAddress(0x1010)).unwrap();
        let mut byte = [0];
        assert!(traps.read(&memory, 0x1010, &mut byte));
        assert_eq!(byte, [0xe9]);
        traps.clear(&memory);
        assert_eq!(raw(&memory, 0x1010), [0xe9]);
    }
}
