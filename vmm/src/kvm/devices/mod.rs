// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guest finds on its buses.
//!
//! Virtio devices of "modern" virtio 1.2 behind memory-mapped transports
//! ([`mmio::Transport`]), and a 16550 UART ([`serial::Serial`]). All of them take what
//! the guest gives them for hostile: nothing a guest writes makes them panic,
//! wait, or work for longer than a bound for each notification.
//!
//! # How the monitor drives them
//! Each transport lies in a mutex of its own.
//! - **vCPU threads** call [`mmio::Transport::read`] and
//!   [`write`](mmio::Transport::write) for accesses to its 4 KiB of
//!   addresses. A notification of a queue is served right there, in the thread
//!   that wrote it.
//! - **The event loop** owns one [`Epoll`] and gives each transport a range
//!   of [`TOKENS`] event tokens in it ([`Events`]). For an event whose data is
//!   in that range it calls [`mmio::Transport::ready`]. That is all: sources
//!   are registered one-shot by the devices themselves, and armed again only
//!   where the next event would let the device make progress. So an event
//!   that cannot be used now (a socket with data while the guest has no
//!   buffers) never wakes the loop, and nothing ever spins.
//! - **Interrupts** go through [`Interrupt::raise`], from either thread.
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
//! With all vCPUs and the event loop at rest, `save` gives a device's state.
//! A new machine builds its transports as usual, with new host ends, and calls
//! `restore` on each when memory is in place. In either machine
//! [`mmio::Transport::resume`] is called before any vCPU runs (again).
//! States come from files and are checked like anything else that comes from
//! outside.
//!
//! # System calls
//! Devices make these, in both kinds of threads: `read`, `write`, `lseek`,
//! `fallocate`, `getrandom`, `epoll_ctl`, `sendto` (the UART's socket),
//! `recvfrom` (saving), and what an [`Interrupt`] needs.
//!
//! # Signals
//! A socket whose peer is gone is written to with `write(2)`: SIGPIPE must be
//! ignored, as it is in every Rust program that does not ask for it.

pub mod block;
pub mod console;
#[cfg(test)]
mod driver;
#[doc(hidden)]
pub mod fuzz;
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

/// What can go wrong in a device.
///
/// The messages leave out their source; whoever prints them walks the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The guest's driver broke the protocol; the device needs a reset.
    #[error("the guest's driver broke the protocol: {0}")]
    Protocol(&'static str),
    /// A ring of the guest's cannot be used; the device needs a reset.
    #[error("a ring cannot be used")]
    Ring(#[from] virtio_queue::Error),
    /// The guest gave an address that is not in its memory.
    #[error("an address is not in the guest's memory")]
    Memory(#[from] GuestMemoryError),
    /// The same, of a part of a buffer.
    #[error("a part of a buffer is not in the guest's memory")]
    Part(#[from] VolatileMemoryError),
    /// A saved state is damaged or of another machine.
    #[error("the saved state of a device cannot be restored: {0}")]
    State(&'static str),
    /// Something on the host's side failed.
    #[error("cannot {what}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

/// A result with a device's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A device's interrupt line.
pub trait Interrupt: Send + Sync {
    /// Sends one edge. Must neither block nor fail: an edge that cannot be
    /// delivered now must be delivered later.
    fn raise(&self);
}

/// A virtio device behind a transport.
///
/// The transport owns the queues and lends them to each call; the device
/// only sees them between `activate` and `reset`. An error from
/// [`notify`](Self::notify) or [`ready`](Self::ready) means that the *guest*
/// broke the protocol: it sets DEVICE_NEEDS_RESET. Failures of the host are the
/// device's to handle.
pub trait VirtioDevice: Send {
    /// The device's type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The features of its own that it offers; the transport adds those of
    /// the queues.
    fn features(&self) -> u64;

    /// Reads from the configuration space; beyond its end, zeros.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// The driver accepted these features (those of the queues included) and
    /// is ready (DRIVER_OK). Also after [`restore`](Self::restore), if it was.
    fn activate(&mut self, features: u64);

    /// Forgets all that it knows of the driver.
    fn reset(&mut self);

    /// The driver notified this queue. `queue` is within
    /// [`queue_sizes`](Self::queue_sizes); the queue itself may not be ready.
    fn notify(&mut self, queue: usize, rings: &mut Rings<'_>) -> Result<()>;

    /// The event source that it registered as number `source` in its
    /// [`Events`] became ready. Called at any time, with a driver or without,
    /// and also for events that are no longer wanted.
    fn ready(&mut self, _source: u64, _rings: &mut Rings<'_>) -> Result<()> {
        Ok(())
    }

    /// Its state. The machine is at rest, and may go on afterwards: every
    /// queue is notified then.
    fn save(&mut self) -> DeviceState;

    /// Takes on a state, from whatever state it has. On an error it stays as
    /// it is.
    fn restore(&mut self, state: &DeviceState) -> Result<()>;
}

/// A device's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceState {
    /// A disk's.
    Block(block::BlockState),
    /// A console's.
    Console(console::ConsoleState),
    /// A random number generator's.
    Rng(rng::RngState),
}

/// How many event tokens each transport has: `base` to `base + TOKENS - 1`.
pub const TOKENS: u64 = 4;

/// The token that a transport keeps for itself; see `Wake`.
const WAKE: u64 = TOKENS - 1;

/// A transport's share of the event loop.
#[derive(Debug, Clone)]
pub struct Events {
    epoll: Arc<Epoll>,
    base: u64,
}

impl Events {
    /// The tokens from `base` on, in the loop's `epoll`.
    pub fn new(epoll: Arc<Epoll>, base: u64) -> Self {
        Self { epoll, base }
    }

    /// The source that a token stands for, if it is one of these.
    fn source(&self, token: u64) -> Option<u64> {
        token.checked_sub(self.base).filter(|&n| n < TOKENS)
    }

    /// Makes a file descriptor the source number `index`. It must stay open
    /// as long as the [`Source`] lives.
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
    /// Wants exactly `wanted` next; nothing, if it is empty. Cheap where
    /// nothing changes.
    fn arm(&mut self, wanted: EventSet) {
        // Taking an interest back is not worth a system call: an event that
        // comes all the same is one too many, once.
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
        // It can fail only where the kernel has no memory, or the user's
        // watches are all taken. The next try is as good as any.
        if self.events.epoll.ctl(operation, self.fd, event).is_ok() {
            self.added = true;
            self.armed = wanted;
        }
    }

    /// It fired, so it is no longer armed.
    fn fired(&mut self) {
        self.armed = EventSet::empty();
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if self.added {
            // The descriptor may have duplicates that would keep it in there.
            let nothing = EpollEvent::new(EventSet::empty(), 0);
            let _ = self
                .events
                .epoll
                .ctl(ControlOperation::Delete, self.fd, nothing);
        }
    }
}

/// Reads from a configuration space; beyond its end, zeros.
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
