// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible scenario`: each case is a unit.

use std::{collections::BTreeMap, fs, io};

use serde::Serialize;

use super::{Done, Experiment, Finding, Group, Identity, Summary};
use crate::{
    abort::Abort,
    backend::Backend,
    blame::Condition,
    compare::Check,
    expected::{self, Comparison},
    outcome::Outcome,
    record::CaseRecord,
    scenario::Scenario,
    session::Session,
    trial::{self, Options},
};

/// Scenarios, each with each backend.
pub struct ScenarioExperiment {
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// The backends. The first one decides the verdict.
    pub backends: Vec<Backend>,
    /// Options of each case.
    pub options: Options,
    /// True when the scenarios have only some of their cases: each is compared with its part of the
    /// expected result.
    pub part: bool,
}

/// A case with a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaseUnit {
    /// Index of the scenario.
    scenario: usize,
    /// Index of the case in it.
    case: usize,
    /// The backend.
    backend: Backend,
}

/// The result of a scenario with one backend.
#[derive(Clone, Debug, Serialize)]
pub struct ScenarioSummary {
    /// Name of the scenario.
    pub scenario: String,
    /// The backend.
    pub backend: Backend,
    /// The worst outcome of its cases; if all pass, the outcome of the comparison with the expected
    /// result.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The comparison with the expected result; `None` if it does not apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<Check>,
    /// Sums of the durations of all cases by phase, in milliseconds.
    pub timings: BTreeMap<String, u64>,
}

impl Summary for Vec<ScenarioSummary> {
    fn outcomes(&self) -> Vec<Outcome> {
        let first = self.first().map(|summary| summary.backend);
        let decides = self.iter().filter(|summary| Some(summary.backend) == first);
        decides.map(|summary| summary.outcome.clone()).collect()
    }

    fn counts(&self) -> bool {
        true
    }
}

/// Adds the sources and the description of a scenario to an identity.
pub(super) fn identify(scenario: &Scenario, identity: &mut Identity) -> io::Result<()> {
    identity.add("scenario", &scenario.name);
    identity.add("toml", fs::read(scenario.dir.join("scenario.toml"))?);
    for source in scenario.sources()? {
        identity.add(&source.path, &source.content);
        identity.add("mode", source.mode.to_string());
    }
    Ok(())
}

impl ScenarioExperiment {
    fn options(&self, backend: Backend) -> Options {
        Options {
            backend,
            ..self.options.clone()
        }
    }

    /// Compares the result of a scenario whose cases have all passed with the expected result, or
    /// stores it as the expected result.
    fn compare(&self, scenario: &Scenario, result: &str) -> (Option<Outcome>, Check) {
        let comparison = if self.options.accept {
            expected::accept(scenario, result).map(|()| Comparison::Same)
        } else if self.part {
            expected::compare_part(scenario, result)
        } else {
            expected::compare(scenario, result)
        };
        match comparison {
            Ok(comparison) => {
                let check = expected::check(&comparison, scenario, self.part);
                let outcome = match comparison {
                    Comparison::Same => None,
                    Comparison::Missing => Some(Outcome::new(
                        Condition::Unreviewed,
                        "all cases passed; the scenario has no expected result yet",
                    )),
                    Comparison::Differs(_) => Some(Outcome::diverged(&check)),
                };
                (outcome, check)
            }
            Err(error) => {
                let check = expected::unusable(scenario, &error);
                let stop = Abort::io("cannot use the expected result", &error);
                (Some(stop.into()), check)
            }
        }
    }

    fn summary(
        &self,
        scenario: &Scenario,
        backend: Backend,
        findings: &[&Finding<CaseRecord>],
    ) -> ScenarioSummary {
        let mut timings = BTreeMap::new();
        for (name, ms) in findings
            .iter()
            .filter_map(|finding| finding.detail.as_ref())
            .flat_map(|detail| &detail.timings)
        {
            *timings.entry(name.clone()).or_default() += ms;
        }
        let complete = findings.len() == scenario.cases.len();
        let worst = Condition::of_all(findings.iter().map(|finding| finding.outcome.condition));
        let bad = findings
            .iter()
            .find(|finding| finding.outcome.condition == worst)
            .filter(|finding| !finding.outcome.is_pass());
        let mut expected = None;
        let outcome = match bad {
            Some(bad) => {
                let case = bad.detail.as_ref().map_or(&bad.key, |detail| &detail.name);
                Outcome::new(worst, format!("{case}: {}", bad.outcome.why))
            }
            None if !complete => Outcome::new(Condition::Interrupted, "not all cases were run"),
            None => {
                let passed = match findings.len() {
                    1 => "1 case passed".to_owned(),
                    cases => format!("{cases} cases passed"),
                };
                // The expected result applies only to the scenario's own event, and to our kernel.
                let applies = self.options.is_expected() && backend == Backend::Crucible;
                let compared = applies.then(|| {
                    let parts = findings
                        .iter()
                        .filter_map(|finding| finding.detail.as_ref()?.rendered.as_deref());
                    self.compare(scenario, &parts.collect::<Vec<_>>().join("\n"))
                });
                let (differs, check) = compared.unzip();
                expected = check;
                differs.flatten().unwrap_or_else(|| Outcome::passed(passed))
            }
        };
        ScenarioSummary {
            scenario: scenario.name.clone(),
            backend,
            outcome,
            expected,
            timings,
        }
    }
}

impl Experiment for ScenarioExperiment {
    type Unit = CaseUnit;
    type Detail = CaseRecord;
    type Summary = Vec<ScenarioSummary>;

    fn key(&self, unit: &CaseUnit) -> String {
        let scenario = &self.scenarios[unit.scenario];
        let case = &scenario.cases[unit.case].name;
        match unit.backend {
            Backend::Crucible => format!("{}/{case}", scenario.name),
            Backend::Criu => format!("{}/{case}@criu", scenario.name),
        }
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        for scenario in &self.scenarios {
            self::identify(scenario, identity)?;
        }
        let Options {
            repeat,
            at,
            restart_in,
            chain: _,
            timeout,
            backend: _,
            vcpus,
            accept: _,
        } = &self.options;
        let at = at.as_ref().map(ToString::to_string);
        let options = format!("{repeat} {at:?} {restart_in:?} {timeout:?} {vcpus}");
        identity.add("options", options);
        let links = self.options.links();
        if links > 1 {
            identity.add("chain", links.to_string());
        }
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let mut groups = Vec::new();
        for (scenario, one) in self.scenarios.iter().enumerate() {
            for &backend in &self.backends {
                let unit = |case| CaseUnit {
                    scenario,
                    case,
                    backend,
                };
                groups.push((0..one.cases.len()).map(unit).collect());
            }
        }
        Ok(groups)
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[CaseUnit],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        let mut built = false;
        for unit in units {
            session.voice().set_unit(Some(&self.key(unit)));
            let scenario = &self.scenarios[unit.scenario];
            let case = &scenario.cases[unit.case];
            let options = self.options(unit.backend);
            if !built || !session.is_running() {
                if let Err(stop) = trial::build(session, scenario) {
                    if !stop.guest_usable {
                        session.abandon();
                    }
                    let at = options.at.as_ref().unwrap_or(&case.at).to_string();
                    let record = CaseRecord {
                        scenario: scenario.name.clone(),
                        name: case.name.clone(),
                        at,
                        ..CaseRecord::default()
                    };
                    done(unit, stop.into(), Some(record))?;
                    continue;
                }
                built = true;
            }
            // Get the version now, because a hang may leave no guest to get it from.
            let criu = unit.backend.version(session.running()).unwrap_or_default();
            let (outcome, mut record) = trial::case(session, scenario, case, &options);
            record.criu = criu;
            done(unit, outcome, Some(record))?;
        }
        Ok(())
    }

    /// Returns true, because one expected result has all cases of a scenario.
    fn judges_groups(&self) -> bool {
        true
    }

    fn summarise(&self, findings: &[Finding<CaseRecord>]) -> Vec<ScenarioSummary> {
        let mut summaries = Vec::new();
        for (index, scenario) in self.scenarios.iter().enumerate() {
            for &backend in &self.backends {
                let unit = |case| CaseUnit {
                    scenario: index,
                    case,
                    backend,
                };
                let keys: Vec<_> = (0..scenario.cases.len())
                    .map(|case| self.key(&unit(case)))
                    .collect();
                let of = findings.iter().filter(|found| keys.contains(&found.key));
                let of: Vec<_> = of.collect();
                if !of.is_empty() {
                    summaries.push(self.summary(scenario, backend, &of));
                }
            }
        }
        summaries
    }
}
