// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A scenario from its sources to its record.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use crucible_protocol::{Ended, FileKind, Observation, WORK_DIR};

use crate::{
    compare::{self, Check, Outcome},
    engine::Engine,
    event::EventSpec,
    guest::GuestError,
    normalise,
    progress::Event,
    record::{CaseRecord, FrozenRecord, SCHEMA, ScenarioRecord, Versions},
    results::Store,
    run::{Frozen, RestartIn, Restarted, Runner},
    scenario::{Case, Scenario},
    session::Session,
    snapshot,
    stop::{Phase, Stop},
    verdict::Verdict,
};

/// Limit of each command that builds a workload.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// How scenarios are to be run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Restarted runs of each case.
    pub repeat: u32,
    /// Another event than the scenario's.
    pub at: Option<EventSpec>,
    /// Where to restart.
    pub restart_in: RestartIn,
    /// Another limit than the scenario's, in seconds.
    pub timeout: Option<u64>,
    /// Who saves and restores.
    pub engine: Engine,
}

/// Builds a scenario's workload in the guest and keeps it, so that each run starts from
/// the same files.
pub fn build(session: &mut Session<'_>, scenario: &Scenario) -> Result<(), Stop> {
    let sources = scenario
        .sources()
        .map_err(|e| Stop::unknown(format!("cannot read the scenario's sources: {e}")))?;
    let limit = BUILD_LIMIT * session.slowness();
    let before = |e| Stop::guest(Phase::Before, e);
    let guest = session.guest().map_err(|e| Stop::session(&e))?.0;
    guest.prepare(None).map_err(before)?;
    for source in &sources {
        let path = format!("{WORK_DIR}/{}", source.path);
        guest
            .write_file(&path, source.mode, &source.content)
            .map_err(before)?;
    }
    for command in &scenario.build {
        session.tell(&Event::Building {
            command: command.clone(),
        });
        let argv = ["/bin/sh", "-ec", command].map(String::from);
        let run = session
            .running()
            .exec(&argv, &BTreeMap::new(), WORK_DIR, limit)
            .map_err(before)?;
        if !run.success() {
            let lines = format!("{}{}", run.stdout, run.stderr);
            let lines = lines.lines().map(str::to_owned).collect();
            return Err(
                Stop::unknown(format!("the workload does not build: {command}")).with(lines),
            );
        }
    }
    session.running().stash(&scenario.name).map_err(before)
}

/// Runs one case. Whatever happens becomes its record.
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
        // The tasks that the scenario expects belong to its own event.
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
        engine: options.engine,
        timings,
        root: 0,
    };
    let stop = run(&mut runner, options, store, &mut record).err();
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
            "{} of {} restarts as the control",
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
) -> Result<(), Stop> {
    let uses = &mut record.normalised;
    let first = runner.undisturbed(1)?;
    let second = runner.undisturbed(2)?;
    let mut baseline = compare::outcomes("undisturbed 2 = undisturbed 1", &second, &first, uses);
    baseline.extend(expected(runner.case, "undisturbed 1", &first));
    if let Some(bad) = baseline.iter().find(|c| !c.ok) {
        let why = format!("the workload is not stable by itself: {}", bad.name);
        let lines = bad
            .difference
            .iter()
            .flat_map(|d| d.lines())
            .map(str::to_owned);
        return Err(Stop::unknown(why).with(lines.collect()));
    }
    record.checks.extend(baseline);

    let (control_point, control) = runner.control()?;
    let undisturbed = "control = undisturbed 1";
    let mut checks = compare::outcomes(undisturbed, &control, &first, &mut record.normalised);
    checks.extend(nonce_kept(runner.case, "control", &control));
    let visible = checks.iter().find(|c| !c.ok).map(|c| c.name.clone());
    record.checks.extend(checks);
    if let Some(name) = visible {
        // Not a matter of checkpoint/restart: freezing alone does it, by a rule not named.
        return Err(Stop::unknown(format!(
            "freezing alone changes the run: {name}"
        )));
    }
    record.frozen = Some(frozen_record(&control_point));
    record.snapshot = Some(rendered(runner.case, &control_point, &control));

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

/// The restarted run against the control, and against itself before the checkpoint.
fn judge(
    runner: &Runner<'_, '_>,
    control_point: &Frozen,
    control: &Outcome,
    restarted: &Restarted,
    record: &mut CaseRecord,
) -> Vec<Check> {
    let case = runner.case;
    let uses = &mut record.normalised;
    let mut checks = Vec::new();
    if !case.any_task {
        checks.push(same_point(control_point, &restarted.before));
    }
    if let Some(after) = &restarted.after {
        let (mut before, mut after) = (restarted.before.tasks.clone(), after.clone());
        for observation in [&mut before, &mut after] {
            normalise::observation(observation, uses);
            if runner.engine == Engine::Criu {
                normalise::criu(observation, uses);
            }
        }
        checks.push(vfork_waits(&before, &after));
        checks.extend(compare::observations(
            "restarted = checkpoint",
            &after,
            &before,
        ));
    }
    if let Ok(outcome) = &restarted.end {
        checks.extend(compare::outcomes(
            "restarted = control",
            outcome,
            control,
            uses,
        ));
        checks.extend(nonce_kept(case, "restarted", outcome));
    }
    checks
}

/// Both runs were stopped by the same task at the same site.
fn same_point(control: &Frozen, restarted: &Frozen) -> Check {
    const NAME: &str = "restarted = control: triggering task";
    let show = |frozen: &Frozen| {
        let task = frozen
            .tasks
            .tasks
            .iter()
            .find(|t| t.tid == frozen.freeze.tid);
        task.map_or("a timer".to_owned(), |t| {
            format!("{} ({}) at {}", t.comm, t.tid, t.site)
        })
    };
    match compare::difference(&show(control), &show(restarted)) {
        None => Check::good(NAME),
        Some(difference) => Check::bad(NAME, difference),
    }
}

/// Whoever waited for a vfork child before the checkpoint does so after the restart.
fn vfork_waits(before: &Observation, after: &Observation) -> Check {
    const NAME: &str = "restarted = checkpoint: vfork waits";
    let lost = before
        .tasks
        .iter()
        .filter(|task| task.site.starts_with("vfork"))
        .find_map(|task| {
            let now = after.tasks.iter().find(|t| t.tid == task.tid);
            let site = now.map_or("gone", |t| t.site.as_str());
            (site != task.site).then(|| {
                format!(
                    "{} ({}) waited for its vfork child (`{}`); after the restart it is at `{site}`: \
                     its wait was lost",
                    task.comm, task.tid, task.site
                )
            })
        });
    match lost {
        None => Check::good(NAME),
        Some(lost) => Check::bad(NAME, lost),
    }
}

fn expected(case: &Case, run: &str, outcome: &Outcome) -> Vec<Check> {
    let name = format!("{run}: ends with status {}", case.status);
    let wanted = Ended::Exited { code: case.status };
    let mut checks = vec![match outcome.workload {
        Some(ended) if ended == wanted => Check::good(name),
        Some(ended) => Check::bad(
            name,
            format!("{ended}; standard error:\n{}", outcome.stderr),
        ),
        None => Check::bad(name, "how it ended is unknown"),
    }];
    checks.extend(nonce_kept(case, run, outcome));
    checks
}

/// The nonce drawn before the checkpoint is the one printed at the end: the run that ended
/// is the one that was begun.
fn nonce_kept(case: &Case, run: &str, outcome: &Outcome) -> Option<Check> {
    case.nonce.as_ref()?;
    let name = format!("{run}: prints the nonce that it drew");
    Some(match &outcome.nonce {
        Some(nonce) if outcome.stdout.contains(nonce.as_str()) => Check::good(name),
        Some(nonce) => Check::bad(name, format!("{nonce} was drawn and is not in the output")),
        None => Check::bad(name, "it drew none"),
    })
}

fn frozen_record(frozen: &Frozen) -> FrozenRecord {
    FrozenRecord::new(frozen.freeze.tid, frozen.freeze.count, &frozen.tasks)
}

/// What people review: where it was stopped and what came out, without what a
/// package update changes.
fn rendered(case: &Case, point: &Frozen, outcome: &Outcome) -> String {
    let mut lines = vec![format!("case: {}", case.name), format!("at: {}", case.at)];
    let task = point.tasks.tasks.iter().find(|t| t.tid == point.freeze.tid);
    if let Some(task) = task.filter(|_| !case.any_task) {
        let site = task.site.split(' ').next().unwrap_or("");
        lines.push(format!("stopped: {} at {site}", task.comm));
    }
    let end = outcome.workload.map_or("unknown".into(), |e| e.to_string());
    lines.push(format!("end: {end}"));
    let mut uses = normalise::Uses::new();
    for (name, content) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        let nonce = outcome.nonce.as_deref().unwrap_or("");
        let content = normalise::nonce(content, nonce, &mut uses);
        lines.push(format!("{name}:"));
        lines.extend(content.lines().map(|line| format!("  {line}")));
    }
    lines.push("files:".into());
    for file in &outcome.files {
        let kind = match &file.kind {
            FileKind::File { .. } => "file",
            FileKind::Dir => "directory",
            FileKind::Symlink { .. } => "link",
            _ => "special",
        };
        lines.push(format!("  {} {:04o} {kind}", file.path, file.mode));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Brings the image, the logs and the full facts to the host.
fn keep(
    runner: &mut Runner<'_, '_>,
    store: &Store,
    restarted: &Restarted,
    record: &mut CaseRecord,
) -> Result<(), Stop> {
    let own = |e: std::io::Error| Stop::unknown(format!("cannot write the results: {e}"));
    let dir = Path::new("cases").join(runner.stash).join(&record.name);
    let mut add = |name: &str, content: &[u8]| -> Result<(), Stop> {
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
    for (name, path) in runner.engine.files() {
        match runner.session.running().read_file(&path) {
            Ok(content) => add(name, &content)?,
            // A step that was not reached has left no file.
            Err(GuestError::Failed(_)) => {}
            Err(error) => return Err(Stop::guest(Phase::After, error)),
        }
    }
    Ok(())
}

/// Runs a whole scenario: builds it, runs its cases, looks at its snapshot.
pub fn scenario(
    session: &mut Session<'_>,
    scenario: &Scenario,
    options: &Options,
    store: &Store,
    reproduce: String,
    versions: Versions,
) -> ScenarioRecord {
    session.tell(&Event::Scenario {
        name: scenario.name.clone(),
        summary: scenario.summary.clone(),
    });
    let mut timings = BTreeMap::new();
    let (mut cases, mut criu) = (Vec::new(), None);
    for case in &scenario.cases {
        // A guest that had to be given up took the built workload with it.
        let begun = Instant::now();
        let built = if cases.is_empty() || !session.is_running() {
            build(session, scenario)
        } else {
            Ok(())
        };
        *timings.entry("build_ms".to_owned()).or_default() += begun.elapsed().as_millis() as u64;
        // Asked for now: after a hang there is nobody to ask.
        if built.is_ok() && criu.is_none() {
            let version = options.engine.version(session.running());
            criu = version.unwrap_or_default();
        }
        cases.push(match built {
            Ok(()) => self::case(session, scenario, case, options, store, &mut timings),
            Err(stop) => not_run(session, case, stop),
        });
    }
    let booted = session.booted();
    if let Some(booted) = booted {
        timings.insert("machine_ready_ms".into(), booted.ready_ms);
    }
    let mut record = ScenarioRecord {
        schema: SCHEMA,
        scenario: scenario.name.clone(),
        verdict: Verdict::of_all(cases.iter().map(|c| c.verdict.unwrap_or(Verdict::Unknown))),
        exit_code: 0,
        why: String::new(),
        reproduce,
        engine: options.engine,
        restart_in: options.restart_in,
        versions: Versions {
            guest: booted.map(|b| b.guest.clone()),
            machine: booted.map(|b| b.machine.clone()),
            criu,
            ..versions
        },
        timings,
        results: String::new(),
        snapshot: None,
        cases,
    };
    // Another event or another engine has no reviewed result.
    if options.at.is_none() && options.engine == Engine::Crucible {
        look_at_snapshot(scenario, &mut record);
    }
    record.exit_code = record.verdict.exit_code();
    record.why = why(&record);
    session.tell(&Event::ScenarioDone {
        name: scenario.name.clone(),
        verdict: record.verdict,
        why: record.why.clone(),
    });
    record
}

fn not_run(session: &mut Session<'_>, case: &Case, stop: Stop) -> CaseRecord {
    if !stop.guest_usable {
        session.abandon();
    }
    CaseRecord {
        name: case.name.clone(),
        at: case.at.to_string(),
        verdict: Some(stop.verdict),
        why: stop.why,
        lines: stop.lines,
        ..CaseRecord::default()
    }
}

/// Only a run that passed has a result to review.
fn look_at_snapshot(scenario: &Scenario, record: &mut ScenarioRecord) {
    if record.verdict != Verdict::Pass {
        return;
    }
    let parts: Vec<_> = record
        .cases
        .iter()
        .filter_map(|c| c.snapshot.as_deref())
        .collect();
    let check = snapshot::check(scenario, &parts.join("\n"));
    if !check.ok {
        record.verdict = Verdict::Diverged;
    }
    record.snapshot = Some(check);
}

fn why(record: &ScenarioRecord) -> String {
    let bad = record
        .cases
        .iter()
        .find(|c| c.verdict == Some(record.verdict));
    match (record.verdict, bad, &record.snapshot) {
        (Verdict::Pass, ..) => format!("{} cases passed", record.cases.len()),
        (_, Some(case), _) => format!("{}: {}", case.name, case.why),
        (_, None, Some(check)) if !check.ok => check.name.clone(),
        _ => "nothing was run".into(),
    }
}
