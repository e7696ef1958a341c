// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Saved guests, from the side of a monitor's parent, which opens and writes their files;
//! the monitor itself may open none.
//!
//! A guest is saved in a directory of its own: the file `state` (`format.rs`) and the
//! one with its memory's pages, which the state names. Those who start there map the pages
//! privately.

mod directory;
pub(in crate::kvm) mod format;
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

/// How many pages a guest with `mib` MiB of memory has.
pub(super) fn pages_of(mib: u32) -> u64 {
    (u64::from(mib) << 20) / PAGE as u64
}

/// The files of a saved guest, to be handed to a monitor.
pub(super) struct Opened {
    /// What belongs together.
    pub manifest: Manifest,
    /// The file `state`, at its beginning.
    pub state: File,
    /// The file with the pages.
    pub pages: File,
}

/// Removes what others, who were killed, have left in a directory in which a guest is
/// going to be saved.
fn clean(directory: &Path) -> Result<()> {
    match Directory::take(directory) {
        // Then somebody else will.
        Err(Error::Saving { .. }) => Ok(()),
        result => result.map(drop),
    }
}

/// Where a guest begins, opened, and what its changes are to be counted from.
pub(super) struct Beginning {
    /// The guest that is saved whole.
    pub base: Opened,
    /// What differs from it.
    pub changes: Option<Opened>,
}

/// Opens what a guest begins with; `None`: it boots.
pub(super) fn begin(start: &Start, build: &str) -> Result<Option<Beginning>> {
    let (base, changes) = match start {
        Start::Boot => return Ok(None),
        Start::ToBeSaved(directory) => {
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
            "it has only what differs from another saved guest",
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

/// Opens what differs from the guest `whole`, saved in `base`.
fn open_changes(directory: &Path, base: &Path, whole: &Manifest, build: &str) -> Result<Opened> {
    let opened = open(directory, build)?;
    match &opened.manifest.changes {
        None => Err(refused(
            directory,
            "it is one of its own, and no changes of another",
        )),
        Some(changes)
            if (&changes.base, changes.base_hash) != (&whole.id, whole.pages.hash)
                || opened.manifest.memory_mib != whole.memory_mib =>
        {
            Err(refused(
                directory,
                format!(
                    "it differs from another saved guest than the one in {}",
                    base.display()
                ),
            ))
        }
        Some(_) => Ok(opened),
    }
}

/// Opens what is saved in `directory`, if `build` has saved it and it is whole.
///
/// The pages are looked at only where their file is not as it was when they were saved:
/// a copy, or one that somebody has written to.
fn open(directory: &Path, build: &str) -> Result<Opened> {
    let mut last = None;
    loop {
        let (mut state, manifest) = open_state(directory, build)?;
        let path = directory.join(manifest.file_name());
        let pages = match File::open(&path) {
            Ok(pages) => pages,
            // Another guest may have been saved there meanwhile.
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

/// Whether a file with pages is what it was when it was saved. Its content is looked at
/// where it must be, or with `thorough`.
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

/// A saved guest that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The name that no other saved guest has.
    pub id: String,
    /// The file with its pages: its memory, from the first byte to the last; or, where it
    /// differs from another, only the pages that do.
    pub pages: PathBuf,
    /// The `id` of the guest that it differs from.
    pub base: Option<String>,
    /// Whatever else lies in the directory.
    pub leftovers: Vec<PathBuf>,
}

/// Reads all that is saved in `directory` and makes sure that it is what `program` has
/// saved there, byte for byte. Starting a guest does not: it would not be fast.
///
/// An error tells what is missing or damaged.
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
