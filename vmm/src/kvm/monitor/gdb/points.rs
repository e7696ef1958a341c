// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The CPU's hardware breakpoints and watchpoints (Intel SDM 3B, 17.2).

use gdbstub::target::ext::breakpoints::WatchKind;
use kvm_bindings::kvm_guest_debug_arch;

/// Number of breakpoints of a CPU.
const POINTS: usize = 4;

/// Bits of debug register 7: one that is always set, and one that should be.
const DR7_FIXED: u64 = 0x600;

/// The bits of a point in debug register 7 that enable it: local and global.
const ENABLED: u64 = 0b11;

/// The condition of a breakpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The execution of the instruction at the address.
    Execute,
    /// A watchpoint for accesses of this kind to this number of bytes.
    Access(WatchKind, u64),
}

/// A hardware breakpoint or watchpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// The address.
    pub address: u64,
    /// The condition.
    pub wait: Wait,
}

impl Point {
    /// Returns true when a CPU supports it: the length must be supported and the address be a
    /// multiple of it.
    fn is_possible(self) -> bool {
        match self.wait {
            Wait::Execute => true,
            Wait::Access(_, length) => {
                matches!(length, 1 | 2 | 4 | 8) && self.address.is_multiple_of(length)
            }
        }
    }

    /// Returns the condition and length as bits of debug register 7.
    fn condition(self) -> u64 {
        let (kind, length) = match self.wait {
            Wait::Execute => return 0,
            Wait::Access(WatchKind::Write, length) => (0b01, length),
            // x86 has no condition for reads only.
            Wait::Access(_, length) => (0b11, length),
        };
        let length = match length {
            2 => 0b01,
            4 => 0b11,
            8 => 0b10,
            _ => 0b00,
        };
        kind | length << 2
    }
}

/// The breakpoints that are set, the same on all vCPUs.
#[derive(Debug, Default)]
pub(super) struct Points([Option<Point>; POINTS]);

impl Points {
    /// Returns true when no breakpoint is set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Sets a breakpoint. Returns false when a CPU does not support it, or all are in use.
    pub fn insert(&mut self, point: Point) -> bool {
        let place = self.0.iter_mut().find(|place| place.is_none());
        match place {
            Some(place) if point.is_possible() => {
                *place = Some(point);
                true
            }
            _ => false,
        }
    }

    /// Removes a breakpoint. Returns false when it is not set.
    pub fn remove(&mut self, point: Point) -> bool {
        let place = self.0.iter_mut().find(|place| **place == Some(point));
        place.and_then(Option::take).is_some()
    }

    /// Returns the debug registers for the breakpoints.
    pub fn registers(&self) -> kvm_guest_debug_arch {
        let mut arch = kvm_guest_debug_arch::default();
        arch.debugreg[7] = DR7_FIXED;
        for (index, point) in self.0.iter().enumerate() {
            if let Some(point) = point {
                arch.debugreg[index] = point.address;
                arch.debugreg[7] |= 0b10 << (2 * index) | point.condition() << (16 + 4 * index);
            }
        }
        arch
    }

    /// Returns the first breakpoint that was hit, according to debug register 6.
    pub fn hit(&self, dr6: u64) -> Option<Point> {
        (0..POINTS)
            .filter(|index| dr6 & 1 << index != 0)
            .find_map(|index| self.0[index])
    }
}

/// Returns true when debug register 6 reports a breakpoint that register 7 enables.
pub(super) fn is_met(dr6: u64, dr7: u64) -> bool {
    (0..POINTS).any(|index| dr6 & 1 << index != 0 && dr7 & ENABLED << (2 * index) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: Point = Point {
        address: 0xffff_ffff_8100_0000,
        wait: Wait::Execute,
    };

    fn data(address: u64, kind: WatchKind, length: u64) -> Point {
        let wait = Wait::Access(kind, length);
        Point { address, wait }
    }

    #[test]
    fn the_registers_match_the_manual() {
        let mut points = Points::default();
        assert_eq!(points.registers().debugreg[7], 0x600);
        assert!(points.insert(CODE));
        assert!(points.insert(data(0x1008, WatchKind::Write, 8)));
        assert!(points.insert(data(0x1004, WatchKind::ReadWrite, 4)));
        let registers = points.registers().debugreg;
        assert_eq!(registers[..3], [CODE.address, 0x1008, 0x1004]);
        // LEN 8 and write at index 1, LEN 4 and access at index 2; G0 to G2.
        assert_eq!(registers[7], 0x0f90_0000 | 0x600 | 0b10_1010);
    }

    #[test]
    fn four_can_be_set_and_removed() {
        let mut points = Points::default();
        assert!(points.is_empty());
        for _ in 0..4 {
            assert!(points.insert(CODE));
        }
        assert!(!points.insert(CODE));
        for _ in 0..4 {
            assert!(points.remove(CODE));
        }
        assert!(!points.remove(CODE));
        assert!(points.is_empty());
    }

    #[test]
    fn unsupported_watchpoints_are_refused() {
        let mut points = Points::default();
        assert!(
            !points.insert(data(0x1004, WatchKind::Write, 8)),
            "unaligned"
        );
        assert!(
            !points.insert(data(0x1000, WatchKind::Write, 16)),
            "too long"
        );
        assert!(!points.insert(data(0x1000, WatchKind::Write, 0)), "empty");
    }

    #[test]
    fn only_enabled_breakpoints_are_hit() {
        let mut points = Points::default();
        points.insert(CODE);
        let dr7 = points.registers().debugreg[7];
        assert!(is_met(0xffff_0ff1, dr7));
        assert!(!is_met(0xffff_0ff2, dr7));
        assert_eq!(points.hit(0xffff_0ff1), Some(CODE));
        assert_eq!(points.hit(0xffff_4ff0), None);
    }
}
