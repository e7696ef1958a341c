//! How a monitor saves its guest: it says all of it on a socket, and its parent writes it.

use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::vm::Vm;
use crate::kvm::failure::{During, Failure};
use crate::kvm::memory::Memory;
use crate::kvm::saved::PAGE;
use crate::kvm::saved::hash::is_zero;
use crate::kvm::saved::stream::{PIECE, Piece, send};

const WHAT: &str = "send the guest to be saved";

/// Saves the guest, whose vCPUs are paused.
pub(super) fn save(vm: &Vm, to: &UnixStream) -> Result<(), Failure> {
    let state = vm.save().and_then(|snapshot| snapshot.to_bytes());
    let result = state.and_then(|state| {
        send(to, &Piece::State(state)).during(WHAT)?;
        memory(&vm.memory, to)
    });
    let end = match &result {
        Ok(()) => Piece::End,
        Err(failure) => Piece::Failed(failure.to_string()),
    };
    send(to, &end).during(WHAT)?;
    result
}

/// Says all pages but those that are all zeros.
fn memory(memory: &Memory, to: &UnixStream) -> Result<(), Failure> {
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
            say(number + first, bytes, to)?;
        }
        number += pages;
    }
    Ok(())
}

/// Says those of some pages that have anything in them.
fn say(first: u64, pages: &[u8], to: &UnixStream) -> Result<(), Failure> {
    let page = |index: usize| &pages[index * PAGE..(index + 1) * PAGE];
    let count = pages.len() / PAGE;
    let mut begun = None;
    for index in 0..=count {
        let wanted = index < count && !is_zero(page(index));
        match begun {
            None if wanted => begun = Some(index),
            Some(begin) if !wanted => {
                let run = &pages[begin * PAGE..index * PAGE];
                send(to, &Piece::Pages(first + begin as u64, run)).during(WHAT)?;
                begun = None;
            }
            _ => {}
        }
    }
    Ok(())
}
