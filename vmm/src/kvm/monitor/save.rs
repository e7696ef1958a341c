// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The monitor's side of a save: it sends the guest on a socket, and its parent writes the files.

use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::dirty::Dirty;
use super::vcpu::Handle;
use super::vm::Vm;
use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::Memory;
use crate::kvm::saved::PAGE;
use crate::kvm::saved::hash::is_zero;
use crate::kvm::saved::stream::{PIECE, Piece, send};

const WHAT: &str = "send the guest's state";

/// The pages that are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// All pages that are not entirely zero.
    All,
    /// The pages that have changed since the base snapshot.
    Changes,
}

/// Sends the guest, whose vCPUs must be paused. `dirty` tracks its changes.
pub(super) fn save(
    vm: &Vm,
    what: What,
    dirty: &mut Option<Dirty>,
    to: &UnixStream,
) -> Result<(), Failure> {
    let result = try_save(vm, what, dirty, to);
    let end = match &result {
        Ok(()) => Piece::End,
        Err(failure) => Piece::Failed(failure.to_string()),
    };
    send(to, &end).during(WHAT)?;
    result
}

/// Sends the registers and the memory of a guest that has ended. Its vCPUs must be paused.
pub(super) fn dump(vm: &Vm, to: &UnixStream) -> Result<(), Failure> {
    let result = try_dump(vm, to);
    let end = match &result {
        Ok(()) => Piece::End,
        Err(failure) => Piece::Failed(failure.to_string()),
    };
    send(to, &end).during(WHAT)?;
    result
}

fn try_dump(vm: &Vm, to: &UnixStream) -> Result<(), Failure> {
    let registers: Vec<_> = vm
        .vcpus
        .iter()
        .map(Handle::all_registers)
        .collect::<Result<_, _>>()?;
    let registers = serde_json::to_vec(&registers).during(WHAT)?;
    send(to, &Piece::State(registers)).during(WHAT)?;
    memory(&vm.memory, to, |_, page| !is_zero(page))
}

fn try_save(
    vm: &Vm,
    what: What,
    dirty: &mut Option<Dirty>,
    to: &UnixStream,
) -> Result<(), Failure> {
    let state = vm.save()?.to_bytes()?;
    // Collect only now: devices may complete requests while their state is saved.
    if let Some(dirty) = dirty {
        dirty.collect(&vm.fd, &vm.memory)?;
    }
    send(to, &Piece::State(state)).during(WHAT)?;
    match (what, dirty) {
        (What::All, dirty) => {
            memory(&vm.memory, to, |_, page| !is_zero(page))?;
            if let Some(dirty) = dirty {
                dirty.saved();
            }
            Ok(())
        }
        (What::Changes, Some(dirty)) => memory(&vm.memory, to, |number, _| dirty.contains(number)),
        (What::Changes, None) => Err(Failure::new(
            "save the changes: the monitor does not track them",
        )),
    }
}

/// Sends the pages that `wanted` selects by their number and content.
fn memory(
    memory: &Memory,
    to: &UnixStream,
    wanted: impl Fn(u64, &[u8]) -> bool,
) -> Result<(), Failure> {
    let mut piece = vec![0; PIECE * PAGE];
    let mut number = 0;
    for region in memory.iter() {
        let pages = region.len() / PAGE as u64;
        for first in (0..pages).step_by(PIECE) {
            let count = (pages - first).min(PIECE as u64) as usize;
            let bytes = &mut piece[..count * PAGE];
            region
                .read_slice(bytes, MemoryRegionAddress(first * PAGE as u64))
                .during("read the guest's memory")?;
            send_wanted(number + first, bytes, to, &wanted)?;
        }
        number += pages;
    }
    Ok(())
}

/// Sends the wanted ones of consecutive pages, in runs.
fn send_wanted(
    first: u64,
    pages: &[u8],
    to: &UnixStream,
    wanted: impl Fn(u64, &[u8]) -> bool,
) -> Result<(), Failure> {
    let page = |index: usize| &pages[index * PAGE..(index + 1) * PAGE];
    let count = pages.len() / PAGE;
    let mut begun = None;
    for index in 0..=count {
        let is_wanted = index < count && wanted(first + index as u64, page(index));
        match begun {
            None if is_wanted => begun = Some(index),
            Some(begin) if !is_wanted => {
                let run = &pages[begin * PAGE..index * PAGE];
                send(to, &Piece::Pages(first + begin as u64, run)).during(WHAT)?;
                begun = None;
            }
            _ => {}
        }
    }
    Ok(())
}
