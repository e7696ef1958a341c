// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible sweep --point TASK:NTH --trials N`

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use crucible_engine::abort::Abort;
use crucible_engine::results::Store;
use crucible_engine::scenario::Case;
use crucible_engine::sweep::{self, Point, SIGNIFICANT, Trials};
use crucible_engine::{Scenario, Session};
use serde_json::json;

use super::{PERIOD, SweepArgs, keep, named, reproduce};
use crate::context::Context;
use crate::exit;
use crate::guests::HostLab;

/// Makes many runs at one point of a case and reports how they ended.
pub fn run(
    args: &SweepArgs,
    count: u64,
    context: &Context,
    lab: &HostLab<'_>,
    store: Store,
    scenario: &Scenario,
) -> Result<ExitCode> {
    let progress = context.progress();
    let mut case = scenario.cases[0].clone();
    case.timeout = args.timeout.unwrap_or(case.timeout);
    let wanted = args.point.as_deref().unwrap_or_default();
    let name = format!(
        "{} {}, {} {wanted}",
        scenario.name,
        case.name,
        args.event.name()
    );
    let mut session = Session::in_dir(lab, &store, "job-1", args.broken.name(), &|_| {});
    let mut told = Instant::now();
    let mut tell = |trials: &Trials| {
        if told.elapsed() >= PERIOD {
            told = Instant::now();
            let made: u64 = trials.ends.iter().map(|end| end.restarted).sum();
            progress.note(&format!("{name}: {made} of {count} restarted runs"));
        }
    };
    let result = make(
        args,
        count,
        &mut session,
        scenario,
        &case,
        wanted,
        &mut tell,
    );
    if let Err(error) = session.close() {
        progress.note(&format!("the guest did not shut down: {error}"));
    }
    let code = match &result {
        Ok((_, trials)) => exit_code(trials),
        Err(stop) => stop.verdict.exit_code(),
    };
    let record = json!({
        "schema": 1,
        "scenario": scenario.name,
        "case": case.name,
        "event": args.event.name(),
        "exit_code": code,
        "point": result.as_ref().ok().map(|(point, _)| point),
        "trials": result.as_ref().ok().map(|(_, trials)| trials),
        "chance": result.as_ref().ok().map(|(_, trials)| trials.chance()),
        "why": result.as_ref().err().map(|stop| &stop.why),
        "lines": result.as_ref().err().map(|stop| &stop.lines),
    });
    let json = serde_json::to_string_pretty(&record)?;
    let record = keep(store, &json)?;
    if args.json {
        println!("{json}");
    } else {
        match &result {
            Ok((point, trials)) => print!("{}", text(&name, point, trials)),
            Err(stop) => {
                println!("{name}: {}: {}", stop.verdict.name(), stop.why);
                for line in stop.lines.iter().take(12) {
                    println!("    | {line}");
                }
                println!(
                    "    again    {} --case {} --point {wanted} --trials {count}",
                    reproduce(args),
                    case.name
                );
            }
        }
        println!("  record   {record}");
    }
    Ok(code.into())
}

fn make(
    args: &SweepArgs,
    count: u64,
    session: &mut Session<'_>,
    scenario: &Scenario,
    case: &Case,
    wanted: &str,
    tell: &mut dyn FnMut(&Trials),
) -> Result<(Point, Trials), Abort> {
    let kind = args.event.kind();
    let baseline = sweep::baseline(session, scenario, case, kind)?;
    let point = named(&baseline.listing.points, wanted).map_err(Abort::unknown)?;
    let undisturbed = &baseline.output;
    let trials = sweep::trials(
        session,
        scenario,
        case,
        kind,
        undisturbed,
        point,
        count,
        tell,
    )?;
    Ok((point.clone(), trials))
}

/// Returns 1 if the two kinds of runs end differently, 125 if a restarted run ended as no control
/// did, which may be chance, or if a kind of run never reached the point, otherwise 0.
fn exit_code(trials: &Trials) -> u8 {
    let none = |count: fn(&sweep::End) -> u64| trials.ends.iter().map(count).sum::<u64>() == 0;
    if trials.chance() < SIGNIFICANT {
        exit::DIVERGED
    } else if trials.has_new_end() || none(|end| end.controls) || none(|end| end.restarted) {
        exit::UNKNOWN
    } else {
        exit::PASS
    }
}

fn text(name: &str, point: &Point, trials: &Trials) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{name} ({}):", point.what);
    let _ = writeln!(text, "  controls  restarted");
    for end in &trials.ends {
        let cause = match end.cause.as_str() {
            "" => "as undisturbed",
            cause => cause,
        };
        let _ = writeln!(text, "  {:8}  {:9}  {cause}", end.controls, end.restarted);
        for line in end.lines.iter().take(12) {
            let _ = writeln!(text, "                       | {line}");
        }
    }
    if trials.missed > 0 {
        let _ = writeln!(text, "  {} runs did not reach the point", trials.missed);
    }
    let _ = writeln!(
        text,
        "  chance of such a difference where both end equally often: {:.4}",
        trials.chance()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_that_no_run_reached_says_nothing() {
        assert_eq!(exit_code(&Trials::default()), exit::UNKNOWN);
    }
}
