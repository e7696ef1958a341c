// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's devices.
//!
//! Virtio devices of "modern" virtio 1.2 behind memory-mapped transports ([`mmio::Transport`]), and
//! a 16550 UART ([`serial::Serial`]). All devices treat the guest's data as hostile: nothing that a
//! guest writes makes them panic, block, or work for longer than a bound for each notification.
//!
//! # How the monitor drives them
//! Each transport has a mutex.
//! - **vCPU threads** call [`mmio::Transport::read`] and [`write`](mmio::Transport::write) for
//!   accesses to its address range of 4 KiB. The notification of a queue is handled synchronously,
//!   in the thread that wrote it.
//! - **The event loop** owns one [`Epoll`] and assigns each transport a range of [`TOKENS`] event
//!   tokens in it ([`Events`]). For an event whose data is in that range it calls
//!   [`mmio::Transport::ready`], and need not do more: the devices themselves register sources as
//!   one-shot, and rearm them only if the next event would let the device make progress. So an
//!   event that cannot be used now (a socket with data while the guest has no buffers) never wakes
//!   the loop, and nothing ever spins.
//! - **Interrupts** are raised by [`Interrupt::raise`], from either thread.
//!
//! ```no_run
//! # use std::os::unix::net::UnixStream;
//! # use std::path::Path;
//! # use std::sync::{Arc, Mutex};
//! # use crucible_vmm::kvm::memory::Memory;
//! # use vmm_sys_util::epoll::{Epoll, EpollEvent};
//! # use vmm_sys_util::eventfd::EventFd;
//! use crucible_vmm::kvm::devices::block::Block;
//! use crucible_vmm::kvm::devices::console::Console;
//! use crucible_vmm::kvm::devices::mmio::Transport;
//! use crucible_vmm::kvm::devices::{Events, Interrupt, Result, TOKENS};
//!
//! struct Irq(EventFd); // registered with KVM as an irqfd
//!
//! impl Interrupt for Irq {
//!     fn raise(&self) {
//!         let _ = self.0.write(1);
//!     }
//! }
//!
//! fn devices(
//!     memory: &Arc<Memory>,
//!     epoll: &Arc<Epoll>,
//!     [first, second]: [Arc<Irq>; 2],
//!     [channel, terminal]: [UnixStream; 2],
//! ) -> Result<Vec<Mutex<Transport>>> {
//!     let events = |n: u64| Events::new(epoll.clone(), n * TOKENS);
//!     let disk = Block::open(Path::new("/image"), true, "vda")?;
//!     let disk = Transport::new(Box::new(disk), memory.clone(), first, events(0))?;
//!     let ports = Console::new(channel, terminal, &events(1))?;
//!     let ports = Transport::new(Box::new(ports), memory.clone(), second, events(1))?;
//!     Ok(vec![Mutex::new(disk), Mutex::new(ports)])
//! }
//!
//! fn event_loop(epoll: &Epoll, devices: &[Mutex<Transport>]) -> std::io::Result<()> {
//!     let mut events = [EpollEvent::default(); 16];
//!     loop {
//!         let count = epoll.wait(-1, &mut events)?;
//!         for token in events[..count].iter().map(EpollEvent::data) {
//!             if let Some(device) = devices.get((token / TOKENS) as usize) {
//!                 device.lock().unwrap().ready(token);
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # Snapshots
//! While all vCPUs and the event loop are paused, `save` returns a device's state. A new machine
//! builds its transports as usual, with new host ends, and calls `restore` on each when its memory
//! is mapped. In either machine [`mmio::Transport::resume`] is called before any vCPU runs. States
//! come from files and are validated like all external input.
//!
//! # System calls
//! Devices make these, in both kinds of threads: `read`, `write`, `lseek`, `fallocate`,
//! `getrandom`, `epoll_ctl`, `sendto` (the UART's socket), `recvfrom` (saving), and those of an
//! [`Interrupt`].
//!
//! # Signals
//! Devices use `write(2)` on sockets whose peer may have closed them, so SIGPIPE must be ignored.
//! Every Rust program ignores it unless it requests otherwise.

pub mod block;
pub mod console;
#[cfg(test)]
mod driver;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
#[cfg(any(test, feature = "harness"))]
#[doc(hidden)]
pub mod harness;
pub mod mmio;
pub mod queue;
pub mod rng;
pub mod serial;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::{GuestMemoryError, VolatileMemoryError};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use queue::Rings;

/// Errors of a device.
///
/// The messages leave out their source; a caller that prints an error walks the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest's driver broke the protocol; the device needs a reset.
    #[error("the guest's driver broke the protocol: {0}")]
    Protocol(&'static str),
    /// A ring of the guest is invalid; the device needs a reset.
    #[error("a ring cannot be used")]
    Ring(#[from] virtio_queue::Error),
    /// The guest's address is not in its memory.
    #[error("an address is not in the guest's memory")]
    Memory(#[from] GuestMemoryError),
    /// Part of the guest's buffer is not in its memory.
    #[error("a part of a buffer is not in the guest's memory")]
    Part(#[from] VolatileMemoryError),
    /// A saved state is damaged or belongs to a different machine.
    #[error("the saved state of a device cannot be restored: {0}")]
    State(&'static str),
    /// An operation on the host's side failed.
    #[error("cannot {what}")]
    Io {
        /// The failed operation, in the infinitive.
        what: &'static str,
        /// The error of the operation.
        source: io::Error,
    },
}

/// A result with a device's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A device's interrupt line.
pub trait Interrupt: Send + Sync {
    /// Raises one edge. Must neither block nor fail: an edge that cannot be delivered now must be
    /// delivered later.
    fn raise(&self);
}

/// A virtio device behind a transport.
///
/// The transport owns the queues and lends them to each call; the device only uses them between
/// `activate` and `reset`. An error from [`notify`](Self::notify) or [`ready`](Self::ready) means
/// that the *guest* broke the protocol: the transport sets DEVICE_NEEDS_RESET. The device must
/// handle failures of the host itself.
pub trait VirtioDevice: Send {
    /// Returns the device's type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Returns the maximum size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// Returns the device-specific features that it offers; the transport adds those of the queues.
    fn features(&self) -> u64;

    /// Reads from the configuration space; bytes beyond its end are zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Called when the driver has accepted these features (including those of the queues) and is
    /// ready (DRIVER_OK). Also called after [`restore`](Self::restore), if the driver was ready
    /// then.
    fn activate(&mut self, features: u64);

    /// Discards all state of the driver.
    fn reset(&mut self);

    /// Handles a notification of this queue by the driver. `queue` is within
    /// [`queue_sizes`](Self::queue_sizes); the queue itself need not be ready.
    fn notify(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<()>;

    /// Handles an event of the source that the device registered as number `source` in its
    /// [`Events`]. Called at any time, with a driver or without, and also for events that the
    /// device no longer needs.
    fn ready(&mut self, _source: u64, _rings: &mut Rings<'_>) -> Result<()> {
        Ok(())
    }

    /// Returns the state. The machine is paused, and may continue afterwards: every queue is
    /// notified then.
    fn save(&mut self) -> DeviceState;

    /// Replaces the device's state. On an error the state is unchanged.
    fn restore(&mut self, state: &DeviceState) -> Result<()>;
}

/// A device's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// The state of a disk.
    Block(block::BlockState),
    /// The state of a console.
    Console(console::ConsoleState),
    /// The state of a random number generator.
    Rng(rng::RngState),
}

/// Number of event tokens of each transport: `base` to `base + TOKENS - 1`.
pub const TOKENS: u64 = 4;

/// The token of the transport itself; see `Wake`.
const WAKE: u64 = TOKENS - 1;

/// A transport's share of the event loop.
#[derive(Debug, Clone)]
pub struct Events {
    epoll: Arc<Epoll>,
    base: u64,
}

impl Events {
    /// Returns the tokens from `base` on, in the loop's `epoll`.
    pub fn new(epoll: Arc<Epoll>, base: u64) -> Self {
        Self { epoll, base }
    }

    /// Returns the source with this token, if the token is one of these.
    fn source(&self, token: u64) -> Option<u64> {
        token.checked_sub(self.base).filter(|&n| n < TOKENS)
    }

    /// Registers a file descriptor as the source number `index`. It must stay open as long as the
    /// [`Source`] exists.
    fn add(&self, index: u64, fd: &impl AsRawFd) -> Source {
        Source {
            events: self.clone(),
            index,
            fd: fd.as_raw_fd(),
            added: false,
            armed: EventSet::empty(),
        }
    }
}

/// A file descriptor in the event loop, armed for one event at a time.
#[derive(Debug)]
struct Source {
    events: Events,
    index: u64,
    fd: RawFd,
    added: bool,
    armed: EventSet,
}

impl Source {
    /// Arms the source for exactly the events `wanted`, or none. Cheap if nothing changes.
    fn arm(&mut self, wanted: EventSet) {
        // Disarming is not worth a system call: it would avoid at most one unneeded event.
        if self.armed.contains(wanted) {
            return;
        }
        let operation = if self.added {
            ControlOperation::Modify
        } else {
            ControlOperation::Add
        };
        let event = EpollEvent::new(
            wanted | EventSet::ONE_SHOT,
            self.events.base.wrapping_add(self.index),
        );
        // This fails only if the kernel lacks memory, or the user's watches are exhausted. The next
        // call tries again.
        if self.events.epoll.ctl(operation, self.fd, event).is_ok() {
            self.added = true;
            self.armed = wanted;
        }
    }

    /// Records that the source fired, so it is no longer armed.
    fn fired(&mut self) {
        self.armed = EventSet::empty();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.added {
            // A duplicate of the descriptor would keep it registered.
            let nothing = EpollEvent::new(EventSet::empty(), 0);
            let _ = self
                .events
                .epoll
                .ctl(ControlOperation::Delete, self.fd, nothing);
        }
    }
}

/// Reads from a configuration space; bytes beyond its end are zeros.
fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    let rest = usize::try_from(offset)
        .ok()
        .and_then(|offset| config.get(offset..))
        .unwrap_or_default();
    data.fill(0);
    for (to, from) in data.iter_mut().zip(rest) {
        *to = *from;
    }
}
