// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file `state` of a snapshot: everything but its pages, which are in a separate file.
//!
//! | offset | length | content |
//! |---|---|---|
//! | 0 | 8 | `CRUCIVM\n` |
//! | 8 | 4 | version of the format, little-endian |
//! | 12 | 4 | length of the build's name |
//! | 16 | 8 | length of the manifest |
//! | 24 | 8 | length of the machine's state |
//! | 32 | 8 | xxh64 of all that follows |
//! | 40 | | the build's name, the [`Manifest`] as JSON, the machine's state as JSON |
//!
//! A state can be read only by the build that wrote it: its content follows the code's structures.

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::PAGE;

/// The name of the state's file.
pub const STATE: &str = "state";

const MAGIC: &[u8; 8] = b"CRUCIVM\n";

/// The version of the header and the table above; changes of the state's content are covered by the
/// build's name.
const VERSION: u32 = 2;

const HEADER: usize = 40;

/// Maximum size of the file in bytes. A guest with eight vCPUs and full buffers, whose changed
/// pages are scattered, takes less.
pub const LIMIT: u64 = 64 << 20;

/// A run of consecutive pages: the first page's number, and the number of pages.
pub type Run = (u64, u64);

/// Describes the files of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The unique name of the snapshot: 32 hexadecimal digits.
    pub id: String,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// Describes the file with the pages.
    pub pages: Pages,
    /// The pages in the file of an incremental snapshot, and its base; `None` if the file has all
    /// pages.
    pub changes: Option<Changes>,
}

/// Properties of a file with pages. Its name follows from the [`Manifest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Its length in bytes.
    pub length: u64,
    /// Modification time: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// The hash of its content; see [`Hash`](super::hash::Hash).
    pub hash: u64,
}

/// The pages of an incremental snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The `id` of the base snapshot.
    pub base: String,
    /// The hash of the base snapshot's pages.
    pub base_hash: u64,
    /// The runs of the guest's pages that the file has, in order.
    pub runs: Vec<Run>,
}

impl Changes {
    /// Returns the number of pages.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|(_, count)| count).sum()
    }

    /// Appends pages, whose numbers must be greater than those of all others.
    pub fn add(&mut self, first: u64, count: u64) {
        match self.runs.last_mut() {
            Some((last, length)) if *last + *length == first => *length += count,
            _ => self.runs.push((first, count)),
        }
    }
}

impl Manifest {
    /// Returns the name of the file with the pages.
    pub fn file_name(&self) -> String {
        file_name(&self.id, self.changes.is_some())
    }

    /// Returns true when the content is consistent. A state's file may come from an untrusted
    /// source, and its names become names of files.
    fn is_sound(&self) -> bool {
        let memory = u64::from(self.memory_mib) << 20;
        let Some(changes) = &self.changes else {
            return is_id(&self.id) && self.pages.length == memory;
        };
        // The end of each range, if it begins after the previous one and ends within the memory.
        let all = memory / PAGE as u64;
        let end = changes.runs.iter().try_fold(0, |next, &(first, count)| {
            let end = first.checked_add(count)?;
            (first >= next && count > 0 && end <= all).then_some(end)
        });
        // The runs are disjoint, so they have at most as many pages as the memory.
        is_id(&self.id)
            && is_id(&changes.base)
            && end.is_some()
            && self.pages.length == changes.pages() * PAGE as u64
    }
}

/// Returns true when this can be the `id` of a snapshot.
pub fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the name of a file with pages.
pub fn file_name(id: &str, changes: bool) -> String {
    let kind = if changes { "changes" } else { "memory" };
    format!("{kind}-{id}")
}

/// Returns the content of a state's file.
pub fn seal(build: &str, manifest: &Manifest, state: &[u8]) -> io::Result<Vec<u8>> {
    let manifest = serde_json::to_vec(manifest)?;
    let mut body = build.as_bytes().to_vec();
    body.extend(&manifest);
    body.extend(state);
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((build.len() as u32).to_le_bytes());
    bytes.extend((manifest.len() as u64).to_le_bytes());
    bytes.extend((state.len() as u64).to_le_bytes());
    bytes.extend(xxh64(&body, 0).to_le_bytes());
    bytes.extend(body);
    Ok(bytes)
}

/// Reads a file from its current position to its end, at most [`LIMIT`] bytes.
pub fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The parts of a state's file.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The build that wrote it.
    pub build: &'a str,
    /// Describes the snapshot's files.
    pub manifest: Manifest,
    /// The machine's state, as JSON.
    pub state: &'a [u8],
}

/// Parses the content of a state's file that `build` wrote. Returns the reason if it is damaged or
/// a different build wrote it.
pub fn open<'a>(bytes: &'a [u8], build: &str) -> Result<Parts<'a>, String> {
    let parts = open_any(bytes)?;
    if parts.build != build {
        return Err(format!(
            "it was saved by a different build ({})",
            parts.build
        ));
    }
    Ok(parts)
}

/// Parses the content of a state's file that any build wrote.
pub fn open_any(bytes: &[u8]) -> Result<Parts<'_>, String> {
    let field = |at: usize, length: usize| {
        let mut value = [0; 8];
        value[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(value)
    };
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err("this is not the state of a guest".into());
    }
    let version = field(8, 4);
    if version != u64::from(VERSION) {
        return Err(format!(
            "its format has version {version}, this crucible reads {VERSION}"
        ));
    }
    let body = &bytes[HEADER..];
    let (name, manifest, state) = (field(12, 4), field(16, 8), field(24, 8));
    let sum = name
        .checked_add(manifest)
        .and_then(|sum| sum.checked_add(state));
    if sum != Some(body.len() as u64) {
        return Err("it is truncated, or too long".into());
    }
    if xxh64(body, 0) != field(32, 8) {
        return Err("it is damaged".into());
    }
    let (name, rest) = body.split_at(name as usize);
    let (manifest, state) = rest.split_at(manifest as usize);
    let build = std::str::from_utf8(name).map_err(|_| "the name of its build is not UTF-8")?;
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|error| format!("its manifest cannot be parsed ({error})"))?;
    if !manifest.is_sound() {
        return Err("its manifest is inconsistent".into());
    }
    Ok(Parts {
        build,
        manifest,
        state,
    })
}

#[cfg(test)]
mod tests;
