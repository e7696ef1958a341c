// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The search.

mod amplify;
mod checks;
mod ends;
mod finish;

use crucible_changepoint::JEFFREYS;

use crate::{
    board::{Board, kept},
    cross::Cross,
    graph::Graph,
    journal::Journal,
    report::{Answer, Check, NodeState, Report},
    signature::Signature,
    subject::{Built, Observation, REVERTED, Seen, Setting, Stop, Subject, Visit},
};

/// Number of equal failures of the bad end that fix the sought failure.
const FIRM: u64 = 2;

/// Rate of failures above which no other setting is tried.
const OFTEN: f64 = 0.8;

/// Number of runs that suffice to confirm that rate.
const SURE: u64 = 4;

/// Maximum number of runs in each other setting.
const SAMPLE: u64 = 10;

/// Number of runs after which a setting is given up, if none of its runs has an observation.
const FEW: u64 = 2;

/// Minimum number of runs of the culprit and of each parent.
const CHECKED: u64 = 3;

/// How to search.
#[derive(Clone, Debug)]
pub struct Options {
    /// The probability that the answer must have.
    pub confidence: f64,
    /// A part of the name of the failure that is sought; otherwise it is the most frequent one of
    /// the bad end.
    pub signature: Option<String>,
    /// Seconds to look for a setting in which the failure is more frequent.
    pub amplify_seconds: f64,
    /// Number of runs without a failure after which the bad end is not bad.
    pub end_runs: u64,
    /// Number of runs after which the search gives up.
    pub runs: u64,
    /// Initial estimates of the duration of a build, a guest's start, and a run, in seconds.
    pub build_seconds: f64,
    /// See [`Self::build_seconds`].
    pub enter_seconds: f64,
    /// See [`Self::build_seconds`].
    pub run_seconds: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            confidence: 0.99,
            signature: None,
            amplify_seconds: 120.0,
            end_runs: 60,
            runs: 2000,
            build_seconds: 20.0,
            enter_seconds: 3.0,
            run_seconds: 2.0,
        }
    }
}

/// What happens in a search.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A node is built.
    Building,
    /// A node cannot be built, does not boot, or fails too often in another way.
    Hidden {
        /// Which of these.
        state: NodeState,
        /// The reason.
        why: String,
    },
    /// A run ended.
    Ran {
        /// What was seen.
        seen: Seen,
    },
    /// The sought failure has been fixed.
    Sought {
        /// The failure.
        signature: Signature,
        /// Number of runs of the bad end that showed it.
        failures: u64,
        /// Number of runs of the bad end.
        runs: u64,
    },
    /// The setting is chosen.
    Amplified {
        /// The setting.
        setting: Setting,
        /// The factor by which the failure is more frequent in it.
        factor: f64,
    },
    /// The answer is being checked.
    Checking,
}

/// The current step of the search, and its progress.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What happens.
    pub what: What,
    /// The node of this step.
    pub node: Option<usize>,
    /// Number of runs of that node that passed or showed the failure.
    pub node_runs: u64,
    /// Number of those that showed the failure.
    pub node_failures: u64,
    /// Number of builds so far.
    pub builds: u64,
    /// Number of runs so far.
    pub runs: u64,
    /// Number of nodes that may still be the first bad one.
    pub left: usize,
    /// The most probable node, and its probability.
    pub likeliest: Option<(usize, f64)>,
}

/// Searches the graph for the first bad node.
///
/// # Errors
/// The host is to blame, or the command was interrupted. The journal has all observations made by
/// then.
pub fn bisect<S: Subject>(
    subject: &mut S,
    graph: &Graph,
    options: &Options,
    journal: &mut Journal,
    tell: &mut dyn FnMut(Progress),
) -> Result<Report, Stop> {
    let harness = |setting: &Setting| subject.harness(setting);
    let board = Board::new(graph, options, journal, &harness);
    let mut search = Search {
        board,
        subject,
        tell,
        usual: None,
        checks: Vec::new(),
        crossed: None,
    };
    let answer = search.answer()?;
    Ok(search.report(answer))
}

struct Search<'a, 'b, S> {
    subject: &'a mut S,
    board: Board<'b>,
    tell: &'a mut dyn FnMut(Progress),
    /// The usual setting, before the search for a better one.
    usual: Option<Setting>,
    checks: Vec<Check>,
    crossed: Option<Cross>,
}

impl<S: Subject> Search<'_, '_, S> {
    fn answer(&mut self) -> Result<Answer, Stop> {
        let usual = self.subject.usual();
        if let Some(first) = usual.first() {
            self.set(first);
        }
        for node in 0..self.board.known.len() {
            if let Some(inputs) = self.subject.inputs(node)? {
                self.board.remember(node, inputs);
            }
        }
        let graph = self.board.graph;
        let ends = [graph.bad(), Graph::GOOD];
        for node in ends {
            self.build(node)?;
            if let Some((_, why)) = self.board.known[node].hidden.clone() {
                return Ok(Answer::NoEnd { node, why });
            }
        }
        let [bad, good] = ends.map(|node| self.board.known[node].image.clone());
        if bad == good {
            return Ok(Answer::SameKernel);
        }
        if let Some(answer) = self.fix_sought(&usual)? {
            return Ok(answer);
        }
        self.test_good()?;
        for node in ends {
            if let Some((_, why)) = self.board.known[node].hidden.clone() {
                return Ok(Answer::NoEnd { node, why });
            }
        }
        let rate = |node: usize| {
            let seen = self.board.tally(node).evidence(self.board.sought.as_ref());
            (seen.failures, JEFFREYS.mean(seen))
        };
        let ((failures, good), (_, bad)) = (rate(Graph::GOOD), rate(graph.bad()));
        if failures >= FIRM && good > bad / 2.0 {
            return Ok(Answer::BothEnds);
        }
        self.narrow()
    }

    fn set(&mut self, setting: &Setting) {
        let harness = self.subject.harness(setting);
        self.board.set(setting.clone(), harness);
    }

    /// Makes the builds and runs that are expected to give the most information, until the answer
    /// is probable enough.
    fn narrow(&mut self) -> Result<Answer, Stop> {
        let options = self.board.options;
        let mut checked = Vec::new();
        loop {
            let posterior = self.board.model.posterior();
            if posterior.none >= options.confidence {
                return Ok(Answer::BothEnds);
            }
            if let Some((group, mass)) = self.board.model.answer()
                && mass >= options.confidence
            {
                if checked == group {
                    // Test the good end now, because a later search of this range begins with the
                    // ends.
                    if self.test_good()? {
                        continue;
                    }
                    return Ok(self.named(group));
                }
                self.check(&group)?;
                checked = group;
                continue;
            }
            if self.board.runs >= options.runs {
                return Ok(Answer::Undecided);
            }
            let Some(node) = self.board.next(None) else {
                return Ok(Answer::Undecided);
            };
            self.build(node)?;
            if self.board.known[node].hidden.is_some() || self.board.next(Some(node)) != Some(node)
            {
                continue;
            }
            self.visit(node, &mut |board| goes_on(board, node))?;
        }
    }

    /// Returns the answer that names these nodes.
    fn named(&self, mut nodes: Vec<usize>) -> Answer {
        nodes.sort_unstable();
        match nodes[..] {
            [node] if self.board.graph.nodes()[node].merge => Answer::Merge { node },
            [node] => Answer::Culprit { node },
            _ => Answer::NotSeparable { candidates: nodes },
        }
    }

    /// Builds a node, unless this search has built it.
    fn build(&mut self, node: usize) -> Result<(), Stop> {
        let known = &self.board.known[node];
        if known.ready || known.hidden.is_some() {
            return Ok(());
        }
        self.say(What::Building, Some(node));
        let inputs = known_inputs(&self.board, node);
        match self.subject.build(node)? {
            Built::Image { image, seconds } => {
                if let Some(inputs) = inputs {
                    kept(
                        self.board
                            .journal
                            .add_build(&inputs, Some(&image), "", seconds),
                    )?;
                }
                self.board.known[node].ready = true;
                self.board.builds += u64::from(seconds > 0.0);
                self.board.seconds += seconds;
                self.board.costs.built(seconds);
                self.board.set_image(node, &image);
            }
            Built::Unbuildable { why, seconds } => {
                if let Some(inputs) = inputs {
                    kept(self.board.journal.add_build(&inputs, None, &why, seconds))?;
                }
                self.board.seconds += seconds;
                self.hide(node, NodeState::Unbuildable, why);
            }
        }
        Ok(())
    }

    fn hide(&mut self, node: usize, state: NodeState, why: String) {
        self.board.hide(node, state, why.clone());
        self.say(What::Hidden { state, why }, Some(node));
    }

    /// Runs a node that is built, as long as `more` returns true.
    fn visit(&mut self, node: usize, more: &mut dyn FnMut(&Board<'_>) -> bool) -> Result<(), Stop> {
        self.build(node)?;
        let Some(image) = self.board.known[node].image.clone() else {
            return Ok(());
        };
        if self.board.known[node].hidden.is_some() {
            return Ok(());
        }
        let seen = self.run(node, &image, more)?;
        // Runs without any observation do not become better by repetition.
        if seen == 0 && self.board.known[node].hidden.is_none() {
            self.hide(node, NodeState::Drowned, "no run of it ends".into());
        }
        if let Some((NodeState::Drowned, why)) = self.board.known[node].hidden.clone() {
            let state = NodeState::Drowned;
            self.say(What::Hidden { state, why }, Some(node));
        }
        Ok(())
    }

    /// Runs a kernel as long as `more` returns true. Returns the number of runs.
    fn run(
        &mut self,
        node: usize,
        image: &str,
        more: &mut dyn FnMut(&Board<'_>) -> bool,
    ) -> Result<usize, Stop> {
        let (runs, unbootable) = self.observe(node, image, more)?;
        if let Some(why) = unbootable {
            let harness = self.board.harness().to_owned();
            kept(self.board.journal.add_unbootable(image, &harness, &why))?;
            let state = NodeState::Unbootable;
            self.board.hide_image(image, state, &why);
            self.say(What::Hidden { state, why }, Some(node));
        }
        Ok(runs)
    }

    /// Like [`Self::run`], but returns the reason if the kernel does not boot, and does not record
    /// it.
    fn observe(
        &mut self,
        node: usize,
        image: &str,
        more: &mut dyn FnMut(&Board<'_>) -> bool,
    ) -> Result<(usize, Option<String>), Stop> {
        let setting = self.board.setting.clone();
        let mut lines = Vec::new();
        let mut failed = None;
        let (board, tell) = (&mut self.board, &mut *self.tell);
        let mut see = |observation: Observation| {
            let seen = observation.seen.clone();
            match kept(board.add(image, &setting, observation)) {
                Ok(line) => lines.push((line, seen.clone())),
                Err(stop) => {
                    failed = Some(stop);
                    return false;
                }
            }
            let about = (node != REVERTED).then_some(node);
            tell(progress(board, What::Ran { seen }, about));
            more(board)
        };
        let visit = self.subject.run(node, &setting, &mut see);
        if let Some(stop) = failed {
            return Err(stop);
        }
        let Visit {
            enter,
            revised,
            unbootable,
        } = visit?;
        self.board.seconds += enter;
        self.board.costs.entered(enter);
        for (number, seen) in revised {
            if let Some((line, before)) = lines.get(number) {
                kept(self.board.revise(image, &setting, (*line, before), seen))?;
            }
        }
        Ok((lines.len(), unbootable))
    }

    fn say(&mut self, what: What, node: Option<usize>) {
        (self.tell)(progress(&self.board, what, node));
    }
}

/// Returns true while one more run of this node, whose guest is running, is expected to give the
/// most information.
fn goes_on(board: &Board<'_>, node: usize) -> bool {
    let confidence = board.options.confidence;
    let found = board
        .model
        .answer()
        .is_some_and(|(_, mass)| mass >= confidence);
    let hidden = board.known[node].hidden.is_some();
    !found && !hidden && board.runs < board.options.runs && board.next(Some(node)) == Some(node)
}

fn known_inputs(board: &Board<'_>, node: usize) -> Option<String> {
    board.known[node].inputs.clone()
}

fn progress(board: &Board<'_>, what: What, node: Option<usize>) -> Progress {
    let posterior = board.model.posterior();
    let evidence = node
        .filter(|&node| node < board.known.len())
        .map(|node| board.tally(node).evidence(board.sought.as_ref()));
    let evidence = evidence.unwrap_or_default();
    Progress {
        what,
        node,
        node_runs: evidence.runs,
        node_failures: evidence.failures,
        builds: board.builds,
        runs: board.runs,
        left: posterior.left(),
        likeliest: board.sought.as_ref().and(posterior.best()),
    }
}
