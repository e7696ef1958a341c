// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A chain: one run of one case, checkpointed, killed and restarted at every event of a kind.
//!
//! A sweep's point shows that a checkpoint there can be gone on from. A chain shows that what
//! was restarted can be checkpointed: its every task is a restarted one, of thousands of
//! generations in the end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crucible_protocol::{EventKind, Freeze, Observation};

use super::{Came, came, cause, good_control, runner};
use crate::{
    compare::{Check, Outcome},
    event::EventSpec,
    normalise::Uses,
    run::{Frozen, RestartIn, Restarted, Runner},
    scenario::{Case, Scenario},
    session::Session,
    stop::{Phase, Stop},
    trial::{self, judge},
};

const RUN: &str = "restarted";

/// What a chain came to.
#[derive(Clone, Debug)]
pub struct Chain {
    /// How it ended.
    pub came: Came,
    /// Why, in one line. Of one that passed by a control: what freezing alone had changed.
    pub cause: String,
    /// More about it.
    pub lines: Vec<String>,
    /// How often it was checkpointed, killed and restarted.
    pub links: u64,
    /// Events that came while the tasks of another were coming to rest: they are saved with
    /// that one's checkpoint, and have none of their own.
    pub along: u64,
    /// The sites that it was stopped at, and how often.
    pub sites: BTreeMap<String, u64>,
    /// The last of them, with its task.
    pub last: String,
    /// Whether it ended like a run that was frozen as often, freezing alone being visible.
    pub by_control: bool,
    /// How long an undisturbed run takes, in milliseconds.
    pub undisturbed_ms: u64,
    /// How long the chain took.
    pub ms: u64,
}

impl Chain {
    fn at(&mut self, freeze: &Freeze, tasks: &Observation) {
        self.links += 1;
        self.along += freeze.count.saturating_sub(1);
        let task = tasks.tasks.iter().find(|task| task.tid == freeze.tid);
        let site = task.map_or("unknown", |task| task.site.as_str());
        // What is `nr=5` or the like is of one task only.
        let kind: Vec<_> = site.split(' ').filter(|w| !w.contains('=')).collect();
        *self.sites.entry(kind.join(" ")).or_default() += 1;
        self.last = format!(
            "{} ({}) at {site}",
            task.map_or("a task", |task| task.comm.as_str()),
            freeze.tid
        );
    }

    fn diverged(&mut self, check: Check) {
        self.came = Came::Diverged;
        self.lines = check.lines();
        self.cause = check.name;
    }
}

/// Builds a case's workload, runs it undisturbed, then as a chain. `tell` hears of each link.
///
/// # Errors
/// Where the undisturbed run fails: then there is nothing to say.
pub fn chain(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    tell: &mut dyn FnMut(&Chain),
) -> Result<Chain, Stop> {
    trial::build(session, scenario)?;
    let mut case = case.clone();
    case.at = EventSpec::next(kind);
    case.tasks.clear();
    let mut timings = BTreeMap::new();
    let mut runner = runner(session, scenario, &case, &mut timings);
    let begun = Instant::now();
    let undisturbed = runner.undisturbed(1)?;
    let undisturbed_ms = millis(begun.elapsed());
    let expected = judge::expected(&case, "undisturbed", &undisturbed);
    if let Some(bad) = expected.iter().find(|check| !check.ok) {
        return Err(Stop::unknown(bad.name.clone()));
    }
    let mut chain = Chain {
        came: Came::Unknown,
        cause: String::new(),
        lines: Vec::new(),
        links: 0,
        along: 0,
        sites: BTreeMap::new(),
        last: String::new(),
        by_control: false,
        undisturbed_ms,
        ms: 0,
    };
    let begun = Instant::now();
    let result = links(&mut runner, &mut chain, tell);
    chain.ms = millis(begun.elapsed());
    let result = result.and_then(|ended| match ended {
        Some(outcome) => compare(&mut runner, &outcome, &undisturbed, &mut chain),
        None => Ok(()),
    });
    if let Err(stop) = result {
        chain.came = came(&stop);
        chain.cause = cause(&stop);
        chain.lines = stop.lines;
        if !stop.guest_usable {
            session.abandon();
        }
    }
    Ok(chain)
}

/// From event to event, each time by way of an image, to the end of the run. None: the tree
/// was not after a restart what it had been.
fn links(
    runner: &mut Runner<'_, '_>,
    chain: &mut Chain,
    tell: &mut dyn FnMut(&Chain),
) -> Result<Option<Outcome>, Stop> {
    let after = |e| Stop::guest(Phase::After, e);
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
        let found = runner.around(RUN, RestartIn::Same)?;
        let restarted = Restarted {
            before,
            after: Some(found),
            end: Err(Stop::unknown("it goes on")),
            place: RestartIn::Same,
        };
        let checks = judge::around(runner, &restarted, &mut uses);
        if let Some(bad) = checks.into_iter().find(|check| !check.ok) {
            chain.diverged(bad);
            runner.guest().kill(RUN).map_err(after)?;
            return Ok(None);
        }
        tell(chain);
        match go_on(runner)? {
            Some(next) => freeze = next,
            None => break,
        }
    }
    runner.finish(RUN, Phase::After, nonce).map(Some)
}

/// A run that is frozen and thawed at every event, and never checkpointed.
fn control(runner: &mut Runner<'_, '_>) -> Result<Outcome, Stop> {
    let after = |e| Stop::guest(Phase::After, e);
    begin(runner)?;
    let mut nonce = runner.nonce().map_err(after)?;
    while go_on(runner)?.is_some() {
        nonce = runner.nonce().map_err(after)?;
    }
    runner.finish(RUN, Phase::After, nonce)
}

/// Starts a run, up to its first event.
fn begin(runner: &mut Runner<'_, '_>) -> Result<Freeze, Stop> {
    let before = |e| Stop::guest(Phase::Before, e);
    let at = runner.case.at.clone();
    runner.root = runner.start(RUN, Some(at.trigger())).map_err(before)?;
    match runner.frozen_or_ended(RUN, Phase::Before)? {
        Ok(freeze) => Ok(freeze),
        Err(_) => {
            runner.guest().kill(RUN).map_err(before)?;
            Err(Stop::missed(format!("the run has no event {at}")))
        }
    }
}

/// To the next event; none: there was no other.
fn go_on(runner: &mut Runner<'_, '_>) -> Result<Option<Freeze>, Stop> {
    let after = |e| Stop::guest(Phase::After, e);
    let at = runner.case.at.clone();
    runner.guest().arm(RUN, at.trigger()).map_err(after)?;
    runner.guest().thaw(RUN).map_err(after)?;
    Ok(runner.frozen_or_ended(RUN, Phase::After)?.ok())
}

fn compare(
    runner: &mut Runner<'_, '_>,
    outcome: &Outcome,
    undisturbed: &Outcome,
    chain: &mut Chain,
) -> Result<(), Stop> {
    let case = runner.case;
    let mut uses = Uses::new();
    let mut against = |pair: &str, reference: &Outcome| {
        let checks = judge::end(case, pair, outcome, reference, &mut uses);
        checks.into_iter().find(|check| !check.ok)
    };
    let Some(visible) = against("chain = undisturbed", undisturbed) else {
        chain.came = Came::Passed;
        return Ok(());
    };
    let control = control(runner)?;
    good_control(case, &control)?;
    match against("chain = control", &control) {
        None => {
            chain.came = Came::Passed;
            chain.by_control = true;
            chain.lines = visible.lines();
            chain.cause = visible.name;
        }
        Some(bad) => chain.diverged(bad),
    }
    Ok(())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
