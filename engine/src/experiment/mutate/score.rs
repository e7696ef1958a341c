// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The score of a lab: the number of mutants that it killed, and the eyes that noticed them.

use std::collections::BTreeMap;

use crucible_mutants::{Equivalent, Mutant};
use serde::Serialize;

use super::{MutantDetail, Options};
use crate::{
    blame::Condition,
    experiment::{Finding, Reach, Summary},
    outcome::Outcome,
};

/// Numbers of mutants of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FileScore {
    /// Mutants that some case noticed.
    pub killed: usize,
    /// Mutants that no case noticed.
    pub survived: usize,
    /// Mutants without a result.
    pub unknown: usize,
    /// Mutants on lines that no case runs.
    pub never_run: usize,
    /// Equivalent mutants.
    pub equivalent: usize,
}

/// Numbers of mutants that an eye has noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EyeScore {
    /// Number of mutants that the eye was the first to notice.
    pub first: usize,
    /// Number of all mutants that the eye noticed.
    pub all: usize,
}

/// The score of a lab.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Score {
    /// Seed of the draw.
    pub seed: u64,
    /// Number of mutants of the kernel.
    pub mutants: usize,
    /// Number of those on lines that some case runs, without the equivalent ones.
    pub reached: usize,
    /// Sums over all sources.
    #[serde(flatten)]
    pub sum: FileScore,
    /// Share of killed mutants among those with a result, in percent.
    pub percent: f64,
    /// The least permitted share, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
    /// Scores by the path of the source in the kernel's tree.
    pub files: BTreeMap<String, FileScore>,
    /// Numbers by the eye that noticed the mutants: the name of a check, or a condition.
    pub eyes: BTreeMap<String, EyeScore>,
    /// The mutants that no case noticed.
    pub survivors: Vec<Mutant>,
    /// Cases that do not pass without a mutant, with the reason.
    pub useless: BTreeMap<String, String>,
}

impl Score {
    pub(super) fn new(
        mutants: &[Mutant],
        equivalents: &BTreeMap<String, Equivalent>,
        reach: &Reach,
        options: &Options,
        useless: BTreeMap<String, String>,
        findings: &[Finding<MutantDetail>],
    ) -> Self {
        let mut score = Self {
            seed: options.seed,
            mutants: mutants.len(),
            at_least: options.at_least,
            useless,
            ..Self::default()
        };
        for mutant in mutants {
            let file = score.files.entry(mutant.file.clone()).or_default();
            if equivalents.contains_key(&mutant.id) {
                file.equivalent += 1;
            } else if reach.of(mutant).is_empty() {
                file.never_run += 1;
            } else {
                score.reached += 1;
            }
        }
        for finding in findings {
            let Some(detail) = &finding.detail else {
                continue;
            };
            let file = score.files.entry(detail.mutant.file.clone()).or_default();
            if !finding.outcome.is_pass() {
                file.unknown += 1;
            } else if detail.kills.is_empty() {
                file.survived += 1;
                score.survivors.push(detail.mutant.clone());
            } else {
                file.killed += 1;
                score.see(detail);
            }
        }
        for file in score.files.values() {
            let sum = &mut score.sum;
            sum.killed += file.killed;
            sum.survived += file.survived;
            sum.unknown += file.unknown;
            sum.never_run += file.never_run;
            sum.equivalent += file.equivalent;
        }
        score
            .survivors
            .sort_by(|a, b| (&a.file, a.line, a.number).cmp(&(&b.file, b.line, b.number)));
        score.percent = percent(score.sum.killed, score.sum.killed + score.sum.survived);
        score
    }

    fn see(&mut self, detail: &MutantDetail) {
        let mut all: Vec<&String> = detail.kills.iter().flat_map(|kill| &kill.eyes).collect();
        if let Some(first) = all.first() {
            self.eyes.entry((*first).clone()).or_default().first += 1;
        }
        all.sort();
        all.dedup();
        for eye in all {
            self.eyes.entry(eye.clone()).or_default().all += 1;
        }
    }
}

fn percent(part: usize, whole: usize) -> f64 {
    match whole {
        0 => 0.0,
        _ => part as f64 * 100.0 / whole as f64,
    }
}

impl Summary for Score {
    fn outcomes(&self) -> Vec<Outcome> {
        let FileScore {
            killed,
            survived,
            unknown,
            ..
        } = self.sum;
        let decided = killed + survived;
        let all = decided + unknown;
        if decided == 0 {
            let why = "no mutant was decided";
            return vec![Outcome::new(Condition::RequestFailed, why)];
        }
        let text = format!(
            "killed {killed} of {decided} mutants, {:.1} %",
            self.percent
        );
        let Some(asked) = self.at_least else {
            return vec![Outcome::passed(text)];
        };
        // Mutants without a result may be killed or not.
        let (least, most) = (percent(killed, all), percent(killed + unknown, all));
        vec![if least >= asked {
            Outcome::passed(text)
        } else if most < asked {
            Outcome::new(
                Condition::Diverged,
                format!("{text}; {asked} % were required"),
            )
        } else {
            let why = format!("{text}, and {unknown} have no result; {asked} % were required");
            Outcome::new(Condition::RequestFailed, why)
        }]
    }

    fn counts(&self) -> bool {
        true
    }
}
