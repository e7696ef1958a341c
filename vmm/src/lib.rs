// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest machines.
//!
//! A [`Machine`] is a running guest. A user of this crate describes a guest in a [`MachineSpec`],
//! has a machine started, and from then on uses only the trait: a byte channel to the agent in the
//! guest, a monitored console, and the end of the machine.
//!
//! [`kvm`] runs guests with a monitor of our own on KVM, [`qemu`] with QEMU's `microvm`.

mod bridge;
mod child;
mod cmdline;
mod confine;
mod console;
mod control;
mod dump;
mod error;
mod fault;
mod host;
pub mod kvm;
mod machine;
mod process;
pub mod qemu;
mod states;

pub use confine::{HostConfinement, confinement};
pub use console::{Alert, AlertKind, CONSOLE_MARK};
pub use dump::MemoryDump;
pub use error::{Error, Result};
pub use fault::{FaultKind, HostFault};
pub use machine::{
    Changes, DebuggerAddress, Description, Disk, Exit, Machine, MachineSpec, Phase, Start,
    TaskStates,
};

/// The name of the virtio-serial port that leads to the guest's agent.
pub const CHANNEL_PORT: &str = "org.crucible.channel";

/// The name of the virtio-serial port that carries an interactive terminal's
/// bytes, raw.
pub const TERMINAL_PORT: &str = "org.crucible.terminal";
