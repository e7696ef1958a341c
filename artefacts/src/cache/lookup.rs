// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finding, making and replacing artefacts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::owner::make_directory;
use super::{Cache, Lock, remove_tree};
use crate::manifest::{self, Check};
use crate::progress::Progress;
use crate::{Error, Result};

/// The state in which an artefact is found.
enum Found {
    Sound(PathBuf),
    Damaged(PathBuf, String),
    Absent,
}

impl Cache {
    /// Returns the directory of an artefact, or `None` if it is not cached, or damaged. Marks it as
    /// used.
    pub fn get(&self, kind: &str, key: &str) -> Option<PathBuf> {
        match self.find(kind, key) {
            Found::Sound(path) => Some(path),
            Found::Damaged(..) | Found::Absent => None,
        }
    }

    fn find(&self, kind: &str, key: &str) -> Found {
        let mut path = self.root.join(kind).join(key);
        if !path.exists()
            && let Some(other) = self.stand_in(kind, key)
        {
            path.set_file_name(other);
        }
        let Ok(directory) = File::open(&path) else {
            return Found::Absent;
        };
        if let Some(check) = check(kind)
            && let Some(problem) = manifest::verify(&path, check)
        {
            return Found::Damaged(path, problem);
        }
        // Pruning uses this time. A read-only cache is not pruned.
        let _ = directory.set_modified(SystemTime::now());
        Found::Sound(path)
    }

    /// Returns the directory of an artefact. If it is not cached, or damaged, `build` fills it.
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
        self.get_or_build_locked(kind, key, progress, |directory, _| build(directory))
    }

    /// Like [`get_or_build`](Self::get_or_build), but `build` gets the lock, for programs that
    /// continue if this process is killed.
    pub(crate) fn get_or_build_locked<E: From<Error>>(
        &self,
        kind: &str,
        key: &str,
        progress: &dyn Progress,
        build: impl FnOnce(&Path, &Lock) -> Result<(), E>,
    ) -> Result<PathBuf, E> {
        self.get_or_substitute(kind, key, progress, |directory, lock| {
            build(directory, lock).map(|()| key.to_owned())
        })
    }

    /// Like [`get_or_build`](Self::get_or_build), but `build` returns the key of the artefact that
    /// it made. If that differs from the requested one, the artefact is stored under its own key,
    /// and stands in for the requested artefact from now on.
    pub(crate) fn get_or_substitute<E: From<Error>>(
        &self,
        kind: &str,
        key: &str,
        progress: &dyn Progress,
        build: impl FnOnce(&Path, &Lock) -> Result<String, E>,
    ) -> Result<PathBuf, E> {
        if let Found::Sound(path) = self.find(kind, key) {
            return Ok(path);
        }
        let lock = self.lock(&format!("{kind}-{key}"), progress)?;
        match self.find(kind, key) {
            Found::Sound(path) => return Ok(path),
            Found::Damaged(path, problem) => {
                progress.note(&format!(
                    "{} is damaged: {problem}; rebuilding it",
                    path.display()
                ));
                self.retire(&path)?;
            }
            Found::Absent => {}
        }
        let scratch = self.begin(kind, key)?;
        let made = match build(&scratch, &lock) {
            Ok(made) => made,
            Err(error) => {
                remove_tree(&scratch)?;
                return Err(error);
            }
        };
        let path = self.finish(kind, &made, &scratch)?;
        if made != key {
            self.set_stand_in(kind, key, &made)?;
        }
        Ok(path)
    }

    /// Makes an artefact and stores it under the key that `build` returns, in place of an existing
    /// artefact. `name` is the name of the lock.
    pub(crate) fn replace<E: From<Error>>(
        &self,
        kind: &str,
        name: &str,
        progress: &dyn Progress,
        build: impl FnOnce(&Path, &Lock) -> Result<String, E>,
    ) -> Result<PathBuf, E> {
        let lock = self.lock(&format!("{kind}-{name}"), progress)?;
        let scratch = self.begin(kind, name)?;
        match build(&scratch, &lock) {
            Ok(key) => Ok(self.finish(kind, &key, &scratch)?),
            Err(error) => {
                remove_tree(&scratch)?;
                Err(error)
            }
        }
    }

    /// Creates the empty directory in which an artefact is made, whose lock the caller holds.
    pub(crate) fn begin(&self, kind: &str, key: &str) -> Result<PathBuf> {
        // We hold the lock, so an existing directory is from an interrupted build.
        let scratch = self.temporary(&format!("{kind}-{key}"))?;
        remove_tree(&scratch)?;
        make_directory(&scratch)?;
        Ok(scratch)
    }

    /// Puts a complete artefact in place.
    pub(crate) fn finish(&self, kind: &str, key: &str, scratch: &Path) -> Result<PathBuf> {
        if check(kind).is_some() {
            manifest::seal(scratch)?;
        }
        let path = self.make(kind)?.join(key);
        self.retire(&path)?;
        fs::rename(scratch, &path).map_err(Error::file("put in place", &path))?;
        Ok(path)
    }

    /// Removes an artefact. Other processes find all of it or nothing.
    pub(super) fn retire(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let gone = self.temporary(&format!("gone-{}-{name}", std::process::id()))?;
        remove_tree(&gone)?;
        match fs::rename(path, &gone) {
            Ok(()) => remove_tree(&gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::file("remove", path)(error)),
        }
    }
}

/// Returns the way in which artefacts of a kind are verified before each use.
fn check(kind: &str) -> Option<Check> {
    match kind {
        // Not verified: make and cargo write to these directories.
        "kernel-tree" | "cargo" => None,
        // Not verified: 1.7 GB that only a build reads; `cache import` verifies them.
        "kernel-source" => None,
        // Not verified: a snapshot is of this boot of the host, and verifying it would delay each
        // guest.
        "warm" => Some(Check::Stamp),
        _ => Some(Check::Content),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    use super::super::list;
    use super::super::tests::{cache, fill};
    use super::*;
    use crate::progress::{Notes, Silent};

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
    fn a_damaged_artefact_is_made_anew_with_a_notice() {
        let (_dir, cache) = cache();
        for damage in ["y", "", "xx"] {
            let path = cache.get_or_build("kernel", "k", &Silent, fill).unwrap();
            fs::write(path.join("f"), damage).unwrap();
            assert!(cache.get("kernel", "k").is_none());
            let notes = Notes::default();
            let again = cache.get_or_build("kernel", "k", &notes, fill).unwrap();
            assert_eq!(fs::read_to_string(again.join("f")).unwrap(), "x");
            let text = notes.text();
            assert!(text.contains("kernel/k is damaged: f "), "{text}");
            let notes = Notes::default();
            cache.get_or_build("kernel", "k", &notes, fill).unwrap();
            assert_eq!(notes.text(), "");
        }
    }
}
