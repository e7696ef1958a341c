// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `results/`: one directory a run, whole or not there, old ones pruned.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use jiff::Timestamp;

/// Directories that stay.
const KEEP: usize = 20;

/// How a directory is called while it is being filled.
const PARTIAL: &str = ".partial-";

/// A file that keeps a directory from being pruned.
const KEPT: &str = "keep";

/// Age in seconds at which an unfinished directory is nobody's any more.
const ABANDONED: u64 = 24 * 3600;

/// The directory of a run that is under way.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    partial: PathBuf,
    name: String,
}

impl Store {
    /// Begins one in `root`.
    pub fn begin(root: &Path, what: &str) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        let now = Timestamp::now();
        let name = format!("{}-{what}", now.strftime("%Y%m%d-%H%M%S"));
        let partial = root.join(format!("{PARTIAL}{name}-{}", std::process::id()));
        fs::create_dir(&partial)?;
        Ok(Self {
            root: root.to_owned(),
            partial,
            name,
        })
    }

    /// Where files go for now.
    pub fn dir(&self) -> &Path {
        &self.partial
    }

    /// A path as it will be called below the finished directory.
    pub fn relative(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.partial).unwrap_or(path);
        path.to_string_lossy().into_owned()
    }

    /// Writes one file, making its directories.
    pub fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let path = self.partial.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)
    }

    /// Where the finished directory will be, unless that name is taken meanwhile.
    pub fn finished(&self) -> PathBuf {
        let taken = |path: &PathBuf| path.exists();
        let first = self.root.join(&self.name);
        if !taken(&first) {
            return first;
        }
        self.root
            .join(format!("{}-{}", self.name, std::process::id()))
    }

    /// Gives it its name, in one step, and prunes older ones.
    pub fn finish(self, keep: bool) -> io::Result<PathBuf> {
        if keep {
            fs::write(self.partial.join(KEPT), "")?;
        }
        let path = self.finished();
        fs::rename(&self.partial, &path)?;
        prune(&self.root)?;
        Ok(path)
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
        if name.starts_with(PARTIAL) {
            let age = entry
                .metadata()?
                .modified()
                .ok()
                .and_then(|then| SystemTime::now().duration_since(then).ok());
            if age.is_some_and(|age| age.as_secs() > ABANDONED) {
                fs::remove_dir_all(entry.path())?;
            }
        } else if name.starts_with(|c: char| c.is_ascii_digit())
            && !entry.path().join(KEPT).exists()
        {
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
        let path = store.finish(false).unwrap();
        assert_eq!(fs::read(path.join("a/b")).unwrap(), b"x");
        assert_eq!(visible(), 1);
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
