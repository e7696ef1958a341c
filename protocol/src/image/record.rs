// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads records and verifies their checksums.

use std::io::{self, Read};

use thiserror::Error;
use xxhash_rust::xxh64::xxh64;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::layout::{Header, MAGIC, MAX_PAYLOAD, RecordHead, Trailer, VERSION};

/// Size in bytes of a record's head, and of the part of it that the checksum covers.
const HEAD: usize = 24;
pub(super) const SUMMED: usize = 16;

/// Errors of reading an image.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Reading the file failed.
    #[error("cannot read the image")]
    Io(#[source] io::Error),
    /// The file does not begin as an image.
    #[error("this is not a checkpoint image: it does not begin with an image header")]
    NoImage,
    /// The image has a different version of the format.
    #[error("the image has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// The image ends before its trailer.
    #[error("the image is truncated: it ends in record {record}, byte {offset}")]
    CutOff {
        /// Number of the record, from 0.
        record: u64,
        /// Offset in bytes where the record begins.
        offset: u64,
    },
    /// The checksum of a record does not match.
    #[error("record {record} ({kind:?}) at byte {offset} is damaged: its checksum does not match")]
    Damaged {
        /// Number of the record, from 0.
        record: u64,
        /// Type of the record.
        kind: Kind,
        /// Offset in bytes where the record begins.
        offset: u64,
    },
    /// The content of a record is inconsistent.
    #[error("record {record} ({kind:?}) at byte {offset}: {what}")]
    Malformed {
        /// Number of the record, from 0.
        record: u64,
        /// Type of the record.
        kind: Kind,
        /// Offset in bytes where the record begins.
        offset: u64,
        /// The inconsistency.
        what: &'static str,
    },
    /// Data follows the trailer.
    #[error("data follows the image's end at byte {0}")]
    Trailing(u64),
}

macro_rules! kinds {
    ($(#[doc = $doc:literal] $name:ident = $number:literal,)*) => {
        /// The types of records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $(#[doc = $doc] $name,)*
            /// A type that this program does not know; the schema contains its name.
            Unknown(u32),
        }

        impl Kind {
            /// All types that this program knows, with descriptions.
            pub const ALL: &[(Self, &str)] = &[$((Self::$name, $doc),)*];

            /// Returns the type's number in an image.
            #[must_use]
            pub fn number(self) -> u32 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unknown(number) => number,
                }
            }
        }

        impl From<u32> for Kind {
            fn from(number: u32) -> Self {
                match number {
                    $($number => Self::$name,)*
                    other => Self::Unknown(other),
                }
            }
        }
    };
}

kinds! {
    /// The first record: properties of the kernel and the clocks.
    Header = 1,
    /// The names of the record types.
    Schema = 2,
    /// The processes and threads of the tree, and their relations.
    Tree = 3,
    /// The last record: the numbers of records and objects.
    Trailer = 4,
    /// The state of a thread.
    Task = 5,
    /// The end of a task's section.
    TaskEnd = 6,
    /// The registers of a thread.
    Regs = 7,
    /// The floating-point and vector state of a thread.
    Xstate = 8,
    /// Credentials.
    Cred = 9,
    /// Root directory, working directory and umask.
    Fs = 10,
    /// An open file.
    File = 11,
    /// A file descriptor table.
    Files = 12,
    /// A pipe.
    Pipe = 13,
    /// A data buffer of a pipe.
    PipeBuf = 14,
    /// An unlinked file.
    Inode = 15,
    /// Data of an unlinked file.
    Data = 16,
    /// An address space.
    Mm = 17,
    /// A mapping of an address space.
    Vma = 18,
    /// Contents of pages.
    Pages = 19,
    /// Pages that are shared copy-on-write with a different address space.
    Same = 20,
    /// The end of an address space.
    MmEnd = 21,
    /// Signal handlers.
    Sighand = 22,
    /// The state that the threads of a process share.
    Signal = 23,
    /// A pending signal.
    Siginfo = 24,
    /// Interval timers.
    Timers = 25,
    /// Resource limits.
    Rlimits = 26,
    /// The tracer of a tracee, and the stop that it is in.
    Ptrace = 27,
    /// Hardware breakpoints and watchpoints.
    Debugregs = 28,
    /// The state of an eventfd.
    Eventfd = 29,
    /// The mask of a signalfd.
    Signalfd = 30,
    /// The state of a timerfd.
    Timerfd = 31,
    /// The items of an epoll file.
    Epoll = 32,
    /// A POSIX timer.
    PosixTimer = 33,
    /// A pseudo-terminal.
    Tty = 34,
    /// A seccomp filter.
    Seccomp = 35,
    /// A Unix socket, or a pair of connected ones.
    Sockets = 36,
    /// A message that a socket has not received yet.
    Message = 37,
    /// The state of an inotify file.
    Inotify = 38,
    /// A watch of an inotify file.
    Watch = 39,
    /// An unread event of an inotify file.
    InotifyEvent = 40,
}

/// A record with a verified checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The number of the record in the image, from 0.
    pub number: u64,
    /// Offset in bytes where the record begins.
    pub offset: u64,
    /// The type.
    pub kind: Kind,
    /// The number of the object that it describes, or 0.
    pub objref: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Record {
    /// Returns the structure at the start of the payload, and the bytes that follow.
    pub(super) fn split<T: FromBytes + KnownLayout + Immutable>(
        &self,
    ) -> Result<(T, &[u8]), ImageError> {
        T::read_from_prefix(&self.payload).map_err(|_| self.malformed("it is too short"))
    }

    /// Returns the payload as an array of structures.
    pub(super) fn array<T: FromBytes + KnownLayout + Immutable>(
        &self,
    ) -> Result<Vec<T>, ImageError> {
        let size = size_of::<T>();
        if !self.payload.len().is_multiple_of(size) {
            return Err(self.malformed("it has a partial entry"));
        }
        let entries = self.payload.chunks_exact(size);
        entries
            .map(|entry| T::read_from_bytes(entry).map_err(|_| self.malformed("it is too short")))
            .collect()
    }

    pub(super) fn malformed(&self, what: &'static str) -> ImageError {
        ImageError::Malformed {
            record: self.number,
            kind: self.kind,
            offset: self.offset,
            what,
        }
    }
}

/// Reads an image from its header to its trailer.
pub struct Reader<R> {
    from: R,
    number: u64,
    offset: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Returns a reader of the image in `from`.
    pub fn new(from: R) -> Self {
        Self {
            from,
            number: 0,
            offset: 0,
            ended: false,
        }
    }

    /// Returns the next record, or `None` after the trailer.
    pub fn next_record(&mut self) -> Result<Option<Record>, ImageError> {
        if self.ended {
            let mut more = [0];
            return match self.from.read(&mut more).map_err(ImageError::Io)? {
                0 => Ok(None),
                _ => Err(ImageError::Trailing(self.offset)),
            };
        }
        let mut head = [0; HEAD];
        self.fill(&mut head)?;
        let raw = RecordHead::read_from_bytes(&head).map_err(|_| ImageError::NoImage)?;
        let kind = Kind::from(raw.kind);
        if self.number == 0 && (kind != Kind::Header || raw.len < size_of::<Header>() as u64) {
            return Err(ImageError::NoImage);
        }
        let mut record = Record {
            number: self.number,
            offset: self.offset,
            kind,
            objref: raw.objref,
            payload: Vec::new(),
        };
        if raw.len > MAX_PAYLOAD {
            return Err(record.malformed("it exceeds the maximum length of a record"));
        }
        record.payload.resize(raw.len as usize, 0);
        self.fill(&mut record.payload)?;
        let seed = xxh64(&head[..SUMMED], self.number);
        if self.number == 0 {
            check_header(&record)?;
        }
        if xxh64(&record.payload, seed) != raw.sum {
            return Err(ImageError::Damaged {
                record: record.number,
                kind,
                offset: record.offset,
            });
        }
        self.number += 1;
        self.offset += HEAD as u64 + raw.len;
        if kind == Kind::Trailer {
            self.ended = true;
            if record.split::<Trailer>()?.0.nr_records != self.number {
                return Err(record.malformed("its number of records is wrong"));
            }
        }
        Ok(Some(record))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), ImageError> {
        self.from.read_exact(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => ImageError::CutOff {
                record: self.number,
                offset: self.offset,
            },
            _ => ImageError::Io(e),
        })
    }
}

/// Checks the magic and the version. This precedes the verification of the checksum, because a
/// different version may have a different checksum.
fn check_header(record: &Record) -> Result<(), ImageError> {
    let (header, _) = record.split::<Header>()?;
    if header.magic != MAGIC {
        return Err(ImageError::NoImage);
    }
    if header.version != VERSION {
        return Err(ImageError::Version(header.version));
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Writes records in the format of the kernel.
    pub fn image(records: &[(u32, u32, Vec<u8>)]) -> Vec<u8> {
        let mut image = Vec::new();
        for (number, (kind, objref, payload)) in records.iter().enumerate() {
            let mut head = Vec::new();
            head.extend(kind.to_le_bytes());
            head.extend(objref.to_le_bytes());
            head.extend((payload.len() as u64).to_le_bytes());
            let seed = xxh64(&head, number as u64);
            image.extend(&head);
            image.extend(xxh64(payload, seed).to_le_bytes());
            image.extend(payload);
        }
        image
    }

    pub fn header(tasks: u32) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<Header>()];
        bytes[..8].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&4096u32.to_le_bytes());
        bytes[48..52].copy_from_slice(&tasks.to_le_bytes());
        bytes[64..68].copy_from_slice(b"6.12");
        bytes
    }

    pub fn trailer(records: u64) -> Vec<u8> {
        [records.to_le_bytes(), 0u64.to_le_bytes()].concat()
    }

    fn small() -> Vec<u8> {
        image(&[(1, 0, header(0)), (2, 0, Vec::new()), (4, 0, trailer(3))])
    }

    fn read(bytes: &[u8]) -> Result<usize, ImageError> {
        let mut reader = Reader::new(bytes);
        let mut count = 0;
        while reader.next_record()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn a_whole_image_is_read_to_its_end() {
        assert_eq!(read(&small()).unwrap(), 3);
    }

    #[test]
    fn every_flipped_bit_is_detected() {
        let image = small();
        for byte in 0..image.len() {
            for bit in 0..8 {
                let mut damaged = image.clone();
                damaged[byte] ^= 1 << bit;
                assert!(read(&damaged).is_err(), "byte {byte} bit {bit}");
            }
        }
    }

    #[test]
    fn every_truncation_is_detected() {
        let image = small();
        for length in 0..image.len() {
            let error = read(&image[..length]).unwrap_err();
            assert!(
                matches!(error, ImageError::CutOff { .. }),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn swapped_records_are_detected() {
        let one = image(&[
            (1, 0, header(0)),
            (5, 0, vec![1]),
            (5, 0, vec![2]),
            (4, 0, trailer(4)),
        ]);
        let start = HEAD + size_of::<Header>();
        let mut other = one.clone();
        other[start..start + 50].rotate_left(25);
        assert_ne!(one, other);
        assert!(matches!(read(&other), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn foreign_files_are_distinguished_from_damaged_images() {
        assert!(matches!(read(&[0; 400]), Err(ImageError::NoImage)));
        let mut other = small();
        other[HEAD + 8] = 9;
        assert!(matches!(read(&other), Err(ImageError::Version(9))));
        let mut more = small();
        more.push(0);
        assert!(matches!(read(&more), Err(ImageError::Trailing(_))));
    }
}
