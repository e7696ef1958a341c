// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache of artefacts: one directory for each, named by a hash of everything it was
//! made from. A directory is complete or does not exist, and a lock keeps two processes from
//! making the same one.

use std::env;
use std::fs::{self, File, TryLockError};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use command_fds::CommandFdExt;

use crate::progress::Progress;
use crate::{Error, Result};

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// A lock; released when dropped.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Passes the lock to `command`: if this process is killed, the lock is held until the last
    /// child of the command has ended.
    pub fn share_with(&self, command: &mut Command) -> Result<()> {
        let file = self
            .file
            .try_clone()
            .map_err(Error::file("share", Path::new("the lock")))?;
        command.preserved_fds(vec![OwnedFd::from(file)]);
        Ok(())
    }
}

impl Cache {
    /// `$CRUCIBLE_CACHE`, else `$XDG_CACHE_HOME/crucible`, else
    /// `~/.cache/crucible`.
    pub fn from_env() -> Result<Self> {
        let set = |name| {
            env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let root = set("CRUCIBLE_CACHE")
            .or_else(|| set("XDG_CACHE_HOME").map(|dir| dir.join("crucible")))
            .or_else(|| set("HOME").map(|dir| dir.join(".cache/crucible")))
            .ok_or(Error::NoCache)?;
        Self::at(root)
    }

    /// Opens the cache at `root`; creates the directory if it does not exist.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(Error::file("make the directory", &root))?;
        let root = root
            .canonicalize()
            .map_err(Error::file("find the directory", &root))?;
        Ok(Self { root })
    }

    /// Directory of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory of an artefact, or `None` if it is not cached. Marks it as used.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<PathBuf> {
        let path = self.root.join(kind).join(key);
        let directory = File::open(&path).ok()?;
        // Pruning uses this time. A read-only cache is not pruned.
        let _ = directory.set_modified(SystemTime::now());
        Some(path)
    }

    /// Returns the directory of an artefact. If it is not cached, `build` fills it.
    ///
    /// # Errors
    /// Those of `build`, whose directory is then removed, and of file operations.
    pub fn get_or_build<E: From<Error>>(
        &self,
        kind: &str,
        key: &str,
        progress: &dyn Progress,
        build: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        if let Some(path) = self.get(kind, key) {
            return Ok(path);
        }
        let _lock = self.lock(&format!("{kind}-{key}"), progress)?;
        if let Some(path) = self.get(kind, key) {
            return Ok(path);
        }
        // We hold the lock, so an existing directory is from an interrupted build.
        let scratch = self.root.join("tmp").join(format!("{kind}-{key}"));
        remove_tree(&scratch)?;
        fs::create_dir_all(&scratch).map_err(Error::file("make the directory", &scratch))?;
        if let Err(error) = build(&scratch) {
            remove_tree(&scratch)?;
            return Err(error);
        }
        let path = self.root.join(kind).join(key);
        let parent = self.root.join(kind);
        fs::create_dir_all(&parent).map_err(Error::file("make the directory", &parent))?;
        fs::rename(&scratch, &path).map_err(Error::file("put in place", &path))?;
        Ok(path)
    }

    /// Takes the lock of this name; waits while another process holds it.
    pub(crate) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock> {
        let directory = self.root.join("locks");
        fs::create_dir_all(&directory).map_err(Error::file("make the directory", &directory))?;
        let path = directory.join(name);
        let file = File::create(&path).map_err(Error::file("create", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.note(&format!(
                    "another crucible is making {name}; waiting for it"
                ));
                file.lock().map_err(Error::file("lock", &path))?;
            }
            Err(TryLockError::Error(source)) => return Err(Error::file("lock", &path)(source)),
        }
        Ok(Lock { file })
    }

    /// Removes the artefacts of each kind except the `keep` most recently used ones, and the
    /// files of interrupted builds. Returns the removed paths.
    pub fn prune(&self, keep: usize, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for kind in Self::KINDS {
            removed.extend(self.prune_kind(kind, keep)?);
        }
        for (path, _) in list(&self.root.join("tmp"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // A build in progress holds the lock.
            let _lock = self.lock(&name, progress)?;
            remove_tree(&path)?;
            removed.push(path);
        }
        Ok(removed)
    }

    /// Removes the artefacts of one kind except the `keep` most recently used ones. Returns the
    /// removed paths.
    pub fn prune_kind(&self, kind: &str, keep: usize) -> Result<Vec<PathBuf>> {
        let mut entries = list(&self.root.join(kind))?;
        entries.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let old = entries.into_iter().skip(keep).map(|(path, _)| path);
        old.map(|path| remove_tree(&path).map(|()| path)).collect()
    }

    /// Kinds of artefacts that are pruned.
    pub const KINDS: [&str; 7] = [
        "kernel",
        "kernel-source",
        "debian",
        "agent",
        "cargo",
        "scratch",
        "warm",
    ];
}

fn list(directory: &Path) -> Result<Vec<(PathBuf, SystemTime)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.path(), entry.metadata()?.modified()?))
        })
        .collect::<std::io::Result<_>>()
        .map_err(Error::file("list", directory))
}

/// Removes a directory tree, if it exists.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    fn fill(path: &Path) -> Result<()> {
        fs::write(path.join("f"), "x").map_err(Error::file("write", path))
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_the_next_one_works() {
        let (_dir, cache) = cache();
        let error = cache
            .get_or_build("agent", "k", &Silent, |path| {
                fill(path)?;
                Err(Error::NoCache)
            })
            .unwrap_err();
        assert!(matches!(error, Error::NoCache));
        assert!(cache.get("agent", "k").is_none());
        assert!(list(&cache.root().join("tmp")).unwrap().is_empty());
        let path = cache.get_or_build("agent", "k", &Silent, fill).unwrap();
        assert!(path.join("f").exists());
    }

    #[test]
    fn what_an_interrupted_build_left_is_not_taken_over() {
        let (_dir, cache) = cache();
        let left = cache.root().join("tmp/agent-k");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("half"), "").unwrap();
        let path = cache.get_or_build("agent", "k", &Silent, fill).unwrap();
        assert!(!path.join("half").exists());
    }

    #[test]
    fn only_one_of_many_builds() {
        let (_dir, cache) = cache();
        let builds = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    cache
                        .get_or_build("agent", "k", &Silent, |path| {
                            builds.fetch_add(1, Ordering::Relaxed);
                            fill(path)
                        })
                        .unwrap()
                });
            }
        });
        assert_eq!(builds.into_inner(), 1);
    }

    #[test]
    fn pruning_keeps_the_last_used() {
        let (_dir, cache) = cache();
        for (age, key) in ["new", "old", "older"].iter().enumerate() {
            let path = cache.get_or_build("agent", key, &Silent, fill).unwrap();
            let used = SystemTime::now() - std::time::Duration::from_secs(60 * age as u64);
            File::open(path).unwrap().set_modified(used).unwrap();
        }
        fs::create_dir_all(cache.root().join("tmp/agent-x")).unwrap();
        let removed = cache.prune(2, &Silent).unwrap();
        let names: Vec<_> = removed.iter().map(|p| p.file_name().unwrap()).collect();
        assert_eq!(names, ["older", "agent-x"]);
        assert!(cache.get("agent", "new").is_some());
        assert!(cache.get("agent", "older").is_none());
    }
}
