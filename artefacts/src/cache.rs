// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where artefacts are kept: a directory for each, named by a hash of all that
//! it was made from. It is there whole or not at all, and two processes do not
//! make the same one twice.

use std::env;
use std::fs::{self, File, TryLockError};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use command_fds::CommandFdExt;

use crate::progress::Progress;
use crate::{Error, Result};

/// The cache's directory.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// A lock, held until it is dropped.
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Lets `command` hold the lock too: should we be killed, the lock stays
    /// until the last of what it has started is gone.
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

    /// A cache at `root`, which is made if need be.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(Error::file("make the directory", &root))?;
        let root = root
            .canonicalize()
            .map_err(Error::file("find the directory", &root))?;
        Ok(Self { root })
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The artefact's directory if it is there. Marks it as used now.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<PathBuf> {
        let path = self.root.join(kind).join(key);
        let directory = File::open(&path).ok()?;
        // Pruning goes by this. A cache that may only be read is not pruned.
        let _ = directory.set_modified(SystemTime::now());
        Some(path)
    }

    /// The artefact's directory; `build` fills it if it is not there.
    ///
    /// # Errors
    /// What `build` gives, after which nothing is left; else those of the files.
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
        // The lock is ours, so what lies here was left by a build that was
        // interrupted.
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

    /// Takes the lock of this name, waiting for whoever has it.
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

    /// Removes the artefacts of each kind but the `keep` last used ones, and
    /// what interrupted builds have left. Returns what was removed.
    pub fn prune(&self, keep: usize, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
        let mut removed = Vec::new();
        for kind in Self::KINDS {
            removed.extend(self.prune_kind(kind, keep)?);
        }
        for (path, _) in list(&self.root.join("tmp"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // Whoever is still building holds the lock.
            let _lock = self.lock(&name, progress)?;
            remove_tree(&path)?;
            removed.push(path);
        }
        Ok(removed)
    }

    /// Removes the artefacts of one kind but the `keep` last used ones. Returns what was
    /// removed.
    pub fn prune_kind(&self, kind: &str, keep: usize) -> Result<Vec<PathBuf>> {
        let mut entries = list(&self.root.join(kind))?;
        entries.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let old = entries.into_iter().skip(keep).map(|(path, _)| path);
        old.map(|path| remove_tree(&path).map(|()| path)).collect()
    }

    /// The kinds of artefact that lie here side by side.
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

/// Removes a directory and all that is in it; one that is not there is fine.
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
