// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A chain: one run of one case, checkpointed, killed and restarted at every event of a kind.
//!
//! A point of a sweep shows that a run can be restarted from a checkpoint there. A chain shows
//! that restarted tasks can be checkpointed again: at its end, every task has been restarted
//! thousands of times.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crucible_protocol::{EventKind, Freeze, Observation, image::diff};
use serde::{Deserialize, Serialize};

use super::{add, alike, diverged, good_control, runner};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    compare::RunOutput,
    event::EventSpec,
    normalise::Uses,
    outcome::Outcome,
    run::{Frozen, RestartIn, Runner},
    scenario::{Case, Scenario},
    session::Session,
    trial::{self, judge},
};

const RUN: &str = "restarted";

/// The result of a chain.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Chain {
    /// Number of links: the run was checkpointed, killed and restarted this many times.
    pub links: u64,
    /// Number of events that happened while the tasks were being frozen for an earlier event. That
    /// event's checkpoint covers them; they have no separate one.
    pub covered: u64,
    /// Number of stops at each site.
    pub sites: BTreeMap<String, u64>,
    /// The last site, with its task.
    pub last: String,
    /// True when the chain ended like a run that was frozen equally often, because freezing alone
    /// has a visible effect.
    pub by_control: bool,
    /// Number of uses of each rule for images.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_rules: BTreeMap<diff::Rule, u64>,
    /// Duration of an undisturbed run, in milliseconds.
    pub undisturbed_ms: u64,
    /// Duration of the chain, in milliseconds.
    pub ms: u64,
}

impl Chain {
    fn at(&mut self, freeze: &Freeze, tasks: &Observation) {
        self.links += 1;
        self.covered += freeze.count.saturating_sub(1);
        let task = tasks.tasks.iter().find(|task| task.tid == freeze.tid);
        let site = task.map_or("unknown", |task| task.site.as_str());
        // Words such as `nr=5` are specific to one task.
        let kind: Vec<_> = site.split(' ').filter(|w| !w.contains('=')).collect();
        *self.sites.entry(kind.join(" ")).or_default() += 1;
        self.last = format!(
            "{} ({}) at {site}",
            task.map_or("a task", |task| task.comm.as_str()),
            freeze.tid
        );
    }
}

/// Builds a case's workload, runs it undisturbed, then as a chain. Calls `tell` after each link.
/// A chain that passed by its control has the difference due to freezing alone as its reason.
pub fn chain(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    tell: &mut dyn FnMut(&Chain),
) -> (Outcome, Chain) {
    let mut chain = Chain::default();
    let outcome = run(session, scenario, case, kind, &mut chain, tell);
    let outcome = outcome.unwrap_or_else(|stop| {
        if !stop.guest_usable {
            session.abandon();
        }
        alike(stop)
    });
    (outcome, chain)
}

fn run(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    chain: &mut Chain,
    tell: &mut dyn FnMut(&Chain),
) -> Result<Outcome, Abort> {
    trial::build(session, scenario)?;
    let mut case = case.clone();
    case.at = EventSpec::next(kind);
    case.tasks.clear();
    let mut timings = BTreeMap::new();
    let mut runner = runner(session, scenario, &case, &mut timings);
    let begun = Instant::now();
    let undisturbed = runner.undisturbed(1)?;
    chain.undisturbed_ms = millis(begun.elapsed());
    let expected = judge::expected(&case, "undisturbed", &undisturbed);
    if let Some(bad) = expected.iter().find(|check| !check.ok) {
        return Err(Abort::new(Condition::Unstable, bad.name.clone()));
    }
    let begun = Instant::now();
    let result = links(&mut runner, chain, tell);
    chain.ms = millis(begun.elapsed());
    compare(&mut runner, &result?, &undisturbed, chain)
}

/// Checkpoints, kills and restarts the run at each event until it ends.
///
/// # Errors
/// Fails if a restarted tree differs from its state before the checkpoint.
fn links(
    runner: &mut Runner<'_, '_>,
    chain: &mut Chain,
    tell: &mut dyn FnMut(&Chain),
) -> Result<RunOutput, Abort> {
    let after = |e| Abort::guest(Phase::After, e);
    let mut uses = Uses::new();
    let mut freeze = begin(runner)?;
    let mut nonce;
    loop {
        let tasks = runner.guest().observe(RUN).map_err(after)?;
        chain.at(&freeze, &tasks);
        nonce = runner.nonce().map_err(after)?;
        let before = Frozen {
            freeze,
            tasks,
            nonce: nonce.clone(),
        };
        let seen = runner.around(RUN, RestartIn::Same)?;
        let mut checks = match &seen.tasks {
            Some(found) => judge::trees(runner.backend, RestartIn::Same, &before, found, &mut uses),
            None => Vec::new(),
        };
        checks.extend(seen.second.as_ref().map(judge::second_image));
        if let Some(Ok(comparison)) = seen.second.as_ref().map(|second| &second.found) {
            add(&mut chain.image_rules, &comparison.rules);
        }
        if let Some(bad) = checks.into_iter().find(|check| !check.ok) {
            runner.guest().kill(RUN).map_err(after)?;
            return Err(diverged(&bad));
        }
        tell(chain);
        match go_on(runner)? {
            Some(next) => freeze = next,
            None => break,
        }
    }
    runner.finish(RUN, Phase::After, nonce)
}

/// Freezes and thaws a run at every event, without a checkpoint.
fn control(runner: &mut Runner<'_, '_>) -> Result<RunOutput, Abort> {
    let after = |e| Abort::guest(Phase::After, e);
    begin(runner)?;
    let mut nonce = runner.nonce().map_err(after)?;
    while go_on(runner)?.is_some() {
        nonce = runner.nonce().map_err(after)?;
    }
    runner.finish(RUN, Phase::After, nonce)
}

/// Starts a run and waits for its first event.
fn begin(runner: &mut Runner<'_, '_>) -> Result<Freeze, Abort> {
    let before = |e| Abort::guest(Phase::Before, e);
    let at = runner.case.at.clone();
    runner.root = runner.start(RUN, Some(at.trigger())).map_err(before)?;
    match runner.frozen_or_ended(RUN, &at, Phase::Before)? {
        Ok(freeze) => Ok(freeze),
        Err(_) => {
            runner.guest().kill(RUN).map_err(before)?;
            Err(Abort::missed(format!("the run has no event {at}")))
        }
    }
}

/// Continues to the next event. Returns `None` if the run ended without a further one.
fn go_on(runner: &mut Runner<'_, '_>) -> Result<Option<Freeze>, Abort> {
    let case = runner.case;
    runner.go_on(RUN, &case.at)
}

fn compare(
    runner: &mut Runner<'_, '_>,
    output: &RunOutput,
    undisturbed: &RunOutput,
    chain: &mut Chain,
) -> Result<Outcome, Abort> {
    let case = runner.case;
    let mut uses = Uses::new();
    let mut against = |pair: &str, reference: &RunOutput| {
        let checks = judge::end(case, pair, output, reference, &mut uses);
        checks.into_iter().find(|check| !check.ok)
    };
    let Some(visible) = against("chain = undisturbed", undisturbed) else {
        return Ok(Outcome::passed("ended like an undisturbed run"));
    };
    let control = control(runner)?;
    good_control(case, &control)?;
    match against("chain = control", &control) {
        None => {
            chain.by_control = true;
            Ok(Outcome {
                lines: visible.lines(),
                ..Outcome::passed(visible.name)
            })
        }
        Some(bad) => Err(diverged(&bad)),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
