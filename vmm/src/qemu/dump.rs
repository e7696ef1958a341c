// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory of a guest that has crashed. QEMU, which may not open files, writes it to a pipe.

use std::io::{self, PipeReader, Read};
use std::sync::Arc;
use std::thread;

use serde_json::json;

use super::probe;
use super::qmp::Qmp;
use crate::Result;
use crate::dump::{Cpu, Dumper, Sparse, Stopped, failed};

/// The name under which QEMU receives the descriptor of the pipe.
const TARGET: &str = "dump";

/// Number of bytes that are copied in one step.
const PIECE: usize = 1 << 20;

/// Maximum size in bytes of a dump in addition to the guest's configured memory: headers,
/// and the memory of devices.
const MORE: u64 = 256 << 20;

/// Writes the dump of a guest.
pub(super) struct QemuDumper {
    pub qmp: Arc<Qmp>,
    pub memory_mib: u32,
}

impl Dumper for QemuDumper {
    fn wait_stopped(&self) -> Option<Stopped> {
        Some(match self.qmp.wait_shutdown()?.as_str() {
            "guest-shutdown" => Stopped::Shutdown,
            "guest-reset" => Stopped::Reset,
            "guest-panic" => Stopped::Crash,
            _ => Stopped::Failed,
        })
    }

    fn write(&self, to: &mut Sparse) -> Result<Vec<Cpu>> {
        let cpus = cpus(&probe::registers(&self.qmp)?);
        let limit = (u64::from(self.memory_mib) << 20) + MORE;
        let (ours, theirs) = io::pipe().map_err(failed)?;
        let name = json!({ "fdname": TARGET });
        self.qmp.execute_with_fd("getfd", name, &theirs)?;
        // Only QEMU keeps the pipe open.
        drop(theirs);
        thread::scope(|scope| {
            let copy = scope.spawn(|| copy(ours, to, limit));
            // The page tables are read from the copy instead of by QEMU, which follows every
            // entry: a sanitiser's shadow has billions.
            let arguments = json!({
                "paging": false,
                "protocol": format!("fd:{TARGET}"),
                "detach": true,
            });
            let begun = self.qmp.execute("dump-guest-memory", arguments);
            if begun.is_err() {
                // Close QEMU's end of the pipe, or the thread that reads it would wait forever.
                let _ = self.qmp.execute("closefd", json!({ "fdname": TARGET }));
            }
            let copied = copy
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the copying thread panicked")));
            begun?;
            // QEMU's error is only that its pipe has no reader.
            copied.map_err(failed)?;
            self.qmp.wait_dumped()
        })?;
        Ok(cpus)
    }

    fn release(&self) {
        // If this fails, QEMU has exited.
        let _ = self.qmp.execute("quit", json!({}));
    }
}

/// Copies the pipe's bytes, at most `limit`: QEMU may have been taken over.
fn copy(mut from: PipeReader, to: &mut Sparse, limit: u64) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        // Whole pieces, so that pages of zeros are seen as such.
        let mut filled = 0;
        while filled < buffer.len() {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        if at + filled as u64 > limit {
            return Err(io::Error::other("it is larger than the guest's memory"));
        }
        to.write(at, &buffer[..filled])?;
        at += filled as u64;
    }
}

/// Returns the control registers of all CPUs from QEMU's text.
fn cpus(registers: &[String]) -> Vec<Cpu> {
    let number = |line: &str, name: &str| {
        let (_, rest) = line.split_once(name)?;
        let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
        u64::from_str_radix(digits, 16).ok()
    };
    registers
        .iter()
        .filter_map(|line| {
            Some(Cpu {
                cr0: number(line, "CR0=")?,
                cr3: number(line, "CR3=")?,
                cr4: number(line, "CR4=")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_registers_are_read_from_qemus_text() {
        let text = "CPU#0
RAX=0000000000000000 RBX=0000000000000000
CR0=80050033 CR2=00007f5e8d0a1000 CR3=000000000307c000 CR4=000006f0
DR0=0000000000000000

CPU#1
CR0=80050033 CR2=0 CR3=0000000003090000 CR4=000016f0";
        let lines: Vec<_> = text.lines().map(String::from).collect();
        let cr0 = 0x8005_0033;
        let expected = [(0x0307_c000, 0x6f0), (0x0309_0000, 0x16f0)];
        let expected = expected.map(|(cr3, cr4)| Cpu { cr0, cr3, cr4 });
        assert_eq!(cpus(&lines), expected);
    }

    #[test]
    fn a_dump_without_end_is_cut_off() {
        let (ours, mut theirs) = io::pipe().unwrap();
        let writer = thread::spawn(move || {
            use std::io::Write;
            while theirs.write_all(&[1; PIECE]).is_ok() {}
        });
        let mut file = Sparse::new(tempfile::tempfile().unwrap());
        copy(ours, &mut file, 3 << 20).unwrap_err();
        assert_eq!(file.length(), 3 << 20);
        writer.join().unwrap();
    }
}
