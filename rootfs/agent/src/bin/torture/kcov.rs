// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records the code of checkpoint(2), restart(2) and the restarted tasks that this program's
//! descendants run, by KCOV's remote coverage (Documentation/dev-tools/kcov.rst,
//! `guest-kernel/src/kernel/checkpoint/cover.h`).

use std::{
    fs::{File, OpenOptions},
    num::NonZero,
    os::fd::AsRawFd,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::mman::{MapFlags, ProtFlags, mmap},
};

/// KCOV's file in debugfs.
const PATH: &str = "/sys/kernel/debug/kcov";

/// Number of words of the shared area: the first counts the others.
const WORDS: usize = 1 << 18;

/// `KCOV_INIT_TRACE`, `_IOR('c', 1, unsigned long)`.
const INIT_TRACE: libc::c_ulong = 0x8008_6301;

/// `KCOV_REMOTE_ENABLE`, `_IOW('c', 102, struct kcov_remote_arg)`.
const REMOTE_ENABLE: libc::c_ulong = 0x4018_6366;

/// The common handle, any number except 0.
const HANDLE: u64 = 1;

/// `struct kcov_remote_arg`, without handles.
#[repr(C)]
struct RemoteArg {
    trace_mode: u32,
    area_size: u32,
    num_handles: u32,
    common_handle: u64,
}

/// The coverage of all descendants, until this process ends.
pub struct Coverage {
    area: &'static [AtomicU64],
    _file: File,
}

impl Coverage {
    /// Begins to record the code of processes that are forked from now on.
    pub fn begin() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(PATH)
            .with_context(|| format!("{PATH}: the kernel has no coverage (CONFIG_KCOV)"))?;
        // SAFETY: the request takes a number.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), INIT_TRACE, WORDS) })
            .context("KCOV_INIT_TRACE")?;
        let length = NonZero::new(WORDS * size_of::<u64>()).context("no area")?;
        let (access, flags) = (
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED,
        );
        // SAFETY: a new mapping at an address that the kernel chooses.
        let area = unsafe { mmap(None, length, access, flags, &file, 0) }.context("KCOV's area")?;
        // SAFETY: the mapping has that many words, is never unmapped, and is only used atomically,
        // as the kernel writes to it.
        let area = unsafe { std::slice::from_raw_parts(area.as_ptr().cast(), WORDS) };
        let arg = RemoteArg {
            trace_mode: 0,
            area_size: WORDS as u32,
            num_handles: 0,
            common_handle: HANDLE,
        };
        // SAFETY: the request reads the structure, which no handles follow.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), REMOTE_ENABLE, &raw const arg) })
            .context("KCOV_REMOTE_ENABLE")?;
        Ok(Self { area, _file: file })
    }

    /// Returns the addresses that were reached since the last call, each once, in order. They are
    /// the low halves of the kernel's addresses.
    pub fn take(&self) -> Taken {
        take(self.area)
    }
}

/// The addresses that were reached.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// The addresses.
    pub reached: Vec<u32>,
    /// True when the area was full, so that the kernel has dropped any further addresses.
    pub is_full: bool,
}

fn take(area: &[AtomicU64]) -> Taken {
    let [count, addresses @ ..] = area else {
        return Taken {
            reached: Vec::new(),
            is_full: true,
        };
    };
    let count = count.swap(0, Ordering::AcqRel) as usize;
    let is_full = count >= addresses.len();
    let addresses = &addresses[..count.min(addresses.len())];
    let mut reached: Vec<_> = addresses
        .iter()
        .map(|address| address.load(Ordering::Relaxed) as u32)
        .collect();
    reached.sort_unstable();
    reached.dedup();
    Taken { reached, is_full }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_area_is_noticed() {
        let area = |words: &[u64]| words.iter().map(|&word| AtomicU64::new(word)).collect();
        let some: Vec<_> = area(&[2, 7, 5, 0]);
        let taken = take(&some);
        assert_eq!((taken.reached, taken.is_full), (vec![5, 7], false));
        // The next call begins with an empty area.
        assert!(take(&some).reached.is_empty());
        let full: Vec<_> = area(&[3, 7, 5, 7]);
        let taken = take(&full);
        assert_eq!((taken.reached, taken.is_full), (vec![5, 7], true));
    }
}
