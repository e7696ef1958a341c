// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records with their checksums.

use std::io::{self, Read};

use thiserror::Error;
use xxhash_rust::xxh64::xxh64;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::layout::{Header, MAGIC, MAX_PAYLOAD, RecordHead, Trailer, VERSION};

/// Bytes of a record's head, and of that part of it that its checksum covers.
const HEAD: usize = 24;
pub(super) const SUMMED: usize = 16;

/// What is wrong with an image, and where.
#[derive(Debug, Error)]
pub enum ImageError {
    /// It cannot be read.
    #[error("cannot read the image")]
    Io(#[source] io::Error),
    /// It is something else.
    #[error("this is no checkpoint image: it does not begin as one")]
    NoImage,
    /// Its version is another.
    #[error("the image has version {0}; this program reads version {VERSION}")]
    Version(u32),
    /// It ends before its trailer.
    #[error("the image was cut off: it ends in record {record}, byte {offset}")]
    CutOff {
        /// Number of the record, from 0.
        record: u64,
        /// Where that begins.
        offset: u64,
    },
    /// A record is not what its checksum says.
    #[error("record {record} ({kind:?}) at byte {offset} is damaged: its checksum does not hold")]
    Damaged {
        /// Number of the record, from 0.
        record: u64,
        /// Its type.
        kind: Kind,
        /// Where it begins.
        offset: u64,
    },
    /// A record makes no sense.
    #[error("record {record} ({kind:?}) at byte {offset}: {what}")]
    Malformed {
        /// Number of the record, from 0.
        record: u64,
        /// Its type.
        kind: Kind,
        /// Where it begins.
        offset: u64,
        /// Why.
        what: &'static str,
    },
    /// There is more after the trailer.
    #[error("there is more after the image's end, at byte {0}")]
    Trailing(u64),
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// Types of records.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Kind {
            $($(#[$doc])* $name,)*
            /// One that this program does not know; the schema names it.
            Unknown(u32),
        }

        impl Kind {
            /// Its number in an image.
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
    /// First record.
    Header = 1,
    /// Names of the types.
    Schema = 2,
    /// Who is whose.
    Tree = 3,
    /// Last record.
    Trailer = 4,
    /// What a thread holds.
    Task = 5,
    /// End of a task's section.
    TaskEnd = 6,
    /// Registers.
    Regs = 7,
    /// Floating point and vector state.
    Xstate = 8,
    /// Credentials.
    Cred = 9,
    /// Root, working directory, umask.
    Fs = 10,
    /// An open file.
    File = 11,
    /// A table of descriptors.
    Files = 12,
    /// A pipe.
    Pipe = 13,
    /// Data in a pipe.
    PipeBuf = 14,
    /// A file without a name.
    Inode = 15,
    /// Data of such a file.
    Data = 16,
    /// An address space.
    Mm = 17,
    /// A mapping.
    Vma = 18,
    /// Memory.
    Pages = 19,
    /// Memory shared copy-on-write.
    Same = 20,
    /// End of an address space.
    MmEnd = 21,
    /// Signal handlers.
    Sighand = 22,
    /// What a process has once.
    Signal = 23,
    /// A pending signal.
    Siginfo = 24,
    /// Interval timers.
    Timers = 25,
    /// Resource limits.
    Rlimits = 26,
    /// A tracee's tracer, and the stop it is in.
    Ptrace = 27,
    /// Breakpoints and watchpoints.
    Debugregs = 28,
    /// What an eventfd holds.
    Eventfd = 29,
    /// What a signalfd gives.
    Signalfd = 30,
    /// What a timerfd holds.
    Timerfd = 31,
    /// What an epoll file watches.
    Epoll = 32,
    /// A POSIX timer.
    PosixTimer = 33,
    /// A pseudo-terminal.
    Tty = 34,
    /// A seccomp filter.
    Seccomp = 35,
    /// Two Unix sockets, or one.
    Sockets = 36,
    /// What a socket has not received yet.
    Message = 37,
    /// What an inotify file holds.
    Inotify = 38,
    /// What it watches.
    Watch = 39,
    /// What it has seen.
    InotifyEvent = 40,
}

/// One record, its checksum verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the stream, from 0.
    pub number: u64,
    /// Its first byte.
    pub offset: u64,
    /// Its type.
    pub kind: Kind,
    /// The object's number, 0 for none.
    pub objref: u32,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl Record {
    /// A structure at its start, and what follows.
    pub(super) fn split<T: FromBytes + KnownLayout + Immutable>(
        &self,
    ) -> Result<(T, &[u8]), ImageError> {
        T::read_from_prefix(&self.payload).map_err(|_| self.malformed("it is too short"))
    }

    /// Its payload as an array.
    pub(super) fn array<T: FromBytes + KnownLayout + Immutable>(
        &self,
    ) -> Result<Vec<T>, ImageError> {
        let size = size_of::<T>();
        if !self.payload.len().is_multiple_of(size) {
            return Err(self.malformed("it is no whole number of entries"));
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

/// Reads an image from its start to its trailer.
pub struct Reader<R> {
    from: R,
    number: u64,
    offset: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// A reader of what `from` gives.
    pub fn new(from: R) -> Self {
        Self {
            from,
            number: 0,
            offset: 0,
            ended: false,
        }
    }

    /// The next record; none after the trailer.
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
            return Err(record.malformed("it is longer than any record may be"));
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
                return Err(record.malformed("it counts another number of records"));
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

/// Another version may have another checksum, so it is looked at first.
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

    /// Writes records as the kernel does.
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
    fn every_flipped_bit_is_noticed() {
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
    fn every_cut_is_noticed() {
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
    fn records_cannot_change_places() {
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
    fn something_else_is_told_from_a_damaged_image() {
        assert!(matches!(read(&[0; 400]), Err(ImageError::NoImage)));
        let mut other = small();
        other[HEAD + 8] = 9;
        assert!(matches!(read(&other), Err(ImageError::Version(9))));
        let mut more = small();
        more.push(0);
        assert!(matches!(read(&more), Err(ImageError::Trailing(_))));
    }
}
