// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A request of the driver (virtio 1.2, section 5.2.6).

use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;

use virtio_bindings::virtio_blk::*;
use vm_memory::{GuestAddress, Permissions, ReadVolatile, VolatileMemoryError, WriteVolatile};
use vmm_sys_util::fallocate::{FallocateMode, fallocate};

use super::{Block, SECTOR, SEG_MAX, SIZE_MAX, ZERO_MAX};
use crate::kvm::devices::queue::{self, Chain, Segment};
use crate::kvm::devices::{Error, Result};
use crate::kvm::memory::Memory;

/// Size of a request's header in bytes: type, reserved, sector.
const HEADER: usize = 16;

/// Size in bytes of the structure that describes a range to discard or to zero.
const RANGE: usize = 16;

/// A parsed request. Its division into descriptors has no meaning (virtio 1.2, 2.7.4): it begins
/// with the header's bytes and ends with the status byte.
pub(super) struct Request {
    kind: u32,
    sector: u64,
    /// Data from the driver.
    output: Vec<Segment>,
    /// Buffers for data to the driver.
    input: Vec<Segment>,
    status: GuestAddress,
}

/// The reason why a request fails.
#[derive(Debug)]
enum Failure {
    /// The request is invalid.
    Io,
    /// The host failed to read or write the disk's file.
    Host(&'static str, io::Error),
    /// The device does not support the request.
    Unsupported,
}

/// An address outside of memory fails only the request that contains it.
impl From<Error> for Failure {
    fn from(_: Error) -> Self {
        Self::Io
    }
}

impl Request {
    /// Parses a chain. Fails if there is no room for a status.
    pub fn parse(memory: &Memory, chain: &Chain) -> Result<Self> {
        let mut header = [0; HEADER];
        queue::read(memory, chain.readable(), &mut header)?;
        let mut output = chain.readable().to_vec();
        skip(&mut output, HEADER as u32);

        let mut input = chain.writable().to_vec();
        while input.last().is_some_and(|segment| segment.len == 0) {
            input.pop();
        }
        let last = input
            .last_mut()
            .ok_or(Error::Protocol("a request has no room for its status"))?;
        last.len -= 1;
        let status = last.addr.0.checked_add(u64::from(last.len));
        let status = status.ok_or(Error::Protocol("a status beyond the address space"))?;

        let [kind, _reserved, low, high] = words(&header);
        Ok(Self {
            kind,
            sector: u64::from(high) << 32 | u64::from(low),
            output,
            input,
            status: GuestAddress(status),
        })
    }

    /// Returns the number of bytes to transfer, or an equivalent for the work of punching a hole.
    pub fn cost(&self) -> u64 {
        match self.kind {
            VIRTIO_BLK_T_IN => queue::total(&self.input),
            VIRTIO_BLK_T_OUT => queue::total(&self.output),
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => 1 << 20,
            _ => 0,
        }
    }
}

/// Splits a structure into four little-endian words.
fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    words
}

/// Drops the first `bytes` bytes. The segments are at least that long.
fn skip(segments: &mut [Segment], mut bytes: u32) {
    for segment in segments {
        let here = bytes.min(segment.len);
        // An address that overflows here is not in memory, and neither is the saturated one.
        segment.addr = GuestAddress(segment.addr.0.saturating_add(here.into()));
        segment.len -= here;
        bytes -= here;
    }
}

impl Block {
    /// Executes a request and writes its status. Returns the number of bytes written to the chain;
    /// fails if not even the status could be written.
    pub(super) fn execute(&mut self, memory: &Memory, request: &Request) -> Result<u32> {
        let status = match self.attempt(memory, request) {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Failure::Io) => VIRTIO_BLK_S_IOERR,
            Err(Failure::Host(what, error)) => {
                self.fault(what, &error);
                VIRTIO_BLK_S_IOERR
            }
            Err(Failure::Unsupported) => VIRTIO_BLK_S_UNSUPP,
        };
        let place = Segment {
            addr: request.status,
            len: 1,
        };
        queue::write(memory, &[place], &[status as u8])?;
        // The status is the last byte, so all bytes up to it count as written.
        Ok(u32::try_from(queue::total(&request.input) + 1).unwrap_or(u32::MAX))
    }

    fn attempt(&mut self, memory: &Memory, request: &Request) -> Result<(), Failure> {
        match request.kind {
            VIRTIO_BLK_T_IN => self.read(memory, request),
            VIRTIO_BLK_T_OUT => self.write(memory, request),
            VIRTIO_BLK_T_FLUSH => Ok(()),
            VIRTIO_BLK_T_GET_ID => {
                queue::write(memory, &request.input, &self.serial)?;
                Ok(())
            }
            VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => self.zero(memory, request),
            _ => Err(Failure::Unsupported),
        }
    }

    fn read(&mut self, memory: &Memory, request: &Request) -> Result<(), Failure> {
        let offset = self.check(request.sector, &request.input)?;
        self.transfer(offset, &request.input, |file, segment| {
            for slice in queue::slices(memory, segment, 0, Permissions::Write)? {
                let read = file.read_exact_volatile(&mut slice?);
                read.map_err(|error| volatile("read", error))?;
            }
            Ok(())
        })
    }

    fn write(&mut self, memory: &Memory, request: &Request) -> Result<(), Failure> {
        if self.readonly {
            return Err(Failure::Io);
        }
        let offset = self.check(request.sector, &request.output)?;
        self.transfer(offset, &request.output, |file, segment| {
            for slice in queue::slices(memory, segment, 0, Permissions::Read)? {
                let written = file.write_all_volatile(&slice?);
                written.map_err(|error| volatile("write", error))?;
            }
            Ok(())
        })
    }

    /// Transfers data, segment by segment, from `offset` of the file on.
    ///
    /// There is no safe way to pass the guest's memory to `preadv`. A request that continues where
    /// the last one ended, as most do, needs no `lseek`.
    fn transfer(
        &mut self,
        offset: u64,
        segments: &[Segment],
        mut each: impl FnMut(&mut &std::fs::File, Segment) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        if self.position.take() != Some(offset) {
            let sought = self.file.seek(SeekFrom::Start(offset));
            sought.map_err(|error| Failure::Host("seek", error))?;
        }
        for &segment in segments {
            each(&mut &self.file, segment)?;
        }
        // If a segment failed, the file's offset is unknown: `position` is `None`.
        self.position = Some(offset + queue::total(segments));
        Ok(())
    }

    /// Discards a range, or writes zeros to it.
    fn zero(&mut self, memory: &Memory, request: &Request) -> Result<(), Failure> {
        if self.readonly || queue::total(&request.output) != RANGE as u64 {
            return Err(Failure::Io);
        }
        let mut range = [0; RANGE];
        queue::read(memory, &request.output, &mut range)?;
        let [low, high, sectors, flags] = words(&range);
        let sector = u64::from(high) << 32 | u64::from(low);
        let discard = request.kind == VIRTIO_BLK_T_DISCARD;
        let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
        if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || discard && unmap {
            return Err(Failure::Unsupported);
        }
        if sectors > ZERO_MAX {
            return Err(Failure::Io);
        }
        let length = u64::from(sectors) * SECTOR;
        let offset = self.range(sector, length)?;
        if length == 0 {
            return Ok(());
        }
        // A hole also reads as zeros, and some file systems support only this mode.
        let modes = if discard || unmap {
            &[FallocateMode::PunchHole][..]
        } else {
            &[FallocateMode::ZeroRange, FallocateMode::PunchHole]
        };
        let file: &dyn AsRawFd = &self.file;
        let mut failure = Failure::Unsupported;
        for mode in modes {
            let mode = match mode {
                FallocateMode::PunchHole => FallocateMode::PunchHole,
                FallocateMode::ZeroRange => FallocateMode::ZeroRange,
            };
            match fallocate(file, mode, true, offset, length) {
                Ok(()) => return Ok(()),
                Err(error) => match error.errno() {
                    libc::ENOSPC | libc::EDQUOT | libc::EIO => {
                        failure = Failure::Host("punch a hole", error.into());
                    }
                    // On this status the driver stops using the request, or writes zeros itself.
                    _ => {}
                },
            }
        }
        Err(failure)
    }

    /// Returns the offset in the file where a transfer begins. Fails if the transfer is not
    /// allowed.
    fn check(&self, sector: u64, segments: &[Segment]) -> Result<u64, Failure> {
        let segments = || segments.iter().filter(|segment| segment.len != 0);
        if segments().count() > SEG_MAX as usize || segments().any(|s| s.len > SIZE_MAX) {
            return Err(Failure::Io);
        }
        self.range(sector, segments().map(|s| u64::from(s.len)).sum())
    }

    /// Returns the offset in the file where a range of the disk begins. Fails unless the range has
    /// whole sectors and is within the disk.
    fn range(&self, sector: u64, length: u64) -> Result<u64, Failure> {
        let end = sector.checked_add(length / SECTOR);
        if !length.is_multiple_of(SECTOR) || end.is_none_or(|end| end > self.sectors) {
            return Err(Failure::Io);
        }
        Ok(sector * SECTOR)
    }
}

/// Converts an error of reading or writing volatile memory. Only the file's errors can occur,
/// because the slices have been checked.
fn volatile(what: &'static str, error: VolatileMemoryError) -> Failure {
    match error {
        VolatileMemoryError::IOError(error) => Failure::Host(what, error),
        _ => Failure::Io,
    }
}
