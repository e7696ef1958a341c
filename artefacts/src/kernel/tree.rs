// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The tree that is built: a mirror of the source, of hard links where possible, with our series
//! applied.
//!
//! `make` compares modification times. A file is therefore written only if its content changes,
//! and then as a new file, which breaks the hard link and leaves the source unchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use walkdir::{DirEntry, WalkDir};

use super::series::Series;
use super::source::Source;
use crate::run::run;
use crate::{Error, Result};

/// File next to the tree, with the paths of the files in the tree that differ from the source.
const TOUCHED: &str = "series.json";
/// File next to the tree, with the identity of the source that was completely mirrored.
const MIRRORED: &str = "mirrored";

/// Returns the files of a source tree, without the products of a build in it.
pub(super) fn files(directory: &Path) -> impl Iterator<Item = Result<DirEntry>> {
    let root = directory.to_owned();
    WalkDir::new(directory)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(move |entry| {
            let path = entry.path().strip_prefix(&root).unwrap_or(entry.path());
            !is_product(path)
        })
        .map(move |entry| {
            entry.map_err(|error| Error::Malformed {
                path: error.path().unwrap_or(Path::new("")).to_owned(),
                problem: error.to_string(),
            })
        })
}

pub(super) fn is_product(path: &Path) -> bool {
    const PLACES: [&str; 6] = [
        ".git",
        ".config",
        "include/config",
        "include/generated",
        "arch/x86/include/generated",
        "vmlinux",
    ];
    let extension = path.extension().and_then(|e| e.to_str());
    PLACES.iter().any(|place| path == Path::new(place))
        || matches!(extension, Some("o" | "a" | "ko" | "cmd" | "mod"))
}

/// Makes `tree` a mirror of the source, except for the files of our series.
pub(super) fn mirror(source: &Source, tree: &Path) -> Result<()> {
    let mark = tree.with_file_name(MIRRORED);
    if source.immutable && fs::read_to_string(&mark).is_ok_and(|id| id == source.identity) {
        return Ok(());
    }
    fs::create_dir_all(tree).map_err(Error::file("make the directory", tree))?;
    let touched = touched(tree)?;
    let mut wanted = BTreeSet::new();
    for entry in files(&source.directory) {
        let entry = entry?;
        let path = entry
            .path()
            .strip_prefix(&source.directory)
            .unwrap_or(entry.path())
            .to_owned();
        if !touched.contains(&path) {
            mirror_one(entry.path(), &tree.join(&path))?;
        }
        wanted.insert(path);
    }
    for entry in WalkDir::new(tree).min_depth(1).contents_first(true) {
        let entry = entry.map_err(|error| Error::Malformed {
            path: tree.to_owned(),
            problem: error.to_string(),
        })?;
        let path = entry.path().strip_prefix(tree).unwrap_or(entry.path());
        if wanted.contains(path) || touched.iter().any(|t| t.starts_with(path)) {
            continue;
        }
        let gone = if entry.file_type().is_dir() {
            fs::remove_dir(entry.path())
        } else {
            fs::remove_file(entry.path())
        };
        gone.map_err(Error::file("remove", entry.path()))?;
    }
    fs::write(&mark, &source.identity).map_err(Error::file("write", &mark))
}

fn mirror_one(from: &Path, to: &Path) -> Result<()> {
    let metadata = from
        .symlink_metadata()
        .map_err(Error::file("look at", from))?;
    let there = to.symlink_metadata().ok();
    if metadata.is_dir() {
        if there.is_none() {
            fs::create_dir(to).map_err(Error::file("make the directory", to))?;
        }
        return Ok(());
    }
    if let Some(there) = there {
        let linked = (there.dev(), there.ino()) == (metadata.dev(), metadata.ino());
        let alike = there.size() == metadata.size()
            && (there.mtime(), there.mtime_nsec()) == (metadata.mtime(), metadata.mtime_nsec());
        if linked || alike {
            return Ok(());
        }
        fs::remove_file(to).map_err(Error::file("remove", to))?;
    }
    if metadata.is_symlink() {
        let target = fs::read_link(from).map_err(Error::file("read the link", from))?;
        return symlink(target, to).map_err(Error::file("make the link", to));
    }
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        // Linking fails across file systems, and for files that the user may not link to.
        Err(_) => copy_with_time(from, to).map_err(Error::file("copy", from)),
    }
}

fn copy_with_time(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    File::options()
        .write(true)
        .open(to)?
        .set_modified(from.metadata()?.modified()?)
}

/// Writes the series to the tree.
pub(super) fn apply(source: &Source, series: &Series, tree: &Path) -> Result<()> {
    let mut wanted = patched(source, series)?;
    for (path, content) in &series.files {
        wanted.insert(path.clone(), Some(content.clone()));
    }
    let before = touched(tree)?;
    let after: BTreeSet<_> = wanted.keys().cloned().collect();
    remember(tree, before.union(&after))?;
    for path in before.difference(&after) {
        let pristine = read_if_there(&source.directory.join(path))?;
        settle(&tree.join(path), pristine.as_deref())?;
    }
    for (path, content) in &wanted {
        settle(&tree.join(path), content.as_deref())?;
    }
    remember(tree, after.iter())
}

/// Returns the content of the files that the patches change, after all patches. `None` stands for
/// a removed file.
fn patched(source: &Source, series: &Series) -> Result<BTreeMap<PathBuf, Option<Vec<u8>>>> {
    let work =
        tempfile::tempdir().map_err(Error::file("make a directory in", Path::new("/tmp")))?;
    let targets: BTreeSet<_> = series.patches.iter().flat_map(|p| &p.targets).collect();
    for path in &targets {
        if let Some(content) = read_if_there(&source.directory.join(path))? {
            write(&work.path().join(path), &content)?;
        }
    }
    // Write the bytes that were hashed: the file may have changed since.
    let input =
        tempfile::NamedTempFile::new().map_err(Error::file("make a file in", Path::new("/tmp")))?;
    for patch in &series.patches {
        fs::write(input.path(), &patch.text).map_err(Error::file("write", input.path()))?;
        let applied = run(
            "patch",
            Command::new("patch")
                .args(["-p1", "--force", "--no-backup-if-mismatch"])
                .arg("--input")
                .arg(input.path())
                .current_dir(work.path()),
            |_| {},
        );
        match applied {
            Ok(()) => {}
            Err(Error::Failed { words, .. }) => {
                return Err(Error::Patch {
                    patch: patch.path.clone(),
                    tree: source.directory.clone(),
                    words,
                });
            }
            Err(error) => return Err(error),
        }
    }
    targets
        .into_iter()
        .map(|path| Ok((path.clone(), read_if_there(&work.path().join(path))?)))
        .collect()
}

/// Writes the content of a file, or removes the file. Does not touch a file whose content is
/// already correct.
fn settle(path: &Path, content: Option<&[u8]>) -> Result<()> {
    let there = read_if_there(path)?;
    if there.as_deref() == content {
        return Ok(());
    }
    if there.is_some() {
        fs::remove_file(path).map_err(Error::file("remove", path))?;
    }
    match content {
        Some(content) => write(path, content),
        None => Ok(()),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("make the directory", parent))?;
    }
    fs::write(path, content).map_err(Error::file("write", path))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn touched(tree: &Path) -> Result<BTreeSet<PathBuf>> {
    let path = tree.with_file_name(TOUCHED);
    let Some(text) = read_if_there(&path)? else {
        return Ok(BTreeSet::new());
    };
    serde_json::from_slice(&text).map_err(|error| Error::Malformed {
        path,
        problem: error.to_string(),
    })
}

fn remember<'a>(tree: &Path, paths: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
    let path = tree.with_file_name(TOUCHED);
    let new = path.with_extension("new");
    let text = serde_json::json!(paths.collect::<Vec<_>>()).to_string();
    fs::write(&new, text).map_err(Error::file("write", &new))?;
    fs::rename(&new, &path).map_err(Error::file("put in place", &path))
}

#[cfg(test)]
mod tests;
