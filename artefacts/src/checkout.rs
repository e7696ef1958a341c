// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A checkout of a user's repository in the cache, which switches from commit to commit.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Lock;
use crate::hash::Fingerprint;
use crate::progress::Step;
use crate::run::{output, run};
use crate::{Cache, Error, Progress, Result};

/// A checkout in the cache, one for each repository, which shares the repository's objects. Git
/// writes only the files that differ between two commits, so that the others keep their times.
#[derive(Debug)]
pub struct Checkout {
    directory: PathBuf,
    /// No other process checks out a different commit in the meantime.
    _lock: Lock,
}

impl Checkout {
    /// Returns the checkout of a repository: a directory with `.git`. Waits while another crucible
    /// uses it. Writes nothing to the repository.
    ///
    /// # Errors
    /// Git fails.
    pub fn open(cache: &Cache, repository: &Path, progress: &dyn Progress) -> Result<Self> {
        let repository = repository
            .canonicalize()
            .map_err(Error::file("find the repository", repository))?;
        let place = Fingerprint::new("checkout 1")
            .add("path", repository.as_os_str().as_encoded_bytes())
            .finish();
        let name = &place[..16];
        let lock = cache.lock(&format!("checkout-{name}"), progress)?;
        let directory = cache.make("checkouts")?.join(name);
        let checkout = Self {
            directory,
            _lock: lock,
        };
        if !checkout
            .git(&["rev-parse", "--git-dir"])
            .is_ok_and(|it| it.trim() == ".git")
        {
            checkout.clone_from(&repository, progress)?;
        }
        // A killed git has left this lock file; we hold the lock.
        match fs::remove_file(checkout.directory.join(".git/index.lock")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", &checkout.directory)(error))
            }
            _ => Ok(checkout),
        }
    }

    fn clone_from(&self, repository: &Path, progress: &dyn Progress) -> Result<()> {
        let _step = Step::begin(progress, "preparing a checkout of the repository");
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::file("remove", &self.directory)(error));
            }
            _ => {}
        }
        let mut clone = git();
        clone
            .args(["clone", "--quiet", "--shared", "--no-checkout"])
            .arg(repository)
            .arg(&self.directory);
        run("cloning the repository", &mut clone, |_| {})
    }

    /// Returns the directory of the checkout.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Checks out a commit of the repository.
    ///
    /// # Errors
    /// There is no such commit.
    pub fn at(&self, commit: &str) -> Result<&Path> {
        self.git(&["checkout", "--quiet", "--force", "--detach", commit])?;
        Ok(&self.directory)
    }

    /// Checks out a commit with a second commit reverted. Returns `None` if that one
    /// cannot be reverted alone.
    ///
    /// # Errors
    /// Those of [`Self::at`].
    pub fn without(&self, commit: &str, change: &str) -> Result<Option<&Path>> {
        self.at(commit)?;
        match self.git(&["revert", "--no-commit", change]) {
            Ok(_) => Ok(Some(&self.directory)),
            Err(Error::Failed { .. }) => {
                self.git(&["reset", "--quiet", "--hard", commit])?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn git(&self, args: &[&str]) -> Result<String> {
        let mut command = git();
        // The tree to be built has hard links to these files; their content is the same.
        command.args(["-c", "core.trustctime=false", "-C"]);
        command.arg(&self.directory).args(args);
        output("checking a commit out", &mut command)
    }
}

/// Returns a git command that runs no program which the caller's environment or the repository's
/// configuration names.
fn git() -> Command {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false"])
        .args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "advice.detachedHead=false",
        ]);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        git.env_remove(name);
    }
    git
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::Silent;

    fn commit(repository: &Path, content: &str) -> String {
        fs::write(repository.join("a"), content).unwrap();
        let git = |args: &[&str]| {
            let mut git = git();
            git.args(["-c", "user.name=x", "-c", "user.email=x@localhost"]);
            output("git", git.arg("-C").arg(repository).args(args)).unwrap()
        };
        git(&["init", "-q"]);
        git(&["add", "-A"]);
        git(&["commit", "-q", "--allow-empty", "-m", content]);
        git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    #[test]
    fn commits_are_checked_out_beside_the_repository() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path().join("cache")).unwrap();
        let repository = root.path().join("theirs");
        fs::create_dir(&repository).unwrap();
        fs::write(repository.join("b"), "same").unwrap();
        let first = commit(&repository, "1\n2\n3\n");
        let second = commit(&repository, "1\n2\n4\n");
        let third = commit(&repository, "0\n1\n2\n4\n");
        fs::write(repository.join("a"), "the user's").unwrap();
        let checkout = Checkout::open(&cache, &repository, &Silent).unwrap();
        let read = |name: &str| fs::read_to_string(checkout.directory().join(name)).unwrap();
        checkout.at(&first).unwrap();
        assert_eq!(read("a"), "1\n2\n3\n");
        let time = |name: &str| {
            let file = checkout.directory().join(name);
            file.metadata().unwrap().modified().unwrap()
        };
        let before = time("b");
        // Make links to the file, as the kernel's tree does: they change the ctime of the inode.
        let (b, linked) = (checkout.directory().join("b"), root.path().join("linked"));
        // Git compares seconds.
        let of_inode = || b.metadata().unwrap().ctime();
        let written = of_inode();
        while of_inode() == written {
            let _ = fs::remove_file(&linked);
            fs::hard_link(&b, &linked).unwrap();
        }
        checkout.at(&second).unwrap();
        assert_eq!((read("a").as_str(), time("b")), ("1\n2\n4\n", before));
        assert!(checkout.at("0000000").is_err());
        let path = checkout.without(&second, &second).unwrap();
        assert!(path.is_some());
        assert_eq!(read("a"), "1\n2\n3\n");
        // A hunk that a later commit has changed cannot be reverted alone.
        assert!(checkout.without(&third, &first).unwrap().is_none());
        assert_eq!(read("a"), "0\n1\n2\n4\n");
        drop(checkout);
        // A git that was killed.
        let checkout = Checkout::open(&cache, &repository, &Silent).unwrap();
        fs::write(checkout.directory().join(".git/index.lock"), "").unwrap();
        let directory = checkout.directory().to_owned();
        drop(checkout);
        let checkout = Checkout::open(&cache, &repository, &Silent).unwrap();
        assert_eq!(checkout.at(&first).unwrap(), directory);
        let theirs = fs::read_to_string(repository.join("a")).unwrap();
        assert_eq!(theirs, "the user's");
        assert!(!repository.join(".git/worktrees").exists());
    }
}
