// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commits between a good and a bad one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use crucible_bisect::{Graph, Node};

use crate::exit::Usage;

/// The directory of our change to the kernel, in a checkout of this repository.
pub const OURS: &str = "guest-kernel";

/// What a repository contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// This repository: only `guest-kernel` differs between the kernels.
    Ours,
    /// A kernel tree.
    Tree,
}

/// The commits between a good and a bad one.
#[derive(Debug)]
pub struct History {
    /// The top of the repository.
    pub repository: PathBuf,
    /// The path of the tree in it, with a slash at its end; empty for the top.
    pub prefix: String,
    /// What it contains.
    pub kind: Kind,
    /// The commits and their parents.
    pub graph: Graph,
    /// The hash of each node's commit.
    pub commits: Vec<String>,
}

impl History {
    /// Reads the commits that `bad` has and `good` has not. Of this repository, only those that
    /// touch our change to the kernel.
    ///
    /// # Errors
    /// A usage error: there is no such repository, commit or range.
    pub fn read(directory: &Path, good: &str, bad: &str) -> Result<Self> {
        let kind = kind(directory).ok_or_else(|| {
            Usage(format!(
                "{} is neither a kernel tree nor a checkout of crucible",
                directory.display()
            ))
        })?;
        let top = ask(directory, &["rev-parse", "--show-toplevel"]).ok_or_else(|| {
            let directory = directory.display();
            Usage(format!("{directory} is not in a git repository"))
        })?;
        let prefix = ask(directory, &["rev-parse", "--show-prefix"]).unwrap_or_default();
        let repository = PathBuf::from(top);
        let commit = |name: &str| {
            let wanted = format!("{name}^{{commit}}");
            let found = ask(
                &repository,
                &[
                    "rev-parse",
                    "--verify",
                    "--quiet",
                    "--end-of-options",
                    &wanted,
                ],
            );
            found.ok_or_else(|| Usage(format!("{} has no commit {name}", repository.display())))
        };
        let (first, last) = (commit(good)?, commit(bad)?);
        if first == last {
            return Err(Usage(format!("{good} and {bad} are the same commit")).into());
        }
        let is_ancestor = ["merge-base", "--is-ancestor", &first, &last];
        if ask(&repository, &is_ancestor).is_none() {
            let base = ask(&repository, &["merge-base", &first, &last]).unwrap_or_default();
            let advice = match base.get(..12) {
                Some(base) => format!("; if {base}, where they part, is good, name it instead"),
                None => String::new(),
            };
            return Err(Usage(format!("{good} is not an ancestor of {bad}{advice}")).into());
        }
        let path = match kind {
            Kind::Ours => format!("{prefix}{OURS}"),
            Kind::Tree => match prefix.trim_end_matches('/') {
                "" => ".".into(),
                prefix => prefix.to_owned(),
            },
        };
        let range = format!("{first}..{last}");
        let mut arguments = vec!["log", "--topo-order", "--reverse", "--parents"];
        arguments.extend(["--format=%H %P%x09%s", &range]);
        // Without a path every commit counts, also one without changes.
        if path != "." {
            arguments.extend(["--", &path]);
        }
        let listed = ask(&repository, &arguments).unwrap_or_default();
        let title = ask(&repository, &["log", "-1", "--format=%s", &first]);
        let (commits, graph) = graph(&first, title.as_deref().unwrap_or_default(), &listed)
            .ok_or_else(|| Usage(format!("no commit between {good} and {bad} touches {path}")))?;
        Ok(Self {
            repository,
            prefix,
            kind,
            graph,
            commits,
        })
    }

    /// Returns git's name for the content of a node's tree.
    pub fn tree(&self, node: usize) -> Option<String> {
        let of = format!("{}:{}", self.commits[node], self.prefix);
        ask(&self.repository, &["rev-parse", "--verify", "--quiet", &of])
    }
}

/// Returns what a directory contains.
pub fn kind(directory: &Path) -> Option<Kind> {
    if directory.join(OURS).join("kernel.lock").is_file() {
        Some(Kind::Ours)
    } else if directory.join("Kbuild").is_file() && directory.join("Makefile").is_file() {
        Some(Kind::Tree)
    } else {
        None
    }
}

/// Reads lines of a commit, its parents, a tab and its subject, the parents first.
fn graph(good: &str, title: &str, listed: &str) -> Option<(Vec<String>, Graph)> {
    let mut commits = vec![good.to_owned()];
    let mut numbers = HashMap::from([(good, 0)]);
    let mut nodes = vec![Node {
        name: good.into(),
        title: title.into(),
        ..Node::default()
    }];
    for line in listed.lines() {
        let (hashes, title) = line.split_once('\t').unwrap_or((line, ""));
        let mut hashes = hashes.split_whitespace();
        let commit = hashes.next()?;
        let all: Vec<_> = hashes.collect();
        // What the good end has is as good as the good end.
        let mut parents: Vec<_> = all
            .iter()
            .map(|parent| numbers.get(parent).copied().unwrap_or(Graph::GOOD))
            .collect();
        parents.sort_unstable();
        parents.dedup();
        if parents.is_empty() {
            parents.push(Graph::GOOD);
        }
        numbers.insert(commit, commits.len());
        commits.push(commit.to_owned());
        nodes.push(Node {
            name: commit.into(),
            title: title.into(),
            parents,
            merge: all.len() > 1,
        });
    }
    Graph::new(nodes).map(|graph| (commits, graph))
}

/// Runs git, which writes nothing; returns what it prints, or `None` if it fails.
pub fn ask(directory: &Path, arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-c", "core.fsmonitor=false"])
        .arg("--no-optional-locks")
        .arg("-C")
        .arg(directory)
        .args(arguments);
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX"] {
        git.env_remove(name);
    }
    let output = git.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned();
    output.status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_outside_of_the_range_are_as_good_as_the_good_end() {
        let listed = "b a\tone\nc old\ttwo\nd c b\tMerge c\n";
        let (commits, graph) = graph("a", "zero", listed).unwrap();
        assert_eq!(commits, ["a", "b", "c", "d"]);
        let parents: Vec<_> = graph.nodes().iter().map(|n| n.parents.clone()).collect();
        assert_eq!(parents, [vec![], vec![0], vec![0], vec![1, 2]]);
        let merges: Vec<_> = graph.nodes().iter().map(|n| n.merge).collect();
        assert_eq!(merges, [false, false, false, true]);
        assert_eq!(graph.nodes()[2].title, "two");
        assert!(super::graph("a", "zero", "").is_none());
    }

    #[test]
    fn a_range_must_be_one() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let why = |directory: &Path, good: &str, bad: &str| {
            History::read(directory, good, bad).unwrap_err().to_string()
        };
        assert_eq!(kind(here), Some(Kind::Ours));
        assert!(why(here, "no-such", "HEAD").contains("has no commit no-such"));
        assert!(why(here, "HEAD", "HEAD").contains("the same commit"));
        assert!(why(Path::new("/proc"), "a", "b").contains("neither a kernel tree"));
    }
}
