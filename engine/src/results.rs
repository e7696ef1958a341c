// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `results/`: one directory per run. It gets its name in one step, and old ones are pruned.
//!
//! A run that is killed leaves a directory without its last name. The next run gives it that name,
//! so that the consoles, images and events until then are kept like those of any other run.

mod prune;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

pub use self::prune::hold;
use self::prune::prune;
use crate::dir_lock::{self, DirLock};

/// Name of the scratch disks in a run's directory, which are removed at its end.
pub const SCRATCH: &str = "scratch.ext4";

/// Prefix of a directory whose run has not ended.
const PARTIAL: &str = ".partial-";

/// A file that protects a directory from pruning.
const KEPT: &str = "keep";

/// The directory of a run in progress.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    partial: PathBuf,
    finished: PathBuf,
    /// `None` once the directory is complete.
    claim: Option<DirLock>,
}

impl Drop for Store {
    /// Keeps the directory of a run that failed.
    fn drop(&mut self) {
        if self.claim.take().is_some() {
            salvage(&self.partial);
        }
    }
}

impl Store {
    /// Creates a run's directory in `root`, and completes directories whose process has ended.
    pub fn begin(root: &Path, what: &str) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        for (partial, _lock) in dir_lock::abandoned(root, PARTIAL) {
            salvage(&partial);
        }
        let now = Timestamp::now();
        let name = format!("{}-{what}", now.strftime("%Y%m%d-%H%M%S"));
        let mut again = 0;
        loop {
            let name = match again {
                0 => name.clone(),
                n => format!("{name}-{n}"),
            };
            if let Some(store) = Self::take(root, &name)? {
                return Ok(store);
            }
            again += 1;
        }
    }

    /// Creates the directory of this name; returns `None` if the name is taken.
    fn take(root: &Path, name: &str) -> io::Result<Option<Self>> {
        let partial = root.join(format!("{PARTIAL}{name}"));
        match fs::create_dir(&partial) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            result => result?,
        }
        let Some(claim) = DirLock::new(&partial)? else {
            return Ok(None);
        };
        let store = Self {
            root: root.to_owned(),
            finished: root.join(name),
            partial,
            claim: Some(claim),
        };
        // From here on no other process can finish a directory of this name.
        if store.finished.exists() {
            return Ok(None);
        }
        Ok(Some(store))
    }

    /// Creates a directory in it for a part of the run with its own machines. It is completed
    /// together with the run's directory.
    ///
    /// # Errors
    /// The directory cannot be created.
    pub fn part(&self, name: &str) -> io::Result<Self> {
        let part = Self {
            root: self.root.clone(),
            partial: self.partial.join(name),
            finished: self.finished.join(name),
            claim: None,
        };
        fs::create_dir_all(&part.partial)?;
        Ok(part)
    }

    /// Returns the directory while the run is in progress.
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// Returns a path relative to the directory.
    pub fn relative(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.partial).unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    /// Writes a file; creates its parent directories.
    pub fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let path = self.partial.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)
    }

    /// Removes the scratch disks.
    pub fn remove_disks(&self) -> io::Result<()> {
        remove_disks(&self.partial)
    }

    /// Returns the path of the finished directory.
    pub fn finished(&self) -> &Path {
        &self.finished
    }

    /// Moves the complete runs in `from`, a directory of results on the same file system, to the
    /// root, each atomically. A run whose name is taken gets a number after it. Runs that have
    /// not ended, links and files stay in `from`. Returns the new paths.
    pub fn adopt(&self, from: &Path) -> io::Result<Vec<PathBuf>> {
        let mut adopted = Vec::new();
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Examine the entry itself, not the target of a link.
            if !is_run(&name) || !entry.file_type()?.is_dir() {
                continue;
            }
            let numbered = (1..).map(|n| format!("{name}-{n}"));
            let free = |name: &String| !self.root.join(name).exists();
            if let Some(name) = std::iter::once(name.clone()).chain(numbered).find(free) {
                let path = self.root.join(name);
                fs::rename(entry.path(), &path)?;
                adopted.push(path);
            }
        }
        adopted.sort();
        Ok(adopted)
    }

    /// Renames the directory to its final name, and prunes older ones of its kind and of others.
    pub fn finish(mut self, keep: bool) -> io::Result<PathBuf> {
        if keep {
            fs::write(self.partial.join(KEPT), "")?;
        } else {
            remove_disks(&self.partial)?;
        }
        if let Some(claim) = self.claim.take() {
            claim.release(&self.partial)?;
        }
        fs::rename(&self.partial, &self.finished)?;
        prune(&self.root, &self.finished)?;
        Ok(self.finished.clone())
    }
}

/// Completes the directory of a run that has been killed: removes its disks, and renames it.
/// Removes a directory in which no machine ran. Errors are ignored, because the directory belongs
/// to a different run.
fn salvage(partial: &Path) {
    let _ = remove_disks(partial);
    let name = partial.file_name().unwrap_or_default().to_string_lossy();
    let finished = partial.with_file_name(name.trim_start_matches(PARTIAL));
    let entries = fs::read_dir(partial).into_iter().flatten().flatten();
    let is_worth = entries.map(|entry| entry.path()).any(|path| path.is_dir());
    if is_worth && !finished.exists() {
        let _ = fs::remove_file(partial.join(dir_lock::LOCK));
        let _ = fs::rename(partial, finished);
    } else {
        let _ = fs::remove_dir_all(partial);
    }
}

/// Removes the scratch disks of a run's guests: they are large, and the run has already copied
/// the files that it keeps.
fn remove_disks(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            remove_disks(&path)?;
        } else if entry.file_name() == SCRATCH {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Returns true when a directory has the name of a run: `20260102-030405-hello`.
fn is_run(name: &str) -> bool {
    let mut parts = name.splitn(3, '-');
    let digits = |part: Option<&str>, count| {
        part.is_some_and(|part| part.len() == count && part.bytes().all(|b| b.is_ascii_digit()))
    };
    digits(parts.next(), 8) && digits(parts.next(), 6) && parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_finished_with_the_whole() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::begin(root.path(), "bisect").unwrap();
        let part = store.part("steps/1").unwrap();
        part.write(Path::new("a"), b"x").unwrap();
        part.write(Path::new(SCRATCH), b"disk").unwrap();
        part.remove_disks().unwrap();
        let finished = part.finished().to_owned();
        drop(part);
        store.finish(false).unwrap();
        assert_eq!(fs::read(finished.join("a")).unwrap(), b"x");
        assert!(!finished.join(SCRATCH).exists());
    }

    #[test]
    fn a_directory_appears_whole() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::begin(root.path(), "hello").unwrap();
        store.write(Path::new("a/b"), b"x").unwrap();
        let visible = || {
            let names = fs::read_dir(root.path()).unwrap();
            names
                .filter(|e| {
                    !e.as_ref()
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .starts_with('.')
                })
                .count()
        };
        assert_eq!(visible(), 0);
        let other = Store::begin(root.path(), "hello").unwrap();
        assert_ne!(store.finished(), other.finished());
        let promised = store.finished().to_owned();
        let path = store.finish(false).unwrap();
        assert_eq!(path, promised);
        assert_eq!(fs::read(path.join("a/b")).unwrap(), b"x");
        assert_eq!(visible(), 1);
        // The name stays taken.
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(Store::take(root.path(), name).unwrap().is_none());
    }

    #[test]
    fn what_a_killed_run_leaves_is_completed_by_the_next_one() {
        let root = tempfile::tempdir().unwrap();
        let kill = |mut store: Store| {
            // Skips the code that a killed process does not run.
            drop(store.claim.take());
            (store.partial.clone(), store.finished.clone())
        };
        let store = Store::begin(root.path(), "a").unwrap();
        store
            .write(Path::new("machine-1/console.log"), b"x")
            .unwrap();
        store
            .write(Path::new("guest-2/scratch.ext4"), b"x")
            .unwrap();
        let (partial, finished) = kill(store);
        let (nothing, _) = kill(Store::begin(root.path(), "c").unwrap());
        let alive = Store::begin(root.path(), "b").unwrap();
        assert!(!partial.exists() && !nothing.exists());
        assert!(finished.join("machine-1/console.log").exists());
        assert!(!finished.join("guest-2/scratch.ext4").exists());
        assert!(!finished.join(".lock").exists());
        let _third = Store::begin(root.path(), "c").unwrap();
        assert!(alive.dir().exists());
    }

    #[test]
    fn complete_runs_of_elsewhere_are_adopted() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::begin(root.path(), "nested").unwrap();
        let inner = store.dir().join("inner");
        for name in [
            "20260102-030405-hello",
            "20260102-030406-a",
            ".partial-20260102-030407-b",
            "journals",
        ] {
            fs::create_dir_all(inner.join(name)).unwrap();
            fs::write(inner.join(name).join("record.json"), "new").unwrap();
        }
        std::os::unix::fs::symlink("/etc", inner.join("20260102-030408-link")).unwrap();
        fs::write(inner.join("20260102-030409-file"), "").unwrap();
        let taken = root.path().join("20260102-030405-hello");
        fs::create_dir(&taken).unwrap();
        let adopted = store.adopt(&inner).unwrap();
        let expected = ["20260102-030405-hello-1", "20260102-030406-a"];
        assert_eq!(adopted, expected.map(|name| root.path().join(name)));
        assert_eq!(fs::read(adopted[0].join("record.json")).unwrap(), b"new");
        assert!(!taken.join("record.json").exists());
        assert!(inner.join("journals").exists());
    }
}
