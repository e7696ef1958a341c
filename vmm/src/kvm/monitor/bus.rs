// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Dispatches the guest's port and MMIO accesses to devices.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kvm::devices::mmio::{self, Transport};
use crate::kvm::devices::serial::Serial;
use crate::kvm::memory::HOLE;

/// Start address of the virtio-mmio windows; each transport has a page.
pub(super) const WINDOW: u64 = HOLE;
pub(super) const WINDOW_SIZE: u64 = mmio::SIZE;

/// The first serial port, `COM1`.
const SERIAL: u16 = 0x3f8;

/// The command port of the keyboard controller. PCs use only its reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
const RESET: u8 = 0xfe;

/// The ports of the real-time clock, which this machine does not have: the guest gets its time from
/// KVM. They read as 0: if all bits were set, as absent hardware reads, Linux would wait a second
/// for a clock update to end.
const CMOS: [u16; 2] = [0x70, 0x71];

/// The effect of an access on the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The guest requested a reset.
    Reset,
}

/// All devices that KVM does not emulate in the kernel.
pub(super) struct Bus {
    pub serial: Mutex<Serial>,
    pub transports: Vec<Mutex<Transport>>,
}

impl Bus {
    /// Locks and returns the serial port.
    pub fn serial(&self) -> MutexGuard<'_, Serial> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resumes the devices after a save or restore, before the vCPUs run. Harmless if they were
    /// only paused.
    pub fn resume(&self) {
        self.serial().resume();
        for transport in &self.transports {
            let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
            transport.resume();
        }
    }

    /// Returns the transport that `address` belongs to, and the offset in its window.
    fn transport(&self, address: u64) -> Option<(MutexGuard<'_, Transport>, u64)> {
        let offset = address.checked_sub(WINDOW)?;
        let transport = self.transports.get((offset / WINDOW_SIZE) as usize)?;
        let transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
        Some((transport, offset % WINDOW_SIZE))
    }

    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.transport(address) {
            Some((transport, offset)) => transport.read(offset, data),
            None => data.fill(0xff),
        }
    }

    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((mut transport, offset)) = self.transport(address) {
            transport.write(offset, data);
        }
    }

    pub fn port_read(&self, port: u16, data: &mut [u8]) {
        match port.checked_sub(SERIAL) {
            Some(offset @ 0..8) => self.serial().read(offset as u8, data),
            _ if port == KEYBOARD_COMMAND || CMOS.contains(&port) => data.fill(0),
            _ => data.fill(0xff),
        }
    }

    pub fn port_write(&self, port: u16, data: &[u8]) -> Effect {
        match (port.checked_sub(SERIAL), data) {
            (Some(offset @ 0..8), data) => self.serial().write(offset as u8, data),
            (_, [RESET]) if port == KEYBOARD_COMMAND => return Effect::Reset,
            _ => {}
        }
        Effect::None
    }
}
