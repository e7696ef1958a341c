// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Starts a run, and waits until it is frozen at its event or has ended.

use crucible_protocol::{Freeze, Observation, Stopped, Trigger};

use super::{Frozen, RunEnd, Runner};
use crate::{
    abort::{Abort, Phase},
    compare::tree,
    event::EventSpec,
    guest::GuestError,
    scenario::{Case, ExpectedTask},
};

/// Environment variable with the factor by which operations take longer in this guest, for
/// workloads.
const SLOWNESS: &str = "SLOWNESS";

impl Runner<'_, '_> {
    pub(crate) fn start(
        &mut self,
        run: &str,
        trigger: Option<&Trigger>,
    ) -> Result<i32, GuestError> {
        let (stash, case) = (self.stash, self.case);
        let mut env = case.env.clone();
        env.insert(
            SLOWNESS.into(),
            self.session.workload_slowness().to_string(),
        );
        let guest = self.guest();
        guest.prepare(Some(stash))?;
        guest.start(run, &case.argv, &env, &case.cwd, trigger)
    }

    /// Starts a run and waits until it is frozen at its event. Retries missed events.
    pub(super) fn reach_event(&mut self, run: &str) -> Result<Frozen, Abort> {
        loop {
            match self.try_event(run)? {
                Err(_) if self.missed < self.patience => self.missed += 1,
                result => return result,
            }
        }
    }

    /// Tries once to freeze a run at its event. The inner error reports a miss: the event
    /// happened, but the tasks moved on before they were frozen.
    fn try_event(&mut self, run: &str) -> Result<Result<Frozen, Abort>, Abort> {
        let before = |e| Abort::guest(Phase::Before, e);
        let at = self.case.at.clone();
        self.root = self.start(run, Some(at.trigger())).map_err(before)?;
        let freeze = match self.frozen_or_ended(run, &at, Phase::Before)? {
            Ok(freeze) => freeze,
            Err(ended) => {
                self.guest().kill(run).map_err(before)?;
                let end = ended
                    .workload
                    .map_or("unknown exit status".into(), |e| e.to_string());
                return Err(Abort::missed(never(&at, ended.count, &end)));
            }
        };
        let after = |e| Abort::guest(Phase::After, e);
        let tasks = self.guest().observe(run).map_err(after)?;
        if let Some(missed) = missed(self.case, &freeze, &tasks) {
            self.guest().kill(run).map_err(after)?;
            let lines = tree(&tasks).lines().map(str::to_owned).collect();
            return Ok(Err(Abort::missed(missed).with(lines)));
        }
        let nonce = self.nonce().map_err(after)?;
        if self.case.nonce.is_some() && nonce.is_none() && !self.any_point {
            self.guest().kill(run).map_err(after)?;
            return Err(Abort::missed(format!(
                "at {at} the workload had not yet drawn its nonce: choose a later event"
            )));
        }
        Ok(Ok(Frozen {
            freeze,
            tasks,
            nonce,
        }))
    }

    /// Waits for a run to freeze or to end. The limit is scaled to the last measured speed of
    /// the CPU, so the function measures again at the limit.
    pub(super) fn wait(&mut self, run: &str, phase: Phase) -> Result<Stopped, Abort> {
        loop {
            let limit = self.limit();
            let stopped = self.guest().wait(run, limit);
            match stopped.map_err(|e| Abort::guest(phase, e))? {
                Stopped::Timeout { .. } if self.session.has_slowed() => {}
                stopped => return Ok(stopped),
            }
        }
    }

    /// Waits until a run is frozen at this event, or has ended before.
    pub(crate) fn frozen_or_ended(
        &mut self,
        run: &str,
        at: &EventSpec,
        phase: Phase,
    ) -> Result<Result<Freeze, RunEnd>, Abort> {
        match self.wait(run, phase)? {
            Stopped::Frozen(freeze) => Ok(Ok(freeze)),
            Stopped::Exited {
                workload, count, ..
            } => Ok(Err(RunEnd { workload, count })),
            Stopped::Timeout {
                fired: true, stuck, ..
            } => {
                let why = "the trigger fired, but the tasks could not be frozen";
                let mut stop = self.stuck(run, Phase::After, why);
                stop.lines.splice(0..0, stuck);
                Err(stop)
            }
            Stopped::Timeout { count, .. } => {
                let why = format!(
                    "the event {at} did not happen within the time limit; its count is {}",
                    count.unwrap_or(0)
                );
                Err(self.stuck(run, phase, &why))
            }
        }
    }

    /// Handles a run that does not proceed: collects the states of its tasks, and marks the guest
    /// as unusable.
    pub(super) fn stuck(&mut self, run: &str, phase: Phase, why: &str) -> Abort {
        let tasks = self.guest().observe(run);
        let states = match self.guest().task_states() {
            Ok(states) => states,
            Err(error) => return Abort::guest(phase, error),
        };
        let mut stop = Abort::hang(phase, why.to_owned(), states);
        stop.guest_usable = false;
        if let Ok(tasks) = tasks {
            let found = tree(&tasks);
            stop.lines.splice(0..0, found.lines().map(str::to_owned));
        }
        stop
    }
}

/// Returns the message for a run that ended before its event.
fn never(at: &EventSpec, count: Option<u64>, end: &str) -> String {
    match count {
        None => format!("the workload ended ({end}) before {at}: choose a shorter time"),
        Some(0) => format!(
            "the event {at} never happened: the workload ended ({end}) without any such event; \
             choose a different one"
        ),
        Some(count) => format!(
            "the event {at} never happened: the workload ended ({end}) after {count} such events; \
             choose a count up to {count}"
        ),
    }
}

/// Returns the difference of the point from the requested one, or `None` if there is none.
fn missed(case: &Case, freeze: &Freeze, tasks: &Observation) -> Option<String> {
    let at = &case.at;
    if matches!(at.trigger(), Trigger::Count { .. }) {
        let Some(task) = tasks.tasks.iter().find(|t| t.tid == freeze.tid) else {
            return Some(format!(
                "missed {at}: the triggering task {} has ended",
                freeze.tid
            ));
        };
        if !at.is_at(&task.site) {
            return Some(format!(
                "missed {at}: {} ({}) is at site `{}`, not `{}`",
                task.comm,
                task.tid,
                task.site,
                at.sites().unwrap_or(&["any"]).join("` or `")
            ));
        }
    }
    case.tasks.iter().find_map(|expected| {
        let found = count(expected, tasks);
        let good = expected.count.map_or(found > 0, |n| found == n);
        (!good).then(|| {
            format!(
                "missed {at}: expected {} `{}` at site `{}`, found {found}",
                expected.count.map_or("a".to_owned(), |n| n.to_string()),
                expected.comm,
                expected.site
            )
        })
    })
}

fn count(expected: &ExpectedTask, tasks: &Observation) -> usize {
    let parent_is =
        |ppid: i32, comm: &str| tasks.tasks.iter().any(|t| t.pid == ppid && t.comm == comm);
    tasks
        .tasks
        .iter()
        .filter(|t| t.comm == expected.comm && t.site.starts_with(&expected.site))
        .filter(|t| {
            expected
                .parent
                .as_ref()
                .is_none_or(|p| parent_is(t.ppid, p))
        })
        .count()
}
