// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The setting in which the failure is most frequent.

use super::{FEW, FIRM, OFTEN, SAMPLE, SURE, Search, What};
use crate::{
    board::{Board, Tally, kept},
    graph::Graph,
    journal::Asked,
    signature::Signature,
    subject::{Offer, Setting, Stop, Subject},
};

/// What is counted.
struct Count<'a> {
    /// A part of the name of the failure that is sought.
    like: Option<&'a str>,
    /// The failure in the usual setting. Other failures do not count, because they are other bugs.
    usually: Option<&'a Signature>,
}

impl Count<'_> {
    fn failures(&self, tally: &Tally) -> u64 {
        match self.usually {
            Some(signature) => tally.of(signature),
            None => tally.most(self.like).map_or(0, |(_, count)| count),
        }
    }

    fn rate(&self, tally: &Tally) -> f64 {
        (self.failures(tally) as f64 + 0.5) / (tally.runs() as f64 + 1.0)
    }

    /// Returns the expected number of failures in a second.
    fn per_second(&self, tally: &Tally) -> f64 {
        let seconds = tally.seconds / tally.runs().max(1) as f64;
        self.rate(tally) / seconds.max(1e-3)
    }
}

impl<S: Subject> Search<'_, '_, S> {
    /// Looks for a setting in which the bad end shows the failure more often in the same time, and
    /// chooses it. Changes one property of the setting after the other, as long as that helps and
    /// there is time.
    pub(super) fn amplify(
        &mut self,
        usual: &Setting,
        like: Option<&str>,
        usually: Option<&Signature>,
    ) -> Result<(), Stop> {
        let bad = self.board.graph.bad();
        let limit = self.board.options.amplify_seconds;
        let count = Count { like, usually };
        let Some(image) = self.board.known[bad].image.clone() else {
            return Ok(());
        };
        if limit <= 0.0 || !self.subject.amplifies() {
            return Ok(());
        }
        let good = self.board.known[Graph::GOOD].image.clone();
        let good = good.unwrap_or_default();
        let asked = Asked {
            setting: usual,
            like,
            good: &good,
        };
        let harness = self.board.harness().to_owned();
        let known = self.board.journal.chosen(&image, &harness, asked, limit);
        let chosen = match known.cloned() {
            Some(known) => known,
            None => {
                let (found, is_final) = self.climb(usual, &count, limit)?;
                if is_final {
                    let journal = &mut self.board.journal;
                    kept(journal.add_choice(&image, &harness, asked, limit, &found))?;
                }
                found
            }
        };
        self.set(&chosen);
        self.usual = Some(usual.clone());
        if chosen != *usual {
            let factor = self.factor_of(&count, usual);
            let setting = chosen;
            self.say(What::Amplified { setting, factor }, Some(bad));
        }
        Ok(())
    }

    /// Returns the best setting that is found within `limit` seconds, and true if all settings
    /// beside it were offered.
    fn climb(
        &mut self,
        usual: &Setting,
        count: &Count<'_>,
        limit: f64,
    ) -> Result<(Setting, bool), Stop> {
        let bad = self.board.graph.bad();
        let mut best = usual.clone();
        let mut left = limit;
        let mut is_final = true;
        // The runs stopped at a failure, which makes it seem more frequent than it is.
        for most in [SURE, SAMPLE] {
            let earlier = self.board.tally_in(bad, usual).seconds;
            left -= self.sample(bad, usual, most, earlier + left / 4.0)? - earlier;
            if count.rate(&self.board.tally_in(bad, usual)) >= OFTEN {
                return Ok((best, is_final));
            }
        }
        loop {
            let now = self.board.tally_in(bad, &best);
            if count.rate(&now) >= OFTEN || left <= 0.0 {
                return Ok((best, is_final));
            }
            let offer = self.offered(bad, &best)?;
            is_final &= !offer.is_partial;
            left -= offer.seconds;
            let others = offer.settings.len();
            let (mut found, mut rejected) = (None, Vec::new());
            for (number, setting) in offer.settings.iter().enumerate() {
                // Several runs of a few settings decide more than one run of each.
                let run = now.seconds / now.runs().max(1) as f64;
                let few = self.board.costs.enter() + run * SAMPLE as f64 / 2.0;
                let share = (left / (others - number) as f64).max(few).min(left);
                left -= self.sample(bad, setting, SAMPLE, share)?;
                if count.rate(&self.board.tally_in(bad, setting)) < OFTEN {
                    continue;
                }
                if self.holds(setting, &now, count, &mut left)? {
                    found = Some(setting.clone());
                    break;
                }
                rejected.push(setting);
            }
            let tallied = |setting: &Setting| (self.board.tally_in(bad, setting), setting.clone());
            let open = offer.settings.iter().filter(|it| !rejected.contains(it));
            let mut better: Vec<_> = open
                .map(tallied)
                .filter(|(tally, _)| count.failures(tally) >= FIRM)
                .filter(|(tally, _)| count.per_second(tally) > count.per_second(&now))
                .collect();
            better.sort_by(|(a, _), (b, _)| count.per_second(b).total_cmp(&count.per_second(a)));
            for (_, setting) in better {
                if found.is_none() && self.holds(&setting, &now, count, &mut left)? {
                    found = Some(setting);
                }
            }
            match found {
                Some(setting) => best = setting,
                None => return Ok((best, is_final)),
            }
        }
    }

    /// Returns the settings to try beside this one: the same ones as before the search was killed.
    fn offered(&mut self, bad: usize, setting: &Setting) -> Result<Offer, Stop> {
        self.set(setting);
        let harness = self.board.harness().to_owned();
        let image = self.board.known[bad].image.clone().unwrap_or_default();
        let journal = &self.board.journal;
        if let Some(offer) = journal.offered(&image, &harness, setting) {
            return Ok(offer.clone());
        }
        let offer = self.subject.others(bad, setting)?;
        self.board.seconds += offer.seconds;
        if !offer.is_partial {
            let journal = &mut self.board.journal;
            kept(journal.add_offer(&image, &harness, setting, &offer))?;
        }
        Ok(offer)
    }

    /// Runs a node in a setting until there are `most` runs, including those of earlier searches,
    /// or `limit` seconds have passed. Returns the seconds.
    fn sample(
        &mut self,
        node: usize,
        setting: &Setting,
        most: u64,
        seconds: f64,
    ) -> Result<f64, Stop> {
        self.set(setting);
        let enter = self.board.costs.enter();
        let more = |board: &Board<'_>, enter: f64| {
            let tally = board.tally(node);
            let says_nothing = tally.unclear >= FEW && tally.unclear == tally.runs();
            tally.runs() < most && !says_nothing && tally.seconds + enter < seconds
        };
        let earlier = self.board.tally(node).seconds;
        let began = self.board.seconds;
        let image = self.board.known[node].image.clone();
        if let Some(image) = image
            && more(&self.board, enter)
        {
            // A kernel that does not boot in this setting boots in the usual one.
            self.observe(node, &image, &mut |board| more(board, enter))?;
        }
        Ok(earlier + self.board.seconds - began)
    }

    /// Returns true when a setting is still better than the previous one after more runs, and the
    /// good end does not show the same failure in it.
    fn holds(
        &mut self,
        setting: &Setting,
        before: &Tally,
        count: &Count<'_>,
        left: &mut f64,
    ) -> Result<bool, Stop> {
        let bad = self.board.graph.bad();
        let first = self.board.tally_in(bad, setting);
        // The best of several was probably favoured by chance.
        if count.rate(&first) < OFTEN {
            let more = self.sample(bad, setting, 2 * SAMPLE, *left + first.seconds)?;
            *left -= more - first.seconds;
        }
        let tally = self.board.tally_in(bad, setting);
        if count.failures(&tally) < FIRM || count.per_second(&tally) <= count.per_second(before) {
            return Ok(false);
        }
        // The search needs these runs, too, so they are made even if the time is up.
        let enough = tally.runs().min(SAMPLE);
        *left -= self.sample(Graph::GOOD, setting, enough, f64::INFINITY)?;
        let good = self.board.tally_in(Graph::GOOD, setting);
        if good.runs() < enough {
            return Ok(false);
        }
        let alike = count.failures(&good) >= FIRM && count.rate(&good) > count.rate(&tally) / 2.0;
        Ok(!alike)
    }

    /// Returns the factor by which the failure is more frequent in the setting than usually, by all
    /// runs of the bad end.
    pub(super) fn factor(&self) -> f64 {
        let usual = self.usual.as_ref().filter(|it| **it != self.board.setting);
        let Some((usual, sought)) = usual.zip(self.board.sought.as_ref()) else {
            return 1.0;
        };
        let count = Count {
            like: None,
            usually: Some(sought),
        };
        self.factor_of(&count, usual)
    }

    fn factor_of(&self, count: &Count<'_>, usual: &Setting) -> f64 {
        let bad = self.board.graph.bad();
        let rate = |setting: &Setting| count.rate(&self.board.tally_in(bad, setting));
        rate(&self.board.setting) / rate(usual)
    }
}
