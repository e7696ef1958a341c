// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two versions of our change to the kernel, and the differences between them: changed patches and
//! files, which are applied one by one.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use walkdir::WalkDir;

use super::history::{OURS, ask};
use super::unpacked::archive;
use crate::exit::Usage;
use crate::temporary::Temporary;

/// The inputs of a kernel in `guest-kernel/`, in the order in which their changes are applied: the
/// source's version, the configuration, the patches in their order, and the files, which the
/// patches call.
const PARTS: [&str; 6] = [
    "kernel.lock",
    "config",
    "patches",
    "src",
    "mutants",
    "mutants.toml",
];

/// The name of the node that is the good version.
const GOOD: &str = "the good series";

/// Both versions, copied: the user may change files during a search.
pub struct Versions {
    work: Temporary,
    /// The paths in `guest-kernel/` of the differences.
    changes: Vec<PathBuf>,
}

impl std::fmt::Debug for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.changes).finish()
    }
}

impl Versions {
    /// Reads two versions: each a directory, a revision of the repository, or, without a name, the
    /// repository's files as they are.
    ///
    /// # Errors
    /// A usage error: there is no such version, or they do not differ.
    pub fn read(repository: &Path, good: &str, bad: Option<&str>) -> Result<Self> {
        let work = Temporary::new("bisect")?;
        take(repository, Some(good), &work.path().join("good"))?;
        take(repository, bad, &work.path().join("bad"))?;
        let changes = changes(&work.path().join("good"), &work.path().join("bad"))?;
        if changes.is_empty() {
            let bad = bad.unwrap_or("the present one");
            let why = format!("the series of {good} and {bad} make the same kernel");
            return Err(Usage(why).into());
        }
        Ok(Self { work, changes })
    }

    /// Returns the names of the nodes, the good version first.
    pub fn nodes(&self) -> Vec<String> {
        let changes = self.changes.iter();
        let names = changes.map(|change| change.display().to_string());
        [GOOD.to_owned()].into_iter().chain(names).collect()
    }

    /// Returns `guest-kernel` with the changes up to a node's change.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn up_to(&self, node: usize) -> Result<PathBuf> {
        self.make(&format!("node-{node}"), &|change| change <= node)
    }

    /// Returns `guest-kernel` of the bad version without the change of a node.
    ///
    /// # Errors
    /// Those of [`Self::up_to`].
    pub fn without(&self, node: usize) -> Result<PathBuf> {
        self.make(&format!("without-{node}"), &|change| change != node)
    }

    /// Makes a version with the changes of the nodes for which `is_taken` returns true.
    fn make(&self, name: &str, is_taken: &dyn Fn(usize) -> bool) -> Result<PathBuf> {
        let directory = self.work.path().join(name);
        if directory.is_dir() {
            return Ok(directory);
        }
        let new = self.work.path().join("new");
        let _ = fs::remove_dir_all(&new);
        let failed = || format!("cannot write {}", new.display());
        link_all(&self.work.path().join("bad"), &new).with_context(failed)?;
        for (number, change) in self.changes.iter().enumerate() {
            if is_taken(number + 1) {
                continue;
            }
            let (from, to) = (self.work.path().join("good").join(change), new.join(change));
            match fs::remove_file(&to) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).with_context(failed);
                }
                _ => {}
            }
            if from.is_file() {
                link(&from, &to).with_context(failed)?;
            }
        }
        fs::rename(&new, &directory).with_context(failed)?;
        Ok(directory)
    }
}

/// Copies a version of `guest-kernel` to a directory.
fn take(repository: &Path, version: Option<&str>, to: &Path) -> Result<()> {
    let from = match version {
        None => repository.to_owned(),
        Some(name) if Path::new(name).is_dir() => PathBuf::from(name),
        Some(revision) => {
            let wanted = format!("{revision}^{{commit}}");
            let arguments = [
                "rev-parse",
                "--verify",
                "--quiet",
                "--end-of-options",
                &wanted,
            ];
            let commit = ask(repository, &arguments);
            let Some(commit) = commit else {
                let repository = repository.display();
                let why = format!("{revision} is neither a directory nor a commit of {repository}");
                return Err(Usage(why).into());
            };
            let prefix = ask(repository, &["rev-parse", "--show-prefix"]).unwrap_or_default();
            let top = ask(repository, &["rev-parse", "--show-toplevel"]).unwrap_or_default();
            let unpacked = to.with_extension("commit");
            archive(
                Path::new(&top),
                &commit,
                &format!("{prefix}{OURS}"),
                &unpacked,
            )?;
            unpacked.join(prefix)
        }
    };
    let inside = from.join(OURS);
    let from = match inside.is_dir() {
        true => inside,
        false => from,
    };
    if !from.join("kernel.lock").is_file() || !from.join("patches").is_dir() {
        let why = format!(
            "{} has no series: no {OURS}/ with kernel.lock and patches/",
            version.map_or_else(|| from.display().to_string(), str::to_owned)
        );
        return Err(Usage(why).into());
    }
    for part in PARTS {
        let from = from.join(part);
        let failed = || format!("cannot copy {}", from.display());
        if from.is_dir() {
            copy_all(&from, &to.join(part)).with_context(failed)?;
        } else if from.is_file() {
            fs::create_dir_all(to).with_context(failed)?;
            fs::copy(&from, to.join(part)).with_context(failed)?;
        }
    }
    Ok(())
}

/// Returns the files that differ, in the order in which they are applied.
fn changes(good: &Path, bad: &Path) -> Result<Vec<PathBuf>> {
    let mut changes = Vec::new();
    for part in PARTS {
        let mut paths = BTreeSet::new();
        for version in [good, bad] {
            for entry in WalkDir::new(version.join(part)) {
                // One of the versions may lack it.
                let Ok(entry) = entry else { continue };
                let path = entry.path().strip_prefix(version).unwrap_or(entry.path());
                if entry.file_type().is_file() && counts(path) {
                    paths.insert(path.to_owned());
                }
            }
        }
        for path in paths {
            let content = |version: &Path| fs::read(version.join(&path)).ok();
            if content(good) != content(bad) {
                changes.push(path);
            }
        }
    }
    Ok(changes)
}

/// Returns true for a file that the kernel is made from.
fn counts(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_patch = path.extension().is_some_and(|it| it == "patch");
    let junk = name.ends_with('~') || name.starts_with('.');
    !junk && (is_patch || !path.starts_with("patches"))
}

/// Calls `make` with each file below a directory and its path below a second one.
fn each(from: &Path, to: &Path, make: &dyn Fn(&Path, &Path) -> io::Result<()>) -> io::Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry.map_err(io::Error::from)?;
        let to = to.join(entry.path().strip_prefix(from).unwrap_or(entry.path()));
        match entry.file_type().is_dir() {
            true => fs::create_dir_all(to)?,
            false => make(entry.path(), &to)?,
        }
    }
    Ok(())
}

fn copy_all(from: &Path, to: &Path) -> io::Result<()> {
    each(from, to, &|from, to| fs::copy(from, to).map(drop))
}

fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    each(from, to, &link)
}

fn link(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::hard_link(from, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_bisect::{
        Answer, Built, Graph, Journal, Observation, Options, REVERTED, Report, Seen, Setting,
        Signature, Stop, Subject, Visit, bisect,
    };
    use crucible_engine::Condition;
    use std::process::Command;

    /// Writes a series: files by their path in `guest-kernel/`.
    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(OURS).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    const GOOD_SERIES: [(&str, &str); 6] = [
        ("kernel.lock", "1"),
        ("config/base.config", "CONFIG_A=y\n"),
        ("patches/0001-a.patch", "calls one()"),
        ("patches/0002-b.patch", "calls two()"),
        ("src/kernel/checkpoint/one.c", "one()"),
        ("src/kernel/checkpoint/two.c", "two()"),
    ];

    /// Simulated observations of a series: recorded results of builds and runs of such kernels.
    struct Recorded<'a> {
        versions: &'a Versions,
        reverted: usize,
        built: Vec<usize>,
    }

    impl Recorded<'_> {
        fn text(&self, node: usize) -> String {
            let directory = match node {
                REVERTED => self.versions.without(self.reverted),
                node => self.versions.up_to(node),
            };
            let mut all = String::new();
            for entry in WalkDir::new(directory.unwrap()).sort_by_file_name() {
                let entry = entry.unwrap();
                if entry.file_type().is_file() {
                    all += &fs::read_to_string(entry.path()).unwrap();
                    all.push(' ');
                }
            }
            all
        }
    }

    impl Subject for Recorded<'_> {
        /// Simulates a build: a call of a function that no file defines does not link.
        fn build(&mut self, node: usize) -> Result<Built, Stop> {
            self.built.push(node);
            let text = self.text(node);
            let missing = ["three()"].iter().find(|function| {
                text.contains(&format!("calls {function}")) && text.matches(*function).count() == 1
            });
            let seconds = 9.0;
            Ok(match missing {
                Some(function) => Built::Unbuildable {
                    why: format!("undefined reference to {function}"),
                    seconds,
                },
                None => Built::Image {
                    image: text.replace(" comment", ""),
                    seconds,
                },
            })
        }

        fn run(
            &mut self,
            node: usize,
            _: &Setting,
            see: &mut dyn FnMut(Observation) -> bool,
        ) -> Result<Visit, Stop> {
            let seen = match self.text(node).contains("BUG") {
                true => Seen::Failed(Signature {
                    scenario: "hello".into(),
                    case: "main".into(),
                    condition: Condition::Diverged,
                    at: "stdout".into(),
                }),
                false => Seen::Pass,
            };
            while see(Observation {
                seen: seen.clone(),
                seconds: 1.0,
                lines: Vec::new(),
            }) {}
            Ok(Visit::default())
        }

        fn revert(&mut self, node: usize) -> Result<Option<Built>, Stop> {
            self.reverted = node;
            self.build(REVERTED).map(Some)
        }
    }

    fn search(good: &[(&str, &str)], bad: &[(&str, &str)]) -> (Vec<String>, Report) {
        let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write(places[0].path(), good);
        write(places[1].path(), bad);
        let good = places[0].path().to_str().unwrap();
        let versions = Versions::read(places[1].path(), good, None).unwrap();
        let names = versions.nodes();
        let graph = Graph::linear(names.iter().map(|name| (name.clone(), String::new())));
        let mut subject = Recorded {
            versions: &versions,
            reverted: 0,
            built: Vec::new(),
        };
        let (graph, options) = (graph.unwrap(), Options::default());
        let mut journal = Journal::in_memory();
        let report = bisect(&mut subject, &graph, &options, &mut journal, &mut |_| ());
        (names, report.unwrap())
    }

    /// Returns the good series with these files changed.
    fn changed<'a>(files: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let is_kept = |(path, _): &&(&str, &str)| files.iter().all(|(it, _)| it != path);
        let kept = GOOD_SERIES.iter().filter(is_kept).copied();
        kept.chain(files.iter().copied()).collect()
    }

    #[test]
    fn the_patch_with_the_bug_is_found_among_other_changes() {
        let bad = changed(&[
            ("config/base.config", "CONFIG_A=y\nCONFIG_B=y\n"),
            ("patches/0001-a.patch", "calls one() comment"),
            ("patches/0002-b.patch", "calls two() BUG"),
            ("patches/NOTES", "no patch"),
            ("patches/0003-c.patch", "new"),
            ("src/kernel/checkpoint/one.c", "one() again"),
            ("state/task", "no part of a kernel"),
        ]);
        let (names, report) = search(&GOOD_SERIES, &bad);
        let wanted = [
            GOOD,
            "config/base.config",
            "patches/0001-a.patch",
            "patches/0002-b.patch",
            "patches/0003-c.patch",
            "src/kernel/checkpoint/one.c",
        ];
        assert_eq!(names, wanted);
        assert_eq!(report.answer, Answer::Culprit { node: 3 });
        let failures = report.checks.iter().map(|check| check.failures > 0);
        assert_eq!(failures.collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_patch_that_needs_a_later_file_is_not_separable_from_it() {
        let bad = changed(&[
            ("patches/0002-b.patch", "calls three()"),
            ("src/kernel/checkpoint/one.c", "one() comment"),
            ("src/kernel/checkpoint/three.c", "three() BUG"),
            ("src/kernel/checkpoint/two.c", "two() again"),
        ]);
        let (names, report) = search(&GOOD_SERIES, &bad);
        assert_eq!(names[1], "patches/0002-b.patch");
        assert_eq!(names[3], "src/kernel/checkpoint/three.c");
        let candidates = vec![1, 2, 3];
        assert_eq!(report.answer, Answer::NotSeparable { candidates });
        assert!(report.probability >= 0.99, "{report:?}");
    }

    #[test]
    fn a_patch_that_is_gone_is_a_change() {
        let bad: Vec<_> = GOOD_SERIES
            .into_iter()
            .filter(|(path, _)| !path.contains("0001"))
            .collect();
        let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write(places[0].path(), &GOOD_SERIES);
        write(places[1].path(), &bad);
        let good = places[0].path().to_str().unwrap();
        let versions = Versions::read(places[1].path(), good, None).unwrap();
        assert_eq!(versions.nodes()[1..], ["patches/0001-a.patch"]);
        let is_there = |directory: PathBuf| directory.join("patches/0001-a.patch").exists();
        assert!(is_there(versions.up_to(0).unwrap()));
        assert!(!is_there(versions.up_to(1).unwrap()));
        assert!(is_there(versions.without(1).unwrap()));
        // The search uses the versions as they were at its start.
        write(places[1].path(), &[("patches/0001-a.patch", "late")]);
        assert_eq!(versions.nodes().len(), 2);
    }

    #[test]
    fn a_version_is_a_directory_or_a_revision() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path();
        write(root, &GOOD_SERIES);
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=x", "-c", "user.email=x@localhost"]);
            let status = git.args(arguments).current_dir(root).status();
            assert!(status.unwrap().success());
        };
        git(&["init", "-q"]);
        git(&["add", "-A"]);
        git(&["commit", "-q", "-m", "one"]);
        let why = |good: &str| Versions::read(root, good, None).unwrap_err().to_string();
        assert!(why("HEAD").contains("make the same kernel"));
        assert!(why("nothing").contains("nor a commit"));
        assert!(why("/proc").contains("has no series"));
        write(root, &[("patches/0002-b.patch", "other")]);
        let versions = Versions::read(root, "HEAD", None).unwrap();
        assert_eq!(versions.nodes()[1..], ["patches/0002-b.patch"]);
        let read = |directory: PathBuf| fs::read_to_string(directory.join("patches/0002-b.patch"));
        assert_eq!(read(versions.up_to(0).unwrap()).unwrap(), "calls two()");
        assert_eq!(read(versions.up_to(1).unwrap()).unwrap(), "other");
        git(&["commit", "-q", "-a", "-m", "two"]);
        assert!(Versions::read(root, "HEAD^", Some("HEAD")).is_ok());
        let ours = root.join(OURS);
        assert!(Versions::read(root, "HEAD^", ours.to_str()).is_ok());
    }
}
