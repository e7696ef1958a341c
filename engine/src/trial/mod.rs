// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a scenario, from its sources to its record.

mod case;
pub(crate) mod judge;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crucible_protocol::WORK_DIR;

pub use self::case::case;
use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    event::EventSpec,
    expected::{self, Comparison},
    progress::Event,
    record::{CaseRecord, SCHEMA, ScenarioRecord, Versions},
    results::Store,
    run::RestartIn,
    scenario::{Case, Scenario},
    session::Session,
    verdict::Verdict,
};

/// Time limit for each command that builds a workload.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// Options for running scenarios.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of restarted runs of each case.
    pub repeat: u32,
    /// Overrides the scenario's event.
    pub at: Option<EventSpec>,
    /// The place to restart in.
    pub restart_in: RestartIn,
    /// Overrides the scenario's time limit, in seconds.
    pub timeout: Option<u64>,
    /// The backend for checkpoint and restart.
    pub backend: Backend,
    /// Number of CPUs of each guest.
    pub vcpus: u8,
    /// If all cases pass, stores the result as the scenario's expected result.
    pub accept: bool,
}

/// Builds a scenario's workload in the guest and keeps the built tree, so that each run starts
/// from the same files.
pub fn build(session: &mut Session<'_>, scenario: &Scenario) -> Result<(), Abort> {
    let sources = scenario
        .sources()
        .map_err(|e| Abort::unknown(format!("cannot read the scenario's sources: {e}")))?;
    let limit = BUILD_LIMIT * session.slowness();
    let before = |e| Abort::guest(Phase::Before, e);
    let guest = session.guest().map_err(|e| Abort::session(&e))?.0;
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
                Abort::unknown(format!("the workload's build failed: {command}")).with(lines),
            );
        }
    }
    session.running().stash(&scenario.name).map_err(before)
}

/// Runs a whole scenario: builds it, runs its cases, and compares with the expected result.
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
        // An abandoned guest took the built workload with it.
        let begun = Instant::now();
        let built = if cases.is_empty() || !session.is_running() {
            build(session, scenario)
        } else {
            Ok(())
        };
        *timings.entry("build_ms".to_owned()).or_default() += begun.elapsed().as_millis() as u64;
        // Ask now, because a hang may leave no guest to ask.
        if built.is_ok() && criu.is_none() {
            let version = options.backend.version(session.running());
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
        backend: options.backend,
        restart_in: options.restart_in,
        versions: Versions {
            guest: booted.map(|b| b.guest.clone()),
            machine: booted.map(|b| b.machine.clone()),
            criu,
            ..versions
        },
        timings,
        results: String::new(),
        expected: None,
        cases,
    };
    // The expected result applies only to the scenario's own event and the crucible backend.
    if options.at.is_none() && options.backend == Backend::Crucible {
        compare_with_expected(scenario, options.accept, &mut record);
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

fn not_run(session: &mut Session<'_>, case: &Case, stop: Abort) -> CaseRecord {
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

/// Compares the result of a scenario whose cases have all passed with the expected result, or
/// stores it as the expected result.
fn compare_with_expected(scenario: &Scenario, accept: bool, record: &mut ScenarioRecord) {
    if record.verdict != Verdict::Pass {
        return;
    }
    let parts: Vec<_> = record
        .cases
        .iter()
        .filter_map(|c| c.rendered.as_deref())
        .collect();
    let result = parts.join("\n");
    let comparison = if accept {
        expected::accept(scenario, &result).map(|()| Comparison::Same)
    } else {
        expected::compare(scenario, &result)
    };
    let check = match comparison {
        Ok(comparison) => {
            record.verdict = match comparison {
                Comparison::Same => Verdict::Pass,
                Comparison::Missing => Verdict::Unreviewed,
                Comparison::Differs(_) => Verdict::Diverged,
            };
            expected::check(&comparison, scenario)
        }
        Err(error) => {
            record.verdict = Verdict::Unknown;
            expected::unusable(scenario, &error)
        }
    };
    record.expected = Some(check);
}

fn why(record: &ScenarioRecord) -> String {
    let bad = record
        .cases
        .iter()
        .find(|c| c.verdict == Some(record.verdict));
    match (record.verdict, bad, &record.expected) {
        (Verdict::Pass, ..) => passed(record.cases.len()),
        (Verdict::Unreviewed, ..) => format!(
            "{}; the scenario has no expected result yet",
            passed(record.cases.len())
        ),
        (_, Some(case), _) => format!("{}: {}", case.name, case.why),
        (_, None, Some(check)) if !check.ok => check.name.clone(),
        _ => "no case was run".into(),
    }
}

fn passed(cases: usize) -> String {
    match cases {
        1 => "1 case passed".to_owned(),
        cases => format!("{cases} cases passed"),
    }
}
