// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The search.

use crucible_changepoint::JEFFREYS;
use crucible_engine::Condition;

use crate::{
    board::{Board, Tally, kept},
    graph::Graph,
    journal::Journal,
    report::{Answer, Check, NodeReport, NodeState, OtherFailure, Report},
    signature::Signature,
    subject::{Built, Observation, REVERTED, Seen, Setting, Stop, Subject, Visit},
};

/// Number of failures of the bad end that fix what is sought.
const FIRM: u64 = 2;

/// Rate of failures above which no other setting is looked for.
const OFTEN: f64 = 0.8;

/// Number of runs in each other setting, at most.
const SAMPLE: u64 = 10;

/// Number of runs of the culprit and of its parents, at least.
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
    /// Guesses of what a build, the start of a guest, and a run cost, in seconds.
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
    /// A node cannot be built, does not boot, or is drowned by another failure.
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
    /// The failure that is sought is known.
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

/// What happens, and how far the search is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What happens.
    pub what: What,
    /// The node that it is about.
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
/// The host is to blame, or the command was interrupted. The journal has all that was seen by then.
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
        amplified: 1.0,
        checks: Vec::new(),
    };
    let answer = search.answer()?;
    Ok(search.report(answer))
}

struct Search<'a, 'b, S> {
    subject: &'a mut S,
    board: Board<'b>,
    tell: &'a mut dyn FnMut(Progress),
    amplified: f64,
    checks: Vec<Check>,
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

    /// Runs the good end as often as the bad one: it is as good as it was tested. Returns true when
    /// that was needed.
    fn test_good(&mut self) -> Result<bool, Stop> {
        let enough = |board: &Board<'_>| {
            let sought = board.sought.as_ref();
            let bad = board.tally(board.graph.bad()).evidence(sought).runs;
            let tally = board.tally(Graph::GOOD);
            tally.evidence(sought).runs >= bad || tally.runs() >= 4 * bad.max(1)
        };
        let needed = !enough(&self.board) && self.board.known[Graph::GOOD].hidden.is_none();
        if needed {
            self.visit(Graph::GOOD, &mut |board| !enough(board))?;
        }
        Ok(needed)
    }

    fn set(&mut self, setting: &Setting) {
        let harness = self.subject.harness(setting);
        self.board.set(setting.clone(), harness);
    }

    /// Runs the bad end until it is known what is sought and in which setting. Returns an answer if
    /// there is nothing to seek.
    fn fix_sought(&mut self, usual: &[Setting]) -> Result<Option<Answer>, Stop> {
        let bad = self.board.graph.bad();
        let options = self.board.options;
        let like = options.signature.as_deref();
        let count = move |tally: &Tally| tally.most(like).map_or(0, |(_, count)| count);
        // Each case in turn, for longer and longer, until one shows something twice.
        let mut limit = if usual.len() > 1 {
            FIRM
        } else {
            options.end_runs
        };
        let mut best: Option<(u64, &Setting)> = None;
        'search: loop {
            for setting in usual {
                self.set(setting);
                let open = |tally: &Tally| count(tally) < FIRM && tally.runs() < limit;
                if open(&self.board.tally(bad)) {
                    self.visit(bad, &mut |board| open(&board.tally(bad)))?;
                }
                if let Some((_, why)) = self.board.known[bad].hidden.clone() {
                    return Ok(Some(Answer::NoEnd { node: bad, why }));
                }
                let found = count(&self.board.tally(bad));
                if best.is_none_or(|(most, _)| found > most) {
                    best = Some((found, setting));
                }
                if found >= FIRM {
                    break 'search;
                }
            }
            if limit >= options.end_runs {
                break;
            }
            limit = (2 * limit).min(options.end_runs);
        }
        if let Some((_, setting)) = best {
            self.set(setting);
            self.amplify(setting, bad, &count)?;
        }
        let tally = self.board.tally(bad);
        let Some((signature, failures)) = tally.most(like) else {
            let unclear = tally.runs() > 0 && tally.unclear == tally.runs();
            return Ok(Some(match unclear {
                true => Answer::NoEnd {
                    node: bad,
                    why: "no run of it says anything".into(),
                },
                false => Answer::NotReproduced,
            }));
        };
        let signature = signature.clone();
        self.board.sought = Some(signature.clone());
        self.board.refresh_all();
        let runs = tally.runs();
        self.say(
            What::Sought {
                signature,
                failures,
                runs,
            },
            Some(bad),
        );
        Ok(None)
    }

    /// Looks for a setting in which the bad end fails more often.
    fn amplify(
        &mut self,
        usual: &Setting,
        bad: usize,
        count: &dyn Fn(&Tally) -> u64,
    ) -> Result<(), Stop> {
        let settings = self.subject.others(usual);
        let rate = |tally: &Tally| (count(tally) as f64 + 0.5) / (tally.runs() as f64 + 1.0);
        let first = self.board.tally(bad);
        let usual_rate = rate(&first);
        if usual_rate >= OFTEN || settings.is_empty() {
            return Ok(());
        }
        let per_second = |tally: &Tally| {
            let seconds = tally.seconds / tally.runs().max(1) as f64;
            rate(tally) / seconds.max(1e-3)
        };
        let share = self.board.options.amplify_seconds / settings.len() as f64;
        let mut best = (usual.clone(), per_second(&first), usual_rate);
        for setting in settings {
            self.set(&setting);
            let more = |board: &Board<'_>| {
                let tally = board.tally(bad);
                tally.runs() < SAMPLE && tally.seconds < share
            };
            if more(&self.board) {
                self.visit(bad, &mut |board| more(board))?;
            }
            let tally = self.board.tally(bad);
            if count(&tally) >= FIRM && per_second(&tally) > best.1 {
                best = (setting, per_second(&tally), rate(&tally));
            }
        }
        self.set(&best.0);
        self.amplified = best.2 / usual_rate;
        let (setting, factor) = (best.0, self.amplified);
        self.say(What::Amplified { setting, factor }, Some(bad));
        Ok(())
    }

    /// Builds and runs what tells most, until the answer is probable enough.
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
                    // A later search of this range begins with the ends.
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
            _ => Answer::NotSeparable { nodes },
        }
    }

    /// Runs the nodes of an answer and their parents, and the bad end without the change.
    fn check(&mut self, group: &[usize]) -> Result<(), Stop> {
        self.say(What::Checking, group.first().copied());
        let graph = self.board.graph;
        let parents = group.iter().flat_map(|&node| &graph.nodes()[node].parents);
        let mut nodes: Vec<_> = group.iter().chain(parents).copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.build(node)?;
            // A rare failure is shown by many runs, which the search has made.
            let few = |board: &Board<'_>| {
                let tally = board.tally(node);
                tally.runs() < CHECKED && board.known[node].hidden.is_none()
            };
            if few(&self.board) {
                self.visit(node, &mut |board| few(board))?;
            }
        }
        self.checks.clear();
        if let [node] = *group
            && let Some(built) = self.subject.revert(node)?
            && let Built::Image { image, seconds } = built
        {
            self.board.seconds += seconds;
            let most = self.board.options.end_runs.max(CHECKED);
            let sought = self.board.sought.clone();
            // Each run changes the rate, and a later search of this range asks with all of them.
            let more = |board: &Board<'_>| {
                let (_, rate) = board.model.rates();
                board.tally_of(&image).runs() < quiet(rate).clamp(CHECKED, most)
            };
            if more(&self.board) {
                self.run(REVERTED, &image, &mut |board| more(board))?;
            }
            let evidence = self.board.tally_of(&image).evidence(sought.as_ref());
            self.checks.push(Check {
                what: "reverted".into(),
                node: None,
                runs: evidence.runs,
                failures: evidence.failures,
                lines: self.lines(&image),
            });
        }
        Ok(())
    }

    fn lines(&self, image: &str) -> Vec<String> {
        let sought = self.board.sought.clone();
        let key = sought.map(|sought| (image.to_owned(), sought));
        let lines = key.and_then(|key| self.board.lines.get(&key));
        lines.cloned().unwrap_or_default()
    }

    /// Builds a node, unless this search has.
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
        // Where nothing is seen, more of the same is not going to help.
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
        if let Some(why) = unbootable {
            let harness = self.board.harness().to_owned();
            kept(self.board.journal.add_unbootable(image, &harness, &why))?;
            let state = NodeState::Unbootable;
            self.board.hide_image(image, state, &why);
            self.say(What::Hidden { state, why }, Some(node));
        }
        Ok(lines.len())
    }

    fn say(&mut self, what: What, node: Option<usize>) {
        (self.tell)(progress(&self.board, what, node));
    }

    fn report(mut self, answer: Answer) -> Report {
        let board = &self.board;
        let sought = board.sought.as_ref();
        let posterior = board.model.posterior();
        let evidence = |node: usize| board.tally(node).evidence(sought);
        let all = board.graph.nodes().iter().enumerate();
        let nodes: Vec<_> = all
            .map(|(number, node)| {
                let known = &board.known[number];
                let tally = board.tally(number);
                let (state, why) = known.hidden.clone().unwrap_or_else(|| {
                    let built = known.image.is_some();
                    let state = if built {
                        NodeState::Built
                    } else {
                        NodeState::Untouched
                    };
                    (state, String::new())
                });
                let others = tally.failed.iter();
                let same = |image: &String| board.nodes_of(image).first().copied();
                NodeReport {
                    name: node.name.clone(),
                    title: node.title.clone(),
                    parents: node.parents.clone(),
                    state,
                    why,
                    image: known.image.clone(),
                    same_as: known
                        .image
                        .as_ref()
                        .and_then(same)
                        .filter(|&it| it != number),
                    runs: evidence(number).runs,
                    failures: evidence(number).failures,
                    unclear: tally.unclear,
                    others: others
                        .filter(|(signature, runs)| Some(*signature) != sought && **runs > 0)
                        .map(|(signature, &runs)| OtherFailure {
                            signature: signature.to_string(),
                            runs,
                        })
                        .collect(),
                    posterior: posterior.nodes[number],
                }
            })
            .collect();
        let named = answer.nodes();
        let check = |what: &str, node: usize| Check {
            what: what.into(),
            node: Some(node),
            runs: evidence(node).runs,
            failures: evidence(node).failures,
            lines: board.known[node]
                .image
                .as_ref()
                .map(|image| self.lines(image))
                .unwrap_or_default(),
        };
        let mut checks: Vec<_> = named.iter().map(|&node| check("culprit", node)).collect();
        let mut parents: Vec<_> = named
            .iter()
            .flat_map(|&node| board.graph.nodes()[node].parents.iter().copied())
            .filter(|parent| !named.contains(parent))
            .collect();
        parents.sort_unstable();
        parents.dedup();
        checks.extend(parents.into_iter().map(|node| check("parent", node)));
        let hidden: Vec<_> = (0..nodes.len())
            .filter(|&node| board.model.is_hidden(node) && posterior.nodes[node] >= 1e-3)
            .collect();
        checks.append(&mut self.checks);
        let board = &self.board;
        Report {
            probability: match &answer {
                Answer::BothEnds => posterior.none,
                _ => posterior.mass(&named),
            },
            answer,
            confidence: board.options.confidence,
            sought: board.sought.clone(),
            setting: board.setting.clone(),
            amplified: self.amplified,
            rates: board.model.rates(),
            checks,
            hidden_probability: posterior.mass(&hidden),
            hidden,
            builds: board.builds,
            runs: board.runs,
            reused: board.reused(),
            seconds: board.seconds,
            nodes,
        }
    }
}

/// Returns true while one more run of this node, whose guest is running, tells most.
fn goes_on(board: &Board<'_>, node: usize) -> bool {
    let confidence = board.options.confidence;
    let found = board
        .model
        .answer()
        .is_some_and(|(_, mass)| mass >= confidence);
    let hidden = board.known[node].hidden.is_some();
    !found && !hidden && board.runs < board.options.runs && board.next(Some(node)) == Some(node)
}

/// Returns the number of runs that would hardly all pass if the failure, of this rate, were still
/// there.
fn quiet(rate: f64) -> u64 {
    const HARDLY: f64 = 0.01;
    (HARDLY.ln() / (1.0 - rate).max(HARDLY).ln()).ceil() as u64
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

impl Report {
    /// Returns the condition of a command that ends with this answer: passed if one node is named,
    /// else one that leaves the answer open.
    pub fn condition(&self) -> Condition {
        match self.answer.is_found() {
            true => Condition::Passed,
            false => Condition::Undecided,
        }
    }
}
