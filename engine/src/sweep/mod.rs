// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A sweep: one case, checkpointed at every event of a kind, one at a time.
//!
//! The points come from a run that is only listened to. Each is then tried by itself: a run
//! is stopped there, checkpointed, killed, restarted, and must end as an undisturbed run
//! does. Where it does not, freezing alone may be what makes the difference: so a control is
//! run at that point, and its end is what is wanted then.

mod chain;
mod met;
mod points;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use crucible_protocol::{EventKind, Observation, RUN_DIR, Trigger};
use serde::{Deserialize, Serialize};

pub use self::chain::{Chain, chain};
pub use self::points::{Listing, Point, stratified};
use crate::{
    compare::{self, Check, Outcome},
    engine::Engine,
    normalise::Uses,
    run::{RestartIn, Restarted, Runner},
    scenario::{Case, Scenario},
    session::Session,
    stop::{Phase, Stop},
    trial::{self, judge},
    verdict::Verdict,
};

/// How often a point that is not reached is tried.
const TRIES: u32 = 3;

/// What a point came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// The restarted run ended as an undisturbed one does, or as the control does.
    Passed,
    /// It did not.
    Diverged,
    /// `checkpoint` or `restart` said no.
    Refused,
    /// It did not end in time.
    Hung,
    /// The guest's kernel reported a fault.
    Panicked,
    /// The run came to its end without the event: it is not the same from run to run.
    NotReached,
    /// Something else went wrong, and nothing can be said.
    Unknown,
}

impl Came {
    /// Its name on the screen.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Diverged => "diverged",
            Self::Refused => "refused",
            Self::Hung => "hung",
            Self::Panicked => "panicked",
            Self::NotReached => "not reached",
            Self::Unknown => "unknown",
        }
    }

    /// Whether checkpoint/restart is to blame.
    pub fn is_bad(self) -> bool {
        matches!(
            self,
            Self::Diverged | Self::Refused | Self::Hung | Self::Panicked
        )
    }
}

/// One point, tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Tried {
    /// Which.
    #[serde(flatten)]
    pub point: Point,
    /// What it was stopped at, where that is another event than the one that was listed: all
    /// that is said of the point is said of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub met: Option<String>,
    /// What it came to.
    pub came: Came,
    /// Why, in one line that is the same for points that fail alike. Of one that passed by a
    /// control: what freezing alone had changed.
    pub cause: String,
    /// More about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<String>,
    /// Ptrace stops that any task stood in when it was checkpointed.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub stops: BTreeSet<String>,
    /// How often it was not reached before.
    pub missed: u32,
    /// Whether it was a control that it ended like, freezing alone being visible.
    pub by_control: bool,
    /// How long it took, in milliseconds.
    pub ms: u64,
}

impl Tried {
    /// What it was stopped at, so far as is known.
    pub fn what(&self) -> &str {
        self.met.as_ref().unwrap_or(&self.point.what)
    }

    /// What kind of event that was.
    pub fn kind(&self) -> &str {
        points::kind(self.what())
    }
}

/// What a sweep measures against.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The end of an undisturbed run.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// Its points.
    pub listing: Listing,
}

/// Builds a case's workload, runs it once undisturbed and once listened to.
///
/// # Errors
/// Where the two differ, or one of them fails, or the list makes no sense: then nothing can be
/// said of any point.
pub fn baseline(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
) -> Result<Baseline, Stop> {
    trial::build(session, scenario)?;
    let mut timings = BTreeMap::new();
    let mut runner = runner(session, scenario, case, &mut timings);
    let begun = Instant::now();
    let first = runner.undisturbed(1)?;
    let ms = begun.elapsed().as_millis() as u64;
    let listed = runner.listed(&Trigger::List { kind })?;
    let checks = compare::outcomes(
        "listed = undisturbed",
        &listed,
        &first,
        &case.normalise,
        &mut Uses::new(),
    );
    let checks = [judge::expected(case, "undisturbed", &first), checks].concat();
    if let Some(bad) = checks.iter().find(|check| !check.ok) {
        let why = format!("the workload is not stable by itself: {}", bad.name);
        return Err(Stop::unknown(why).with(bad.lines()));
    }
    let text = session
        .running()
        .read_file(&format!("{RUN_DIR}/events"))
        .map_err(|e| Stop::guest(Phase::Before, e))?;
    Ok(Baseline {
        outcome: first,
        ms,
        listing: points::listing(&String::from_utf8_lossy(&text)).map_err(Stop::unknown)?,
    })
}

/// Tries one point. The workload is built anew where the guest is.
pub fn attempt(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    baseline: &Outcome,
    point: &Point,
) -> Tried {
    let begun = Instant::now();
    let mut tried = Tried {
        point: point.clone(),
        met: None,
        came: Came::Unknown,
        cause: String::new(),
        lines: Vec::new(),
        stops: BTreeSet::new(),
        missed: 0,
        by_control: false,
        ms: 0,
    };
    let mut case = case.clone();
    case.at = point.spec(kind);
    case.tasks.clear();
    loop {
        let result = attempt_once(session, scenario, &case, kind, baseline, &mut tried);
        if let Err(stop) = result {
            tried.came = came(&stop);
            tried.cause = cause(&stop);
            tried.lines = stop.lines;
            if !stop.guest_usable {
                session.abandon();
            }
        }
        if tried.came != Came::NotReached || tried.missed + 1 >= TRIES {
            break;
        }
        tried.missed += 1;
    }
    tried.ms = begun.elapsed().as_millis() as u64;
    tried
}

fn attempt_once(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    kind: EventKind,
    baseline: &Outcome,
    tried: &mut Tried,
) -> Result<(), Stop> {
    // Of an earlier try.
    tried.met = None;
    tried.stops.clear();
    if !session.is_running() {
        trial::build(session, scenario)?;
    }
    let mut timings = BTreeMap::new();
    let mut runner = runner(session, scenario, case, &mut timings);
    let mut uses = Uses::new();
    let restarted = runner.restarted(RestartIn::Same)?;
    let place = met::place(&restarted.before);
    tried.met = met::other(kind, &tried.point.what, &place);
    tried.stops = stops(&restarted.before.tasks);
    let around = judge::around(&runner, &restarted, &mut uses);
    let Restarted { end, .. } = restarted;
    if let Some(bad) = around.into_iter().find(|check| !check.ok) {
        return Err(another_tree(&bad, end));
    }
    let outcome = end?;
    let mut against = |pair: &str, reference: &Outcome| {
        let checks = judge::end(case, pair, &outcome, reference, &mut uses);
        checks.into_iter().find(|check| !check.ok)
    };
    let Some(visible) = against("restarted = undisturbed", baseline) else {
        tried.came = Came::Passed;
        return Ok(());
    };
    let control = control_at(&mut runner, &place)?;
    good_control(case, &control)?;
    match against("restarted = control", &control) {
        None => {
            tried.came = Came::Passed;
            tried.by_control = true;
            tried.lines = visible.lines();
            tried.cause = visible.name;
        }
        Some(bad) => return Err(diverged(&bad)),
    }
    Ok(())
}

/// A control that was stopped where the restarted run was: another's end says nothing.
fn control_at(runner: &mut Runner<'_, '_>, place: &str) -> Result<Outcome, Stop> {
    let mut others = BTreeSet::new();
    for _ in 0..TRIES {
        let (frozen, outcome) = runner.control()?;
        let at = met::place(&frozen);
        if at == place {
            return Ok(outcome);
        }
        others.insert(at);
    }
    let others = Vec::from_iter(others).join("`, `");
    Err(Stop::unknown(format!(
        "no control was stopped at `{place}`, but at `{others}`"
    )))
}

/// Where freezing alone breaks the workload, one that is broken alike has not passed.
fn good_control(case: &Case, control: &Outcome) -> Result<(), Stop> {
    let expected = judge::expected(case, "control", control);
    match expected.into_iter().find(|check| !check.ok) {
        None => Ok(()),
        Some(bad) => {
            let why = format!("freezing alone breaks the run: {}", bad.name);
            Err(Stop::unknown(why).with(bad.lines()))
        }
    }
}

/// A tree that is not after the restart what it was. Where the run then hung, or the kernel
/// reported a fault, that is what it came to; and whatever it came to, a guest that is lost
/// is lost.
fn another_tree(bad: &Check, end: Result<Outcome, Stop>) -> Stop {
    let found = diverged(bad);
    let Err(mut stop) = end else {
        return found;
    };
    if matches!(stop.verdict, Verdict::Panic | Verdict::Hang) {
        let tree = std::iter::once(found.why).chain(found.lines);
        stop.lines.splice(0..0, tree);
        return stop;
    }
    let mut lines = found.lines;
    lines.push(format!("and then: {}", stop.why));
    lines.extend(stop.lines);
    Stop {
        verdict: found.verdict,
        why: found.why,
        lines,
        ..stop
    }
}

/// The ptrace stops that tasks are in.
fn stops(tasks: &Observation) -> BTreeSet<String> {
    let sites = tasks.tasks.iter();
    let stops = sites.filter_map(|task| task.site.strip_prefix("ptrace-stop ")?.split(' ').next());
    stops.map(str::to_owned).collect()
}

fn diverged(check: &Check) -> Stop {
    Stop {
        verdict: Verdict::Diverged,
        ..Stop::unknown(check.name.clone()).with(check.lines())
    }
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
        engine: Engine::Crucible,
        timings,
        root: 0,
        patience: 0,
        missed: 0,
        any_point: true,
    }
}

fn came(stop: &Stop) -> Came {
    match stop.verdict {
        Verdict::Diverged => Came::Diverged,
        Verdict::Refused => Came::Refused,
        Verdict::Hang => Came::Hung,
        Verdict::Panic => Came::Panicked,
        _ if stop.missed => Came::NotReached,
        _ => Came::Unknown,
    }
}

/// Of a refusal what the kernel said last, without numbers: they are another point's.
fn cause(stop: &Stop) -> String {
    let told = match stop.verdict {
        Verdict::Refused => stop.lines.first().unwrap_or(&stop.why),
        _ => &stop.why,
    };
    let mut cause = String::new();
    let mut digits = false;
    for c in told.chars() {
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
    use crate::event::EventSpec;
    use crucible_protocol::Ended;

    #[test]
    fn points_that_fail_alike_have_one_cause() {
        let refused = |pid: u32| {
            let mut stop = Stop::unknown("checkpoint refused: exit status 125");
            stop.verdict = Verdict::Refused;
            stop.with(vec![format!(
                "pid {pid}: maps: a file on proc (-EOPNOTSUPP)"
            )])
        };
        assert_eq!(cause(&refused(7)), cause(&refused(113)));
        assert!(cause(&refused(7)).contains("pid N: maps"));
        assert_eq!(came(&refused(7)), Came::Refused);
    }

    #[test]
    fn a_tree_that_is_another_hides_no_dead_guest() {
        let bad = Check::bad("restarted = checkpoint: process tree", "- a\n+ b");
        let end = |verdict| {
            let mut stop = Stop::unknown("it ended").with(vec!["last words".into()]);
            stop.verdict = verdict;
            stop.guest_usable = false;
            Err(stop)
        };
        for (verdict, is) in [
            (Verdict::Panic, Came::Panicked),
            (Verdict::Hang, Came::Hung),
            (Verdict::Unknown, Came::Diverged),
        ] {
            let stop = another_tree(&bad, end(verdict));
            assert_eq!(came(&stop), is);
            assert!(!stop.guest_usable);
            let lines = stop.lines.join("\n");
            assert!(
                lines.contains("+ b") && lines.contains("last words"),
                "{lines}"
            );
        }
    }

    #[test]
    fn a_run_that_freezing_alone_breaks_has_nothing_to_be_compared_with() {
        let case = Case {
            name: "main".into(),
            argv: Vec::new(),
            env: BTreeMap::new(),
            cwd: "/work".into(),
            at: EventSpec::next(EventKind::All),
            timeout: 1,
            status: 0,
            nonce: None,
            normalise: Vec::new(),
            logs: Vec::new(),
            tasks: Vec::new(),
            any_task: false,
        };
        let mut control = Outcome {
            root: Some(Ended::Exited { code: 0 }),
            workload: Some(Ended::Exited { code: 0 }),
            stdout: String::new(),
            stderr: String::new(),
            files: Vec::new(),
            logs: Vec::new(),
            nonce: None,
        };
        assert!(good_control(&case, &control).is_ok());
        control.workload = Some(Ended::Signaled { signal: 11 });
        let stop = good_control(&case, &control).unwrap_err();
        assert_eq!(came(&stop), Came::Unknown);
    }

    #[test]
    fn only_what_the_run_never_came_to_is_not_reached() {
        let mut stop = Stop::unknown("the event never came");
        assert_eq!(came(&stop), Came::Unknown);
        stop.missed = true;
        assert_eq!(came(&stop), Came::NotReached);
    }
}
