// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible sweep`: each point of a case is a unit.

use std::{collections::BTreeMap, io};

use crucible_protocol::EventKind;
use serde::Serialize;

use super::{Done, Experiment, Finding, Group, Identity, Summary, scenarios};
use crate::{
    abort::Abort,
    blame::Condition,
    outcome::Outcome,
    scenario::{Case, Scenario},
    session::Session,
    sweep::{self, Baseline, CaseAnalysis, Point, PointDetail},
};

/// The selection of points of a case.
#[derive(Clone, Debug)]
pub enum Choice {
    /// Every Kth point of each kind of event, at most this many.
    Some {
        /// K; 1 for all.
        every: usize,
        /// Number of points to leave out before the first. The offsets below K together reach each
        /// point once.
        offset: usize,
        /// Maximum number.
        limit: Option<usize>,
    },
    /// The point with this name, `TASK:NTH`.
    One(String),
}

/// A scenario whose cases are checkpointed at each of their events.
pub struct SweepExperiment {
    scenario: Scenario,
    kind: EventKind,
    kind_name: String,
    choice: Choice,
    /// The plan of each case.
    cases: Vec<Planned>,
}

struct Planned {
    baseline: Result<Baseline, Outcome>,
    points: usize,
}

/// A point of a case.
#[derive(Clone, Debug)]
pub struct PointUnit {
    case: usize,
    point: Point,
}

/// The results of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct SweepSummary {
    /// Name of the scenario.
    pub scenario: String,
    /// Kind of the events.
    pub event: String,
    /// True when not all points were selected.
    pub sampled: bool,
    /// The cases.
    pub cases: Vec<CaseAnalysis>,
}

impl Summary for SweepSummary {
    fn outcomes(&self) -> Vec<Outcome> {
        let stops = self.cases.iter().filter_map(|case| case.stop.clone());
        let unnamed = self
            .cases
            .iter()
            .filter(|case| !self.sampled && case.unnamed > 0);
        let unnamed = unnamed.map(|case| {
            let why = format!(
                "{} events of {} have no name and were never tried",
                case.unnamed, case.case
            );
            Outcome::new(Condition::Missed, why)
        });
        stops.chain(unnamed).collect()
    }
}

impl SweepExperiment {
    /// Returns the sweep of a scenario's cases at events of one kind.
    pub fn new(scenario: Scenario, kind: EventKind, kind_name: String, choice: Choice) -> Self {
        Self {
            scenario,
            kind,
            kind_name,
            choice,
            cases: Vec::new(),
        }
    }

    fn case(&self, unit: &PointUnit) -> &Case {
        &self.scenario.cases[unit.case]
    }

    fn points(&self, all: &[Point]) -> Result<Vec<Point>, Abort> {
        let points = match &self.choice {
            Choice::One(wanted) => all
                .iter()
                .filter(|p| p.name() == *wanted)
                .cloned()
                .collect(),
            Choice::Some {
                every,
                offset,
                limit,
            } => {
                let mut points = sweep::stratified(all, *every, *offset);
                points.truncate(limit.unwrap_or(usize::MAX));
                points
            }
        };
        match (points.is_empty(), &self.choice) {
            (false, _) => Ok(points),
            // A different part of the cases has the points.
            (true, Choice::Some { offset: 1.., .. }) if !all.is_empty() => Ok(points),
            (true, Choice::One(wanted)) => {
                Err(Abort::missed(format!("the run has no point {wanted}")))
            }
            (true, _) => Err(Abort::missed(format!(
                "the run has no event {}",
                self.kind_name
            ))),
        }
    }
}

impl Experiment for SweepExperiment {
    type Unit = PointUnit;
    type Detail = PointDetail;
    type Summary = SweepSummary;

    fn key(&self, unit: &PointUnit) -> String {
        format!("{}/{}", self.case(unit).name, unit.point.name())
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        scenarios::identify(&self.scenario, identity)?;
        identity.add("event", &self.kind_name);
        // --timeout changes the limit, and so the runs that count as hangs.
        for case in &self.scenario.cases {
            identity.add(&case.name, case.timeout.to_string());
        }
        Ok(())
    }

    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let mut units = Vec::new();
        for (index, case) in self.scenario.cases.iter().enumerate() {
            let baseline = sweep::baseline(session, &self.scenario, case, self.kind);
            let planned = baseline.and_then(|baseline| {
                let points = self.points(&baseline.listing.points)?;
                Ok((baseline, points))
            });
            let (baseline, points) = match planned {
                Ok((baseline, points)) => (Ok(baseline), points),
                Err(stop) if stop.condition.exit_code() >= 128 => return Err(stop),
                Err(stop) => {
                    if !stop.guest_usable {
                        session.abandon();
                    }
                    (Err(stop.into()), Vec::new())
                }
            };
            self.cases.push(Planned {
                baseline,
                points: points.len(),
            });
            units.extend(
                points
                    .into_iter()
                    .map(|point| PointUnit { case: index, point }),
            );
        }
        Ok(units.into_iter().map(|unit| vec![unit]).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[PointUnit],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            let Ok(baseline) = &self.cases[unit.case].baseline else {
                continue;
            };
            let (case, point) = (self.case(unit), &unit.point);
            let (outcome, detail) = sweep::attempt(
                session,
                &self.scenario,
                case,
                self.kind,
                &baseline.output,
                point,
            );
            done(unit, outcome, Some(detail))?;
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<PointDetail>]) -> SweepSummary {
        let mut of_case: BTreeMap<&str, Vec<&Finding<PointDetail>>> = BTreeMap::new();
        for finding in findings {
            let case = finding.key.rsplit_once('/').map_or("", |(case, _)| case);
            of_case.entry(case).or_default().push(finding);
        }
        let cases = self.scenario.cases.iter().zip(&self.cases);
        let cases = cases.map(|(case, planned)| {
            let mut analysis = CaseAnalysis {
                case: case.name.clone(),
                points: planned.points,
                ..CaseAnalysis::default()
            };
            match &planned.baseline {
                Ok(baseline) => {
                    analysis.events = baseline.listing.points.len();
                    analysis.unnamed = baseline.listing.unnamed;
                    analysis.ends = baseline.listing.ends;
                    analysis.undisturbed_ms = baseline.ms;
                }
                Err(stop) => analysis.stop = Some(stop.clone()),
            }
            let findings = of_case.get(case.name.as_str());
            sweep::analyse(analysis, findings.map_or(&[], Vec::as_slice))
        });
        SweepSummary {
            scenario: self.scenario.name.clone(),
            event: self.kind_name.clone(),
            sampled: !matches!(
                self.choice,
                Choice::Some {
                    every: 1,
                    offset: 0,
                    limit: None
                }
            ),
            cases: cases.collect(),
        }
    }
}
