// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `guest-kernel/` of the commits of this repository's own history.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow};

use super::history::{History, OURS, ask};
use crate::temporary::Temporary;

/// A directory in which commits are unpacked.
pub(super) struct Unpacked<'a> {
    history: &'a History,
    work: Temporary,
}

impl<'a> Unpacked<'a> {
    /// Makes the directory.
    pub(super) fn new(history: &'a History) -> Result<Self> {
        Ok(Self {
            history,
            work: Temporary::new("bisect")?,
        })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        self.work.path()
    }

    /// Returns the directory with `guest-kernel` of a commit, with a slash after its prefix.
    pub(super) fn of(&self, node: usize) -> Result<PathBuf> {
        let commit = &self.history.commits[node];
        let directory = self.work.path().join(commit);
        let ours = directory.join(&self.history.prefix).join(OURS);
        if ours.is_dir() {
            return Ok(ours);
        }
        let new = self.work.path().join("new");
        let path = format!("{}{OURS}", self.history.prefix);
        archive(&self.history.repository, commit, &path, &new)?;
        fs::rename(&new, &directory).context("cannot put a commit's files in place")?;
        Ok(ours)
    }

    /// Returns `guest-kernel` of the bad end without the change of a commit; `None` if it cannot be
    /// reverted alone.
    pub(super) fn without(&self, change: usize) -> Result<Option<PathBuf>> {
        let bad = self.history.graph.bad();
        let from = self.of(bad)?;
        let root = self.work.path().join("reverted");
        let _ = fs::remove_dir_all(&root);
        copy(&from, &root.join(OURS))?;
        let commit = &self.history.commits[change];
        let parent = format!("{commit}^");
        let prefix = format!("{}{OURS}", self.history.prefix);
        let diff = ask(
            &self.history.repository,
            &[
                "diff",
                "--binary",
                "--no-color",
                "--no-ext-diff",
                "--no-textconv",
                commit,
                &parent,
                "--",
                &prefix,
            ],
        );
        let Some(diff) = diff.filter(|diff| !diff.is_empty()) else {
            return Ok(None);
        };
        let patch = self.work.path().join("reverse.patch");
        fs::write(&patch, diff + "\n").context("cannot write a patch")?;
        let strip = 1 + self.history.prefix.matches('/').count();
        let applied = Command::new("git")
            .args(["apply", &format!("-p{strip}")])
            .arg(&patch)
            // Do not let git use a repository that contains the directory.
            .env("GIT_CEILING_DIRECTORIES", self.work.path())
            .current_dir(&root)
            .stderr(Stdio::null())
            .status()
            .context("cannot run git")?;
        Ok(applied.success().then(|| root.join(OURS)))
    }
}

/// Unpacks a path of a commit in a directory, which is emptied first.
pub(super) fn archive(repository: &Path, commit: &str, path: &str, to: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(to);
    let mut git = Command::new("git");
    let mut git = git
        .args(["-c", "safe.directory=*", "-C"])
        .arg(repository)
        .args(["archive", "--format=tar", commit, "--", path])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run git")?;
    let unpacked = match git.stdout.take() {
        Some(stdout) => {
            let mut archive = tar::Archive::new(stdout);
            // git still writes padding after the end of the archive.
            let rest =
                |archive: tar::Archive<_>| io::copy(&mut archive.into_inner(), &mut io::sink());
            archive.unpack(to).and_then(|()| rest(archive)).map(drop)
        }
        None => Ok(()),
    };
    let status = git.wait().context("cannot wait for git")?;
    if !status.success() {
        return Err(anyhow!("{commit} has no {path}"));
    }
    unpacked.with_context(|| format!("cannot unpack {path} of {commit}"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("cannot copy {}", from.display());
    fs::create_dir_all(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let to = to.join(entry.file_name());
        match entry.file_type().with_context(failed)?.is_dir() {
            true => copy(&entry.path(), &to)?,
            false => {
                fs::copy(entry.path(), to).with_context(failed)?;
            }
        }
    }
    Ok(())
}
