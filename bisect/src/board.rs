// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of a search: its nodes, its kernels, and the model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crucible_changepoint::{ChangePoint, Cost, Evidence};
use crucible_engine::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    graph::Graph,
    journal::{Journal, JournalError, Ran},
    report::NodeState,
    search::Options,
    signature::Signature,
    subject::{Observation, Seen, Setting, Stop},
};

/// Share of runs with another failure or without an observation above which a node is unknown.
const OTHERS: f64 = 0.2;

/// Minimum number of such runs.
const FEW: u64 = 2;

/// The runs of a kernel in one setting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tally {
    /// Number of runs that passed.
    pub passed: u64,
    /// Number of runs by failure.
    #[serde(skip)]
    pub failed: BTreeMap<Signature, u64>,
    /// Number of runs without an observation.
    pub unclear: u64,
    /// Duration of all runs in seconds.
    pub seconds: f64,
}

impl Tally {
    pub(crate) fn add(&mut self, seen: &Seen, seconds: f64) {
        self.seconds += seconds;
        match seen {
            Seen::Pass => self.passed += 1,
            Seen::Unclear(_) => self.unclear += 1,
            Seen::Failed(signature) => *self.failed.entry(signature.clone()).or_default() += 1,
        }
    }

    fn remove(&mut self, seen: &Seen) {
        match seen {
            Seen::Pass => self.passed -= 1,
            Seen::Unclear(_) => self.unclear -= 1,
            Seen::Failed(signature) => {
                if let Some(count) = self.failed.get_mut(signature) {
                    *count -= 1;
                }
            }
        }
    }

    /// Number of runs.
    pub fn runs(&self) -> u64 {
        self.passed + self.unclear + self.failed.values().sum::<u64>()
    }

    /// Returns the number of runs that failed in this way.
    pub fn of(&self, sought: &Signature) -> u64 {
        self.failed.get(sought).copied().unwrap_or_default()
    }

    /// Returns the most frequent failure with its number of runs; with `like`, the most frequent
    /// one whose name contains that text.
    pub fn most(&self, like: Option<&str>) -> Option<(&Signature, u64)> {
        let failed = self
            .failed
            .iter()
            .map(|(signature, &count)| (signature, count));
        failed
            .filter(|(_, count)| *count > 0)
            .filter(|(signature, _)| like.is_none_or(|text| signature.is_like(text)))
            .max_by_key(|(_, count)| *count)
    }

    /// Returns the name of the most frequent failure that is not the sought one, if there is one.
    pub fn others_of(&self, sought: Option<&Signature>) -> Option<String> {
        let others = self
            .failed
            .iter()
            .filter(|(it, count)| **count > 0 && Some(*it) != sought);
        others
            .max_by_key(|(_, count)| **count)
            .map(|(signature, _)| signature.to_string())
    }

    /// Returns the runs that count for a failure: the runs that passed, and the runs that failed in
    /// this way.
    pub fn evidence(&self, sought: Option<&Signature>) -> Evidence {
        let failures = sought.map_or(0, |sought| self.of(sought));
        Evidence::new(self.passed + failures, failures)
    }

    /// Returns the number of runs that failed in another way or gave no observation.
    pub fn others(&self, sought: Option<&Signature>) -> u64 {
        self.runs() - self.evidence(sought).runs
    }

    /// Returns true when so many runs failed in another way that the others cannot decide.
    pub fn is_drowned(&self, sought: Option<&Signature>) -> bool {
        let others = self.others(sought);
        others >= FEW && others as f64 > OTHERS * self.runs() as f64
    }
}

/// The probability that a node can be observed, by its distance from one that cannot: a commit that
/// does not build or boot often has neighbours that do not, either.
const VISIBLE: [f64; 3] = [0.3, 0.5, 0.7];

/// A node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Hash of its kernel, once it is known.
    pub image: Option<String>,
    /// True once this process has built it.
    pub ready: bool,
    /// Hash of its inputs.
    pub inputs: Option<String>,
    /// The reason why it cannot be observed.
    pub hidden: Option<(NodeState, String)>,
}

/// What a search knows.
pub(crate) struct Board<'a> {
    pub graph: &'a Graph,
    pub options: &'a Options,
    pub journal: &'a mut Journal,
    pub model: ChangePoint,
    pub known: Vec<Known>,
    /// The probability that each node can be observed.
    visible: Vec<f64>,
    pub tallies: HashMap<(String, Setting), Tally>,
    pub lines: HashMap<(String, Signature), Vec<String>>,
    pub setting: Setting,
    /// Hash of everything that runs in that setting, except the kernel.
    harness: String,
    pub sought: Option<Signature>,
    /// Number of builds of this search.
    pub builds: u64,
    /// Number of runs of this search.
    pub runs: u64,
    /// Number of runs of this search for each kernel and setting.
    fresh: HashMap<(String, Setting), u64>,
    pub seconds: f64,
    pub costs: Costs,
}

/// The cost of builds and runs so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    build: Mean,
    enter: Mean,
    run: Mean,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    /// Returns a mean that begins with a guess, which counts like one value.
    fn new(guess: f64) -> Self {
        Self {
            sum: guess,
            count: 1.0,
        }
    }

    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1.0;
    }

    fn get(self) -> f64 {
        self.sum / self.count
    }
}

impl Costs {
    pub fn new(options: &Options) -> Self {
        Self {
            build: Mean::new(options.build_seconds),
            enter: Mean::new(options.enter_seconds),
            run: Mean::new(options.run_seconds),
        }
    }

    pub fn built(&mut self, seconds: f64) {
        // A cached kernel takes no time, so it does not count.
        if seconds > 0.0 {
            self.build.add(seconds);
        }
    }

    pub fn entered(&mut self, seconds: f64) {
        self.enter.add(seconds);
    }

    /// Returns the expected duration of a guest's start, in seconds.
    pub fn enter(&self) -> f64 {
        self.enter.get()
    }

    pub fn ran(&mut self, seconds: f64) {
        self.run.add(seconds);
    }
}

pub(crate) fn kept<T>(result: Result<T, JournalError>) -> Result<T, Stop> {
    result.map_err(|error| {
        let condition = match &error {
            JournalError::Io { source, .. } => crucible_engine::abort::of_io(source),
            JournalError::Busy(_) => Condition::HostSetup,
        };
        Stop::new(condition, error.to_string())
    })
}

impl<'a> Board<'a> {
    /// Returns a board with all runs of the journal whose settings `harness` has.
    pub fn new(
        graph: &'a Graph,
        options: &'a Options,
        journal: &'a mut Journal,
        harness: &dyn Fn(&Setting) -> Option<String>,
    ) -> Self {
        let parents: Vec<_> = graph.nodes().iter().map(|n| n.parents.clone()).collect();
        let mut model = ChangePoint::of_parents(&parents);
        model.exclude(Graph::GOOD);
        let mut costs = Costs::new(options);
        let mut tallies: HashMap<_, Tally> = HashMap::new();
        let mut lines = HashMap::new();
        let mut known = HashMap::new();
        for ran in journal.all_runs() {
            let setting = &ran.setting;
            let ours = known
                .entry(setting.clone())
                .or_insert_with(|| harness(setting));
            if ours.as_ref() != Some(&ran.harness) {
                continue;
            }
            let key = (ran.image.clone(), setting.clone());
            tallies.entry(key).or_default().add(&ran.seen, ran.seconds);
            costs.ran(ran.seconds);
            if let Seen::Failed(signature) = &ran.seen {
                let key = (ran.image.clone(), signature.clone());
                lines.entry(key).or_insert_with(|| ran.lines.clone());
            }
        }
        Self {
            known: vec![Known::default(); graph.nodes().len()],
            visible: vec![1.0; graph.nodes().len()],
            tallies,
            lines,
            setting: Setting::default(),
            harness: String::new(),
            sought: None,
            builds: 0,
            runs: 0,
            fresh: HashMap::new(),
            seconds: 0.0,
            costs,
            graph,
            options,
            journal,
            model,
        }
    }

    /// Sets the setting of the next runs.
    pub fn set(&mut self, setting: Setting, harness: Option<String>) {
        self.setting = setting;
        self.harness = harness.unwrap_or_default();
    }

    /// Returns the hash of everything that runs, except the kernel.
    pub fn harness(&self) -> &str {
        &self.harness
    }

    /// Takes over the kernel that an earlier search has built from the same inputs.
    pub fn remember(&mut self, node: usize, inputs: String) {
        let same = (0..node).find(|&it| self.known[it].inputs.as_ref() == Some(&inputs));
        let built = self.journal.built(&inputs).cloned();
        self.known[node].inputs = Some(inputs);
        if let Some(same) = same {
            self.model.join(same, node);
        }
        match built {
            None => {}
            Some(known) => match known.image {
                Some(image) => self.set_image(node, &image),
                None => self.hide(node, NodeState::Unbuildable, known.why),
            },
        }
    }

    /// Says what kernel a node is.
    pub fn set_image(&mut self, node: usize, image: &str) {
        if self.known[node].image.as_deref() != Some(image) {
            self.known[node].image = Some(image.to_owned());
            let same = |it: &usize| *it != node && self.known[*it].image.as_deref() == Some(image);
            if let Some(same) = (0..self.known.len()).find(same) {
                self.model.join(same, node);
            }
        }
        if let Some(why) = self.journal.unbootable(image, &self.harness) {
            let why = why.to_owned();
            self.hide_image(image, NodeState::Unbootable, &why);
        }
        self.refresh(image);
    }

    pub fn hide(&mut self, node: usize, state: NodeState, why: String) {
        self.known[node].hidden = Some((state, why));
        self.model.hide(node);
        self.doubt(node);
    }

    /// Lowers the probability that the neighbours of a hidden node can be observed.
    fn doubt(&mut self, node: usize) {
        let nodes = self.graph.nodes();
        let mut near = vec![node];
        for probability in VISIBLE {
            let is_next = |it: &usize| {
                let is_child = nodes[*it].parents.iter().any(|p| near.contains(p));
                is_child || near.iter().any(|&of| nodes[of].parents.contains(it))
            };
            let next: Vec<_> = (0..nodes.len()).filter(is_next).collect();
            for &it in &next {
                self.visible[it] = self.visible[it].min(probability);
            }
            near.extend(next);
        }
    }

    /// Hides all nodes with this kernel.
    pub fn hide_image(&mut self, image: &str, state: NodeState, why: &str) {
        for node in self.nodes_of(image) {
            self.hide(node, state, why.to_owned());
        }
    }

    pub fn nodes_of(&self, image: &str) -> Vec<usize> {
        let of = |node: &usize| self.known[*node].image.as_deref() == Some(image);
        (0..self.known.len()).filter(of).collect()
    }

    /// Returns the runs of a kernel in the setting that was chosen.
    pub fn tally_of(&self, image: &str) -> Tally {
        let key = (image.to_owned(), self.setting.clone());
        self.tallies.get(&key).cloned().unwrap_or_default()
    }

    /// Returns the runs of a node in the setting that was chosen.
    pub fn tally(&self, node: usize) -> Tally {
        self.tally_in(node, &self.setting)
    }

    /// Returns the runs of a node in this setting.
    pub fn tally_in(&self, node: usize, setting: &Setting) -> Tally {
        let key = |image: &String| (image.clone(), setting.clone());
        let key = self.known[node].image.as_ref().map(key);
        let tally = key.and_then(|key| self.tallies.get(&key));
        tally.cloned().unwrap_or_default()
    }

    /// Returns the number of runs of these nodes that earlier searches have made.
    pub fn reused(&self) -> u64 {
        let images: BTreeSet<_> = self.known.iter().filter_map(|k| k.image.clone()).collect();
        let earlier = |image: String| {
            let runs = self.tally_of(&image).runs();
            let fresh = self.fresh.get(&(image, self.setting.clone()));
            runs.saturating_sub(fresh.copied().unwrap_or_default())
        };
        images.into_iter().map(earlier).sum()
    }

    /// Updates the model with the runs of a kernel. Its evidence belongs to one of its nodes.
    pub fn refresh(&mut self, image: &str) {
        let nodes = self.nodes_of(image);
        let tally = self.tally_of(image);
        let evidence = tally.evidence(self.sought.as_ref());
        for (rank, &node) in nodes.iter().enumerate() {
            let own = if rank == 0 {
                evidence
            } else {
                Evidence::default()
            };
            self.model.replace(node, own);
        }
        let ends = [Graph::GOOD, self.graph.bad()];
        let is_end = nodes.iter().any(|node| ends.contains(node));
        if self.sought.is_some() && !is_end && tally.is_drowned(self.sought.as_ref()) {
            let why = format!(
                "{} of {} runs failed in another way or gave no observation",
                tally.others(self.sought.as_ref()),
                tally.runs()
            );
            self.hide_image(image, NodeState::Drowned, &why);
        }
    }

    /// Updates the model with all kernels, after a change of the setting or of the failure.
    pub fn refresh_all(&mut self) {
        let images: Vec<_> = self.known.iter().filter_map(|k| k.image.clone()).collect();
        for image in images {
            self.refresh(&image);
        }
    }

    /// Keeps a run. Returns the number of its line in the journal.
    pub fn add(
        &mut self,
        image: &str,
        setting: &Setting,
        observation: Observation,
    ) -> Result<usize, JournalError> {
        let Observation {
            seen,
            seconds,
            lines,
        } = observation;
        self.runs += 1;
        self.seconds += seconds;
        self.costs.ran(seconds);
        let key = (image.to_owned(), setting.clone());
        *self.fresh.entry(key.clone()).or_default() += 1;
        self.tallies.entry(key).or_default().add(&seen, seconds);
        if let Seen::Failed(signature) = &seen {
            let key = (image.to_owned(), signature.clone());
            self.lines.entry(key).or_insert_with(|| lines.clone());
        }
        let line = self.journal.add_run(Ran {
            image: image.into(),
            harness: self.harness.clone(),
            setting: setting.clone(),
            seen,
            seconds,
            lines,
        })?;
        self.refresh(image);
        Ok(line)
    }

    /// Replaces the observation of a run.
    pub fn revise(
        &mut self,
        image: &str,
        setting: &Setting,
        (line, before): (usize, &Seen),
        seen: Seen,
    ) -> Result<(), JournalError> {
        let key = (image.to_owned(), setting.clone());
        let tally = self.tallies.entry(key).or_default();
        tally.remove(before);
        tally.add(&seen, 0.0);
        self.journal.revise(line, seen)?;
        self.refresh(image);
        Ok(())
    }

    /// Returns the cost of one more run of a node; `here` is the node whose guest is running.
    pub fn cost(&self, node: usize, here: Option<usize>) -> Option<Cost> {
        let known = &self.known[node];
        if known.hidden.is_some() {
            return None;
        }
        let enter = self.costs.enter.get();
        let once = match (&known.image, known.ready) {
            _ if here == Some(node) => 0.0,
            (_, true) => enter,
            // The kernel is probably in the cache.
            (Some(_), false) => 2.0 * enter,
            (None, false) => self.costs.build.get() + enter,
        };
        let run = self.costs.run.get();
        // A run may give no observation, so multiply its cost by the expected number of attempts.
        let doubt = match self.tally(node).runs() {
            0 => self.visible[node],
            _ => 1.0,
        };
        Some(Cost {
            once: once / doubt,
            run: run / doubt,
        })
    }

    /// Returns the node to run next.
    pub fn next(&self, here: Option<usize>) -> Option<usize> {
        self.model.next(|node| self.cost(node, here))
    }
}
