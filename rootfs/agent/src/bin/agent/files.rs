// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Lists, reads, writes and keeps files of the guest.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read},
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use anyhow::{Context, Result, bail};
use crucible_protocol::{FileEntry, FileKind, frame::MAX_CHUNK};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Lists a directory tree, sorted by path.
pub fn list(root: &str, exclude: &[String]) -> Result<Vec<FileEntry>> {
    let mut entries = Vec::new();
    let walk = WalkDir::new(root)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| {
            entry.depth() != 1
                || !exclude
                    .iter()
                    .any(|name| entry.file_name() == name.as_str())
        });
    for entry in walk {
        let entry = entry.with_context(|| format!("cannot list {root}"))?;
        let meta = entry.metadata()?;
        let kind = meta.file_type();
        let kind = if kind.is_file() {
            FileKind::File {
                size: meta.len(),
                sha256: hash(entry.path())?,
            }
        } else if kind.is_dir() {
            FileKind::Dir
        } else if kind.is_symlink() {
            FileKind::Symlink {
                target: fs::read_link(entry.path())?.to_string_lossy().into_owned(),
            }
        } else if kind.is_fifo() {
            FileKind::Fifo
        } else if kind.is_socket() {
            FileKind::Socket
        } else {
            FileKind::Device
        };
        let path = entry.path().strip_prefix(root)?;
        entries.push(FileEntry {
            path: path.to_string_lossy().into_owned(),
            mode: meta.permissions().mode() & 0o7777,
            kind,
        });
    }
    Ok(entries)
}

fn hash(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

/// Reads a part of a file; returns true if it includes the end of the file.
pub fn read(path: &str, offset: u64, length: usize) -> Result<(Vec<u8>, bool)> {
    let file = File::open(path).with_context(|| format!("cannot read {path}"))?;
    let mut data = vec![0; length.min(MAX_CHUNK)];
    let mut have = 0;
    while have < data.len() {
        match file.read_at(&mut data[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read {path}")),
        }
    }
    let end = have < data.len();
    data.truncate(have);
    Ok((data, end))
}

/// Writes a part of a file; offset 0 creates the file and its parent directories.
pub fn write(path: &str, offset: u64, mode: u32, data: &[u8]) -> Result<()> {
    let what = || format!("cannot write {path}");
    if offset == 0
        && let Some(parent) = Path::new(path).parent()
    {
        fs::create_dir_all(parent).with_context(what)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(offset == 0)
        .truncate(offset == 0)
        .mode(mode)
        .open(path)
        .with_context(what)?;
    file.set_permissions(PermissionsExt::from_mode(mode))?;
    file.write_all_at(data, offset).with_context(what)
}

/// Removes the content of a directory.
pub fn empty(dir: &str) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {dir}"))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        }
        .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Returns the path of a kept tree.
pub fn stash_dir(name: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        bail!("{name:?} is not a valid name of a kept tree: letters, digits, '-' and '_' only");
    }
    Ok(format!("{}/stash-{name}", crucible_protocol::KEEP_DIR))
}
