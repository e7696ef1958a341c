// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commits between a good and a bad one.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use crucible_bisect::{Graph, Node};
use crucible_engine::EventSpec;

use super::series::Versions;
use crate::exit::Usage;

/// The directory of our change to the kernel, in a checkout of this repository.
pub const OURS: &str = "guest-kernel";

/// What differs between the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Commits of this repository: only `guest-kernel` differs between the kernels.
    Ours,
    /// Commits of a kernel tree.
    Tree,
    /// Lines of a configuration fragment; the kernel of each has all lines up to it.
    Config,
    /// Events at which one kernel is stopped.
    Event,
    /// Changed patches and files of our series; the kernel of each has all changes up to it.
    Series,
}

/// The nodes between a good and a bad one: commits, most of the time.
#[derive(Debug)]
pub struct History {
    /// The top of the repository; any directory in which git can run, if the nodes are not commits.
    pub repository: PathBuf,
    /// The path of the tree in the repository, with a slash at its end; empty for the top.
    pub prefix: String,
    /// What it contains.
    pub kind: Kind,
    /// The commits and their parents.
    pub graph: Graph,
    /// The hash of each node's commit, its line of the configuration, its event, or its patch.
    pub commits: Vec<String>,
    /// The two versions of the series; each node is a change between them.
    pub versions: Option<Versions>,
}

impl History {
    /// Returns the nodes of a configuration fragment: our configuration, with one more line of the
    /// fragment at each node.
    ///
    /// # Errors
    /// A usage error: it cannot be read or has no lines.
    pub fn of_config(repository: &Path, fragment: &Path) -> Result<Self> {
        let shown = fragment.display();
        let text = fs::read_to_string(fragment)
            .map_err(|error| Usage(format!("cannot read {shown}: {error}")))?;
        let is_symbol = |line: &&str| line.starts_with("CONFIG_") || line.starts_with("# CONFIG_");
        let lines = text.lines().map(str::trim).filter(is_symbol);
        let mut all = vec!["our configuration".to_owned()];
        all.extend(lines.map(str::to_owned));
        Self::row(repository, Kind::Config, all)
            .ok_or_else(|| Usage(format!("{shown} sets no symbol")).into())
    }

    /// Returns the nodes of the first events of a kind, up to this one.
    ///
    /// # Errors
    /// A usage error: it has no count, or is the first.
    pub fn of_events(repository: &Path, last: &EventSpec) -> Result<Self> {
        let text = last.to_string();
        let (kind, count) = text.rsplit_once(':').unwrap_or((&text, ""));
        let events = match count.parse::<u32>() {
            Ok(count) => (1..=count).map(|nth| format!("{kind}:{nth}")).collect(),
            Err(_) => Vec::new(),
        };
        Self::row(repository, Kind::Event, events).ok_or_else(|| {
            Usage(format!(
                "{text} is not an event with a count above 1, such as vfork:8"
            ))
            .into()
        })
    }

    /// Returns the nodes of a changed series: the good version, with one more change of the bad one
    /// at each node.
    ///
    /// # Errors
    /// Those of [`Versions::read`].
    pub fn of_series(repository: &Path, good: &str, bad: Option<&str>) -> Result<Self> {
        let versions = Versions::read(repository, good, bad)?;
        let row = Self::row(repository, Kind::Series, versions.nodes());
        let mut history = row.ok_or_else(|| Usage("the series does not differ".into()))?;
        history.versions = Some(versions);
        Ok(history)
    }

    fn row(repository: &Path, kind: Kind, names: Vec<String>) -> Option<Self> {
        let nodes = names.iter().map(|name| (name.clone(), String::new()));
        Some(Self {
            repository: repository.to_owned(),
            prefix: String::new(),
            kind,
            graph: Graph::linear(nodes)?,
            commits: names,
            versions: None,
        })
    }

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
            Kind::Tree | Kind::Config | Kind::Event | Kind::Series => {
                match prefix.trim_end_matches('/') {
                    "" => ".".into(),
                    prefix => prefix.to_owned(),
                }
            }
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
            versions: None,
        })
    }

    /// Returns git's names for the content of all nodes' trees.
    pub fn trees(&self) -> HashMap<String, String> {
        let range = format!("{}..{}", self.commits[0], self.commits[self.graph.bad()]);
        let arguments = ["log", "--format=%H %T", &range];
        // The trees are parts of the commits, so get each by its path.
        let all = ask(&self.repository, &arguments).filter(|_| self.prefix.is_empty());
        let all = all.unwrap_or_default();
        let pairs = all.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).collect()
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

/// Reads lines of commits, parents before their children. Each line has the commit, its parents, a
/// tab and the subject.
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
        // A commit that the good end contains counts as good.
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
    fn lines_and_events_are_nodes_in_a_row() {
        let here = Path::new("/");
        let events = History::of_events(here, &"vfork:3".parse().unwrap()).unwrap();
        assert_eq!(events.commits, ["vfork:1", "vfork:2", "vfork:3"]);
        assert!(History::of_events(here, &"vfork:1".parse().unwrap()).is_err());
        assert!(History::of_events(here, &"time:250ms".parse().unwrap()).is_err());
        let fragment = tempfile::NamedTempFile::new().unwrap();
        fs::write(
            fragment.path(),
            "# text\nCONFIG_A=y\n# CONFIG_B is not set\n",
        )
        .unwrap();
        let config = History::of_config(here, fragment.path()).unwrap();
        assert_eq!(config.commits[1..], ["CONFIG_A=y", "# CONFIG_B is not set"]);
        assert_eq!(config.graph.nodes()[2].parents, [1]);
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
