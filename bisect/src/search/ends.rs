// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ends of the range: the sought failure, its setting, and the runs of the good end.

use super::{FIRM, Search, What};
use crate::{
    board::{Board, Tally},
    graph::Graph,
    report::Answer,
    signature::Signature,
    subject::{Setting, Stop, Subject},
};

impl<S: Subject> Search<'_, '_, S> {
    /// Runs the good end as often as the bad one, since only tested runs show that it is good.
    /// Returns true when that was needed.
    pub(super) fn test_good(&mut self) -> Result<bool, Stop> {
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

    /// Runs the bad end until the failure and the setting are known. Returns an answer if no run
    /// fails.
    pub(super) fn fix_sought(&mut self, usual: &[Setting]) -> Result<Option<Answer>, Stop> {
        let bad = self.board.graph.bad();
        let options = self.board.options;
        let like = options.signature.as_deref();
        let count = move |tally: &Tally| tally.most(like).map_or(0, |(_, count)| count);
        // Run each case in turn, each time more often, until one shows a failure twice.
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
        let mut usually = None;
        if let Some((_, setting)) = best {
            self.set(setting);
            usually = most_frequent(&self.board.tally(bad), like);
            self.amplify(setting, like, usually.as_ref())?;
        }
        let tally = self.board.tally(bad);
        let same = usually.filter(|usually| tally.of(usually) > 0);
        let Some(signature) = same.or_else(|| most_frequent(&tally, like)) else {
            let unclear = tally.runs() > 0 && tally.unclear == tally.runs();
            return Ok(Some(match unclear {
                true => Answer::NoEnd {
                    node: bad,
                    why: "none of its runs gave an observation".into(),
                },
                false => Answer::NotReproduced,
            }));
        };
        let failures = tally.of(&signature);
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
}

/// Returns the most frequent failure.
fn most_frequent(tally: &Tally, like: Option<&str>) -> Option<Signature> {
    tally.most(like).map(|(signature, _)| signature.clone())
}
