// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible sweep --point P --trials N`: each pair of a control and a restarted
//! run is a unit.

use std::io;

use crucible_protocol::EventKind;
use serde::Serialize;
use serde_json::Value;

use super::{Done, Experiment, Finding, Group, Identity, Summary, scenarios};
use crate::{
    abort::Abort,
    blame::Condition,
    outcome::Outcome,
    scenario::{Case, Scenario},
    session::Session,
    sweep::{self, Baseline, End, Pair, Point, SIGNIFICANT, Trials},
};

/// Many runs at one point of a case.
pub struct TrialsExperiment {
    scenario: Scenario,
    kind: EventKind,
    wanted: String,
    count: u64,
    plan: Option<(Baseline, Point)>,
}

/// The ends of the runs, counted.
#[derive(Clone, Debug, Serialize)]
pub struct TrialsSummary {
    /// The point.
    pub point: Option<Point>,
    /// The ends of the runs.
    #[serde(flatten)]
    pub trials: Trials,
    /// The chance that the two kinds of runs end equally often.
    pub chance: f64,
    /// True when the runs were made.
    #[serde(skip)]
    complete: bool,
}

impl Summary for TrialsSummary {
    fn outcomes(&self) -> Vec<Outcome> {
        let none = |count: fn(&End) -> u64| self.trials.ends.iter().map(count).sum::<u64>() == 0;
        let outcome = if !self.complete {
            return Vec::new();
        } else if self.chance < SIGNIFICANT {
            let why = format!(
                "restarted runs end differently from controls; the chance of such a difference is \
                 {:.4}",
                self.chance
            );
            Outcome::new(Condition::Diverged, why)
        } else if self.trials.has_new_end() {
            let why = "a restarted run ended in a way in which no control did, which may be chance";
            Outcome::new(Condition::Unstable, why)
        } else if none(|end| end.controls) || none(|end| end.restarted) {
            Outcome::new(Condition::Missed, "no run of one kind reached the point")
        } else {
            return Vec::new();
        };
        vec![outcome]
    }
}

impl TrialsExperiment {
    /// Returns the experiment of `count` pairs at the point `wanted`, `TASK:NTH`, of the first case
    /// of a scenario.
    pub fn new(scenario: Scenario, kind: EventKind, wanted: String, count: u64) -> Self {
        Self {
            scenario,
            kind,
            wanted,
            count,
            plan: None,
        }
    }

    fn case(&self) -> &Case {
        &self.scenario.cases[0]
    }
}

impl Experiment for TrialsExperiment {
    /// Number of the pair.
    type Unit = u64;
    type Detail = Pair;
    type Summary = TrialsSummary;

    fn key(&self, unit: &u64) -> String {
        format!("{}/{}/{unit}", self.case().name, self.wanted)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        scenarios::identify(&self.scenario, identity)?;
        identity.add("trials", format!("{:?} {}", self.kind, self.wanted));
        Ok(())
    }

    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let baseline = sweep::baseline(session, &self.scenario, self.case(), self.kind)?;
        let mut points = baseline.listing.points.iter();
        let point = points.find(|point| point.name() == self.wanted).cloned();
        let Some(point) = point else {
            let why = format!("the run has no point {}", self.wanted);
            return Err(Abort::missed(why));
        };
        self.plan = Some((baseline, point));
        Ok((1..=self.count).map(|pair| vec![pair]).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[u64],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        let Some((_, point)) = &self.plan else {
            return Ok(());
        };
        for unit in units {
            let pair = sweep::pair(session, &self.scenario, self.case(), self.kind, point)?;
            done(unit, Outcome::passed("both runs ended"), Some(pair))?;
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<Pair>]) -> TrialsSummary {
        let pairs = findings
            .iter()
            .filter_map(|finding| finding.detail.as_ref());
        let (trials, point) = match &self.plan {
            Some((baseline, point)) => (
                Trials::of(self.case(), &baseline.output, pairs),
                Some(point.clone()),
            ),
            None => (Trials::default(), None),
        };
        TrialsSummary {
            point,
            chance: trials.chance(),
            complete: findings.len() as u64 == self.count,
            trials,
        }
    }

    /// Returns for each run of the pair true if it reached its event. The summary has the ends of the runs.
    fn recorded(&self, pair: &Pair) -> Value {
        let reached = [pair.control.is_some(), pair.restarted.is_some()];
        serde_json::json!({ "reached": reached })
    }
}
