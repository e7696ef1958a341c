// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible scenario --random`: each seed's tree of processes is a unit.

use std::{collections::BTreeMap, io, ops::RangeInclusive};

use serde::{Deserialize, Serialize};

use super::{Done, Experiment, Finding, Group, Identity, Summary, scenarios};
use crate::{
    abort::Abort,
    blame::{Blame, Condition},
    outcome::Outcome,
    random::{self, Tree},
    record::CaseRecord,
    scenario::{Case, Scenario},
    session::Session,
    trial::{self, Options},
};

/// Number of trees of a group: one guest runs them.
const GROUP: usize = 10;

/// Maximum number of simpler trees that are tried for a failure.
const TRIES: u32 = 80;

/// Random trees.
pub struct RandomExperiment {
    scenario: Scenario,
    seeds: RangeInclusive<u64>,
    options: Options,
}

/// The result of a tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RandomTree {
    /// Its recipe.
    pub recipe: String,
    /// The names of all kinds and relations in it.
    pub kinds: Vec<String>,
    /// True when it was restarted.
    pub restarted: bool,
    /// The smallest of the tried trees that fails in the same way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shrunk: Option<String>,
    /// The run.
    #[serde(flatten)]
    pub record: CaseRecord,
}

/// The results of all trees.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RandomSummary {
    /// Number of trees that were restarted.
    pub restarted: u64,
    /// Number of trees that were rightly refused.
    pub refused: u64,
    /// Number of restarted trees with each kind.
    pub kinds: BTreeMap<String, u64>,
}

impl Summary for RandomSummary {}

impl RandomExperiment {
    /// Returns the experiment of the trees of these seeds, which the program of `scenario` makes.
    pub fn new(scenario: Scenario, seeds: RangeInclusive<u64>, options: Options) -> Self {
        Self {
            scenario,
            seeds,
            options,
        }
    }

    /// Returns the case of a tree.
    fn case(&self, name: &str, tree: &Tree) -> Option<Case> {
        let mut case = self.scenario.cases.first()?.clone();
        name.clone_into(&mut case.name);
        let recipe = case.argv.last_mut()?;
        *recipe = tree.to_string();
        case.tasks.clear();
        Some(case)
    }

    /// Runs a tree. Builds the program first if the guest does not have it.
    fn one(
        &self,
        session: &mut Session<'_>,
        name: &str,
        tree: &Tree,
    ) -> (Outcome, Option<CaseRecord>) {
        let fail = |session: &mut Session<'_>, stop: Abort| {
            if !stop.guest_usable {
                session.abandon();
            }
            (stop.into(), None)
        };
        if !session.is_running()
            && let Err(stop) = trial::build(session, &self.scenario)
        {
            return fail(session, stop);
        }
        let Some(case) = self.case(name, tree) else {
            let stop = Abort::failed("the scenario has no case with a recipe");
            return fail(session, stop);
        };
        let (outcome, record) = trial::case(session, &self.scenario, &case, &self.options);
        (outcome, Some(record))
    }

    /// Looks for a smaller tree that fails in the same way.
    fn shrink(&self, session: &mut Session<'_>, name: &str, tree: &Tree, like: &Outcome) -> Tree {
        let mut tree = tree.clone();
        let mut tries = 0;
        'smaller: loop {
            for candidate in random::simpler(&tree) {
                if tries == TRIES || crate::interrupt::requested() {
                    return tree;
                }
                tries += 1;
                let (outcome, _) = self.one(session, &format!("{name}-{tries}"), &candidate);
                if outcome.condition == like.condition && outcome.why == like.why {
                    tree = candidate;
                    continue 'smaller;
                }
            }
            return tree;
        }
    }
}

impl Experiment for RandomExperiment {
    /// The seed.
    type Unit = u64;
    type Detail = RandomTree;
    type Summary = RandomSummary;

    fn key(&self, unit: &u64) -> String {
        format!("random/{unit}")
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        scenarios::identify(&self.scenario, identity)?;
        identity.add("seeds", format!("{:?}", self.seeds));
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let seeds: Vec<_> = self.seeds.clone().collect();
        Ok(seeds.chunks(GROUP).map(<[u64]>::to_vec).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[u64],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        // The guest may lack this program, or have the program of another experiment.
        trial::build(session, &self.scenario)?;
        for unit in units {
            session.voice().set_unit(Some(&self.key(unit)));
            let tree = random::draw(*unit);
            let name = unit.to_string();
            let (mut outcome, record) = self.one(session, &name, &tree);
            let refused = matches!(
                outcome.condition,
                Condition::Refused | Condition::Unsupported
            );
            let mut shrunk = None;
            if refused && tree.may_be_refused() {
                let why = format!("refused, as it may be: {}", outcome.why);
                outcome = Outcome::new(Condition::NotApplicable, why);
            } else if outcome.condition.blame() == Some(Blame::Kernel) {
                let smallest = self.shrink(session, &name, &tree, &outcome);
                shrunk = Some(smallest.to_string());
                outcome.lines.push("the smallest such tree:".into());
                let recipe = smallest.to_string();
                outcome
                    .lines
                    .extend(recipe.lines().map(|line| format!("  {line}")));
            }
            let detail = RandomTree {
                recipe: tree.to_string(),
                kinds: tree.kinds().into_iter().map(str::to_owned).collect(),
                restarted: outcome.condition == Condition::Passed,
                shrunk,
                record: record.unwrap_or_default(),
            };
            done(unit, outcome, Some(detail))?;
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<RandomTree>]) -> RandomSummary {
        let mut summary = RandomSummary::default();
        for finding in findings {
            let Some(detail) = &finding.detail else {
                continue;
            };
            if detail.restarted {
                summary.restarted += 1;
                for kind in &detail.kinds {
                    *summary.kinds.entry(kind.clone()).or_default() += 1;
                }
            }
            summary.refused += u64::from(finding.outcome.condition == Condition::NotApplicable);
        }
        summary
    }
}
