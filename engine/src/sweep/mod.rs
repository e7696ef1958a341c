// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A sweep: one case, checkpointed at every event of a kind, one event at a time.
//!
//! A run that only lists its events provides the points. Each point is then tried separately: a
//! run is stopped there, checkpointed, killed and restarted, and must end like an undisturbed run.
//! If it does not, freezing alone may cause the difference; a control is then run at that point,
//! and the restarted run must end like the control.

mod analysis;
mod chain;
mod points;
mod reached;
mod trials;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crucible_protocol::{EventKind, Observation, RUN_DIR, Trigger, image::diff};
use serde::{Deserialize, Serialize};

pub use self::analysis::{CaseAnalysis, analyse};
pub use self::chain::{Chain, chain};
pub use self::points::{Listing, Point, spread_out, stratified};
pub use self::trials::{End, Pair, SIGNIFICANT, Trials, pair};
use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    blame::Condition,
    compare::{self, Check, RunOutput},
    normalise::Uses,
    outcome::Outcome,
    run::{RestartIn, Restarted, Runner},
    scenario::{Case, Scenario},
    session::Session,
    trial::{self, judge},
    verdict::Verdict,
};

/// Maximum number of attempts to reach a point. The number of a tracer's events varies by a few
/// between runs, so most runs may end before its last ones.
const TRIES: u32 = 10;

/// The result of one point.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PointDetail {
    /// The point that was tried.
    #[serde(flatten)]
    pub point: Point,
    /// The event at which the run was stopped, if it differs from the listed one. The result then
    /// applies to this event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<String>,
    /// Ptrace stops of tasks at the checkpoint.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stops: BTreeSet<String>,
    /// Number of earlier attempts that did not reach the point.
    pub missed: u32,
    /// True when the run ended like a control, because freezing alone has a visible effect.
    pub by_control: bool,
    /// Number of uses of each rule for images.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_rules: BTreeMap<diff::Rule, u64>,
    /// Durations of the steps of the last attempt, in milliseconds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub timings: BTreeMap<String, u64>,
}

/// Adds the uses of rules for images.
pub(crate) fn add(to: &mut BTreeMap<diff::Rule, u64>, from: &BTreeMap<diff::Rule, u64>) {
    for (rule, count) in from {
        *to.entry(*rule).or_default() += count;
    }
}

impl PointDetail {
    /// Returns the event at which the run was stopped, as far as is known.
    pub fn what(&self) -> &str {
        self.reached.as_ref().unwrap_or(&self.point.what)
    }

    /// Returns the kind of that event.
    pub fn kind(&self) -> &str {
        points::kind(self.what())
    }
}

/// The reference that a sweep compares with.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The result of an undisturbed run.
    pub output: RunOutput,
    /// Its duration in milliseconds.
    pub ms: u64,
    /// The listed points.
    pub listing: Listing,
}

/// Builds a case's workload, runs it once undisturbed and once with its events listed.
///
/// # Errors
/// Fails if the two runs differ, if one of them fails, or if the list is malformed, because then
/// no point has a meaningful result.
pub fn baseline(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
) -> Result<Baseline, Abort> {
    trial::build(session, scenario)?;
    let mut timings = BTreeMap::new();
    let mut runner = runner(session, scenario, case, &mut timings);
    let begun = Instant::now();
    let first = runner.undisturbed(1)?;
    let ms = begun.elapsed().as_millis() as u64;
    let listed = runner.listed(&Trigger::List { kind })?;
    let checks = compare::outputs(
        "listed = undisturbed",
        &listed,
        &first,
        &case.normalise,
        &mut Uses::new(),
    );
    let checks = [judge::expected(case, "undisturbed", &first), checks].concat();
    if let Some(bad) = checks.iter().find(|check| !check.ok) {
        let why = format!("undisturbed runs of the workload differ: {}", bad.name);
        return Err(Abort::new(Condition::Unstable, why).with(bad.lines()));
    }
    let text = session
        .running()
        .read_file(&format!("{RUN_DIR}/events"))
        .map_err(|e| Abort::guest(Phase::Before, e))?;
    Ok(Baseline {
        output: first,
        ms,
        listing: points::listing(&String::from_utf8_lossy(&text)).map_err(Abort::failed)?,
    })
}

/// Tries one point. Builds the workload if the guest is new.
pub fn attempt(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    baseline: &RunOutput,
    point: &Point,
) -> (Outcome, PointDetail) {
    let mut detail = PointDetail {
        point: point.clone(),
        reached: None,
        stops: BTreeSet::new(),
        missed: 0,
        by_control: false,
        image_rules: BTreeMap::new(),
        timings: BTreeMap::new(),
    };
    let mut case = case.clone();
    case.at = point.spec(kind);
    case.tasks.clear();
    loop {
        let outcome = match attempt_once(session, scenario, &case, kind, baseline, &mut detail) {
            Ok(outcome) => outcome,
            Err(stop) => {
                if !stop.guest_usable {
                    session.abandon();
                }
                alike(stop)
            }
        };
        if outcome.condition != Condition::Missed || detail.missed + 1 >= TRIES {
            return (outcome, detail);
        }
        detail.missed += 1;
    }
}

fn attempt_once(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    baseline: &RunOutput,
    tried: &mut PointDetail,
) -> Result<Outcome, Abort> {
    // Reset the result of an earlier attempt.
    tried.reached = None;
    tried.stops.clear();
    if !session.is_running() {
        trial::build(session, scenario)?;
    }
    tried.timings.clear();
    let mut runner = runner(session, scenario, case, &mut tried.timings);
    let mut uses = Uses::new();
    let restarted = runner.restarted(RestartIn::Same)?;
    if let Some(Ok(comparison)) = restarted.second.as_ref().map(|second| &second.found) {
        add(&mut tried.image_rules, &comparison.rules);
    }
    let place = reached::place(&restarted.before);
    tried.reached = reached::other(kind, &tried.point.what, &place);
    tried.stops = stops(&restarted.before.tasks);
    let around = judge::around(runner.backend, &restarted, &mut uses);
    let Restarted { end, .. } = restarted;
    if let Some(bad) = around.into_iter().find(|check| !check.ok) {
        return Err(another_tree(&bad, end));
    }
    let output = end?;
    let mut against = |pair: &str, reference: &RunOutput| {
        let checks = judge::end(case, pair, &output, reference, &mut uses);
        checks.into_iter().find(|check| !check.ok)
    };
    let Some(visible) = against("restarted = undisturbed", baseline) else {
        return Ok(Outcome::passed("ended like an undisturbed run"));
    };
    let control = control_at(&mut runner, &place)?;
    good_control(case, &control)?;
    match against("restarted = control", &control) {
        None => {
            tried.by_control = true;
            Ok(Outcome {
                lines: visible.lines(),
                ..Outcome::passed(visible.name)
            })
        }
        Some(bad) => Err(diverged(&bad)),
    }
}

/// Runs a control that is stopped at the same place as the restarted run. A control from a
/// different place is not a valid reference.
fn control_at(runner: &mut Runner<'_, '_>, place: &str) -> Result<RunOutput, Abort> {
    let mut others = BTreeSet::new();
    for _ in 0..TRIES {
        let (frozen, output) = runner.control()?;
        let at = reached::place(&frozen);
        if at == place {
            return Ok(output);
        }
        others.insert(at);
    }
    let others = Vec::from_iter(others).join("`, `");
    Err(Abort::missed(format!(
        "no control was stopped at `{place}`, but at `{others}`"
    )))
}

/// Checks that the control ended as the case expects. If freezing alone breaks the workload, a
/// restarted run that breaks in the same way has not passed.
fn good_control(case: &Case, control: &RunOutput) -> Result<(), Abort> {
    let expected = judge::expected(case, "control", control);
    match expected.into_iter().find(|check| !check.ok) {
        None => Ok(()),
        Some(bad) => {
            let why = format!("freezing alone breaks the run: {}", bad.name);
            Err(Abort::new(Condition::FreezeVisible, why).with(bad.lines()))
        }
    }
}

/// Returns the result for a tree that differs after the restart. If the run then hung or the
/// kernel reported a fault, that is the outcome. In every case the result has a flag for a guest
/// that is still usable.
fn another_tree(bad: &Check, end: Result<RunOutput, Abort>) -> Abort {
    let found = diverged(bad);
    let Err(mut stop) = end else {
        return found;
    };
    if matches!(stop.verdict(), Verdict::Panic | Verdict::Hang) {
        let tree = std::iter::once(found.why).chain(found.lines);
        stop.lines.splice(0..0, tree);
        return stop;
    }
    let mut lines = found.lines;
    lines.push(format!("and then: {}", stop.why));
    lines.extend(stop.lines);
    Abort {
        condition: found.condition,
        why: found.why,
        lines,
        ..stop
    }
}

/// Returns the ptrace stops in which tasks are.
fn stops(tasks: &Observation) -> BTreeSet<String> {
    let sites = tasks.tasks.iter();
    let stops = sites.filter_map(|task| task.site.strip_prefix("ptrace-stop ")?.split(' ').next());
    stops.map(str::to_owned).collect()
}

fn diverged(check: &Check) -> Abort {
    Abort::new(Condition::Diverged, check.name.clone()).with(check.lines())
}

fn runner<'s, 'l>(
    session: &'s mut Session<'l>,
    scenario: &'s Scenario,
    case: &'s Case,
    timings: &'s mut BTreeMap<String, u64>,
) -> Runner<'s, 'l> {
    Runner {
        session,
        stash: &scenario.name,
        case,
        backend: Backend::Crucible,
        timings,
        root: 0,
        patience: 0,
        missed: 0,
        any_point: true,
        supported: false,
        links: 1,
    }
}

/// Returns the outcome for an abort, with a reason that is the same for points that fail in the
/// same way.
fn alike(stop: Abort) -> Outcome {
    Outcome {
        why: cause(&stop),
        ..stop.into()
    }
}

/// Returns the cause in one line. For a refusal it is the kernel's last message without its
/// numbers, which differ between points.
fn cause(stop: &Abort) -> String {
    let message = match stop.condition {
        Condition::Refused | Condition::Unsupported => stop.lines.first().unwrap_or(&stop.why),
        _ => &stop.why,
    };
    let mut cause = String::new();
    let mut digits = false;
    for c in message.chars() {
        if !c.is_ascii_digit() {
            cause.push(c);
        } else if !digits {
            cause.push('N');
        }
        digits = c.is_ascii_digit();
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_protocol::Ended;

    #[test]
    fn points_that_fail_in_the_same_way_have_the_same_cause() {
        let refused = |pid: u32| {
            Abort::new(Condition::Refused, "checkpoint refused: exit status 125").with(vec![
                format!("pid {pid}: maps: a file on proc (-EOPNOTSUPP)"),
            ])
        };
        assert_eq!(cause(&refused(7)), cause(&refused(113)));
        assert!(cause(&refused(7)).contains("pid N: maps"));
    }

    #[test]
    fn a_different_tree_does_not_hide_an_unusable_guest() {
        let bad = Check::bad("restarted = checkpoint: process tree", "- a\n+ b");
        let end = |condition| {
            let mut stop = Abort::new(condition, "it ended").with(vec!["last words".into()]);
            stop.guest_usable = false;
            Err(stop)
        };
        for (condition, is) in [
            (Condition::GuestPanic, Condition::GuestPanic),
            (Condition::Hang, Condition::Hang),
            (Condition::Missed, Condition::Diverged),
        ] {
            let stop = another_tree(&bad, end(condition));
            assert_eq!(stop.condition, is);
            assert!(!stop.guest_usable);
            let lines = stop.lines.join("\n");
            assert!(
                lines.contains("+ b") && lines.contains("last words"),
                "{lines}"
            );
        }
    }

    #[test]
    fn a_control_that_freezing_alone_breaks_is_rejected() {
        let case = Case::example();
        let mut control = RunOutput::example("");
        assert!(good_control(&case, &control).is_ok());
        control.workload = Some(Ended::Signaled { signal: 11 });
        let stop = good_control(&case, &control).unwrap_err();
        assert_eq!(stop.verdict(), Verdict::Unknown);
    }
}
