// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs one case, from its first undisturbed run to its record.

use std::{collections::BTreeMap, path::Path};

use crucible_protocol::Observation;

use super::{
    Options,
    judge::{expected, judge, nonce_kept},
    losses,
};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    compare::{self, RunOutput},
    expected,
    guest::GuestError,
    normalise::Uses,
    outcome::Outcome,
    record::{CaseRecord, FrozenRecord},
    run::{Frozen, Restarted, Runner},
    scenario::{Case, Scenario},
    session::Session,
    sweep,
};

/// Maximum number of retries after a missed event if the guest has several CPUs. While a task is
/// being stopped at the event, tasks on other CPUs keep running until they are stopped too: a
/// vfork child may have called execve(2) by then.
const PATIENCE: u32 = 10;

/// Maximum number of retries with one CPU, with which a miss is nearly always deterministic: only
/// the order in which the scheduler runs a tracer and its tracees differs between runs.
const PATIENCE_ALONE: u32 = 3;

/// Runs one case. The session's guest, if there is one, must have built the scenario.
pub fn case(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    options: &Options,
) -> (Outcome, CaseRecord) {
    let mut case = case.clone();
    if let Some(at) = &options.at {
        // The scenario's expected tasks apply only to its own event.
        case.at = at.clone();
        case.tasks.clear();
    }
    case.timeout = options.timeout.unwrap_or(case.timeout);
    let mut record = CaseRecord {
        scenario: scenario.name.clone(),
        name: case.name.clone(),
        at: case.at.to_string(),
        repeat: options.repeat.max(1),
        ..CaseRecord::default()
    };
    let mut timings = BTreeMap::new();
    let mut references = References::default();
    let mut runner = Runner {
        session,
        stash: &scenario.name,
        case: &case,
        backend: options.backend,
        timings: &mut timings,
        root: 0,
        patience: patience(options),
        missed: 0,
        any_point: false,
        supported: options.at.is_none() && expected::exists(scenario),
        links: options.links(),
    };
    let result = run(&mut runner, options, &mut record, &mut references);
    record.missed = runner.missed;
    let store = session.setup().store;
    record.console = store.relative(&session.console());
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(stop) => {
            if !stop.guest_usable {
                session.abandon();
            }
            stop.into()
        }
    };
    let mut outcome = match (outcome.condition, &references.control) {
        (Condition::Diverged | Condition::Hang, Some(control)) => {
            confirm(session, scenario, &case, options, control, outcome)
        }
        _ => outcome,
    };
    record.timings = timings;
    match session.leave_another_kernel() {
        Ok(()) => {}
        Err(stop) if outcome.is_pass() => outcome = stop.into(),
        Err(stop) => outcome.lines.push(format!("at the end: {}", stop.why)),
    }
    (outcome, record)
}

fn patience(options: &Options) -> u32 {
    match options.vcpus {
        0 | 1 => PATIENCE_ALONE,
        _ => PATIENCE,
    }
}

/// The runs that a restarted run is compared with.
#[derive(Default)]
struct References {
    control: Option<RunOutput>,
}

/// Runs a second control, in a different guest, before a restarted run is called different or
/// hung: if it does not end like the first one, the workload is to blame, or the host was too
/// busy.
fn confirm(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    options: &Options,
    control: &RunOutput,
    found: Outcome,
) -> Outcome {
    // The restarted run may have damaged the guest. A kernel report about the damage is a worse
    // outcome than a difference.
    if let Err(stop) = session.close()
        && stop.condition.is_bad()
    {
        let worse = Outcome::from(stop);
        return Outcome {
            lines: [worse.lines, vec![found.why], found.lines].concat(),
            ..worse
        };
    }
    let mut second = || -> Result<RunOutput, Abort> {
        super::build(session, scenario)?;
        let mut timings = BTreeMap::new();
        let mut runner = Runner {
            session,
            stash: &scenario.name,
            case,
            backend: options.backend,
            timings: &mut timings,
            root: 0,
            patience: patience(options),
            missed: 0,
            any_point: false,
            supported: false,
            links: options.links(),
        };
        runner.control().map(|(_, output)| output)
    };
    let unstable = |condition, why: String, lines: Vec<String>| Outcome {
        lines: [
            lines,
            vec![format!("the restarted run: {}", found.why)],
            found.lines.clone(),
        ]
        .concat(),
        ..Outcome::new(condition, why)
    };
    match second() {
        Ok(second) => {
            let mut uses = Uses::new();
            let pair = "control 2 = control";
            let checks = compare::outputs(pair, &second, control, &case.normalise, &mut uses);
            match checks.into_iter().find(|check| !check.ok) {
                Some(bad) => unstable(
                    Condition::Unstable,
                    format!("two controls differ: {}", bad.name),
                    bad.lines(),
                ),
                None => found,
            }
        }
        Err(stop) => {
            if !stop.guest_usable {
                session.abandon();
            }
            match stop.condition {
                Condition::Hang | Condition::EarlyHang => unstable(
                    Condition::EarlyHang,
                    format!("a second control does not end either: {}", stop.why),
                    stop.lines,
                ),
                // Without a second control the verdict is unknown.
                _ if !stop.condition.is_bad() => stop.into(),
                _ => found,
            }
        }
    }
}

fn run(
    runner: &mut Runner<'_, '_>,
    options: &Options,
    record: &mut CaseRecord,
    references: &mut References,
) -> Result<Outcome, Abort> {
    let uses = &mut record.normalised;
    let first = runner.undisturbed(1)?;
    let second = runner.undisturbed(2)?;
    let mut baseline = compare::outputs(
        "undisturbed 2 = undisturbed 1",
        &second,
        &first,
        &runner.case.normalise,
        uses,
    );
    baseline.extend(expected(runner.case, "undisturbed 1", &first));
    if let Some(bad) = baseline.iter().find(|c| !c.ok) {
        let why = format!("undisturbed runs of the workload differ: {}", bad.name);
        return Err(Abort::new(Condition::Unstable, why).with(bad.lines()));
    }
    record.checks.extend(baseline);

    let (control_point, control) = runner.control()?;
    let undisturbed = "control = undisturbed 1";
    let mut checks = compare::outputs(
        undisturbed,
        &control,
        &first,
        &runner.case.normalise,
        &mut record.normalised,
    );
    checks.extend(nonce_kept(runner.case, "control", &control));
    let visible = checks.iter().find(|c| !c.ok).map(|c| c.name.clone());
    record.checks.extend(checks);
    if let Some(name) = visible {
        // Not a failure of checkpoint or restart: freezing alone causes the difference, and no
        // rule of the scenario ignores it.
        return Err(Abort::new(
            Condition::FreezeVisible,
            format!("freezing alone changes the run: {name}"),
        ));
    }
    record.frozen = Some(frozen_record(&control_point));
    record.rendered = Some(expected::rendered(runner.case, &control_point, &control));

    references.control = Some(control.clone());
    let mut before = None;
    let mut links = 0;
    for number in 1..=record.repeat {
        let restarted = runner.restarted(options.restart_in)?;
        links += 1 + restarted.later.len();
        record.frozen = Some(frozen_record(&restarted.before));
        let later = restarted.later.iter().map(|link| &link.seen.second);
        for second in later.chain([&restarted.second]).flatten() {
            if let Ok(comparison) = &second.found {
                sweep::add(&mut record.image_rules, &comparison.rules);
            }
        }
        let last = number == record.repeat;
        let checks = judge(
            runner.case,
            runner.backend,
            &control_point,
            &control,
            &restarted,
            &mut record.normalised,
        );
        let good = checks.iter().all(|c| c.ok) && restarted.end.is_ok();
        if last || !good {
            record.checks.extend(checks);
            keep(runner, &restarted, record)?;
        }
        if !good {
            let earlier = format!("restart {number} of {}: ", record.repeat);
            let bad = record.checks.iter().find(|check| !check.ok);
            return match (restarted.end, bad) {
                (Err(mut stop), _) => {
                    if record.repeat > 1 {
                        stop.why.insert_str(0, &earlier);
                    }
                    Err(stop)
                }
                (Ok(_), Some(bad)) => Ok(Outcome::new(Condition::Diverged, bad.name.clone())),
                (Ok(_), None) => Err(Abort::failed("a comparison failed without a difference")),
            };
        }
        record.passed += 1;
        // The kernel keeps some objects of the first restart for later ones.
        if number == 1 && losses::applies(options) {
            before = Some(losses::read(runner)?);
        }
    }
    if let Some(before) = before {
        losses::check(runner, options, &before, record.repeat - 1)?;
    }
    let links = match options.links() {
        1 => String::new(),
        _ => format!(", {links} links in all"),
    };
    Ok(Outcome::passed(format!(
        "{} of {} restarts like the control{links}",
        record.passed, record.repeat
    )))
}

/// Copies the image, the logs and the complete facts to the host.
fn keep(
    runner: &mut Runner<'_, '_>,
    restarted: &Restarted,
    record: &mut CaseRecord,
) -> Result<(), Abort> {
    let store = runner.session.setup().store;
    let own = |e: std::io::Error| Abort::io("cannot write the results", &e);
    let dir = Path::new("cases").join(runner.stash).join(&record.name);
    let mut add = |name: &str, content: &[u8]| -> Result<(), Abort> {
        let path = dir.join(name);
        store.write(&path, content).map_err(own)?;
        record.files.push(path.to_string_lossy().into_owned());
        Ok(())
    };
    let json = |o: &Observation| serde_json::to_vec_pretty(o).unwrap_or_default();
    add("before.json", &json(&restarted.before.tasks))?;
    if let Some(after) = &restarted.after {
        add("after.json", &json(after))?;
    }
    let usable = restarted
        .end
        .as_ref()
        .map_or_else(|stop| stop.guest_usable, |_| true);
    if !runner.session.is_running() {
        return Ok(());
    }
    if !usable {
        // A hung workload does not stop the agent, and its image is worth having.
        runner.session.running().hurry();
    }
    for (name, path) in runner.backend.files() {
        match runner.session.running().read_file(&path) {
            Ok(content) => add(name, &content)?,
            // A step that was not reached has not created its file.
            Err(GuestError::Failed(_)) => {}
            Err(_) if !usable => return Ok(()),
            Err(error) => return Err(Abort::guest(Phase::After, error)),
        }
    }
    Ok(())
}

fn frozen_record(frozen: &Frozen) -> FrozenRecord {
    FrozenRecord::new(frozen.freeze.tid, frozen.freeze.count, &frozen.tasks)
}

#[cfg(test)]
mod tests;
