// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the two ends of a monitor's control socket say: one JSON value a line.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::saved::format::Run;
use crate::Phase;

/// The guest that the monitor is to run; the first line it reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    /// An ELF `vmlinux` with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The kernel's command line, but for the devices.
    pub cmdline: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// `vda`, `vdb`, … in this order.
    pub disks: Vec<DiskConfig>,
    /// Whether the guest begins with the state in the file [`STATE`](crate::child::fd), and
    /// with the file [`PAGES`](crate::child::fd) as its memory.
    pub saved: bool,
    /// Which pages the file [`CHANGES`](crate::child::fd) has, one after the other, where
    /// there is one: the guest begins with these.
    pub changes: Option<Vec<Run>>,
    /// Whether it is noted which pages the guest changes.
    pub track: bool,
    /// Whether a debugger may connect to the socket [`DEBUGGER`](crate::child::fd).
    pub debugger: bool,
    /// The name of this build, for such states.
    pub build: String,
    /// When the parent began to start the monitor, in nanoseconds of `CLOCK_MONOTONIC`.
    pub began: u64,
}

/// A disk of the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DiskConfig {
    /// A raw image, or a block device.
    pub path: PathBuf,
    /// Whether the guest may only read it.
    pub readonly: bool,
}

/// What the monitor is asked. Each request is answered by one [`Message::Reply`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Stop all vCPUs. Once answered, no device works either.
    Pause,
    /// Let them go on.
    Resume,
    /// The registers of each vCPU.
    Registers,
    /// Stop all vCPUs, and say the guest's state and memory on the socket
    /// [`SAVED`](crate::child::fd), before the reply.
    Save,
    /// The same; of the memory only what has changed since [`Base`](Self::Base), and what
    /// the file [`CHANGES`](crate::child::fd) had.
    SaveChanges,
    /// The guest as it was when all of it was saved last is what changes are counted from.
    Base,
    /// A break on the serial line, then this key: magic SysRq.
    SysRq(u8),
}

/// What the monitor says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The guest runs, after this.
    Started(Vec<Phase>),
    /// The answer to a request.
    Reply(Reply),
    /// The guest has ended; the monitor is about to.
    Ended(Ended),
}

/// The answer to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// It was done.
    Done,
    /// The registers of each vCPU, as lines of text.
    Registers(Vec<String>),
    /// It was not done.
    Failed(String),
}

/// Why the guest runs no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// It asked for a reset, by the keyboard controller's reset line.
    Reset,
    /// It triple faulted. With the registers at that time, as far as KVM tells them.
    TripleFault {
        /// The vCPU's registers.
        registers: Vec<String>,
    },
    /// KVM could not go on.
    Kvm {
        /// What it said.
        detail: String,
        /// The vCPU's registers.
        registers: Vec<String>,
    },
    /// The monitor could not start the guest or go on.
    Monitor {
        /// Why.
        detail: String,
    },
}

/// Writes one value.
pub(crate) fn send(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one value; `None` at the end.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
