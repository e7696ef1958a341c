// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A file in which pages of zeros take no space.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::fstatvfs;

/// Size of a page in bytes.
const PAGE: usize = 4096;

const ZEROS: [u8; PAGE] = [0; PAGE];

/// Space in bytes that a dump must leave on the host's disk, for the rest of the run.
const RESERVE: u64 = 256 << 20;

/// Number of bytes that are written between two checks of the free space.
const STRIDE: u64 = 16 << 20;

/// A file that is being written.
pub struct Sparse {
    file: File,
    reserve: u64,
    /// Number of bytes that may be written before the next check of the disk.
    credit: u64,
    length: u64,
}

impl Sparse {
    /// Takes an empty file.
    pub fn new(file: File) -> Self {
        Self {
            file,
            reserve: RESERVE,
            credit: 0,
            length: 0,
        }
    }

    /// Writes `bytes` at `offset`. Skips whole pages of zeros; the file must have no content
    /// there.
    ///
    /// # Errors
    /// Fails also if the disk would have less space than the reserve
    /// ([`io::ErrorKind::StorageFull`]).
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            // The pages of the file, so that each is one block of the disk.
            let end = PAGE - (at % PAGE as u64) as usize;
            let (page, more) = rest.split_at(end.min(rest.len()));
            if page != ZEROS {
                self.reserve(page.len() as u64)?;
                self.file.write_all_at(page, at)?;
            }
            at += page.len() as u64;
            rest = more;
        }
        self.length = self.length.max(at);
        Ok(())
    }

    fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        if self.credit < bytes {
            let disk = fstatvfs(&self.file)?;
            let left = disk.f_bavail.saturating_mul(disk.f_frsize);
            if left < self.reserve.saturating_add(STRIDE) {
                return Err(io::Error::new(
                    io::ErrorKind::StorageFull,
                    format!(
                        "the disk has only {} MiB left, and the run needs some",
                        left >> 20
                    ),
                ));
            }
            self.credit = STRIDE;
        }
        self.credit -= bytes;
        Ok(())
    }

    /// Reads exactly this many of the written bytes.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // The file is shorter than this if it ends with zeros.
        bytes.fill(0);
        let mut done = 0;
        while done < bytes.len() {
            match self
                .file
                .read_at(&mut bytes[done..], offset + done as u64)?
            {
                0 => break,
                count => done += count,
            }
        }
        Ok(())
    }

    /// Returns the number of bytes so far.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Makes the file at least this long. The added bytes are zeros.
    pub fn extend(&mut self, length: u64) {
        self.length = self.length.max(length);
    }

    /// Gives the file its length.
    pub fn finish(&self) -> io::Result<()> {
        self.file.set_len(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zeros_take_no_space_and_are_read_back() {
        let mut file = Sparse::new(tempfile::tempfile().unwrap());
        file.write(100, b"head").unwrap();
        file.write(PAGE as u64, &vec![0; 64 << 20]).unwrap();
        let mut last = vec![0; 3 * PAGE];
        last[PAGE + 5] = 7;
        file.write((64 << 20) + PAGE as u64, &last).unwrap();
        file.finish().unwrap();
        let metadata = file.file.metadata().unwrap();
        assert_eq!(metadata.len(), (64 << 20) + 4 * PAGE as u64);
        assert!(metadata.blocks() * 512 < 1 << 20, "{}", metadata.blocks());
        let mut byte = [1];
        file.read((64 << 20) + 2 * PAGE as u64 + 5, &mut byte)
            .unwrap();
        assert_eq!(byte, [7]);
        file.read(file.length() - 1, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        file.read(file.length(), &mut byte).unwrap_err();
    }

    #[test]
    fn a_disk_is_not_filled() {
        let mut file = Sparse {
            reserve: u64::MAX,
            ..Sparse::new(tempfile::tempfile().unwrap())
        };
        file.write(0, &[0; PAGE]).unwrap();
        let error = file.write(0, &[1; PAGE]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("MiB left"), "{error}");
    }
}
