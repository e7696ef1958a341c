// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The CPU's own breakpoints and watchpoints (Intel SDM 3B, 17.2).

use gdbstub::target::ext::breakpoints::WatchKind;
use kvm_bindings::kvm_guest_debug_arch;

/// So many a CPU has.
const POINTS: usize = 4;

/// Debug register 7: a bit that is always set, and one that should be.
const DR7_FIXED: u64 = 0x600;

/// The bits of a point in debug register 7 that enable it: local and global.
const ENABLED: u64 = 0b11;

/// What one waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// An instruction at the address.
    Execute,
    /// An access to so many bytes.
    Access(WatchKind, u64),
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Where it waits.
    pub address: u64,
    /// For what.
    pub wait: Wait,
}

impl Point {
    /// Whether a CPU can do that: so many bytes, at a multiple of that.
    fn is_possible(self) -> bool {
        match self.wait {
            Wait::Execute => true,
            Wait::Access(_, length) => {
                matches!(length, 1 | 2 | 4 | 8) && self.address.is_multiple_of(length)
            }
        }
    }

    /// Its condition and length in debug register 7.
    fn condition(self) -> u64 {
        let (kind, length) = match self.wait {
            Wait::Execute => return 0,
            Wait::Access(WatchKind::Write, length) => (0b01, length),
            // There is none for reads alone.
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

/// Those that are set, on all vCPUs alike.
#[derive(Debug, Default)]
pub(super) struct Points([Option<Point>; POINTS]);

impl Points {
    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// Sets one. False: a CPU cannot do that, or has no more of them.
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

    /// Takes one back. False: there is none.
    pub fn remove(&mut self, point: Point) -> bool {
        let place = self.0.iter_mut().find(|place| **place == Some(point));
        place.and_then(Option::take).is_some()
    }

    /// What the debug registers are to be.
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

    /// The first one that was met, by debug register 6.
    pub fn met(&self, dr6: u64) -> Option<Point> {
        (0..POINTS)
            .filter(|index| dr6 & 1 << index != 0)
            .find_map(|index| self.0[index])
    }
}

/// Whether debug register 6 tells of a point that register 7 enables.
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
    fn the_registers_are_as_the_manual_says() {
        let mut points = Points::default();
        assert_eq!(points.registers().debugreg[7], 0x600);
        assert!(points.insert(CODE));
        assert!(points.insert(data(0x1008, WatchKind::Write, 8)));
        assert!(points.insert(data(0x1004, WatchKind::ReadWrite, 4)));
        let registers = points.registers().debugreg;
        assert_eq!(registers[..3], [CODE.address, 0x1008, 0x1004]);
        // LEN 8 and write at 1, LEN 4 and access at 2; G0 to G2.
        assert_eq!(registers[7], 0x0f90_0000 | 0x600 | 0b10_1010);
    }

    #[test]
    fn there_are_four_and_they_come_back() {
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
    fn a_cpu_watches_only_what_it_can() {
        let mut points = Points::default();
        assert!(!points.insert(data(0x1004, WatchKind::Write, 8)), "uneven");
        assert!(!points.insert(data(0x1000, WatchKind::Write, 16)), "long");
        assert!(!points.insert(data(0x1000, WatchKind::Write, 0)), "empty");
    }

    #[test]
    fn only_what_is_enabled_was_met() {
        let mut points = Points::default();
        points.insert(CODE);
        let dr7 = points.registers().debugreg[7];
        assert!(is_met(0xffff_0ff1, dr7));
        assert!(!is_met(0xffff_0ff2, dr7));
        assert_eq!(points.met(0xffff_0ff1), Some(CODE));
        assert_eq!(points.met(0xffff_4ff0), None);
    }
}
