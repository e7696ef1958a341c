// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The owner of the cache: its path, its marker, and its permissions.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Cache, RUNS, list};
use crate::directory;
use crate::{Error, Result};

/// File that marks the directory as crucible's cache, with the version of its layout.
pub(super) const MARKER: &str = ".crucible-cache";

/// The marker's content.
const LAYOUT: &str = "1\n";

/// File that makes backup programs leave the directory out, and its content
/// (<https://bford.info/cachedir/>).
pub(super) const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n\
     # This is the cache of crucible. It can be removed: `crucible clean --all`.\n",
);

/// Files and directories that crucible makes in a cache, except the [`Cache::KINDS`].
pub(super) const OTHERS: [&str; 7] = [
    "sources",
    "stand-ins",
    "checkouts",
    "tmp",
    RUNS,
    "locks",
    "kvm-probe.json",
];

/// Directories that only this user may read: they contain memory of guests.
pub(super) const PRIVATE: [&str; 3] = ["warm", "tmp", RUNS];

impl Cache {
    /// Returns the cache in `$CRUCIBLE_CACHE`, else in `$XDG_CACHE_HOME/crucible`, else in
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
    /// markers existed is adopted.
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
}

/// Creates a directory that only its owner can write to, whatever the umask is.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(Error::file("make the directory", path))
}

/// Marks a directory as a cache. The directory must be empty, or contain only files that crucible
/// makes.
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
