// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The cache of artefacts: one directory for each, named by a hash of everything it was
//! made from. A directory is complete or does not exist, its files are as they were made or it is
//! made anew, and a lock keeps two processes from making the same one.

use std::env;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use command_fds::CommandFdExt;

use crate::directory;
use crate::manifest::{self, Check};
use crate::progress::Progress;
use crate::{Error, Result};

/// File that marks the directory as a cache of crucible's, with the version of its layout.
const MARKER: &str = ".crucible-cache";

/// The marker's content.
const LAYOUT: &str = "1\n";

/// File that tells backup programs to leave the directory out, and its content
/// (<https://bford.info/cachedir/>).
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n\
     # This is the cache of crucible. It can be removed: `crucible clean --all`.\n",
);

/// Everything else that crucible makes in a cache, besides the [`Cache::KINDS`].
const OTHERS: [&str; 6] = [
    "sources",
    "stand-ins",
    "checkouts",
    "tmp",
    "locks",
    "kvm-probe.json",
];

/// Directories that only this user may look into: memories of guests.
const PRIVATE: [&str; 2] = ["warm", "tmp"];

/// The lock that everybody who uses the cache shares.
const IN_USE: &str = "cache";

/// How long an artefact is kept while another crucible uses the cache.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// A lock; released when dropped.
pub struct Lock {
    file: File,
    /// The cache is not removed meanwhile.
    _in_use: Option<File>,
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lock")
    }
}

impl Lock {
    /// Passes the lock to `command`: if this process is killed, the lock is held until the last
    /// child of the command has ended.
    pub(crate) fn share_with(&self, command: &mut Command) -> Result<()> {
        let file = self
            .file
            .try_clone()
            .map_err(Error::file("share", Path::new("the lock")))?;
        command.preserved_fds(vec![OwnedFd::from(file)]);
        Ok(())
    }
}

/// An artefact, as it is found.
enum Found {
    Sound(PathBuf),
    Damaged(PathBuf, String),
    Absent,
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

    /// Opens the cache at `root`; creates the directory if it does not exist. A cache from before
    /// there was a marker is taken over.
    ///
    /// # Errors
    /// The directory has a name that crucible cannot use, others may write to it, or it has files
    /// that are not crucible's.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        directory::check_name(&root)?;
        make_directory(&root)?;
        let root = root
            .canonicalize()
            .map_err(Error::file("find the directory", &root))?;
        directory::check_name(&root)?;
        directory::check_owner(&root, "CRUCIBLE_CACHE")?;
        if !root.join(MARKER).is_file() {
            claim(&root)?;
        }
        for name in PRIVATE {
            let path = root.join(name);
            let open = path.metadata().is_ok_and(|it| it.mode() & 0o077 != 0);
            if open {
                // A cache that cannot be written is used as it is.
                let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o700));
            }
        }
        Ok(Self { root })
    }

    /// Directory of the cache.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps `clean --all` from removing the cache while the result lives.
    pub fn hold(&self) -> Result<Lock> {
        Ok(Lock {
            file: self.in_use(File::lock_shared)?,
            _in_use: None,
        })
    }

    /// Returns the directory of an artefact, or `None` if it is not cached, or damaged. Marks it as
    /// used.
    pub(crate) fn get(&self, kind: &str, key: &str) -> Option<PathBuf> {
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

    /// As [`get_or_build`](Self::get_or_build); `build` gets the lock, for programs that go on if this
    /// process is killed.
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

    /// As [`get_or_build`](Self::get_or_build); `build` returns the key of what it made. If that is
    /// another one than was asked for, the artefact is stored under its own key, and stands in for
    /// the other one from now on.
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
                    "{} is damaged: {problem}; making it anew",
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

    /// Makes an artefact and stores it under the key that `build` returns, in place of what may be
    /// there. `name` is that of the lock.
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

    /// Returns the path of a directory for unfinished things.
    fn temporary(&self, name: &str) -> Result<PathBuf> {
        Ok(self.make("tmp")?.join(name))
    }

    /// Creates a directory of the cache, and returns its path.
    pub(crate) fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        let mode = if PRIVATE.contains(&name) {
            0o700
        } else {
            0o755
        };
        DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(&path)
            .map_err(Error::file("make the directory", &path))?;
        Ok(path)
    }

    /// Removes an artefact. Whoever looks at it finds all of it or nothing.
    fn retire(&self, path: &Path) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let gone = self.temporary(&format!("gone-{}-{name}", std::process::id()))?;
        remove_tree(&gone)?;
        match fs::rename(path, &gone) {
            Ok(()) => remove_tree(&gone),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::file("remove", path)(error)),
        }
    }

    /// Returns the key of the artefact that stands in for another one, which cannot be made any
    /// more.
    pub(crate) fn stand_in(&self, kind: &str, key: &str) -> Option<String> {
        let path = self.root.join("stand-ins").join(format!("{kind}-{key}"));
        let text = fs::read_to_string(path).ok()?;
        let other = text.trim();
        let is_key = !other.is_empty() && other.bytes().all(|b| b.is_ascii_hexdigit());
        (is_key && self.root.join(kind).join(other).is_dir()).then(|| other.to_owned())
    }

    /// Lists them all: the name, and kind and key of the artefact that stands in.
    pub(crate) fn stand_ins(&self) -> Result<Vec<(String, String, String)>> {
        let mut all = Vec::new();
        for (path, _) in list(&self.root.join("stand-ins"))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some((kind, key)) = name.rsplit_once('-')
                && let Some(other) = self.stand_in(kind, key)
            {
                all.push((name.to_string(), kind.to_owned(), other));
            }
        }
        Ok(all)
    }

    /// Lets one artefact stand in for another one.
    pub(crate) fn set_stand_in(&self, kind: &str, key: &str, other: &str) -> Result<()> {
        let path = self.make("stand-ins")?.join(format!("{kind}-{key}"));
        let new = path.with_extension(format!("new-{}", std::process::id()));
        fs::write(&new, other).map_err(Error::file("write", &new))?;
        fs::rename(&new, &path).map_err(Error::file("put in place", &path))
    }

    /// Takes the lock of this name; waits while another process holds it.
    pub(crate) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<Lock> {
        loop {
            let in_use = self.in_use(File::lock_shared)?;
            let path = self.make("locks")?.join(name);
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
            // Whoever held it may have removed the cache.
            if is_at(&file, &path) {
                return Ok(Lock {
                    file,
                    _in_use: Some(in_use),
                });
            }
        }
    }

    /// Opens the file of the lock that all users of the cache share, and locks it.
    fn in_use(&self, mut lock: impl FnMut(&File) -> io::Result<()>) -> Result<File> {
        loop {
            let path = self.make("locks")?.join(IN_USE);
            let file = File::create(&path).map_err(Error::file("create", &path))?;
            lock(&file).map_err(Error::file("lock", &path))?;
            if is_at(&file, &path) {
                return Ok(file);
            }
        }
    }

    /// Removes everything that crucible has made in the cache, and the directory if nothing else is
    /// in it. Waits until nobody uses the cache.
    pub fn remove(&self, progress: &dyn Progress) -> Result<()> {
        let _alone = self.in_use(|file| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                progress.note("another crucible uses the cache; waiting for it");
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
        })?;
        // The marker last: what is left of an interrupted removal can be removed.
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

    /// Removes the artefacts of each kind except the `keep` most recently used ones, and the
    /// files of interrupted builds. While another crucible uses the cache, those of the last day are
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
        // The locks below are shared ones of the same file.
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

    /// As [`prune_kind`](Self::prune_kind), and keeps what was used within `recent`.
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
            // Whoever makes it, or builds in it, holds the lock.
            let busy = File::open(&lock)
                .is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)));
            if !busy {
                self.retire(&path)?;
                removed.push(path);
            }
        }
        Ok(removed)
    }

    /// Kinds of artefacts that are pruned.
    pub const KINDS: [&str; 8] = [
        "kernel",
        "kernel-source",
        "kernel-tree",
        "debian",
        "agent",
        "cargo",
        "scratch",
        "warm",
    ];
}

/// Returns how artefacts of a kind are verified before each use.
fn check(kind: &str) -> Option<Check> {
    match kind {
        // Working directories: make and cargo write to them.
        "kernel-tree" | "cargo" => None,
        // 1.7 GB that only a build reads; `cache import` verifies them.
        "kernel-source" => None,
        // A snapshot is of this boot of the host, and a guest's start shall not wait for it.
        "warm" => Some(Check::Stamp),
        _ => Some(Check::Content),
    }
}

/// Creates a directory that only its owner can write to, whatever the umask says.
fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(Error::file("make the directory", path))
}

/// Marks a directory as a cache. It must be empty, or have nothing but what crucible makes.
fn claim(root: &Path) -> Result<()> {
    let ours = |name: &str| {
        Cache::KINDS.contains(&name) || OTHERS.contains(&name) || [TAG.0, MARKER].contains(&name)
    };
    for (path, _) in list(root)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !ours(&name) {
            return Err(Error::Directory {
                path: root.to_owned(),
                problem: format!("it has files that are not crucible's, such as {name}"),
                mend: "set CRUCIBLE_CACHE to a new or an empty directory".into(),
            });
        }
    }
    for (name, content) in [TAG, (MARKER, LAYOUT)] {
        let path = root.join(name);
        match fs::write(&path, content) {
            Ok(()) => {}
            // A cache that cannot be written is used as it is.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(error) => return Err(Error::file("write", &path)(error)),
        }
    }
    Ok(())
}

/// Returns true if `path` still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    match (file.metadata(), path.metadata()) {
        (Ok(file), Ok(there)) => same(&file, &there),
        _ => false,
    }
}

fn list(directory: &Path) -> Result<Vec<(PathBuf, SystemTime)>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::file("list", directory)(error)),
    };
    entries
        .map(|entry| {
            let entry = entry?;
            Ok((entry.path(), entry.metadata()?.modified()?))
        })
        .collect::<io::Result<_>>()
        .map_err(Error::file("list", directory))
}

/// Removes a directory tree, if it exists.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::file("remove", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Notes, Silent};
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

    #[test]
    fn a_directory_with_other_files_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = Cache::at(dir.path()).unwrap_err();
        assert!(error.is_host_setup());
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_cache_from_before_the_marker_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["kernel/k", "locks", "warm", "kernel-tree"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("kernel/k/f"), "x").unwrap();
        fs::write(dir.path().join("kvm-probe.json"), "{}").unwrap();
        let cache = Cache::at(dir.path()).unwrap();
        assert!(cache.get("kernel", "k").is_some());
        let tag = fs::read_to_string(dir.path().join("CACHEDIR.TAG")).unwrap();
        assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().mode() & 0o777;
        assert_eq!(mode("warm"), 0o700);
        assert_ne!(mode("kernel"), 0o700);
    }

    #[test]
    fn an_artefact_of_another_key_stands_in() {
        let (_dir, cache) = cache();
        let other = "b".repeat(32);
        let get = |damage: bool| {
            let notes = Notes::default();
            let built = AtomicUsize::new(0);
            let path = cache.get_or_substitute("debian", "a", &notes, |path, _| {
                built.fetch_add(1, Ordering::Relaxed);
                fill(path).map(|()| other.clone())
            });
            let path = path.unwrap();
            assert!(path.ends_with(format!("debian/{other}")));
            if damage {
                fs::write(path.join("f"), "y").unwrap();
            }
            (built.into_inner(), notes.text())
        };
        assert_eq!(get(false).0, 1);
        assert_eq!(get(true).0, 0);
        let (built, notes) = get(false);
        assert_eq!(built, 1);
        assert!(notes.contains("is damaged"), "{notes}");
        cache.prune(0, &Silent).unwrap();
        assert!(list(&cache.root().join("stand-ins")).unwrap().is_empty());
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
