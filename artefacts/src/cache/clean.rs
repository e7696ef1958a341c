// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Removes old and unfinished artefacts, or all of them.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::owner::{MARKER, OTHERS, TAG};
use super::{Cache, list, remove_tree};
use crate::progress::Progress;
use crate::{Error, Result};

/// Age up to which an artefact is kept while another crucible uses the cache.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Cache {
    /// Removes everything that crucible has made in the cache, and the directory if nothing else is
    /// in it. Waits until no process uses the cache.
    pub fn remove(&self, progress: &dyn Progress) -> Result<()> {
        let _alone = self.in_use(|file| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                progress.note("another crucible uses the cache; waiting for it");
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        })?;
        // Remove the marker last, so that an interrupted removal can be completed later.
        let ours = Self::KINDS.iter().chain(OTHERS.iter()).copied();
        for name in ours.chain([TAG.0, MARKER]) {
            let path = self.root.join(name);
            let removed = match path.symlink_metadata() {
                Ok(it) if it.is_dir() => {
                    remove_tree(&path)?;
                    Ok(())
                }
                Ok(_) => fs::remove_file(&path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            removed.map_err(Error::file("remove", &path))?;
        }
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::DirectoryNotEmpty => {
                Err(Error::file("remove", &self.root)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes the artefacts of each kind except the `keep` most recently used ones, and the files
    /// of interrupted builds. While another crucible uses the cache, those of the last day are
    /// kept, too: it may boot another guest from them. Returns the removed paths.
    pub fn prune(&self, keep: usize, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
        let mut alone = true;
        let in_use = self.in_use(|file| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                alone = false;
                Ok(())
            }
            Err(TryLockError::Error(error)) => Err(error),
        })?;
        // The locks below are shared locks of the same file.
        drop(in_use);
        let recent = if alone { Duration::ZERO } else { DAY };
        let mut removed = Vec::new();
        for kind in Self::KINDS {
            removed.extend(self.prune_older(kind, keep, recent)?);
        }
        for (path, _) in list(&self.root.join("stand-ins"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let there = name
                .rsplit_once('-')
                .is_some_and(|(kind, key)| self.stand_in(kind, key).is_some());
            if !there {
                fs::remove_file(&path).map_err(Error::file("remove", &path))?;
            }
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

    /// Removes the artefacts of one kind except the `keep` most recently used ones, and those that
    /// are being made. Returns the removed paths.
    pub fn prune_kind(&self, kind: &str, keep: usize) -> Result<Vec<PathBuf>> {
        self.prune_older(kind, keep, Duration::ZERO)
    }

    /// Like [`prune_kind`](Self::prune_kind), but keeps artefacts that were used within `recent`.
    fn prune_older(&self, kind: &str, keep: usize, recent: Duration) -> Result<Vec<PathBuf>> {
        let now = SystemTime::now();
        let mut entries = list(&self.root.join(kind))?;
        entries.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
        let mut removed = Vec::new();
        for (path, used) in entries.into_iter().skip(keep) {
            // A time in the future is recent.
            if now.duration_since(used).unwrap_or_default() < recent {
                continue;
            }
            let key = path.file_name().unwrap_or_default().to_string_lossy();
            let lock = self.root.join("locks").join(format!("{kind}-{key}"));
            // A process that makes the artefact, or builds in it, holds the lock.
            let busy = File::open(&lock).is_ok_and(|file| match file.try_lock() {
                Ok(()) => file.unlock().is_err(),
                Err(error) => matches!(error, TryLockError::WouldBlock),
            });
            if !busy {
                self.retire(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::tests::{cache, fill};
    use super::*;
    use crate::progress::Silent;

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

    #[test]
    fn removing_leaves_what_is_not_ours() {
        let (_dir, cache) = cache();
        cache.get_or_build("agent", "k", &Silent, fill).unwrap();
        fs::write(cache.root().join("thesis.tex"), "x").unwrap();
        cache.remove(&Silent).unwrap();
        let left: Vec<_> = list(cache.root()).unwrap().into_iter().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_file(cache.root().join("thesis.tex")).unwrap();
        let cache = Cache::at(cache.root()).unwrap();
        cache.remove(&Silent).unwrap();
        assert!(!cache.root().exists());
    }

    #[test]
    fn a_cache_in_use_is_not_removed() {
        let (_dir, cache) = cache();
        cache.get_or_build("agent", "k", &Silent, fill).unwrap();
        let held = cache.hold().unwrap();
        let (sender, waits) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                struct Tell(std::sync::mpsc::Sender<()>);
                impl Progress for Tell {
                    fn begin(&self, _: &str) {}
                    fn advance(&self, _: u64, _: u64) {}
                    fn end(&self) {}
                    fn note(&self, _: &str) {
                        self.0.send(()).unwrap();
                    }
                }
                cache.remove(&Tell(sender)).unwrap();
            });
            waits.recv().unwrap();
            assert!(cache.root().join("agent/k/f").exists());
            drop(held);
        });
        assert!(!cache.root().exists());
    }

    #[test]
    fn what_another_crucible_may_boot_from_is_not_pruned() {
        let (_dir, cache) = cache();
        for (days, key) in [(0, "new"), (2, "old")] {
            let path = cache.get_or_build("agent", key, &Silent, fill).unwrap();
            let used = SystemTime::now() - days * DAY;
            File::open(path).unwrap().set_modified(used).unwrap();
        }
        let held = cache.hold().unwrap();
        let removed = cache.prune(0, &Silent).unwrap();
        assert_eq!(removed, [cache.root().join("agent/old")]);
        drop(held);
        let removed = cache.prune(0, &Silent).unwrap();
        assert_eq!(removed, [cache.root().join("agent/new")]);
    }

    #[test]
    fn kernel_trees_are_pruned_unless_somebody_builds_in_them() {
        let (_dir, cache) = cache();
        for name in ["a", "b"] {
            fs::create_dir_all(cache.root().join("kernel-tree").join(name)).unwrap();
        }
        let building = cache.lock("kernel-tree-a", &Silent).unwrap();
        let removed = cache.prune_kind("kernel-tree", 0).unwrap();
        assert_eq!(removed, [cache.root().join("kernel-tree/b")]);
        drop(building);
        assert_eq!(cache.prune_kind("kernel-tree", 0).unwrap().len(), 1);
    }
}
