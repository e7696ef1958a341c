// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The hash that identifies the content of a guest's pages.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use xxhash_rust::xxh64::Xxh64;

use super::PAGE;

/// Number of bytes that are read at once.
const CHUNK: usize = 256 * PAGE;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// Returns true when the page contains only zeros.
pub fn is_zero(page: &[u8]) -> bool {
    page == ZEROS
}

/// The hash of a file with pages: xxh64 of the number and the content of each page, in order,
/// except for pages of zeros. A copy without the file's holes therefore has the same hash.
#[derive(Clone)]
pub struct Hash(Xxh64);

impl Hash {
    pub fn new() -> Self {
        Self(Xxh64::new(0))
    }

    /// Adds consecutive pages of the file, from page `first` on.
    pub fn add(&mut self, first: u64, pages: &[u8]) {
        for (number, page) in (first..).zip(pages.chunks(PAGE)) {
            if !is_zero(page) {
                self.0.update(&number.to_le_bytes());
                self.0.update(page);
            }
        }
    }

    pub fn finish(&self) -> u64 {
        self.0.digest()
    }

    /// Returns the hash of a file of `length` bytes, which must be a multiple of the page size.
    pub fn of_file(file: &File, length: u64) -> io::Result<u64> {
        let mut hash = Self::new();
        let mut chunk = vec![0; CHUNK];
        let mut at = 0;
        while let Some(data) = next_data(file, at)? {
            // A data range need not begin at a page boundary.
            at = data / PAGE as u64 * PAGE as u64;
            let size = length.saturating_sub(at).min(CHUNK as u64) as usize;
            if size == 0 {
                break;
            }
            file.read_exact_at(&mut chunk[..size], at)?;
            hash.add(at / PAGE as u64, &chunk[..size]);
            at += size as u64;
        }
        Ok(hash.finish())
    }
}

/// Returns the offset of the next data in the file from `at` on, or `None` if only a hole follows.
fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data)),
        // No data follows.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_holes_and_zeros_have_the_same_hash() {
        let hash = |file: &File| Hash::of_file(file, 1 << 22).unwrap();
        let sparse = tempfile::tempfile().unwrap();
        sparse.set_len(1 << 22).unwrap();
        let empty = hash(&sparse);
        sparse.write_all_at(&[7; PAGE], 3 << 20).unwrap();
        let full = tempfile::tempfile().unwrap();
        full.write_all_at(&vec![0; 1 << 22], 0).unwrap();
        assert_eq!(hash(&full), empty);
        full.write_all_at(&[7; PAGE], 3 << 20).unwrap();
        assert_eq!(hash(&full), hash(&sparse));
        let mut added = Hash::new();
        added.add((3 << 20) / PAGE as u64, &[7; PAGE]);
        assert_eq!(hash(&full), added.finish());
        // The same page at a different offset.
        let moved = tempfile::tempfile().unwrap();
        moved.set_len(1 << 22).unwrap();
        moved.write_all_at(&[7; PAGE], 2 << 20).unwrap();
        assert_ne!(hash(&moved), hash(&sparse));
        full.write_all_at(&[1], (1 << 22) - 1).unwrap();
        assert_ne!(hash(&full), hash(&sparse));
    }
}
