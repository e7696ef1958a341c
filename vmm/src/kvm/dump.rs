// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory of a guest that has crashed, which its monitor sends.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::control::Control;
use super::memory;
use super::saved::stream::{Piece, Receiver};
use super::saved::{PAGE, pages_of};
use super::wire::{Ended, Registers, Request};
use crate::control::ANSWER;
use crate::dump::{self, Cpu, Dumper, Sparse, Status, Stopped, failed};
use crate::{Error, Result};

/// Writes the dump of a guest.
pub(super) struct KvmDumper {
    pub control: Arc<Control>,
    /// The socket on which the monitor sends.
    pub stream: UnixStream,
    pub memory_mib: u32,
}

impl Dumper for KvmDumper {
    fn wait_stopped(&self) -> Option<Stopped> {
        Some(match self.control.wait_ended()? {
            Ended::Reset => Stopped::Reset,
            Ended::TripleFault { .. } => Stopped::Crash,
            Ended::Kvm { .. } | Ended::Monitor { .. } => Stopped::Failed,
        })
    }

    fn write(&self, to: &mut Sparse) -> Result<Vec<Cpu>> {
        let receive = || {
            self.stream.set_read_timeout(Some(ANSWER)).map_err(failed)?;
            let mut receiver = Receiver::new(&self.stream, pages_of(self.memory_mib));
            let result = receive(&mut receiver, self.memory_mib, to);
            // The monitor blocks until everything it sends has been read.
            while !receiver.ended() {
                let _ = receiver.receive();
            }
            result
        };
        let (_, cpus) = self.control.ask_and("dump", &Request::Dump, receive)?;
        Ok(cpus)
    }

    fn release(&self) {
        // If this fails, the monitor has exited.
        let _ = self.control.ask("exit", &Request::Exit);
    }
}

fn receive(
    receiver: &mut Receiver<&UnixStream>,
    memory_mib: u32,
    to: &mut Sparse,
) -> Result<Vec<Cpu>> {
    let mut begun = None;
    loop {
        match receiver.receive().map_err(failed)? {
            Piece::State(state) => {
                let cpus: Vec<Registers> = serde_json::from_slice(&state)
                    .map_err(|error| failed(io::Error::new(ErrorKind::InvalidData, error)))?;
                let statuses: Vec<_> = cpus.iter().map(status).collect();
                let ranges = memory::ranges(memory_mib);
                let memory = dump::begin(to, &ranges, &statuses).map_err(failed)?;
                begun = Some((memory, cpus));
            }
            Piece::Pages(first, pages) => {
                let Some((memory, _)) = &begun else {
                    return Err(failed(ErrorKind::InvalidData.into()));
                };
                to.write(memory + first * PAGE as u64, pages)
                    .map_err(failed)?;
            }
            Piece::End => break,
            Piece::Failed(reason) => {
                return Err(Error::Refused {
                    command: "dump".into(),
                    reason,
                });
            }
        }
    }
    let (memory, cpus) = begun.ok_or_else(|| failed(ErrorKind::InvalidData.into()))?;
    // Pages that were not sent are zeros.
    to.extend(memory + pages_of(memory_mib) * PAGE as u64);
    let of = |registers: &Registers| Cpu {
        cr0: registers.special.cr0,
        cr3: registers.special.cr3,
        cr4: registers.special.cr4,
    };
    Ok(cpus.iter().map(of).collect())
}

/// Returns the registers in the order of a core file.
fn status(registers: &Registers) -> Status {
    let Registers {
        general: r,
        special: s,
    } = registers;
    let selector = |segment: &kvm_bindings::kvm_segment| u64::from(segment.selector);
    [
        r.r15,
        r.r14,
        r.r13,
        r.r12,
        r.rbp,
        r.rbx,
        r.r11,
        r.r10,
        r.r9,
        r.r8,
        r.rax,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rax,
        r.rip,
        selector(&s.cs),
        r.rflags,
        r.rsp,
        selector(&s.ss),
        s.fs.base,
        s.gs.base,
        selector(&s.ds),
        selector(&s.es),
        selector(&s.fs),
        selector(&s.gs),
    ]
}
