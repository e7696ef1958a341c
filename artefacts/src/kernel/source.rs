// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel source before our series: Debian's package, or the user's own tree.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::lock::KernelLock;
use super::series;
use super::tree;
use crate::cache::Lock;
use crate::hash::{Fingerprint, sha256_file};
use crate::progress::Step;
use crate::run::{output, run};
use crate::{Cache, Error, Progress, Result, Sources, host};

/// A kernel source tree, which is never written to.
pub(super) struct Source {
    /// The top directory of the tree.
    pub directory: PathBuf,
    /// The kernel's version.
    pub version: String,
    /// A hash that changes with the content of the tree.
    pub identity: String,
    /// The directory name of the trees that are derived from it.
    pub tree_name: String,
    /// True when the tree never changes.
    pub immutable: bool,
    /// True when the tree has checkpoint and restart already, so that our series does not apply to
    /// it.
    pub carries: bool,
}

impl Source {
    /// Returns the part of the source that belongs to a kernel's inputs.
    pub fn base(&self) -> Base<'_> {
        Base {
            identity: &self.identity,
            version: &self.version,
            carries: self.carries.then_some(&self.directory),
        }
    }
}

/// The source that a series is applied to, as far as a plan needs it.
pub(super) struct Base<'a> {
    /// The identity; see [`Source::identity`].
    pub identity: &'a str,
    /// The version; see [`Source::version`].
    pub version: &'a str,
    /// The tree, if it has checkpoint and restart already.
    pub carries: Option<&'a Path>,
}

/// The package that was fetched for a lock file.
#[derive(Serialize, Deserialize)]
struct Fetched {
    version: String,
    sha256: String,
}

const KIND: &str = "kernel-source";
const RECORD: &str = "source.json";

fn key(lock: &KernelLock) -> &str {
    &lock.sha256[..32]
}

/// Returns the pinned source if it is cached.
pub(super) fn cached(cache: &Cache, lock: &KernelLock) -> Option<Source> {
    let directory = cache.get(KIND, key(lock))?;
    load(&directory).ok()
}

fn load(directory: &Path) -> Result<Source> {
    let path = directory.join(RECORD);
    let text = fs::read(&path).map_err(Error::file("read", &path))?;
    let fetched: Fetched = serde_json::from_slice(&text).map_err(|error| Error::Malformed {
        path,
        problem: error.to_string(),
    })?;
    Ok(Source {
        directory: directory.join("linux"),
        version: fetched.version,
        tree_name: fetched.sha256[..16].to_owned(),
        identity: fetched.sha256,
        immutable: true,
        carries: false,
    })
}

/// Returns the pinned source. Fetches it if it is not cached.
pub(super) fn pinned(cache: &Cache, sources: &Sources, progress: &dyn Progress) -> Result<Source> {
    let lock = KernelLock::load(&sources.guest_kernel().join("kernel.lock"))?;
    match cached(cache, &lock) {
        Some(source) => Ok(source),
        None => fetch(cache, &lock, progress),
    }
}

/// Returns the source for a lock file. Fetches it if it is not cached. A later version than the
/// pinned one is stored under its own hash.
pub(super) fn fetch(cache: &Cache, lock: &KernelLock, progress: &dyn Progress) -> Result<Source> {
    let directory = cache.get_or_substitute(KIND, key(lock), progress, |directory, held| {
        let version = download(lock, directory, held, progress)?;
        let package = find_package(directory)?;
        let sha256 = sha256_file(&package)?;
        if version == lock.version && sha256 != lock.sha256 {
            return Err(Error::Checksum {
                name: format!("{} {version}", lock.package),
                wanted: lock.sha256.clone(),
                found: sha256,
            });
        }
        let _step = Step::begin(progress, "unpacking the kernel's source");
        unpack(lock, &package, &directory.join("linux"), held)?;
        fs::remove_file(&package).map_err(Error::file("remove", &package))?;
        let record = directory.join(RECORD);
        let fetched = Fetched { version, sha256 };
        let text = serde_json::json!(fetched).to_string();
        fs::write(&record, text).map_err(Error::file("write", &record))?;
        Ok(fetched.sha256[..32].to_owned())
    })?;
    load(&directory)
}

/// Downloads the pinned version, or the newest version of its series if the archive no longer has
/// the pinned one. Returns the version.
fn download(
    lock: &KernelLock,
    directory: &Path,
    held: &Lock,
    progress: &dyn Progress,
) -> Result<String> {
    let get = |version: &str| {
        let what = format!("fetching {} {version}", lock.package);
        let _step = Step::begin(progress, &what);
        let mut apt = Command::new("apt-get");
        apt.args(["--quiet", "download"])
            .arg(format!("{}={version}", lock.package))
            .current_dir(directory);
        held.share_with(&mut apt)?;
        run(&what, &mut apt, |_| {})
    };
    let Err(first) = get(&lock.version) else {
        return Ok(lock.version.clone());
    };
    // The host's package lists may be too old to contain this version.
    if host::refresh(progress).is_ok() && get(&lock.version).is_ok() {
        return Ok(lock.version.clone());
    }
    let madison = output(
        "listing the kernel's versions with apt-cache",
        Command::new("apt-cache").args(["madison", &lock.package]),
    )
    .map_err(|error| error.on_host(host::NETWORK))?;
    let Some(version) = newest(&madison, lock) else {
        return Err(Error::NoKernelSource {
            package: lock.package.clone(),
            series: lock.series.clone(),
            version: lock.version.clone(),
            words: first.to_string(),
        });
    };
    get(version).map_err(|error| error.on_host(host::NETWORK))?;
    Ok(version.into())
}

/// Returns the first version of the series in apt-cache's table, which lists the newest version
/// first.
fn newest<'a>(madison: &'a str, lock: &KernelLock) -> Option<&'a str> {
    madison
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .map(str::trim)
        .find(|version| lock.accepts(version))
}

fn find_package(directory: &Path) -> Result<PathBuf> {
    fs::read_dir(directory)
        .map_err(Error::file("list", directory))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| Error::Malformed {
            path: directory.to_owned(),
            problem: "apt-get reported a download, but left no package".into(),
        })
}

/// Extracts the source tree from the archive that the package contains.
fn unpack(lock: &KernelLock, package: &Path, to: &Path, held: &Lock) -> Result<()> {
    fs::create_dir(to).map_err(Error::file("make the directory", to))?;
    let member = format!("./usr/src/{}.tar.xz", lock.package);
    let program = |name: &str, source| Error::Program {
        program: name.into(),
        source,
    };
    let mut outer = Command::new("dpkg-deb");
    outer
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    held.share_with(&mut outer)?;
    let mut outer = outer
        .spawn()
        .map_err(|source| program("dpkg-deb", source))?;
    let mut inner = Command::new("tar");
    inner.args(["--extract", "--to-stdout", &member]);
    if let Some(stdout) = outer.stdout.take() {
        inner.stdin(stdout);
    }
    held.share_with(&mut inner)?;
    let mut inner = inner
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| program("tar", source))?;
    let mut tree = Command::new("tar");
    tree.args(["--extract", "--xz", "--strip-components=1", "--directory"])
        .arg(to);
    if let Some(stdout) = inner.stdout.take() {
        tree.stdin(stdout);
    }
    held.share_with(&mut tree)?;
    let result = tree.output().map_err(|source| program("tar", source))?;
    for (name, child) in [("tar", &mut inner), ("dpkg-deb", &mut outer)] {
        child.wait().map_err(|source| program(name, source))?;
    }
    if result.status.success() && to.join("Makefile").is_file() {
        return Ok(());
    }
    Err(Error::Failed {
        what: "unpacking the kernel's source".into(),
        status: result.status.to_string(),
        command: format!("dpkg-deb … | tar … {member} | tar …"),
        words: String::from_utf8_lossy(&result.stderr).trim().to_owned(),
    })
}

/// Opens the user's own tree, which is never written to.
pub(super) fn foreign(tree: &Path) -> Result<Source> {
    let directory = tree
        .canonicalize()
        .map_err(Error::file("find the kernel tree", tree))?;
    let makefile = directory.join("Makefile");
    let text = fs::read_to_string(&makefile).map_err(Error::file("read", &makefile))?;
    let version = version(&text).ok_or_else(|| Error::Malformed {
        path: makefile,
        problem: "this is not the top of a Linux source tree".into(),
    })?;
    let identity = match committed(&directory) {
        Some(tree) => format!("git {tree}"),
        None => stamped(&directory)?,
    };
    let place = Fingerprint::new("place")
        .add("path", directory.as_os_str().as_encoded_bytes())
        .finish();
    Ok(Source {
        version,
        identity,
        tree_name: format!("tree-{}", &place[..16]),
        carries: series::carries(&directory),
        directory,
        immutable: false,
    })
}

/// Returns a hash of the names, sizes and times of a tree's files.
fn stamped(directory: &Path) -> Result<String> {
    let mut fingerprint = Fingerprint::new("tree");
    for entry in tree::files(directory) {
        let entry = entry?;
        let metadata = entry.metadata().map_err(|error| Error::Malformed {
            path: entry.path().to_owned(),
            problem: error.to_string(),
        })?;
        let stamp = format!(
            "{} {}.{}",
            metadata.size(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        fingerprint = fingerprint.add(&entry.path().to_string_lossy(), stamp);
    }
    Ok(fingerprint.finish())
}

/// Returns git's name for the content of a tree, if nothing is uncommitted. A
/// checkout elsewhere, or at another time, has the same name.
fn committed(directory: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command
            .args(["--no-optional-locks", "-c", "core.fsmonitor=false", "-C"])
            .arg(directory)
            .args(args);
        // git sets these variables when it runs us, perhaps for a bisection in a different tree.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
            command.env_remove(name);
        }
        output("asking git for the tree's content", &mut command).ok()
    };
    if !git(&[
        "status",
        "--porcelain",
        "--untracked-files=normal",
        "--",
        ".",
    ])?
    .is_empty()
    {
        return None;
    }
    // Git ignores changes to a file that is marked assume-unchanged or skip-worktree.
    let files = git(&["ls-files", "-v"])?;
    if files.is_empty() || files.lines().any(|line| !line.starts_with("H ")) {
        return None;
    }
    // The hash of this directory, which may be part of a larger repository.
    let name = git(&["rev-parse", "--verify", "HEAD:./"])?;
    Some(name.trim().to_owned())
}

/// Returns the version that a kernel's Makefile states.
fn version(makefile: &str) -> Option<String> {
    let value = |name: &str| {
        makefile.lines().take(20).find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    Some(format!(
        "{}.{}.{}{}",
        value("VERSION")?,
        value("PATCHLEVEL")?,
        value("SUBLEVEL")?,
        value("EXTRAVERSION")?
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_the_series_is_taken() {
        let lock = KernelLock {
            package: "linux-source-6.12".into(),
            series: "6.12".into(),
            version: "6.12.1-1".into(),
            sha256: "0".repeat(64),
        };
        let table = "\
linux-source-6.12 | 6.13.1-1 | mirror bookworm-backports/main Sources
linux-source-6.12 | 6.12.120-1 | mirror bookworm-security/main amd64 Packages
linux-source-6.12 | 6.12.90-1 | mirror bookworm/main amd64 Packages
";
        assert_eq!(newest(table, &lock), Some("6.12.120-1"));
        assert_eq!(newest("", &lock), None);
    }

    /// Returns a kernel's tree with one commit.
    fn repository() -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let makefile = "VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\nEXTRAVERSION =\n";
        fs::write(tree.path().join("Makefile"), makefile).unwrap();
        fs::write(tree.path().join("fork.c"), "one\n").unwrap();
        fs::write(tree.path().join(".gitignore"), "*.o\n").unwrap();
        git(tree.path(), &["init", "-q"]);
        git(tree.path(), &["add", "-A"]);
        let commit = [
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "-qm",
            "one",
        ];
        git(tree.path(), &commit);
        tree
    }

    fn git(tree: &Path, args: &[&str]) {
        let status = Command::new("git").arg("-C").arg(tree).args(args).status();
        assert!(status.unwrap().success());
    }

    #[test]
    fn a_clean_checkout_is_named_by_its_content() {
        let (one, other) = (repository(), repository());
        let name = |tree: &tempfile::TempDir| foreign(tree.path()).unwrap().identity;
        let committed = name(&one);
        assert!(committed.starts_with("git "));
        assert_eq!(committed, name(&other));
        // Products of a build do not belong to its content.
        fs::write(one.path().join("fork.o"), "object").unwrap();
        assert_eq!(committed, name(&one));
        fs::write(one.path().join("exit.c"), "new\n").unwrap();
        assert_ne!(committed, name(&one));
        fs::remove_file(one.path().join("exit.c")).unwrap();
        assert_eq!(committed, name(&one));
        // Git ignores the change.
        git(
            one.path(),
            &["update-index", "--assume-unchanged", "fork.c"],
        );
        fs::write(one.path().join("fork.c"), "two\n").unwrap();
        assert_ne!(committed, name(&one));
    }

    #[test]
    fn a_tree_that_carries_the_series_is_told_from_a_plain_one() {
        let tree = repository();
        let carries = || foreign(tree.path()).unwrap().carries;
        assert!(!carries());
        let table = tree.path().join("arch/x86/entry/syscalls");
        fs::create_dir_all(&table).unwrap();
        let table = table.join("syscall_64.tbl");
        fs::write(&table, "219 common restart_syscall sys_restart_syscall\n").unwrap();
        assert!(!carries());
        fs::write(&table, "501 64 restart sys_restart\n").unwrap();
        assert!(carries());
        fs::remove_file(&table).unwrap();
        let ours = tree.path().join("kernel/checkpoint");
        fs::create_dir_all(&ours).unwrap();
        fs::write(ours.join("Kconfig"), "config CHECKPOINT\n").unwrap();
        assert!(carries());
    }

    #[test]
    fn the_version_is_read_from_the_makefile() {
        let makefile = "# SPDX\nVERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 117\nEXTRAVERSION =\n";
        assert_eq!(version(makefile).as_deref(), Some("6.12.117"));
        assert_eq!(version("all:\n\ttrue\n"), None);
    }
}
