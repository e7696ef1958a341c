// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible bisect` with one kernel: the same case again and again, for as long
//! as a caller requests more.

use std::{
    io,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::{Done, Experiment, Finding, Group, Identity, scenarios};
use crate::{
    abort::Abort,
    expected,
    outcome::Outcome,
    record::CaseRecord,
    scenario::Scenario,
    session::Session,
    trial::{self, Options},
};

/// Receives the outcome of a run, with its number and its duration in seconds. Returns true to
/// request a further run.
pub type See<'a> = dyn FnMut(u64, &Outcome, f64) -> bool + Send + 'a;

/// A case that is run again and again.
pub struct RunsExperiment<'a> {
    scenario: &'a Scenario,
    case: usize,
    options: Options,
    most: u64,
    /// The scenario's expected result, if it applies.
    expected: Option<String>,
    see: Mutex<&'a mut See<'a>>,
}

impl<'a> RunsExperiment<'a> {
    /// Returns the experiment of at most `most` runs of a case.
    ///
    /// # Errors
    /// The expected result cannot be read.
    pub fn new(
        scenario: &'a Scenario,
        case: usize,
        options: Options,
        most: u64,
        see: &'a mut See<'a>,
    ) -> io::Result<Self> {
        // The expected result applies to the scenario's own event.
        let expected = match options.is_expected() {
            true => expected::text(scenario)?,
            false => None,
        };
        Ok(Self {
            scenario,
            case,
            options,
            most,
            expected,
            see: Mutex::new(see),
        })
    }
}

impl Experiment for RunsExperiment<'_> {
    /// Number of the run, from 0 on.
    type Unit = u64;
    type Detail = CaseRecord;
    type Summary = ();

    fn key(&self, unit: &u64) -> String {
        let case = &self.scenario.cases[self.case].name;
        format!("{}/{case} {unit}", self.scenario.name)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        scenarios::identify(self.scenario, identity)
    }

    /// Boots the guest: a kernel that does not boot has no runs.
    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        session.guest().map_err(Abort::session)?;
        Ok(vec![(0..self.most).collect()])
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[u64],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        let case = &self.scenario.cases[self.case];
        let mut built = false;
        for unit in units {
            session.voice().set_unit(Some(&self.key(unit)));
            if !built || !session.is_running() {
                if let Err(stop) = trial::build(session, self.scenario) {
                    if !stop.guest_usable {
                        session.abandon();
                    }
                    let outcome = Outcome::from(stop);
                    let known = outcome.clone();
                    done(unit, outcome, None)?;
                    if !self.see(*unit, &known, 0.0) {
                        return Ok(());
                    }
                    continue;
                }
                built = true;
            }
            let began = Instant::now();
            let (mut outcome, record) = trial::case(session, self.scenario, case, &self.options);
            let seconds = began.elapsed().as_secs_f64();
            // A kernel may break the control in the same way as the restarted run.
            let expected = self.expected.as_ref().filter(|_| outcome.is_pass());
            let parts = expected.zip(record.rendered.as_ref());
            if let Some(check) =
                parts.and_then(|(text, result)| expected::compare_case(text, case, result))
            {
                outcome = Outcome::diverged(&check);
            }
            let mut known = outcome.clone();
            // A difference is in the record of its check.
            let failed = record.checks.iter().find(|check| !check.ok);
            if let Some(check) = failed.filter(|_| known.lines.is_empty()) {
                known.lines = check.lines();
            }
            // The host's troubles end here.
            done(unit, outcome, Some(record))?;
            if !self.see(*unit, &known, seconds) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn summarise(&self, _: &[Finding<CaseRecord>]) {}
}

impl RunsExperiment<'_> {
    fn see(&self, unit: u64, outcome: &Outcome, seconds: f64) -> bool {
        let mut see = self.see.lock().unwrap_or_else(PoisonError::into_inner);
        see(unit, outcome, seconds)
    }
}
