// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the guest's port and memory accesses go.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kvm::devices::mmio::{self, Transport};
use crate::kvm::devices::serial::Serial;
use crate::kvm::memory::HOLE;

/// Each transport has a page of its own, from here on.
pub(super) const WINDOW: u64 = HOLE;
pub(super) const WINDOW_SIZE: u64 = mmio::SIZE;

/// The first serial line, `COM1`.
const SERIAL: u16 = 0x3f8;

/// The keyboard controller, of which PCs use one line: reset.
const KEYBOARD_COMMAND: u16 = 0x64;
const RESET: u8 = 0xfe;

/// The clock with the battery, which is not there: the guest's time comes from KVM. Were
/// all its bits set, as those of absent hardware are, Linux would wait a second for an
/// update to end.
const CMOS: [u16; 2] = [0x70, 0x71];

/// What an access did to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The guest asked for a reset.
    Reset,
}

/// All devices that are not KVM's.
pub(super) struct Bus {
    pub serial: Mutex<Serial>,
    pub transports: Vec<Mutex<Transport>>,
}

impl Bus {
    /// The serial line.
    pub fn serial(&self) -> MutexGuard<'_, Serial> {
        self.serial.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the devices go on, before vCPUs do, after they were saved or restored. Where
    /// they were only paused, it does no harm.
    pub fn resume(&self) {
        self.serial().resume();
        for transport in &self.transports {
            let mut transport = transport.lock().unwrap_or_else(PoisonError::into_inner);
            transport.resume();
        }
    }

    /// The transport that `address` belongs to, and the offset in it.
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
