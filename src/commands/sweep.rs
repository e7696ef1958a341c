// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible sweep`

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crucible_engine::Scenario;
use crucible_engine::experiment::{ChainExperiment, Choice, SweepExperiment, TrialsExperiment};
use crucible_protocol::EventKind;

use crate::boot_artefacts::GuestArgs;
use crate::breaks::BreakArgs;
use crate::command_line::CommandLine;
use crate::commands::scenario;
use crate::context::Context;
use crate::exit::Usage;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::screens;

/// The options of `crucible sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The scenario to sweep: a name that `crucible list` prints, or a directory
    scenario: String,
    /// Sweep only this case
    #[arg(long, help_heading = "Points", value_name = "NAME")]
    case: Option<String>,
    /// Kind of event at which to checkpoint
    #[arg(
        long,
        help_heading = "Points",
        value_enum,
        default_value_t,
        value_name = "KIND"
    )]
    event: KindArg,
    /// Try only every Kth point of each kind of event
    #[arg(long, help_heading = "Points", value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Leave out the first N points; with every N below K, each point is tried once
    #[arg(long, help_heading = "Points", value_name = "N", default_value_t = 0)]
    offset: u32,
    /// Try at most N points per case, sampled evenly over event kinds
    #[arg(long, help_heading = "Points", value_name = "N")]
    limit: Option<usize>,
    /// Try only this point, named as in a report: `2.1:7`
    #[arg(long, help_heading = "Points", value_name = "TASK:NTH", value_parser = point, conflicts_with_all = ["every", "offset", "limit"])]
    point: Option<String>,
    /// Make N controls and N restarted runs at the point, and compare the frequencies of outcomes
    #[arg(long, help_heading = "Run", value_name = "N", requires_all = ["point", "case"], conflicts_with_all = ["chain"], value_parser = clap::value_parser!(u64).range(1..))]
    trials: Option<u64>,
    /// Checkpoint, kill and restart one run at every event, instead of one run per point
    #[arg(long, help_heading = "Run", conflicts_with_all = ["every", "offset", "limit", "point"])]
    chain: bool,
    /// Limit for each wait, in seconds, instead of the scenario's
    #[arg(long, help_heading = "Run", value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten, next_help_heading = "Run")]
    broken: BreakArgs,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// Kinds of events, on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// vfork(2) and clone(2) with CLONE_VFORK
    Vfork,
    /// ptrace stops of tracees
    #[default]
    PtraceStop,
    /// Entries of system calls
    Syscall,
    /// Exits of system calls
    SyscallExit,
    /// Deliveries of signals to a handler
    Signal,
    /// Waits in execve(2) for the other threads of the process to exit
    ExecWait,
    /// All of these
    All,
}

impl KindArg {
    fn kind(self) -> EventKind {
        match self {
            Self::Vfork => EventKind::Vfork,
            Self::PtraceStop => EventKind::PtraceStop,
            Self::Syscall => EventKind::Syscall { number: None },
            Self::SyscallExit => EventKind::SyscallExit { number: None },
            Self::Signal => EventKind::Signal { number: None },
            Self::ExecWait => EventKind::ExecWait,
            Self::All => EventKind::All,
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Parses the name of a point: the path of a task, and the number of its event.
fn point(text: &str) -> Result<String, String> {
    let is_number = |part: &str| part.parse::<u64>().is_ok_and(|number| number > 0);
    match text.split_once(':') {
        Some((task, nth)) if task.split('.').all(is_number) && is_number(nth) => {
            Ok(text.to_owned())
        }
        _ => Err("a point is TASK:NTH, such as 2.1:7: the 7th event of the task 2.1".into()),
    }
}

/// Sweeps a scenario and reports the results.
pub fn run(args: &SweepArgs, context: &Context) -> Result<ExitCode> {
    let scenario = chosen(args, &context.root()?).map_err(Usage)?;
    if args.guest.machine.vcpus > 1 {
        let why = "a sweep runs on one CPU (--vcpus 1): with several, events have no fixed order \
                   by which to name them";
        return Err(Usage(why.into()).into());
    }
    let what = args.what(&scenario.name);
    let break_switch = args.broken.name();
    let command = Command {
        name: "sweep",
        what: &what,
        args: &args.experiment,
        guest: &args.broken.guest(&args.guest),
        break_switch: break_switch.as_deref(),
        reproduce: args.reproduce(),
        // A single point is not a sweep, and must not replace the journal of one.
        journal: args.point.is_none() || args.trials.is_some(),
        record: false,
        restart_kernel: None,
    };
    let (kind, kind_name) = (args.event.kind(), args.event.name());
    if args.chain {
        let chain = ChainExperiment {
            scenario,
            kind,
            kind_name,
        };
        return experiment_run::run(&command, context, |_| Ok(chain), &screens::chain::screen);
    }
    if let (Some(count), Some(point)) = (args.trials, &args.point) {
        let trials = TrialsExperiment::new(scenario, kind, point.clone(), count);
        return experiment_run::run(&command, context, |_| Ok(trials), &screens::trials::screen);
    }
    let sweep = SweepExperiment::new(scenario, kind, kind_name, args.choice());
    experiment_run::run(&command, context, |_| Ok(sweep), &screens::sweep::screen)
}

/// Returns the scenario with the selected cases. The error is a mistake on the command line.
fn chosen(args: &SweepArgs, root: &Path) -> Result<Scenario, String> {
    let names = std::slice::from_ref(&args.scenario);
    let mut scenario = scenario::load(names, false, root)?.remove(0);
    scenario::choose_cases(&mut scenario, args.case.as_slice())?;
    for case in &mut scenario.cases {
        case.timeout = args.timeout.unwrap_or(case.timeout);
    }
    Ok(scenario)
}

impl SweepArgs {
    /// Returns the part by which the names of the results and the journal differ from those of
    /// other sweeps.
    fn what(&self, scenario: &str) -> String {
        let mut what = vec![scenario.to_owned()];
        what.extend(self.case.clone());
        what.push(self.event.name());
        what.extend(self.point.iter().map(|point| point.replace(':', "-")));
        what.extend(self.chain.then(|| "chain".to_owned()));
        what.join("-")
    }

    fn choice(&self) -> Choice {
        match &self.point {
            Some(point) => Choice::One(point.clone()),
            None => Choice::Some {
                every: self.every as usize,
                offset: self.offset as usize,
                limit: self.limit,
            },
        }
    }

    /// Returns the command that repeats the run.
    fn reproduce(&self) -> String {
        CommandLine::new("sweep")
            .word(&self.scenario)
            .option("--event", Some(self.event.name()))
            .option("--case", self.case.as_ref())
            .option("--point", self.point.as_ref())
            .option("--trials", self.trials)
            .option("--every", (self.every > 1).then_some(self.every))
            .option("--offset", (self.offset > 0).then_some(self.offset))
            .option("--limit", self.limit)
            .flag("--chain", self.chain)
            .option("--timeout", self.timeout)
            .option("--break", self.broken.name())
            .option(
                "--without",
                experiment_run::closed(&self.experiment.without),
            )
            .guest(&self.guest)
            .text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_checked_at_once() {
        assert_eq!(point("2.1:7").as_deref(), Ok("2.1:7"));
        for wrong in ["", "2.1", "2.1:", ":7", "2.1:0", "2..1:7", "x:1"] {
            assert!(point(wrong).is_err(), "{wrong}");
        }
    }
}
