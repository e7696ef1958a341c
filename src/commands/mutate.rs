// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible mutate`

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use crucible_engine::experiment::MutateExperiment;
use crucible_engine::experiment::mutate::Options;

use crate::boot_artefacts::{FlavourArg, GuestArgs};
use crate::command_line::CommandLine;
use crate::commands::scenario;
use crate::context::Context;
use crate::exit::Usage;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::{mutate_run, screens};

/// The options of `crucible mutate`.
#[derive(Debug, Args)]
pub struct MutateArgs {
    /// Scenarios whose cases are run with mutants; all by default
    #[arg(value_name = "SCENARIO")]
    names: Vec<String>,
    /// Draw N mutants; with the same seed, a larger N adds mutants to those of a smaller one
    #[arg(long, help_heading = "Mutants", value_name = "N")]
    sample: Option<usize>,
    /// Seed of the draw
    #[arg(
        long,
        help_heading = "Mutants",
        value_name = "SEED",
        default_value_t = 1
    )]
    seed: u64,
    /// Run only the mutant of this name; may be given several times
    #[arg(long = "mutant", help_heading = "Mutants", value_name = "ID", conflicts_with_all = ["sample", "shard"])]
    only: Vec<String>,
    /// Run only the Ith of N parts of the drawn mutants
    #[arg(long, help_heading = "Mutants", value_name = "I/N", value_parser = shard, default_value = "1/1")]
    shard: (u32, u32),
    /// Run at most N cases with each mutant, of different scenarios as far as possible
    #[arg(long, help_heading = "Mutants", value_name = "N")]
    cases: Option<usize>,
    /// Run all cases with each mutant, to find every eye that notices it
    #[arg(long, help_heading = "Mutants")]
    all_eyes: bool,
    /// Exit with 1 if a smaller share of the mutants is killed
    #[arg(long, help_heading = "Output", value_name = "PERCENT", value_parser = percent)]
    at_least: Option<f64>,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

fn shard(text: &str) -> Result<(u32, u32), String> {
    let parts = text.split_once('/').and_then(|(part, parts)| {
        let (part, parts) = (part.parse().ok()?, parts.parse().ok()?);
        (1..=parts).contains(&part).then(|| (part - 1, parts))
    });
    parts.ok_or_else(|| "a part is I/N, with I from 1 to N".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().ok();
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    percent.ok_or_else(|| "a share is from 0 to 100".to_owned())
}

/// Runs mutants and reports the score.
pub fn run(args: &MutateArgs, context: &Context) -> Result<ExitCode> {
    let root = context.root()?;
    let scenarios = scenario::load(&args.names, args.names.is_empty(), &root).map_err(Usage)?;
    let mut guest = args.guest.clone();
    if guest.kernel.kernel.is_some() {
        return Err(Usage("only a kernel that crucible builds has mutants".into()).into());
    }
    guest.kernel.flavour = FlavourArg::Instrumented;
    let command = Command {
        name: "mutate",
        what: "",
        args: &args.experiment,
        guest: &guest,
        break_switch: None,
        record: false,
        restart_kernel: None,
        reproduce: args.reproduce(),
        // A journal would replace the journal of a larger run.
        journal: args.only.is_empty(),
    };
    let make = |images: &crate::boot_artefacts::BootArtefacts| {
        let mutants = images.kernel.mutants()?;
        let equivalents = mutate_run::equivalents(&context.sources()?, &mutants)?;
        let jobs = args.experiment.jobs;
        let refusals = mutate_run::refusals(&context.sources()?)?;
        let others = refusals.as_ref();
        let (disk, reach) =
            mutate_run::prepare(context, images, &args.guest, &scenarios, others, jobs)?;
        let options = args.options();
        let forger = mutate_run::forger(&context.sources()?)?;
        let experiment =
            MutateExperiment::new(scenarios, mutants, equivalents, reach, disk, options);
        Ok(experiment.with_forger(forger).with_refusals(refusals))
    };
    experiment_run::run(&command, context, make, &screens::mutate::screen)
}

impl MutateArgs {
    fn options(&self) -> Options {
        Options {
            sample: self.sample,
            seed: self.seed,
            only: self.only.clone(),
            shard: self.shard,
            all_eyes: self.all_eyes,
            cases: self.cases,
            at_least: self.at_least,
        }
    }

    /// Returns the command that repeats the run.
    fn reproduce(&self) -> String {
        let mut line = CommandLine::new("mutate");
        for name in &self.names {
            line = line.word(name);
        }
        let (part, parts) = self.shard;
        let shard = (parts > 1).then(|| format!("{}/{parts}", part + 1));
        for id in &self.only {
            line = line.option("--mutant", Some(id));
        }
        let seed = self.only.is_empty().then_some(self.seed);
        line.option("--sample", self.sample)
            .option("--seed", seed)
            .option("--shard", shard)
            .option("--cases", self.cases)
            .flag("--all-eyes", self.all_eyes)
            .option("--at-least", self.at_least)
            .guest(&self.guest)
            .text()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_one() {
        assert_eq!(shard("1/1"), Ok((0, 1)));
        assert_eq!(shard("3/3"), Ok((2, 3)));
        for text in ["0/3", "4/3", "1", "a/b", "1/0"] {
            assert!(shard(text).is_err(), "{text}");
        }
        assert_eq!(percent("95"), Ok(95.0));
        for text in ["-1", "101", "NaN", "x"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
