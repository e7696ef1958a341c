// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds the node at which failures began, with one model for commits and for nights.
//!
//! Nodes (commits, nights) fail at one rate before a change and at a different one after it; both
//! rates are unknown. Each hypothesis names the first node after the change; one further hypothesis
//! is that nothing changed. [`ChangePoint`] holds the evidence of each node. It computes the
//! posterior of the hypotheses in closed form, and the information that one more run of a node is
//! expected to give, in bits. It does no I/O and reads no clock. Its logarithms are libm's, so that
//! all hosts make the same choices.

mod beta;
mod nights;
mod segment;
mod set;

use std::collections::BTreeMap;

pub use self::{
    beta::{Beta, Evidence, JEFFREYS},
    nights::{Onset, onset},
    segment::last_segment,
    set::Set,
};

/// Mass below which a hypothesis is no longer counted among those left.
const NEGLIGIBLE: f64 = 1e-3;

/// Number of runs that settle a node with rare failures, times the rate of failures. These runs
/// share the cost of a build.
const SETTLING: f64 = 2.5;

/// The cost of the runs of a node, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Cost before the first run: a build, a boot.
    pub once: f64,
    /// Cost of each run.
    pub run: f64,
}

/// The probabilities of the hypotheses.
#[derive(Clone, Debug, PartialEq)]
pub struct Posterior {
    /// The probability that each node is the first one after the change.
    pub nodes: Vec<f64>,
    /// The probability that nothing changed.
    pub none: f64,
}

impl Posterior {
    /// Returns the most probable node, and its probability.
    pub fn best(&self) -> Option<(usize, f64)> {
        let nodes = self.nodes.iter().copied().enumerate();
        nodes
            .filter(|(_, mass)| *mass > 0.0)
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Returns the probability of a set of nodes together.
    pub fn mass(&self, nodes: &[usize]) -> f64 {
        nodes.iter().map(|&node| self.nodes[node]).sum()
    }

    /// Returns the smallest set of nodes whose probability is at least `mass`, the most probable
    /// first; all possible nodes if their sum is less.
    pub fn credible(&self, mass: f64) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.nodes.len())
            .filter(|&node| self.nodes[node] > 0.0)
            .collect();
        order.sort_by(|&a, &b| self.nodes[b].total_cmp(&self.nodes[a]));
        let mut sum = 0.0;
        let enough = order.iter().position(|&node| {
            sum += self.nodes[node];
            sum >= mass
        });
        if let Some(last) = enough {
            order.truncate(last + 1);
        }
        order
    }

    /// Returns the number of nodes that may still be the answer.
    pub fn left(&self) -> usize {
        let possible = self.nodes.iter().filter(|mass| **mass >= NEGLIGIBLE);
        possible.count()
    }

    /// Returns the entropy, in bits.
    pub fn entropy(&self) -> f64 {
        let all = self.nodes.iter().chain([&self.none]);
        all.filter(|mass| **mass > 0.0)
            .map(|mass| -x_log_x(*mass))
            .sum()
    }
}

/// The nodes, with the evidence of each and the posterior.
#[derive(Clone, Debug)]
pub struct ChangePoint {
    /// For each node, the nodes after the change if it is the first: itself and its
    /// descendants.
    shows: Vec<Set>,
    /// For each node, the hypotheses in which it comes after the change.
    after_if: Vec<Set>,
    /// True when no two hypotheses name the same nodes.
    distinct: bool,
    /// Weight of each hypothesis before any evidence; 0 if it is impossible.
    weights: Vec<f64>,
    none: f64,
    evidence: Vec<Evidence>,
    blind: Vec<bool>,
    before: Beta,
    after: Beta,
}

impl ChangePoint {
    /// Returns the model of nodes with these parents. A node's parents have smaller numbers;
    /// other parents are ignored.
    pub fn of_parents(parents: &[Vec<usize>]) -> Self {
        let len = parents.len();
        let mut ancestors: Vec<Set> = Vec::with_capacity(len);
        for (node, of) in parents.iter().enumerate() {
            let mut own = Set::new(len);
            own.insert(node);
            for &parent in of.iter().filter(|parent| **parent < node) {
                own.extend(&ancestors[parent]);
            }
            ancestors.push(own);
        }
        let shows = (0..len)
            .map(|first| {
                let is_after = |node: &usize| ancestors[*node].contains(first);
                (first..len).filter(is_after).collect()
            })
            .collect();
        Self {
            distinct: true,
            ..Self::of_sets(shows)
        }
    }

    /// Returns the model of nodes in a row.
    pub fn linear(len: usize) -> Self {
        let parent = |node: usize| node.checked_sub(1).into_iter().collect();
        Self::of_parents(&(0..len).map(parent).collect::<Vec<_>>())
    }

    /// Returns the model in which hypothesis `n` is that the nodes `shows[n]` come after the
    /// change.
    pub fn of_sets(shows: Vec<Set>) -> Self {
        let len = shows.len();
        let weight = 1.0 / (len as f64 + 1.0);
        let mut after_if = vec![Set::new(len); len];
        for (first, shows) in shows.iter().enumerate() {
            for node in shows.iter().filter(|node| *node < len) {
                after_if[node].insert(first);
            }
        }
        Self {
            after_if,
            distinct: false,
            weights: vec![weight; len],
            none: weight,
            evidence: vec![Evidence::default(); len],
            blind: vec![false; len],
            shows,
            before: JEFFREYS,
            after: JEFFREYS,
        }
    }

    /// Replaces the priors of the two rates.
    #[must_use]
    pub fn with_priors(mut self, before: Beta, after: Beta) -> Self {
        self.before = before;
        self.after = after;
        self
    }

    /// Replaces the probability that nothing changed, before any run: by default it is that of a
    /// single node. The nodes share the rest in proportion to their weights.
    #[must_use]
    pub fn with_none(mut self, probability: f64) -> Self {
        let rest: f64 = self.weights.iter().sum();
        if rest > 0.0 {
            let scale = (1.0 - probability) / rest;
            self.weights.iter_mut().for_each(|weight| *weight *= scale);
        }
        self.none = probability;
        self
    }

    /// Returns the number of nodes.
    pub fn len(&self) -> usize {
        self.shows.len()
    }

    /// Returns true when there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.shows.is_empty()
    }

    /// Excludes a node as the first after the change, such as the good end of a range.
    pub fn exclude(&mut self, node: usize) {
        self.weights[node] = 0.0;
    }

    /// Declares that a node cannot be observed: it does not build, or does not boot. Its earlier
    /// runs no longer count.
    pub fn hide(&mut self, node: usize) {
        self.blind[node] = true;
    }

    /// Returns true when a node cannot be observed.
    pub fn is_hidden(&self, node: usize) -> bool {
        self.blind[node]
    }

    /// Declares two nodes to be the same, so that no hypothesis distinguishes them.
    pub fn join(&mut self, one: usize, other: usize) {
        for (shows, weight) in self.shows.iter().zip(&mut self.weights) {
            if shows.contains(one) != shows.contains(other) {
                *weight = 0.0;
            }
        }
    }

    /// Returns true when the node can be the first after the change.
    pub fn is_possible(&self, node: usize) -> bool {
        self.weights[node] > 0.0
    }

    /// Adds the runs of a node.
    pub fn observe(&mut self, node: usize, seen: Evidence) {
        self.evidence[node] += seen;
    }

    /// Replaces the runs of a node.
    pub fn replace(&mut self, node: usize, seen: Evidence) {
        self.evidence[node] = seen;
    }

    /// Returns the runs of a node.
    pub fn evidence(&self, node: usize) -> Evidence {
        self.evidence[node]
    }

    /// Returns the nodes that were run and count.
    fn observed(&self) -> Vec<usize> {
        let counts = |node: &usize| self.evidence[*node].runs > 0 && !self.blind[*node];
        (0..self.len()).filter(counts).collect()
    }

    /// Returns all runs of the observed nodes before and after the change, if `first` is the first
    /// node after it.
    fn split(&self, observed: &[usize], first: Option<usize>) -> (Evidence, Evidence) {
        let (mut before, mut after) = (Evidence::default(), Evidence::default());
        for &node in observed {
            let seen = &self.evidence[node];
            match first.is_some_and(|first| self.shows[first].contains(node)) {
                true => after += *seen,
                false => before += *seen,
            }
        }
        (before, after)
    }

    /// Returns the posterior of the hypotheses.
    pub fn posterior(&self) -> Posterior {
        let observed = self.observed();
        let likelihood = |weight: f64, first| match weight > 0.0 {
            false => f64::NEG_INFINITY,
            true => {
                let (before, after) = self.split(&observed, first);
                let both = self.before.log_likelihood(before) + self.after.log_likelihood(after);
                libm::log(weight) + both
            }
        };
        let logs: Vec<_> = (0..self.len())
            .map(|node| likelihood(self.weights[node], Some(node)))
            .collect();
        let none = likelihood(self.none, None);
        let most = logs.iter().copied().fold(none, f64::max);
        let sum: f64 = logs
            .iter()
            .chain([&none])
            .map(|l| libm::exp(l - most))
            .sum();
        let share = |log: f64| libm::exp(log - most) / sum;
        Posterior {
            nodes: logs.iter().copied().map(share).collect(),
            none: share(none),
        }
    }

    /// Returns the rates before and after the change, as expected from all hypotheses together.
    pub fn rates(&self) -> (f64, f64) {
        let posterior = self.posterior();
        let observed = self.observed();
        let (mut before, mut after) = (0.0, 0.0);
        let all = posterior.nodes.iter().copied().enumerate();
        for (first, mass) in all
            .map(|(node, mass)| (Some(node), mass))
            .chain([(None, posterior.none)])
        {
            let (old, new) = self.split(&observed, first);
            before += mass * self.before.mean(old);
            // Where nothing changed, the later nodes fail like the earlier ones.
            after += mass * first.map_or(self.before.mean(old), |_| self.after.mean(new));
        }
        (before, after)
    }

    /// Returns the most probable set of nodes that runs can distinguish from all others, and its
    /// probability. It has several members where nodes cannot be observed.
    pub fn answer(&self) -> Option<(Vec<usize>, f64)> {
        let posterior = self.posterior();
        if self.distinct && !self.blind.contains(&true) {
            return posterior.best().map(|(best, mass)| (vec![best], mass));
        }
        let seen: Set = (0..self.len()).filter(|&it| !self.blind[it]).collect();
        let mut groups: BTreeMap<Set, Vec<usize>> = BTreeMap::new();
        for node in (0..self.len()).filter(|&it| posterior.nodes[it] > 0.0) {
            let key = self.shows[node].common(&seen);
            groups.entry(key).or_default().push(node);
        }
        groups
            .into_values()
            .map(|group| {
                let mass = posterior.mass(&group);
                (group, mass)
            })
            .max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Returns the information that one more run of each node is expected to give on the position
    /// of the change.
    pub fn bits(&self) -> Vec<f64> {
        // All sums of -x log x that a run of a node can lead to, by hypothesis and by side.
        let posterior = self.posterior();
        let observed = self.observed();
        let mut terms = Vec::with_capacity(self.len());
        let term = |mass: f64, rate: f64| Term::new(mass * rate, mass * (1.0 - rate));
        for (first, &mass) in posterior.nodes.iter().enumerate() {
            if mass <= 0.0 {
                terms.push((Term::default(), Term::default()));
                continue;
            }
            let (old, new) = self.split(&observed, Some(first));
            let (old, new) = (self.before.mean(old), self.after.mean(new));
            terms.push((term(mass, old), term(mass, new)));
        }
        // Start with all nodes before the change; then move each node's hypotheses to the other
        // side.
        let mut before = Term::default();
        for (of, _) in &terms {
            before += *of;
        }
        let moves: Vec<_> = terms.iter().map(|(old, new)| *new - *old).collect();
        let (old, _) = self.split(&observed, None);
        let none = term(posterior.none, self.before.mean(old));
        let now = posterior.entropy();
        (0..self.len())
            .map(|node| {
                if self.blind[node] {
                    return 0.0;
                }
                let mut sum = none;
                sum += before;
                for first in self.after_if[node].iter() {
                    sum += moves[first];
                }
                (now - sum.entropy()).max(0.0)
            })
            .collect()
    }

    /// Returns the node whose next run gives the most bits per second, if any does. `cost`
    /// returns `None` for a node that must not be run.
    pub fn next(&self, cost: impl Fn(usize) -> Option<Cost>) -> Option<usize> {
        let (_, after) = self.rates();
        // A build serves all runs that a node will need.
        let share = (SETTLING / after.max(0.02)).max(1.0);
        let bits = self.bits();
        let worth = |node: usize| {
            let Cost { once, run } = cost(node)?;
            let seconds = (run + once / share).max(1e-6);
            (bits[node] > 1e-9).then(|| (node, bits[node] / seconds))
        };
        (0..self.len())
            .filter_map(worth)
            .max_by(|a, b| a.1.total_cmp(&b.1))
            .map(|(node, _)| node)
    }
}

/// The probabilities of a failure and of a pass with a hypothesis, and their products with their
/// logarithms; or sums of those.
#[derive(Clone, Copy, Debug, Default)]
struct Term {
    fails: f64,
    passes: f64,
    logs: f64,
}

impl Term {
    fn new(fails: f64, passes: f64) -> Self {
        Self {
            fails,
            passes,
            logs: x_log_x(fails) + x_log_x(passes),
        }
    }

    /// Returns the expected entropy after the run.
    fn entropy(self) -> f64 {
        x_log_x(self.fails) + x_log_x(self.passes) - self.logs
    }
}

impl std::ops::AddAssign for Term {
    fn add_assign(&mut self, other: Self) {
        self.fails += other.fails;
        self.passes += other.passes;
        self.logs += other.logs;
    }
}

impl std::ops::Sub for Term {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            fails: self.fails - other.fails,
            passes: self.passes - other.passes,
            logs: self.logs - other.logs,
        }
    }
}

fn x_log_x(x: f64) -> f64 {
    if x > 0.0 { x * libm::log2(x) } else { 0.0 }
}
