// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `results/`: one directory per run. It gets its name in one step, and old ones are pruned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::dir_lock::{self, DirLock};

/// Number of directories that pruning keeps.
const KEEP: usize = 20;

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
    claim: DirLock,
}

impl Store {
    /// Creates one in `root`, and removes those whose process has ended.
    pub fn begin(root: &Path, what: &str) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        dir_lock::sweep(root, PARTIAL);
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
            claim,
        };
        // From here on no other process can finish a directory of this name.
        if store.finished.exists() {
            fs::remove_dir_all(&store.partial)?;
            return Ok(None);
        }
        Ok(Some(store))
    }

    /// The directory while the run is in progress.
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

    /// The path of the finished directory.
    pub fn finished(&self) -> &Path {
        &self.finished
    }

    /// Renames the directory to its final name, and prunes older ones.
    pub fn finish(self, keep: bool) -> io::Result<PathBuf> {
        if keep {
            fs::write(self.partial.join(KEPT), "")?;
        }
        self.claim.release(&self.partial)?;
        fs::rename(&self.partial, &self.finished)?;
        prune(&self.root)?;
        Ok(self.finished)
    }
}

fn prune(root: &Path) -> io::Result<()> {
    let mut finished = Vec::new();
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !entry.file_type()?.is_dir() {
            continue;
        }
        let kept = entry.path().join(KEPT).exists();
        if name.starts_with(|c: char| c.is_ascii_digit()) && !kept {
            finished.push(name);
        }
    }
    finished.sort();
    let old = finished.len().saturating_sub(KEEP);
    for name in &finished[..old] {
        fs::remove_dir_all(root.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_a_killed_run_leaves_goes_with_the_next_one() {
        let root = tempfile::tempdir().unwrap();
        let Store { partial, claim, .. } = Store::begin(root.path(), "a").unwrap();
        drop(claim);
        let alive = Store::begin(root.path(), "b").unwrap();
        assert!(!partial.exists());
        let _third = Store::begin(root.path(), "c").unwrap();
        assert!(alive.dir().exists());
    }

    #[test]
    fn old_ones_go_and_kept_ones_stay() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..KEEP + 5 {
            fs::create_dir(root.path().join(format!("20200101-0000{n:02}-x"))).unwrap();
        }
        fs::write(root.path().join("20200101-000000-x/keep"), "").unwrap();
        fs::create_dir(root.path().join("notes")).unwrap();
        prune(root.path()).unwrap();
        let count = fs::read_dir(root.path()).unwrap().count();
        assert_eq!(count, KEEP + 2);
        assert!(root.path().join("20200101-000000-x").exists());
        assert!(!root.path().join("20200101-000001-x").exists());
    }
}
