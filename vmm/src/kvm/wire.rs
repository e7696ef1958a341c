// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The messages on a monitor's control socket: one JSON value per line.

use std::io::{self, BufRead, Write};
use std::path::PathBuf;

use kvm_bindings::{kvm_regs, kvm_sregs};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::saved::format::Run;
use crate::{HostFault, Phase};

/// The configuration of the guest; the first line that the monitor reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    /// An ELF `vmlinux` with a PVH entry, or a bzImage.
    pub kernel: PathBuf,
    /// The kernel's command line, without the parameters that announce devices.
    pub cmdline: String,
    /// Number of vCPUs.
    pub vcpus: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The disks `vda`, `vdb`, … in this order.
    pub disks: Vec<DiskConfig>,
    /// True when the guest starts from a snapshot: with the device state in the file
    /// [`STATE`](crate::child::fd), and with the file [`PAGES`](crate::child::fd) as its memory.
    pub saved: bool,
    /// The page runs in the file [`CHANGES`](crate::child::fd), in order, which replace
    /// those of the base; `None` without an incremental snapshot.
    pub changes: Option<Vec<Run>>,
    /// True to track which pages the guest changes.
    pub track: bool,
    /// True when a debugger may connect to the socket [`DEBUGGER`](crate::child::fd).
    pub debugger: bool,
    /// True when the monitor exits only on [`Request::Exit`] once the guest has ended.
    pub dump: bool,
    /// The identity of this build. A snapshot is only valid for the build that saved it.
    pub build: String,
    /// Start of the first phase: when the parent began to start the monitor, in nanoseconds of
    /// `CLOCK_MONOTONIC`.
    pub began: u64,
}

/// A disk of the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DiskConfig {
    /// Path of a raw image or a block device.
    pub path: PathBuf,
    /// True when the guest may only read it.
    pub readonly: bool,
}

/// A request to the monitor. Each is answered by one [`Message::Reply`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Stop all vCPUs. No device then works for the guest, but the event loop continues: a byte
    /// that the parent sends on the channel can still be written to the guest's memory.
    Pause,
    /// Resume all vCPUs.
    Resume,
    /// Read the registers of each vCPU.
    Registers,
    /// Stop all vCPUs, and send the guest's state and memory on the socket
    /// [`SNAPSHOT`](crate::child::fd) before the reply.
    Save,
    /// Save like [`Save`](Self::Save), but of the memory send only the pages that have changed
    /// since [`Base`](Self::Base) and those that were in the file [`CHANGES`](crate::child::fd).
    SaveChanges,
    /// Make the last complete save the base of later changes.
    Base,
    /// Send a break on the serial line, followed by this key: magic SysRq.
    SysRq(u8),
    /// Stop all vCPUs, and send their registers and the guest's memory on the socket
    /// [`SNAPSHOT`](crate::child::fd) before the reply.
    Dump,
    /// Exit, after the guest has ended.
    Exit,
}

/// The registers of a vCPU in a dump.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Registers {
    /// The general ones.
    pub general: kvm_regs,
    /// The special ones.
    pub special: kvm_sregs,
}

/// A message from the monitor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The guest runs; with the phases of the start.
    Started(Vec<Phase>),
    /// The reply to a request.
    Reply(Reply),
    /// The host failed to read or write a disk. The guest, which got an I/O error, continues.
    HostFault(HostFault),
    /// The guest has ended, and the monitor is about to exit, or waits for [`Request::Exit`].
    Ended(Ended),
}

/// The reply to a request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The request was completed.
    Done,
    /// The registers of each vCPU, as lines of text.
    Registers(Vec<String>),
    /// The request failed, with the reason.
    Failed(String),
}

/// The reason why the guest has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ended {
    /// The guest requested a reset, by the keyboard controller's reset line.
    Reset,
    /// The guest triple faulted.
    TripleFault {
        /// The vCPU's registers at that time, as far as KVM reports them.
        registers: Vec<String>,
    },
    /// KVM could not continue to run the guest.
    Kvm {
        /// The exit reason or error that KVM reported.
        detail: String,
        /// The vCPU's registers.
        registers: Vec<String>,
    },
    /// The monitor failed to start or to run the guest.
    Monitor {
        /// The error with its causes.
        detail: String,
    },
}

/// Writes one value as a line.
pub(crate) fn send(mut to: impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads one value from a line. Returns `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}
