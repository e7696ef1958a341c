// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Writes the files of a snapshot that a monitor sends.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};

use super::directory::{Directory, New};
use super::format::{self, Changes, Manifest, Pages};
use super::hash::Hash;
use super::stream::{Piece, Receiver};
use super::{PAGE, pages_of};
use crate::control::ANSWER;
use crate::{Error, Result};

const WHAT: &str = "save";

/// Receives the snapshot of a guest with `memory_mib` MiB from `stream`, and replaces the snapshot
/// in `directory` with it. On an error the directory's snapshot is unchanged. With `base`, the
/// monitor sends an incremental snapshot on top of it.
///
/// In any case the stream is read to its end, unless the monitor does not send it within
/// [`ANSWER`].
pub fn write(
    directory: &Path,
    build: &str,
    memory_mib: u32,
    base: Option<&Manifest>,
    stream: &UnixStream,
) -> Result<Manifest> {
    let setting = stream.set_read_timeout(Some(ANSWER));
    setting.map_err(|source| Error::Io {
        what: "set a timeout on the monitor's stream",
        source,
    })?;
    let mut receiver = Receiver::new(stream, pages_of(memory_mib));
    let result = Files::create(directory, memory_mib, base).and_then(|mut files| {
        files.receive(&mut receiver)?;
        files.commit(build)
    });
    // The monitor blocks until everything it sends has been read. If it exits early, its missing
    // reply reports that.
    while !receiver.ended() {
        let _ = receiver.receive();
    }
    result
}

fn stream_error(source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Error::Gone {
            command: WHAT.into(),
        },
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Silent {
            command: WHAT.into(),
            after: ANSWER,
        },
        _ => Error::Io {
            what: "parse the monitor's stream",
            source,
        },
    }
}

/// The files of a snapshot that is being written.
struct Files {
    directory: Directory,
    id: String,
    memory_mib: u32,
    pages: New,
    changes: Option<Changes>,
    /// Number of changed pages written so far.
    written: u64,
    hash: Hash,
    state: Vec<u8>,
}

impl Files {
    fn create(directory: &Path, memory_mib: u32, base: Option<&Manifest>) -> Result<Self> {
        let path = directory;
        let directory = Directory::take(path)?;
        if base.is_some_and(|base| Some(&base.id) == directory.current().as_ref()) {
            return Err(Error::OverBase {
                directory: path.to_owned(),
            });
        }
        let id = new_id().map_err(|source| Error::Io {
            what: "generate an id for the snapshot",
            source,
        })?;
        let pages = directory.create(&format::file_name(&id, base.is_some()))?;
        if base.is_none() {
            // Pages that are not written are zeros.
            let length = pages_of(memory_mib) * PAGE as u64;
            pages
                .file
                .set_len(length)
                .map_err(|source| pages.error(source))?;
        }
        Ok(Self {
            directory,
            id,
            memory_mib,
            pages,
            changes: base.map(|base| Changes {
                base: base.id.clone(),
                base_hash: base.pages.hash,
                runs: Vec::new(),
            }),
            written: 0,
            hash: Hash::new(),
            state: Vec::new(),
        })
    }

    fn add(&mut self, first: u64, pages: &[u8]) -> Result<()> {
        let at = match &mut self.changes {
            None => first,
            Some(changes) => {
                let count = (pages.len() / PAGE) as u64;
                changes.add(first, count);
                self.written += count;
                self.written - count
            }
        };
        self.pages
            .file
            .write_all_at(pages, at * PAGE as u64)
            .map_err(|source| self.pages.error(source))?;
        self.hash.add(at, pages);
        Ok(())
    }

    fn receive(&mut self, receiver: &mut Receiver<&UnixStream>) -> Result<()> {
        loop {
            match receiver.receive().map_err(stream_error)? {
                Piece::State(state) => self.state = state,
                Piece::Pages(first, pages) => self.add(first, pages)?,
                Piece::End => return Ok(()),
                Piece::Failed(reason) => {
                    return Err(Error::Refused {
                        command: WHAT.into(),
                        reason,
                    });
                }
            }
        }
    }

    /// Makes the files the directory's snapshot.
    fn commit(self, build: &str) -> Result<Manifest> {
        let Self {
            directory,
            id,
            memory_mib,
            pages,
            changes,
            hash,
            state,
            ..
        } = self;
        let metadata = pages
            .file
            .metadata()
            .map_err(|source| pages.error(source))?;
        let manifest = Manifest {
            memory_mib,
            pages: Pages {
                length: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                hash: hash.finish(),
            },
            changes,
            id,
        };
        let mut new = directory.create(&format!("state.new-{}", manifest.id))?;
        format::seal(build, &manifest, &state)
            .and_then(|bytes| new.file.write_all(&bytes))
            .map_err(|source| new.error(source))?;
        directory.commit(new, pages)?;
        Ok(manifest)
    }
}

/// Returns a new random `id`.
fn new_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom(&mut bytes, GetRandomFlags::empty())?;
    Ok(bytes.iter().fold(String::new(), |mut id, byte| {
        // Writing to a string cannot fail.
        let _ = write!(id, "{byte:02x}");
        id
    }))
}
