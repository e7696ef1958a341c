// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runs of one case: undisturbed, control and restarted.

mod chain;
mod end;
mod event;
mod restart;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crucible_protocol::{Ended, Freeze, Observation, Trigger, image::diff::Comparison};

use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    compare::RunOutput,
    guest::Guest,
    scenario::Case,
    session::Session,
    stream::Body,
};

/// The place in which a run is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartIn {
    /// In the guest in which it was checkpointed.
    #[default]
    Same,
    /// In a fresh machine, booted with the same disk.
    Fresh,
}

/// A container that is frozen at its event.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// The cause of the freeze.
    pub freeze: Freeze,
    /// The observed state of its tasks.
    pub tasks: Observation,
    /// The nonce that the workload had drawn by then.
    pub(crate) nonce: Option<String>,
}

/// A run that ended before its event.
pub(crate) struct RunEnd {
    /// The exit status of the workload, if known.
    pub workload: Option<Ended>,
    /// Number of events until the end, if known.
    pub count: Option<u64>,
}

/// The result of a restarted run.
#[derive(Debug)]
pub struct Restarted {
    /// The state before the checkpoint.
    pub before: Frozen,
    /// The state after the restart, while still frozen.
    pub after: Option<Observation>,
    /// The comparison of its second image with the first.
    pub second: Option<Second>,
    /// The links of the run's chain after the first link.
    pub later: Vec<Link>,
    /// The result of the run, or the reason why it did not end.
    pub end: Result<RunOutput, Abort>,
    /// The place of the restart.
    pub place: RestartIn,
}

/// A later link of a chain.
#[derive(Debug)]
pub struct Link {
    /// The state before the checkpoint.
    pub before: Frozen,
    /// The observations after the restart.
    pub seen: Seen,
}

/// Observations of a restarted tree while it is still frozen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The facts from `/proc`; `None` in a run without facts.
    pub tasks: Option<Observation>,
    /// The comparison of its second image with the first; `None` if there is none.
    pub second: Option<Second>,
}

/// The comparison of a restarted tree's second image with the first.
#[derive(Clone, Debug)]
pub struct Second {
    /// The comparison, or the error of an image that cannot be read.
    pub found: Result<Comparison, String>,
    /// The paths of both images in the results directory, if they are kept.
    pub kept: Vec<String>,
}

/// Runs a case in a session.
pub struct Runner<'s, 'l> {
    /// The session whose guest runs the case.
    pub session: &'s mut Session<'l>,
    /// The scenario's name, which is also the name of its built tree.
    pub stash: &'s str,
    /// The case to run.
    pub case: &'s Case,
    /// The backend for checkpoint and restart.
    pub backend: Backend,
    /// Durations in milliseconds, by phase.
    pub timings: &'s mut BTreeMap<String, u64>,
    /// The pid of the container's init in the agent's pid namespace, once it has been started.
    pub root: i32,
    /// Maximum number of retries after an event was missed.
    pub patience: u32,
    /// Number of times that an event was missed.
    pub missed: u32,
    /// Accepts every point, including those before the nonce is drawn.
    pub any_point: bool,
    /// True when an expected result says that the case can be checkpointed at its event.
    pub supported: bool,
    /// Number of times that a run is checkpointed, killed and restarted: at its event, and then at the
    /// next ones of any kind.
    pub links: u32,
}

impl Runner<'_, '_> {
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.case.timeout) * self.session.patience()
    }

    pub(crate) fn guest(&mut self) -> &mut Guest {
        self.session.running()
    }

    /// Runs one step, records its duration, and reports its begin and end.
    fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let tell = |session: &Session<'_>, body| session.voice().tell(body);
        tell(self.session, Body::StepStarted { name: name.into() });
        self.session.count(name, false);
        let begun = Instant::now();
        let result = work(self);
        self.session.count(name, true);
        let ms = begun.elapsed().as_millis() as u64;
        *self
            .timings
            .entry(name.replace(' ', "_") + "_ms")
            .or_default() += ms;
        let name = name.into();
        tell(self.session, Body::StepFinished { name, step_ms: ms });
        result
    }

    /// Makes a run without a freeze.
    pub fn undisturbed(&mut self, number: u32) -> Result<RunOutput, Abort> {
        self.step(&format!("undisturbed {number}"), |r| {
            let run = format!("undisturbed-{number}");
            r.start(&run, None)
                .map_err(|e| Abort::guest(Phase::Before, e))?;
            r.finish(&run, Phase::Before, None)
        })
    }

    /// Makes a run whose events are listed by a trigger that never fires.
    pub fn listed(&mut self, trigger: &Trigger) -> Result<RunOutput, Abort> {
        self.step("listed", |r| {
            let run = "listed";
            r.start(run, Some(trigger))
                .map_err(|e| Abort::guest(Phase::Before, e))?;
            r.finish(run, Phase::Before, None)
        })
    }

    /// Makes a run that is frozen at the event and thawed; of a chain, as often as there are links.
    pub fn control(&mut self) -> Result<(Frozen, RunOutput), Abort> {
        const RUN: &str = "control";
        self.step(RUN, |r| {
            let frozen = r.reach_event(RUN)?;
            let mut nonce = frozen.nonce.clone();
            let (mut is_frozen, mut last) = (true, 1);
            for link in 2..=r.links {
                let next = r.next_event(RUN);
                is_frozen = next.map_err(|stop| r.at_link(link, stop))?.is_some();
                if !is_frozen {
                    break;
                }
                last = link;
                let drawn = r.nonce();
                nonce = drawn.map_err(|e| Abort::guest(Phase::After, e))?;
            }
            if is_frozen {
                let thawed = r.guest().thaw(RUN);
                thawed.map_err(|e| Abort::guest(Phase::After, e))?;
            }
            let output = r.finish(RUN, Phase::After, nonce);
            let output = output.map_err(|stop| r.at_link(last, stop))?;
            Ok((frozen, output))
        })
    }

    /// Makes a run that is checkpointed at the event, killed, and restarted; of a chain, as often as
    /// there are links. A tree that differs after its restart ends the chain.
    pub fn restarted(&mut self, place: RestartIn) -> Result<Restarted, Abort> {
        const RUN: &str = "restarted";
        let before = self.step("to the event", |r| r.reach_event(RUN))?;
        let mut restarted = Restarted {
            before,
            after: None,
            second: None,
            later: Vec::new(),
            end: Err(Abort::failed("the run has not ended")),
            place,
        };
        restarted.end = self.links(RUN, &mut restarted);
        Ok(restarted)
    }
}

#[cfg(test)]
mod tests;
