// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A simulated history, and git's bisection of it.

#![allow(dead_code, reason = "each test uses a part")]

pub mod dice;

use std::collections::BTreeSet;

use crucible_bisect::{
    Built, Graph, Node, Observation, Seen, Setting, Signature, Stop, Subject, Visit,
};
use crucible_changepoint::ChangePoint;
use crucible_engine::Condition;

use dice::Dice;

/// Seconds of a build, of the start of a guest, and of a run.
pub const BUILD: f64 = 20.0;
pub const ENTER: f64 = 1.0;
pub const RUN: f64 = 1.0;

/// Number of commits after the good one.
pub const COMMITS: usize = 40;

/// A history with a bug, and with everything that makes bisections fail.
#[derive(Clone)]
pub struct History {
    pub graph: Graph,
    pub unbuildable: BTreeSet<usize>,
    pub unbootable: BTreeSet<usize>,
    /// A commit that does not change the kernel.
    pub idle: usize,
    /// Commits that have another bug, which hides this one.
    pub drowned: BTreeSet<usize>,
    /// Rate of the failure.
    pub rate: f64,
    after: Vec<bool>,
}

pub fn signature(at: &str) -> Signature {
    Signature {
        scenario: "pipeline".into(),
        case: "main".into(),
        condition: Condition::Diverged,
        at: at.into(),
    }
}

pub fn node(number: usize, parents: &[usize]) -> Node {
    Node {
        name: format!("{number:07x}"),
        title: format!("commit {number}"),
        parents: parents.to_vec(),
        merge: parents.len() > 1,
    }
}

/// Returns a history of this many nodes without branches.
pub fn row(nodes: usize) -> Graph {
    let parents = |n: usize| n.checked_sub(1).into_iter().collect::<Vec<_>>();
    Graph::new((0..nodes).map(|n| node(n, &parents(n))).collect()).unwrap()
}

/// Makes runs of a visit until `see` returns false. Returns their number, or the reason for which
/// `one` could not make one.
pub fn runs(
    see: &mut dyn FnMut(Observation) -> bool,
    mut one: impl FnMut() -> Result<Observation, Stop>,
) -> Result<usize, Stop> {
    let mut made = 1;
    while see(one()?) {
        made += 1;
    }
    Ok(made)
}

impl History {
    /// Returns a history of [`COMMITS`] commits with a branch of three that is merged.
    pub fn new(seed: u64, rate: f64) -> Self {
        let mut dice = Dice::new(seed);
        let fork = 2 + dice.below(COMMITS - 12);
        let (side, merge) = (fork + 1..fork + 4, fork + 8);
        let parents = |number: usize| match number {
            0 => vec![],
            _ if number == side.end => vec![fork],
            _ if number == merge => vec![side.end - 1, merge - 1],
            _ => vec![number - 1],
        };
        let nodes: Vec<_> = (0..=COMMITS).map(|n| node(n, &parents(n))).collect();
        let culprit = 1 + dice.below(COMMITS);
        let mut used = BTreeSet::from([0, culprit, COMMITS, merge]);
        let mut pick = |dice: &mut Dice, fits: &dyn Fn(usize) -> bool| loop {
            let it = 1 + dice.below(COMMITS - 1);
            if !used.contains(&it) && fits(it) {
                used.extend([it]);
                return it;
            }
        };
        // The neighbour, from which the culprit cannot be distinguished.
        let parent = nodes[culprit].parents[0];
        let mut unbuildable = BTreeSet::new();
        if seed.is_multiple_of(2) && parent != 0 && parent != merge {
            unbuildable.insert(parent);
        }
        unbuildable.insert(pick(&mut dice, &|it| it != parent));
        let unbootable = BTreeSet::from([pick(&mut dice, &|it| it != parent)]);
        let sound = |it: usize| {
            let parent = nodes[it].parents[0];
            nodes[it].parents.len() == 1
                && ![&unbuildable, &unbootable]
                    .iter()
                    .any(|set| set.contains(&parent) || set.contains(&it))
        };
        let idle = pick(&mut dice, &sound);
        let other = culprit + 1 + dice.below(6);
        let drowned = (other..other + 3).filter(|it| *it < COMMITS).collect();
        let graph = Graph::new(nodes).unwrap();
        let mut after = vec![false; COMMITS + 1];
        for (number, node) in graph.nodes().iter().enumerate() {
            after[number] = number == culprit || node.parents.iter().any(|it| after[*it]);
        }
        Self {
            graph,
            unbuildable,
            unbootable,
            idle,
            drowned,
            rate,
            after,
        }
    }

    /// Returns the commits that no run distinguishes from the culprit.
    pub fn truth(&self) -> Vec<usize> {
        let parents: Vec<_> = self
            .graph
            .nodes()
            .iter()
            .map(|n| n.parents.clone())
            .collect();
        let mut model = ChangePoint::of_parents(&parents);
        model.exclude(0);
        for &node in self.unbuildable.iter().chain(&self.unbootable) {
            model.hide(node);
        }
        for node in 0..=COMMITS {
            let failures = if self.after[node] { 99 } else { 0 };
            model.observe(node, crucible_changepoint::Evidence::new(99, failures));
        }
        model.join(self.idle, self.graph.nodes()[self.idle].parents[0]);
        model.answer().unwrap().0
    }

    fn image(&self, node: usize) -> usize {
        match node == self.idle {
            true => self.graph.nodes()[node].parents[0],
            false => node,
        }
    }

    /// Returns the result of a run of a commit.
    pub fn run(&self, node: usize, dice: &mut Dice) -> Seen {
        let node = self.image(node);
        if self.drowned.contains(&node) {
            return Seen::Failed(signature("restarted = checkpoint: fds"));
        }
        match self.after[node] && dice.chance(self.rate) {
            true => Seen::Failed(signature("restarted = control: stdout")),
            false => Seen::Pass,
        }
    }

    fn is_dead(&self, node: usize) -> bool {
        self.unbuildable.contains(&node) || self.unbootable.contains(&node)
    }
}

/// The history as the subject of a search.
pub struct Simulated<'a> {
    pub history: &'a History,
    pub dice: Dice,
    pub built: BTreeSet<usize>,
    pub runs: u64,
    pub seconds: f64,
    /// Number of calls after which the host fails, as a kill would.
    pub fuse: Option<u64>,
}

impl<'a> Simulated<'a> {
    pub fn new(history: &'a History, seed: u64) -> Self {
        Self {
            history,
            dice: Dice::new(seed ^ 0x5eed),
            built: BTreeSet::new(),
            runs: 0,
            seconds: 0.0,
            fuse: None,
        }
    }

    /// Returns the number of commits that were built and booted, without the ends.
    pub fn steps(&self) -> usize {
        let is_step =
            |node: &&usize| ![0, COMMITS].contains(*node) && !self.history.is_dead(**node);
        self.built.iter().filter(is_step).count()
    }

    fn burn(&mut self) -> Result<(), Stop> {
        match &mut self.fuse {
            Some(0) => Err(Stop::new(Condition::HostKilled, "killed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Subject for Simulated<'_> {
    fn inputs(&mut self, node: usize) -> Result<Option<String>, Stop> {
        Ok(Some(format!("inputs {node}")))
    }

    fn build(&mut self, node: usize) -> Result<Built, Stop> {
        self.burn()?;
        let seconds = if self.built.insert(node) { BUILD } else { 0.0 };
        self.seconds += seconds;
        Ok(match self.history.unbuildable.contains(&node) {
            true => Built::Unbuildable {
                why: "error: no such field".into(),
                seconds,
            },
            false => Built::Image {
                image: format!("image {}", self.history.image(node)),
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
        self.burn()?;
        self.seconds += ENTER;
        let mut visit = Visit {
            enter: ENTER,
            ..Visit::default()
        };
        if self.history.unbootable.contains(&node) {
            visit.unbootable = Some("the guest did not boot".into());
            return Ok(visit);
        }
        runs(see, || {
            self.burn()?;
            self.runs += 1;
            self.seconds += RUN;
            Ok(Observation {
                seen: self.history.run(node, &mut self.dice),
                seconds: RUN,
                lines: Vec::new(),
            })
        })?;
        Ok(visit)
    }
}

/// What a bisection cost.
pub struct Cost {
    pub steps: usize,
    pub runs: u64,
    pub seconds: f64,
}

/// Plays `git bisect run` with a command that makes up to `tries` runs, ends with 1 at the first
/// failure, and with 125 for a commit that does not build or boot. Returns the commits that it
/// names.
pub fn git(history: &History, tries: u32, seed: u64) -> (Vec<usize>, Cost) {
    let mut dice = Dice::new(seed ^ 0x917);
    let nodes = history.graph.nodes();
    let mut ancestors: Vec<BTreeSet<usize>> = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        let mut own = BTreeSet::from([number]);
        for &parent in &node.parents {
            own.extend(&ancestors[parent]);
        }
        ancestors.push(own);
    }
    let mut candidates: BTreeSet<usize> = (1..nodes.len()).collect();
    let mut bad = nodes.len() - 1;
    let mut skipped = BTreeSet::new();
    let mut cost = Cost {
        steps: 0,
        runs: 0,
        seconds: 0.0,
    };
    loop {
        candidates = candidates.intersection(&ancestors[bad]).copied().collect();
        let of = |node: usize| ancestors[node].intersection(&candidates).count();
        let best = candidates
            .iter()
            .filter(|node| **node != bad && !skipped.contains(*node))
            .max_by_key(|node| of(**node).min(candidates.len() - of(**node)));
        let Some(&node) = best else {
            // Nodes that were skipped before the first bad one are named, too.
            return (candidates.into_iter().collect(), cost);
        };
        cost.seconds += BUILD;
        if history.is_dead(node) {
            skipped.insert(node);
            continue;
        }
        cost.steps += 1;
        cost.seconds += ENTER;
        let fails = (0..tries).any(|_| {
            cost.runs += 1;
            cost.seconds += RUN;
            history.run(node, &mut dice) != Seen::Pass
        });
        match fails {
            true => bad = node,
            false => candidates = candidates.difference(&ancestors[node]).copied().collect(),
        }
    }
}
