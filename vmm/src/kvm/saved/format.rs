// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The file `state` of a saved guest: all but its pages, which are in a file of their own.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | `CRUCIVM\n` |
//! | 8 | 4 | version of the format, little-endian |
//! | 12 | 4 | length of the build's name |
//! | 16 | 8 | length of the manifest |
//! | 24 | 8 | length of the machine's state |
//! | 32 | 8 | xxh64 of all that follows |
//! | 40 | | the build's name, the [`Manifest`] as JSON, the machine's state as JSON |
//!
//! A state is of one build: what is in it follows the code's structures.

use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh64::xxh64;

use super::PAGE;

/// The name of the file.
pub const STATE: &str = "state";

const MAGIC: &[u8; 8] = b"CRUCIVM\n";

/// Change this with the table above; what is in the state goes by the build.
const VERSION: u32 = 2;

const HEADER: usize = 40;

/// A guest with eight vCPUs and full buffers, whose pages were changed here and there,
/// takes less. In bytes.
pub const LIMIT: u64 = 64 << 20;

/// Pages that lie one after the other: the first one's number, and how many.
pub type Run = (u64, u64);

/// What belongs together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// A name that no other saved guest has: 32 hexadecimal digits.
    pub id: String,
    /// The guest's memory in MiB.
    pub memory_mib: u32,
    /// The file with its pages.
    pub pages: Pages,
    /// Where the file has not all pages: which ones, and where the others are.
    pub changes: Option<Changes>,
}

/// What is known of a file with pages, without its name, which the [`Manifest`] gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pages {
    /// Its length in bytes.
    pub length: u64,
    /// When it was written last: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// The hash of its content; see [`Hash`](super::hash::Hash).
    pub hash: u64,
}

/// The pages of a guest that are not as in another saved guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// The other's `id`.
    pub base: String,
    /// The hash of its pages.
    pub base_hash: u64,
    /// Which pages of the guest's memory the file has, one after the other.
    pub runs: Vec<Run>,
}

impl Changes {
    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.runs.iter().map(|(_, count)| count).sum()
    }

    /// Adds pages behind all others.
    pub fn add(&mut self, first: u64, count: u64) {
        match self.runs.last_mut() {
            Some((last, length)) if *last + *length == first => *length += count,
            _ => self.runs.push((first, count)),
        }
    }
}

impl Manifest {
    /// The name of the file with the pages.
    pub fn file_name(&self) -> String {
        file_name(&self.id, self.changes.is_some())
    }

    /// Whether what it says can be. Its file may come from anywhere; and its names become
    /// names of files.
    fn is_sound(&self) -> bool {
        let memory = u64::from(self.memory_mib) << 20;
        let Some(changes) = &self.changes else {
            return is_id(&self.id) && self.pages.length == memory;
        };
        // Where each run ends, if it begins behind the one before and ends in the memory.
        let all = memory / PAGE as u64;
        let end = changes.runs.iter().try_fold(0, |next, &(first, count)| {
            let end = first.checked_add(count)?;
            (first >= next && count > 0 && end <= all).then_some(end)
        });
        // So there are not more of them than the memory has.
        is_id(&self.id)
            && is_id(&changes.base)
            && end.is_some()
            && self.pages.length == changes.pages() * PAGE as u64
    }
}

/// Whether this can be the name of a saved guest.
pub fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The name of a file with pages.
pub fn file_name(id: &str, changes: bool) -> String {
    let kind = if changes { "changes" } else { "memory" };
    format!("{kind}-{id}")
}

/// The content of the file.
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

/// Reads a file from where it stands to its end.
pub fn read(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The parts of a file's content.
#[derive(Debug, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Who wrote it.
    pub build: &'a str,
    /// What belongs to it.
    pub manifest: Manifest,
    /// The machine's state.
    pub state: &'a [u8],
}

/// Takes a file's content apart, if this build wrote it and it is whole; else says why not.
pub fn open<'a>(bytes: &'a [u8], build: &str) -> Result<Parts<'a>, String> {
    let parts = open_any(bytes)?;
    if parts.build != build {
        return Err(format!("it is of another build ({})", parts.build));
    }
    Ok(parts)
}

/// The same, whichever build wrote it.
pub fn open_any(bytes: &[u8]) -> Result<Parts<'_>, String> {
    let field = |at: usize, length: usize| {
        let mut value = [0; 8];
        value[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(value)
    };
    if bytes.len() < HEADER || &bytes[..8] != MAGIC {
        return Err("this is no state of a guest".into());
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
        return Err("it is truncated, or has too much".into());
    }
    if xxh64(body, 0) != field(32, 8) {
        return Err("it is damaged".into());
    }
    let (name, rest) = body.split_at(name as usize);
    let (manifest, state) = rest.split_at(manifest as usize);
    let build = std::str::from_utf8(name).map_err(|_| "its build has no name")?;
    let manifest: Manifest = serde_json::from_slice(manifest)
        .map_err(|error| format!("it is of another make ({error})"))?;
    if !manifest.is_sound() {
        return Err("what it says of its pages cannot be".into());
    }
    Ok(Parts {
        build,
        manifest,
        state,
    })
}

#[cfg(test)]
mod tests;
