// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Snapshots, as a monitor's parent handles them: it opens and writes their files, because the
//! monitor itself may not open any.
//!
//! A snapshot has a directory of its own, with the file `state` (`format.rs`) and the file with the
//! memory's pages, which the state names. Guests that start from the snapshot map the pages
//! privately.

mod directory;
pub(in crate::kvm) mod format;
#[cfg(feature = "fuzzing")]
pub(in crate::kvm) mod fuzz;
pub(in crate::kvm) mod hash;
pub(in crate::kvm) mod stream;
mod write;

use std::fs::{self, File};
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::directory::Directory;
use self::format::{Manifest, Pages, STATE};
use self::hash::Hash;
pub(super) use self::write::write;
use crate::{Error, Result, Start};

/// The size of a page in bytes.
pub(super) const PAGE: usize = 4096;

/// Returns the number of pages of a guest with `mib` MiB of memory.
pub(super) fn pages_of(mib: u32) -> u64 {
    (u64::from(mib) << 20) / PAGE as u64
}

/// The open files of a snapshot, for a monitor.
pub(super) struct Opened {
    /// Describes the files.
    pub manifest: Manifest,
    /// The file `state`, positioned at its beginning.
    pub state: File,
    /// The file with the pages.
    pub pages: File,
}

/// Removes files that killed processes have left in a directory in which a guest is going to be
/// saved.
fn clean(directory: &Path) -> Result<()> {
    match Directory::take(directory) {
        // The process that saves there now removes them.
        Err(Error::Saving { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// The open files from which a guest starts, including the base of its changes.
pub(super) struct Beginning {
    /// The snapshot with all pages.
    pub base: Opened,
    /// The incremental snapshot on top of it.
    pub changes: Option<Opened>,
}

/// Opens the files from which a guest starts. Returns `None` if the guest boots.
pub(super) fn begin(start: &Start, build: &str) -> Result<Option<Beginning>> {
    let (base, changes) = match start {
        Start::Boot => return Ok(None),
        Start::BootForSnapshot(directory) => {
            clean(directory)?;
            return Ok(None);
        }
        Start::Saved(base) => (base, None),
        Start::Changed { base, changes } => (base, Some(changes)),
    };
    let opened = open(base, build)?;
    if opened.manifest.changes.is_some() {
        return Err(refused(
            base,
            "it is an incremental snapshot and needs its base",
        ));
    }
    let changes = match changes {
        Some(directory) => Some(open_changes(directory, base, &opened.manifest, build)?),
        None => None,
    };
    Ok(Some(Beginning {
        base: opened,
        changes,
    }))
}

/// Opens an incremental snapshot of the base snapshot `whole`, which is in `base`.
fn open_changes(directory: &Path, base: &Path, whole: &Manifest, build: &str) -> Result<Opened> {
    let opened = open(directory, build)?;
    match &opened.manifest.changes {
        None => Err(refused(
            directory,
            "it is a complete snapshot, not an incremental one",
        )),
        Some(changes)
            if (&changes.base, changes.base_hash) != (&whole.id, whole.pages.hash)
                || opened.manifest.memory_mib != whole.memory_mib =>
        {
            Err(refused(
                directory,
                format!("its base is not the snapshot in {}", base.display()),
            ))
        }
        Some(_) => Ok(opened),
    }
}

/// Opens the snapshot in `directory`, if `build` has saved it and it is complete.
///
/// The content of the pages is verified only if the modification time of their file differs from
/// the recorded one: it may be a copy, or a different process may have written to it.
fn open(directory: &Path, build: &str) -> Result<Opened> {
    let mut last = None;
    loop {
        let (mut state, manifest) = open_state(directory, build)?;
        let path = directory.join(manifest.file_name());
        let pages = match File::open(&path) {
            Ok(pages) => pages,
            // A different snapshot may have replaced it since the state was read.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    && last.as_ref() != Some(&manifest.id) =>
            {
                last = Some(manifest.id);
                continue;
            }
            Err(source) => return Err(Error::File { path, source }),
        };
        let failed = |source| Error::File {
            path: path.clone(),
            source,
        };
        check_pages(&pages, &manifest.pages, false)
            .map_err(failed)?
            .map_err(|why| refused(directory, why))?;
        state.rewind().map_err(failed)?;
        return Ok(Opened {
            manifest,
            state,
            pages,
        });
    }
}

fn refused(directory: &Path, why: impl Into<String>) -> Error {
    Error::NoSnapshot {
        directory: directory.to_owned(),
        why: why.into(),
    }
}

fn open_state(directory: &Path, build: &str) -> Result<(File, Manifest)> {
    let path = directory.join(STATE);
    let read = File::open(&path).and_then(|mut file| {
        let bytes = format::read(&mut file)?;
        Ok((file, bytes))
    });
    let (file, bytes) = read.map_err(|source| Error::File { path, source })?;
    match format::open(&bytes, build) {
        Ok(parts) => Ok((file, parts.manifest)),
        Err(why) => Err(refused(directory, why)),
    }
}

/// Checks that a file with pages is unchanged since it was saved. Its content is read only if its
/// modification time differs, or with `thorough`.
fn check_pages(file: &File, saved: &Pages, thorough: bool) -> io::Result<Result<(), String>> {
    let metadata = file.metadata()?;
    let length = metadata.len();
    if length != saved.length {
        return Ok(Err(format!(
            "its memory has {length} bytes, not {}",
            saved.length
        )));
    }
    let untouched = (metadata.mtime(), metadata.mtime_nsec()) == saved.modified;
    if (thorough || !untouched) && Hash::of_file(file, length)? != saved.hash {
        return Ok(Err("its memory is damaged".into()));
    }
    Ok(Ok(()))
}

/// A verified snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The unique name of the snapshot.
    pub id: String,
    /// The file with its pages: the guest's memory from the first byte to the last, or only the
    /// pages that differ from the base.
    pub pages: PathBuf,
    /// The `id` of the base of an incremental snapshot.
    pub base: Option<String>,
    /// All other files in the directory.
    pub leftovers: Vec<PathBuf>,
}

/// Reads the whole snapshot in `directory` and verifies that each byte is as `program` has
/// saved. Starting a guest does not do this, because it is slow.
///
/// The error describes the missing or damaged part.
pub fn verify(directory: &Path, options: &super::Options) -> Result<Verified> {
    let opened = open(directory, &super::build(&options.program)?)?;
    let pages = directory.join(opened.manifest.file_name());
    check_pages(&opened.pages, &opened.manifest.pages, true)
        .map_err(|source| Error::File {
            path: pages.clone(),
            source,
        })?
        .map_err(|why| refused(directory, why))?;
    let entries = fs::read_dir(directory).and_then(|entries| {
        entries
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut leftovers = entries.map_err(|source| Error::File {
        path: directory.to_owned(),
        source,
    })?;
    leftovers.retain(|path| *path != pages && *path != directory.join(STATE));
    Ok(Verified {
        id: opened.manifest.id,
        base: opened.manifest.changes.map(|changes| changes.base),
        pages,
        leftovers,
    })
}
