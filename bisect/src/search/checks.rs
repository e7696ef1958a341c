// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs that support an answer.

use super::{CHECKED, Search, What};
use crate::{
    board::{Board, kept},
    cross::{CROSSED, Cross, Crossed, Half},
    report::Check,
    subject::{Built, Observation, REVERTED, Stop, Subject, Visit},
};

impl<S: Subject> Search<'_, '_, S> {
    /// Runs the nodes of an answer and their parents, and the bad end without the change.
    pub(super) fn check(&mut self, group: &[usize]) -> Result<(), Stop> {
        self.say(What::Checking, group.first().copied());
        let graph = self.board.graph;
        let parents = group.iter().flat_map(|&node| &graph.nodes()[node].parents);
        let mut nodes: Vec<_> = group.iter().chain(parents).copied().collect();
        nodes.sort_unstable();
        nodes.dedup();
        for node in nodes {
            self.build(node)?;
            // A rare failure needs many runs; the search has made them already.
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
            // Each run changes the rate, from which a later search of this range computes its
            // number.
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
        self.crossed = match *group {
            [node] => self.cross(node)?,
            _ => None,
        };
        Ok(())
    }

    /// Restarts the parent's images with the culprit, and the reverse, to find the half of
    /// checkpoint/restart that the culprit breaks.
    fn cross(&mut self, bad: usize) -> Result<Option<Cross>, Stop> {
        // A merge does not differ from any other kernel by a single change.
        let [good] = self.board.graph.nodes()[bad].parents[..] else {
            return Ok(None);
        };
        let mut cross = |checkpointer, restarter| self.cross_one(checkpointer, restarter);
        let Some(checkpointed_by_good) = cross(good, bad)? else {
            return Ok(None);
        };
        let Some(checkpointed_by_bad) = cross(bad, good)? else {
            return Ok(None);
        };
        let quiet = quiet_crossed(&self.board);
        let half = Half::of(&checkpointed_by_good, &checkpointed_by_bad, quiet);
        Ok(Some(Cross {
            checkpointed_by_good,
            checkpointed_by_bad,
            half,
        }))
    }

    /// Returns `None` if the subject cannot do it.
    fn cross_one(
        &mut self,
        checkpointer: usize,
        restarter: usize,
    ) -> Result<Option<Crossed>, Stop> {
        let image = |node: usize| self.board.known[node].image.clone();
        let (Some(first), Some(second)) = (image(checkpointer), image(restarter)) else {
            return Ok(None);
        };
        if self.board.known[checkpointer].hidden.is_some()
            || self.board.known[restarter].hidden.is_some()
        {
            return Ok(None);
        }
        // As the journal knows it.
        let pair = format!("{first} restarted by {second}");
        let more = |board: &Board<'_>| {
            let tally = board.tally_of(&pair);
            let failures = tally.runs() - tally.passed - tally.unclear;
            // One failure suffices: the good kernel has none.
            failures == 0
                && tally.passed < quiet_crossed(board).clamp(CHECKED, CROSSED)
                && tally.runs() < 2 * CROSSED
        };
        if more(&self.board) {
            let setting = self.board.setting.clone();
            let mut lost = None;
            let (board, tell) = (&mut self.board, &mut *self.tell);
            let mut see = |observation: Observation| {
                let seen = observation.seen.clone();
                if let Err(stop) = kept(board.add(&pair, &setting, observation)) {
                    lost = Some(stop);
                    return false;
                }
                tell(super::progress(board, What::Ran { seen }, None));
                more(board)
            };
            let visit = self
                .subject
                .cross(checkpointer, restarter, &setting, &mut see)?;
            if let Some(stop) = lost {
                return Err(stop);
            }
            let Some(Visit { enter, .. }) = visit else {
                return Ok(None);
            };
            self.board.seconds += enter;
        }
        let tally = self.board.tally_of(&pair);
        let evidence = tally.evidence(self.board.sought.as_ref());
        Ok(Some(Crossed {
            runs: tally.runs(),
            failures: evidence.failures,
            other: tally.others_of(self.board.sought.as_ref()),
            unclear: tally.unclear,
        }))
    }

    pub(super) fn lines(&self, image: &str) -> Vec<String> {
        let sought = self.board.sought.clone();
        let key = sought.map(|sought| (image.to_owned(), sought));
        let lines = key.and_then(|key| self.board.lines.get(&key));
        lines.cloned().unwrap_or_default()
    }
}

/// Returns the number of runs that all pass with a probability of at most 1 % if a failure of this
/// rate is still there.
fn quiet(rate: f64) -> u64 {
    const HARDLY: f64 = 0.01;
    (HARDLY.ln() / (1.0 - rate).max(HARDLY).ln()).ceil() as u64
}

/// Like [`quiet`], for runs in which another kernel restarts: once, in every setting.
fn quiet_crossed(board: &Board<'_>) -> u64 {
    let (_, rate) = board.model.rates();
    let links = f64::from(board.setting.chain.max(1));
    quiet(1.0 - (1.0 - rate).powf(1.0 / links))
}
