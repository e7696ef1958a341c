// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs one case, from its first undisturbed run to its record.

use std::{collections::BTreeMap, path::Path};

use crucible_protocol::Observation;

use super::{
    Options,
    judge::{expected, judge, nonce_kept},
};
use crate::{
    abort::{Abort, Phase},
    compare, expected,
    guest::GuestError,
    progress::Event,
    record::{CaseRecord, FrozenRecord},
    results::Store,
    run::{Frozen, Restarted, Runner},
    scenario::{Case, Scenario},
    session::Session,
    verdict::Verdict,
};

/// Maximal number of retries after a missed event if the guest has several CPUs. While a task is
/// being stopped at the event, tasks on other CPUs keep running until they are stopped too: a
/// vfork child may have called execve(2) by then. With one CPU a miss is deterministic.
const PATIENCE: u32 = 10;

/// Runs one case. Every failure is reported in the record.
pub fn case(
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    options: &Options,
    store: &Store,
    timings: &mut BTreeMap<String, u64>,
) -> CaseRecord {
    let mut case = case.clone();
    if let Some(at) = &options.at {
        // The tasks that the scenario expects apply to its own event only.
        case.at = at.clone();
        case.tasks.clear();
    }
    case.timeout = options.timeout.unwrap_or(case.timeout);
    session.tell(&Event::Case {
        name: case.name.clone(),
        at: case.at.to_string(),
    });
    let mut record = CaseRecord {
        name: case.name.clone(),
        at: case.at.to_string(),
        repeat: options.repeat.max(1),
        ..CaseRecord::default()
    };
    let mut runner = Runner {
        session,
        stash: &scenario.name,
        case: &case,
        backend: options.backend,
        timings,
        root: 0,
        patience: if options.vcpus > 1 { PATIENCE } else { 0 },
        missed: 0,
        any_point: false,
    };
    let stop = run(&mut runner, options, store, &mut record).err();
    record.missed = runner.missed;
    record.console = store.relative(&session.console());
    if let Some(stop) = stop {
        record.verdict = Some(stop.verdict);
        record.why = stop.why;
        record.lines = stop.lines;
        if !stop.guest_usable {
            session.abandon();
        }
    } else if let Some(bad) = record.checks.iter().find(|c| !c.ok) {
        record.verdict = Some(Verdict::Diverged);
        record.why = bad.name.clone();
    } else {
        record.verdict = Some(Verdict::Pass);
        record.why = format!(
            "{} of {} restarts like the control",
            record.passed, record.repeat
        );
    }
    session.tell(&Event::CaseDone {
        name: case.name.clone(),
        verdict: record.verdict.unwrap_or(Verdict::Unknown),
        why: record.why.clone(),
    });
    record
}

fn run(
    runner: &mut Runner<'_, '_>,
    options: &Options,
    store: &Store,
    record: &mut CaseRecord,
) -> Result<(), Abort> {
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
        return Err(Abort::unknown(why).with(bad.lines()));
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
        return Err(Abort::unknown(format!(
            "freezing alone changes the run: {name}"
        )));
    }
    record.frozen = Some(frozen_record(&control_point));
    record.rendered = Some(expected::rendered(runner.case, &control_point, &control));

    for number in 1..=record.repeat {
        let restarted = runner.restarted(options.restart_in)?;
        record.frozen = Some(frozen_record(&restarted.before));
        let last = number == record.repeat;
        let checks = judge(runner, &control_point, &control, &restarted, record);
        let good = checks.iter().all(|c| c.ok) && restarted.end.is_ok();
        if last || !good {
            record.checks.extend(checks);
            keep(runner, store, &restarted, record)?;
        }
        if !good {
            let earlier = format!("restart {number} of {}: ", record.repeat);
            return match restarted.end {
                Err(mut stop) => {
                    if record.repeat > 1 {
                        stop.why.insert_str(0, &earlier);
                    }
                    Err(stop)
                }
                Ok(_) => Ok(()),
            };
        }
        record.passed += 1;
    }
    Ok(())
}

/// Copies the image, the logs and the complete facts to the host.
fn keep(
    runner: &mut Runner<'_, '_>,
    store: &Store,
    restarted: &Restarted,
    record: &mut CaseRecord,
) -> Result<(), Abort> {
    let own = |e: std::io::Error| Abort::unknown(format!("cannot write the results: {e}"));
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
    if !usable {
        return Ok(());
    }
    for (name, path) in runner.backend.files() {
        match runner.session.running().read_file(&path) {
            Ok(content) => add(name, &content)?,
            // A step that was not reached has not created its file.
            Err(GuestError::Failed(_)) => {}
            Err(error) => return Err(Abort::guest(Phase::After, error)),
        }
    }
    Ok(())
}

fn frozen_record(frozen: &Frozen) -> FrozenRecord {
    FrozenRecord::new(frozen.freeze.tid, frozen.freeze.count, &frozen.tasks)
}
