// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report of a search.

use crucible_engine::Condition;

use super::Search;
use crate::{
    report::{Answer, Check, NodeReport, NodeState, OtherFailure, Report},
    subject::Subject,
};

impl<S: Subject> Search<'_, '_, S> {
    pub(super) fn report(mut self, answer: Answer) -> Report {
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
        let amplified = self.factor();
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
            amplified,
            rates: board.model.rates(),
            checks,
            crossed: self.crossed,
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
