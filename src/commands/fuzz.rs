// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible fuzz`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_artefacts::kernel::blocks;
use crucible_engine::corpus::Corpus;
use crucible_engine::experiment::{FuzzExperiment, ROUND, Search};
use crucible_engine::random;

use crate::boot_artefacts::{FlavourArg, GuestArgs};
use crate::breaks::CheckArgs;
use crate::command_line::CommandLine;
use crate::commands::scenario::load;
use crate::context::Context;
use crate::exit::Usage;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::screens;

/// Name of the corpus in the results directory.
const CORPUS: &str = "fuzz-corpus.json";

/// The options of `crucible fuzz`.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Duration of the search in minutes, without the start of the guests
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// Seed of the changes and of the random trees
    #[arg(
        long,
        help_heading = "What to run",
        value_name = "SEED",
        default_value_t = 1
    )]
    seed: u64,
    /// Corpus file, which keeps recipes from one run to the next, instead of `fuzz-corpus.json` in
    /// the results directory
    #[arg(long, help_heading = "What to run", value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Restart one image only, given by program and recipe, as in a finding: `many 1f,a03`
    #[arg(long, help_heading = "What to run", value_names = ["PROGRAM", "RECIPE"], num_args = 2, conflicts_with_all = ["minutes", "corpus"])]
    only: Option<Vec<String>>,
    #[command(flatten, next_help_heading = "What to run")]
    check: CheckArgs,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// Forges images guided by the coverage of the kernel, and looks for kernel reports.
pub fn run(args: &FuzzArgs, context: &Context) -> Result<ExitCode> {
    let mut guest = args.guest.clone();
    if guest.kernel.flavour == FlavourArg::Base {
        guest.kernel.flavour = FlavourArg::Debug;
    }
    let check = args.check.name();
    let search = args.search().map_err(Usage)?;
    let root = context.root()?;
    let trees = load(&[random::SCENARIO.to_owned()], false, &root).map_err(Usage)?;
    let trees = trees.into_iter().next().context("no random trees")?;
    let file = match (&args.corpus, &check) {
        (Some(file), _) => file.clone(),
        (None, None) => context.results()?.join(CORPUS),
        // Its kernel differs.
        (None, Some(check)) => context.results()?.join(format!("fuzz-corpus-{check}.json")),
    };
    if let Some(directory) = args.corpus.as_ref().and_then(|file| file.parent())
        && !directory.as_os_str().is_empty()
        && !directory.is_dir()
    {
        let why = format!("{}: there is no such directory", directory.display());
        return Err(Usage(why).into());
    }
    let corpus = Corpus::load(&file).with_context(|| {
        format!(
            "{}: cannot use this corpus; move it away, or choose a different one with --corpus",
            file.display()
        )
    })?;
    let command = Command {
        name: "fuzz",
        what: "",
        args: &args.experiment,
        guest: &guest,
        break_switch: check.as_deref(),
        reproduce: args.reproduce(),
        journal: args.only.is_none(),
        record: false,
        restart_kernel: None,
    };
    let sources = root.join("guest-kernel/src");
    let make = |images: &crate::boot_artefacts::BootArtefacts| {
        let blocks = blocks(&images.kernel.image, &sources)?;
        if blocks.is_empty() {
            let why = "this kernel does not record the code that it runs (CONFIG_KCOV); use the debug flavour";
            return Err(Usage(why.into()).into());
        }
        Ok(FuzzExperiment::new(
            &root, trees, search, args.seed, blocks, corpus,
        ))
    };
    experiment_run::run(&command, context, make, &screens::fuzz::screen)
}

impl FuzzArgs {
    fn search(&self) -> Result<Search, String> {
        let Some([program, recipe]) = self.only.as_deref() else {
            let rounds = self.minutes * 60 / ROUND;
            return Ok(Search::Rounds(rounds * u64::from(self.experiment.jobs)));
        };
        let recipe = recipe
            .parse()
            .map_err(|error| format!("{recipe}: {error}"))?;
        let is_tree = program
            .strip_prefix("random/")
            .map(|seed| seed.parse::<u64>().is_ok());
        if !is_tree.unwrap_or(FuzzExperiment::PROGRAMS.contains(&program.as_str())) {
            return Err(format!(
                "there is no program `{program}`; there are {} and random/SEED",
                FuzzExperiment::PROGRAMS.join(", ")
            ));
        }
        Ok(Search::One(program.clone(), recipe))
    }

    /// Returns the command that repeats the run. The findings of a search also depend on the
    /// corpus.
    fn reproduce(&self) -> String {
        let mut line = CommandLine::new("fuzz");
        match &self.only {
            Some(words) => {
                line = line.flag("--only", true);
                for word in words {
                    line = line.word(word);
                }
            }
            None => {
                let jobs = self.experiment.jobs;
                line = line
                    .option("--minutes", Some(self.minutes))
                    .option("--jobs", (jobs > 1).then_some(jobs));
            }
        }
        let corpus = self.corpus.as_ref().map(|file| file.display().to_string());
        line.option("--seed", Some(self.seed))
            .option("--corpus", corpus)
            .option("--break", self.check.name())
            .guest(&self.guest)
            .text()
    }
}
