// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible sweep --chain`

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use crucible_engine::abort::Abort;
use crucible_engine::results::Store;
use crucible_engine::sweep::{self, Chain, PointOutcome};
use crucible_engine::{Scenario, Session};
use serde_json::{Value, json};

use super::{PERIOD, SweepArgs, keep, reproduce};
use crate::context::Context;
use crate::exit;
use crate::guests::HostLab;

/// Runs each case as a chain and reports the results.
pub fn run(
    args: &SweepArgs,
    context: &Context,
    lab: &HostLab<'_>,
    store: Store,
    scenario: &Scenario,
) -> Result<ExitCode> {
    let progress = context.progress();
    let mut chains = Vec::new();
    for case in &scenario.cases {
        let mut case = case.clone();
        case.timeout = args.timeout.unwrap_or(case.timeout);
        let name = format!("{} {}", scenario.name, case.name);
        progress.note(&format!("chain of {name}: an undisturbed run"));
        let switch = args.broken.name();
        let mut session = Session::in_dir(lab, &store, "job-1", switch, &|_| {});
        let mut told = Instant::now();
        let mut tell = |chain: &Chain| {
            if told.elapsed() >= PERIOD {
                told = Instant::now();
                let (links, last) = (chain.links, &chain.last);
                progress.note(&format!("chain of {name}: {links} links; {last}"));
            }
        };
        let kind = args.event.kind();
        let chain = sweep::chain(&mut session, scenario, &case, kind, &mut tell);
        if let Err(error) = session.close() {
            progress.note(&format!("the guest did not shut down: {error}"));
        }
        chains.push((case.name, chain));
    }
    let code = exit_code(&chains);
    let command = |case: &str| format!("{} --case {case} --chain", reproduce(args));
    let record = json!({
        "schema": 1,
        "scenario": scenario.name,
        "event": args.event.name(),
        "exit_code": code,
        "chains": chains.iter().map(|(case, chain)| value(case, chain)).collect::<Vec<_>>(),
    });
    let json = serde_json::to_string_pretty(&record)?;
    let record = keep(store, &json)?;
    if args.json {
        println!("{json}");
    } else {
        for (case, chain) in &chains {
            let name = format!("{} {case}, {}", scenario.name, args.event.name());
            print!("{}", text(&name, chain, &command(case)));
        }
        println!("  record   {record}");
    }
    Ok(code.into())
}

fn exit_code(chains: &[(String, Result<Chain, Abort>)]) -> u8 {
    let outcome = || {
        let outcome = |chain: &Result<Chain, Abort>| {
            chain.as_ref().map_or(PointOutcome::Unknown, |c| c.outcome)
        };
        chains.iter().map(move |(_, chain)| outcome(chain))
    };
    if outcome().any(PointOutcome::is_bad) {
        exit::DIVERGED
    } else if outcome().all(|outcome| outcome == PointOutcome::Passed) {
        exit::PASS
    } else {
        exit::UNKNOWN
    }
}

fn text(name: &str, chain: &Result<Chain, Abort>, again: &str) -> String {
    let mut text = String::new();
    let lines = match chain {
        Err(stop) => {
            let _ = writeln!(text, "{name}, chain: {}: {}", stop.verdict.name(), stop.why);
            &stop.lines
        }
        Ok(chain) => {
            let _ = writeln!(
                text,
                "{name}, chain: {}: checkpointed, killed and restarted {} times in one run",
                chain.outcome.name(),
                chain.links
            );
            if chain.along > 0 {
                let _ = writeln!(
                    text,
                    "  {} more events happened while the tasks were being frozen for an earlier one, \
                     whose checkpoint covers them",
                    chain.along
                );
            }
            if chain.by_control {
                let _ = writeln!(
                    text,
                    "  ended like the control; freezing alone has a visible effect"
                );
                let _ = writeln!(text, "      difference: {}", chain.cause);
            }
            let _ = writeln!(
                text,
                "  {} ms, {} ms per link; an undisturbed run takes {} ms",
                chain.ms,
                chain.ms / chain.links.max(1),
                chain.undisturbed_ms
            );
            for (site, count) in &chain.sites {
                let _ = writeln!(text, "      {count} at {site}");
            }
            if chain.outcome != PointOutcome::Passed {
                let _ = writeln!(text, "  {}", chain.cause);
                let _ = writeln!(text, "  at link {}: {}", chain.links, chain.last);
            }
            &chain.lines
        }
    };
    for line in lines.iter().take(12) {
        let _ = writeln!(text, "    | {line}");
    }
    if chain
        .as_ref()
        .map_or(true, |chain| chain.outcome != PointOutcome::Passed)
    {
        let _ = writeln!(text, "    repeat   {again}");
    }
    text
}

fn value(case: &str, chain: &Result<Chain, Abort>) -> Value {
    match chain {
        Err(stop) => json!({
            "case": case, "outcome": stop.verdict.name(), "cause": stop.why, "lines": stop.lines,
        }),
        Ok(chain) => json!({
            "case": case,
            "outcome": chain.outcome,
            "cause": chain.cause,
            "lines": chain.lines,
            "links": chain.links,
            "along": chain.along,
            "sites": chain.sites,
            "last": chain.last,
            "by_control": chain.by_control,
            "undisturbed_ms": chain.undisturbed_ms,
            "ms": chain.ms,
        }),
    }
}
