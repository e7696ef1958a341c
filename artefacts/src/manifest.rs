// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Manifests: descriptions of a cached artefact's files when it was made, so that a file that was
//! damaged since is noticed before it is used.
//!
//! Files are read again before each use, since a flipped bit changes neither size nor time. That
//! needs a fast hash: xxh3 (128 bits) reads a userland of 300 MB in 0.1 s; sha256 takes several
//! times as long on CPUs without instructions for it. It finds accidents. It does not find an
//! attacker who writes a manifest, too; the check of the cache's owner excludes such attackers.
//! Each file's sha256 is computed once, when the artefact is made, and names the content in
//! records.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

use rustix::fs::SeekFrom;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;
use xxhash_rust::xxh3::Xxh3Default;

use crate::hash::sha256_file;
use crate::{Error, Result};

/// Name of the file beside the artefact's other files.
pub(crate) const NAME: &str = "crucible-manifest.json";

/// Version of the format.
const FORMAT: u32 = 1;

/// Size of a read.
const CHUNK: usize = 1 << 20;

/// Minimum size in bytes of files that have no sha256 in the manifest.
const LARGE: u64 = 1 << 30;

/// The files of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    format: u32,
    /// By path in the artefact's directory.
    pub files: BTreeMap<String, Entry>,
}

/// A file or a symbolic link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// A file.
    File {
        size: u64,
        /// Hash of its data and their offsets, without holes.
        xxh3: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        sha256: Option<String>,
        /// Its inode number, and its modification time in nanoseconds.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        stamp: Option<(u64, i64, i64)>,
    },
    /// A symbolic link, with its target.
    Link(String),
}

/// The properties of files that are compared with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// Their content.
    Content,
    /// Size, inode number and modification time; their content where these differ.
    Stamp,
}

impl Manifest {
    /// Describes the files in `directory`.
    pub fn of(directory: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in WalkDir::new(directory).min_depth(1) {
            let entry = entry.map_err(|error| walk_error(directory, error))?;
            let path = entry.path();
            let name = path.strip_prefix(directory).unwrap_or(path);
            if name == Path::new(NAME) || entry.file_type().is_dir() {
                continue;
            }
            let name = name.to_str().ok_or_else(|| Error::Malformed {
                path: path.to_owned(),
                problem: "its name is not UTF-8".into(),
            })?;
            files.insert(name.to_owned(), Entry::of(path)?);
        }
        let format = FORMAT;
        Ok(Self { format, files })
    }

    /// Writes the manifest to `directory`, atomically.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let path = directory.join(NAME);
        let new = directory.join(format!(".{NAME}.{}", std::process::id()));
        let text = serde_json::json!(self).to_string();
        fs::write(&new, text).map_err(Error::file("write", &new))?;
        fs::rename(&new, &path).map_err(Error::file("put in place", &path))
    }

    /// Reads the manifest in `directory`; returns `None` if there is none.
    ///
    /// # Errors
    /// The manifest cannot be read, or is damaged.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(NAME);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &path)(error)),
        };
        Self::parse(&text)
            .map(Some)
            .map_err(|problem| Error::Malformed { path, problem })
    }

    /// Parses its text.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let manifest: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            Err(format!("unknown format {}", manifest.format))
        }
    }

    /// Returns the size of all files, in bytes.
    pub fn size(&self) -> u64 {
        let size = |entry: &Entry| match entry {
            Entry::File { size, .. } => *size,
            Entry::Link(_) => 0,
        };
        self.files.values().map(size).sum()
    }

    /// Returns the problem of the first file in `directory` that differs from its description.
    /// Other files do not matter.
    pub fn verify(&self, directory: &Path, check: Check) -> Option<String> {
        self.files.iter().find_map(|(name, entry)| {
            let path = directory.join(name);
            let problem = entry.problem(&path, check);
            problem.map(|problem| format!("{name} {problem}"))
        })
    }
}

impl Entry {
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = path
            .symlink_metadata()
            .map_err(Error::file("look at", path))?;
        if metadata.is_symlink() {
            let target = fs::read_link(path).map_err(Error::file("read the link", path))?;
            return Ok(Self::Link(target.to_string_lossy().into_owned()));
        }
        let hash = File::open(path)
            .and_then(|file| xxh3(&file, metadata.size()))
            .map_err(Error::file("read", path))?;
        // Larger files are disks and memories, mostly holes, and no record names their hash.
        let sha256 = (metadata.size() < LARGE).then(|| sha256_file(path));
        Ok(Self::File {
            size: metadata.size(),
            xxh3: hash,
            sha256: sha256.transpose()?,
            stamp: Some(stamp(&metadata)),
        })
    }

    fn problem(&self, path: &Path, check: Check) -> Option<String> {
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Some("is gone".into()),
            Err(error) => return Some(format!("cannot be examined: {error}")),
        };
        match self {
            Self::Link(target) => match fs::read_link(path) {
                Ok(found) if found == Path::new(target) => None,
                _ => Some("is no longer the same link".into()),
            },
            Self::File { .. } if !metadata.is_file() => Some("is no longer a file".into()),
            Self::File { size, .. } if metadata.size() != *size => {
                Some(format!("has {} bytes, not {size}", metadata.size()))
            }
            Self::File {
                size,
                xxh3: hash,
                stamp: before,
                ..
            } => {
                if check == Check::Stamp && *before == Some(stamp(&metadata)) {
                    return None;
                }
                let found = File::open(path).and_then(|file| xxh3(&file, *size));
                match found {
                    Ok(found) if found == *hash => None,
                    Ok(_) => Some("has changed since it was made".into()),
                    Err(error) => Some(format!("cannot be read: {error}")),
                }
            }
        }
    }
}

fn stamp(metadata: &fs::Metadata) -> (u64, i64, i64) {
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

/// Returns the hash of the data in a file of `size` bytes, with the offset of each chunk that has
/// any byte but zero. A copy without holes has the same hash.
fn xxh3(file: &File, size: u64) -> io::Result<String> {
    let mut hash = Xxh3Default::new();
    hash.update(&size.to_le_bytes());
    let (mut buffer, zeros) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    while at < size {
        // A file system without holes reports data everywhere.
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => at,
        };
        at = data - data % CHUNK as u64;
        let length = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        let chunk = &mut buffer[..length];
        file.read_exact_at(chunk, at)?;
        if chunk != &zeros[..length] {
            hash.update(&at.to_le_bytes());
            hash.update(chunk);
        }
        at += length as u64;
    }
    Ok(format!("{:032x}", hash.digest128()))
}

fn walk_error(directory: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(directory).to_owned();
    match error.into_io_error() {
        Some(source) => Error::file("look at", &path)(source),
        None => Error::Malformed {
            path,
            problem: "its links lead in a circle".into(),
        },
    }
}

/// The state of the files of an artefact that this process has verified: a process that
/// writes to one changes its state.
type Stamps = Vec<(u64, u64, i64, i64, i64, i64)>;

static VERIFIED: LazyLock<Mutex<HashMap<PathBuf, Stamps>>> = LazyLock::new(Mutex::default);

/// Verifies the artefact in `directory`, once in this process unless its files change. Returns
/// its problem. An artefact without a manifest, made by an earlier crucible, gets one.
pub(crate) fn verify(directory: &Path, check: Check) -> Option<String> {
    let known = |stamps: &Stamps| {
        let verified = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
        verified.get(directory) == Some(stamps)
    };
    match Manifest::read(directory) {
        Ok(Some(manifest)) => {
            let before = stamps(directory, &manifest);
            if before.as_ref().is_some_and(known) {
                return None;
            }
            let problem = manifest.verify(directory, check);
            if let (None, Some(stamps)) = (&problem, before) {
                remember(directory, stamps);
            }
            problem
        }
        Ok(None) => {
            // A cache that cannot be written is used as it is.
            if let Ok(manifest) = Manifest::of(directory) {
                let _ = manifest.write(directory);
            }
            None
        }
        Err(error) => Some(format!("its {NAME} is damaged: {error}")),
    }
}

fn stamps(directory: &Path, manifest: &Manifest) -> Option<Stamps> {
    let stamp = |name: &String| {
        let it = directory.join(name).symlink_metadata().ok()?;
        let (modified, changed) = ((it.mtime(), it.mtime_nsec()), (it.ctime(), it.ctime_nsec()));
        Some((
            it.ino(),
            it.size(),
            modified.0,
            modified.1,
            changed.0,
            changed.1,
        ))
    };
    manifest.files.keys().map(stamp).collect()
}

/// Returns the sha256 of an artefact's file, if this process has verified it and it has not been
/// written to since.
pub(crate) fn sha256(path: &Path) -> Option<String> {
    let directory = path.parent()?;
    let manifest = Manifest::read(directory).ok()??;
    let stamps = stamps(directory, &manifest)?;
    let verified = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    if verified.get(directory) != Some(&stamps) {
        return None;
    }
    match manifest.files.get(path.file_name()?.to_str()?)? {
        Entry::File { sha256, .. } => sha256.clone(),
        Entry::Link(_) => None,
    }
}

/// Writes the manifest of a new artefact, whose files this process has just made.
pub(crate) fn seal(directory: &Path) -> Result<()> {
    Manifest::of(directory)?.write(directory)
}

fn remember(directory: &Path, stamps: Stamps) {
    let mut verified = VERIFIED.lock().unwrap_or_else(PoisonError::into_inner);
    verified.insert(directory.to_owned(), stamps);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};
    use std::time::SystemTime;

    fn artefact() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("deep")).unwrap();
        fs::write(directory.path().join("deep/a"), "one").unwrap();
        fs::write(directory.path().join("b"), vec![7; 3 << 20]).unwrap();
        std::os::unix::fs::symlink("b", directory.path().join("c")).unwrap();
        seal(directory.path()).unwrap();
        directory
    }

    fn problem(directory: &Path) -> String {
        verify(directory, Check::Content).unwrap_or_default()
    }

    #[test]
    fn a_flipped_byte_with_an_unchanged_time_is_found() {
        let directory = artefact();
        assert_eq!(problem(directory.path()), "");
        let path = directory.path().join("b");
        let before = path.metadata().unwrap().modified().unwrap();
        let mut file = File::options().write(true).open(&path).unwrap();
        file.seek(io::SeekFrom::Start(2 << 20)).unwrap();
        file.write_all(&[6]).unwrap();
        file.set_modified(before).unwrap();
        let text = problem(directory.path());
        assert_eq!(text, "b has changed since it was made");
    }

    #[test]
    fn a_shortened_a_missing_and_a_moved_file_are_found() {
        let directory = artefact();
        let b = File::options()
            .write(true)
            .open(directory.path().join("b"))
            .unwrap();
        b.set_len(5).unwrap();
        assert_eq!(problem(directory.path()), "b has 5 bytes, not 3145728");
        let directory = artefact();
        fs::remove_file(directory.path().join("deep/a")).unwrap();
        assert_eq!(problem(directory.path()), "deep/a is gone");
        let directory = artefact();
        fs::remove_file(directory.path().join("c")).unwrap();
        std::os::unix::fs::symlink("deep/a", directory.path().join("c")).unwrap();
        assert_eq!(problem(directory.path()), "c is no longer the same link");
        let directory = artefact();
        fs::write(directory.path().join(NAME), "{}").unwrap();
        assert!(problem(directory.path()).contains("damaged"));
    }

    #[test]
    fn an_artefact_without_a_manifest_gets_one() {
        let directory = artefact();
        fs::remove_file(directory.path().join(NAME)).unwrap();
        assert_eq!(problem(directory.path()), "");
        fs::write(directory.path().join("deep/a"), "two").unwrap();
        assert!(problem(directory.path()).starts_with("deep/a"));
    }

    #[test]
    fn a_stamp_saves_reading_until_it_differs() {
        let directory = artefact();
        let path = directory.path().join("deep/a");
        let manifest = Manifest::read(directory.path()).unwrap().unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(manifest.verify(directory.path(), Check::Stamp), None);
        fs::write(&path, "two").unwrap();
        assert!(manifest.verify(directory.path(), Check::Stamp).is_some());
    }

    #[test]
    fn holes_do_not_matter_and_the_sha256_is_the_usual_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sparse");
        let file = File::create(&path).unwrap();
        file.set_len((9 << 20) + 5).unwrap();
        file.write_all_at(b"data", (4 << 20) - 2).unwrap();
        let copy = directory.path().join("full");
        fs::write(&copy, fs::read(&path).unwrap()).unwrap();
        let [
            Entry::File {
                xxh3: a, sha256: b, ..
            },
            Entry::File {
                xxh3: c, sha256: d, ..
            },
        ] = &[&path, &copy].map(|path| Entry::of(path).unwrap())
        else {
            panic!("files")
        };
        assert_eq!((a, b), (c, d));
        assert_eq!(*b, Some(sha256_file(&path).unwrap()));
        file.write_all_at(b"data", 6 << 20).unwrap();
        let Entry::File { xxh3: e, .. } = Entry::of(&path).unwrap() else {
            panic!("a file")
        };
        assert_ne!(*a, e);
    }
}
