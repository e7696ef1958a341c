// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible torture`

use std::ops::RangeInclusive;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use crucible_engine::experiment::{
    AdversaryExperiment, FailKind, FailNthExperiment, PROGRAMS, TortureExperiment, Which,
};

use crate::boot_artefacts::{FlavourArg, GuestArgs};
use crate::breaks::GuardArgs;
use crate::command_line::CommandLine;
use crate::context::Context;
use crate::exit::Usage;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::screens;

/// The kind of operation that fails, on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FailArg {
    /// Allocations of objects
    Slab,
    /// Allocations of pages
    Page,
    /// Copies from and to user memory
    Usercopy,
    /// Each of them
    All,
}

impl FailArg {
    fn kinds(self) -> Vec<FailKind> {
        match self {
            Self::Slab => vec![FailKind::Slab],
            Self::Page => vec![FailKind::Page],
            Self::Usercopy => vec![FailKind::Usercopy],
            Self::All => FailKind::ALL.to_vec(),
        }
    }
}

/// Parses a range of failures: `1-40`.
fn range(text: &str) -> Result<RangeInclusive<u32>, String> {
    let parsed = text.split_once('-').and_then(|(from, to)| {
        let (from, to): (u32, u32) = (from.parse().ok()?, to.parse().ok()?);
        (from > 0 && from <= to && to < u32::MAX / 2).then_some(from..=to)
    });
    parsed.ok_or_else(|| "a range is written as 1-40".to_owned())
}

/// The options of `crucible torture`.
#[derive(Debug, Args)]
pub struct TortureArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Number of images with damaged bytes; all of them must be refused
    #[arg(
        long,
        help_heading = "Images",
        value_name = "N",
        default_value_t = 1000
    )]
    raw: u32,
    /// Number of images with changed records and correct checksums
    #[arg(
        long,
        help_heading = "Images",
        value_name = "N",
        default_value_t = 5000
    )]
    forged: u32,
    /// Attack checkpoint(2) and restart(2) in the middle, instead: an unprivileged user's image
    /// stalls in a pipe, and meanwhile processes of that user try to gain privileges or data
    #[arg(long, help_heading = "Adversary", conflicts_with_all = ["raw", "forged", "coverage"])]
    adversary: bool,
    /// Number of attacks, each with the next seed
    #[arg(
        long,
        help_heading = "Adversary",
        value_name = "N",
        default_value_t = 200,
        requires = "adversary",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    count: u32,
    #[command(flatten, next_help_heading = "Adversary")]
    guard: GuardArgs,
    /// Instead, fail the first allocation or copy in checkpoint(2) or restart(2), then the
    /// second, and so on, and check that the call fails cleanly and leaks nothing
    ///
    /// Uses the instrumented kernel, or the debug kernel.
    #[arg(
        long,
        help_heading = "Fault injection",
        value_name = "KIND",
        value_enum,
        num_args = 0..=1,
        default_missing_value = "all",
        conflicts_with_all = ["raw", "forged", "coverage", "adversary"]
    )]
    fail_nth: Option<FailArg>,
    /// Numbers of the failures of each call to inject, as FROM-TO, instead of all
    #[arg(long, help_heading = "Fault injection", value_name = "RANGE", requires = "fail_nth", value_parser = range)]
    nth: Option<RangeInclusive<u32>>,
    /// Programs whose trees to use, instead of all
    #[arg(
        long,
        help_heading = "Fault injection",
        value_name = "NAME",
        value_delimiter = ',',
        requires = "fail_nth",
        value_parser = PROGRAMS
    )]
    program: Vec<String>,
    /// Number of a mutant of the kernel's code, for tests only
    #[arg(long, hide = true, requires = "fail_nth", default_value_t = 0)]
    mutant_number: u32,
    /// Seed of the random changes, or of the first attack
    #[arg(
        long,
        help_heading = "Images",
        value_name = "SEED",
        default_value_t = 1
    )]
    seed: u64,
    /// Report which of restart(2)'s refusals were reached, with the coverage kernel. Exit
    /// with 1 if a type of record was never refused
    #[arg(long, help_heading = "Output", conflicts_with_all = ["flavour", "kernel"])]
    coverage: bool,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// Feeds damaged and forged images to restart(2) in guests, and checks for kernel reports, memory
/// leaks and remaining tasks.
pub fn run(args: &TortureArgs, context: &Context) -> Result<ExitCode> {
    if args.adversary {
        return adversary(args, context);
    }
    if let Some(kind) = args.fail_nth {
        return fail_nth(args, kind, context);
    }
    let mut guest = args.guest.clone();
    if args.coverage {
        guest.kernel.flavour = FlavourArg::Coverage;
        if args.experiment.jobs > 1 || args.experiment.resume {
            // The kernel's counters begin at its boot.
            let why = "--coverage needs one guest, from the first image on";
            return Err(Usage(why.into()).into());
        }
    }
    let command = Command {
        name: "torture",
        what: "",
        args: &args.experiment,
        guest: &guest,
        break_switch: None,
        reproduce: args.reproduce(),
        journal: !args.coverage,
        record: false,
        restart_kernel: None,
    };
    let root = context.root()?;
    let make = |images: &crate::boot_artefacts::BootArtefacts| {
        let counted = match args.coverage {
            true => Some(images.kernel.counted().context(
                "the cached kernel lacks its coverage notes: run `crucible clean` and try again",
            )?),
            false => None,
        };
        let (raw, forged, seed) = (args.raw, args.forged, args.seed);
        Ok(TortureExperiment::new(&root, raw, forged, seed, counted))
    };
    experiment_run::run(&command, context, make, &screens::torture::screen)
}

/// Attacks checkpoint(2) and restart(2).
fn adversary(args: &TortureArgs, context: &Context) -> Result<ExitCode> {
    let mut guest = args.guest.clone();
    let guard = args.guard.name();
    if guard.is_some() {
        guest.kernel.flavour = FlavourArg::Debug;
    }
    let command = Command {
        name: "torture",
        what: "adversary",
        args: &args.experiment,
        guest: &guest,
        break_switch: guard.as_deref(),
        reproduce: CommandLine::new("torture")
            .flag("--adversary", true)
            .option("--seed", Some(args.seed))
            .option("--count", Some(args.count))
            .option("--break", guard.as_deref())
            .guest(&args.guest)
            .text(),
        journal: true,
        record: false,
        restart_kernel: None,
    };
    let root = context.root()?;
    let make = |_: &crate::boot_artefacts::BootArtefacts| {
        Ok(AdversaryExperiment::new(&root, args.seed, args.count))
    };
    experiment_run::run(&command, context, make, &screens::adversary::screen)
}

/// Injects failures of allocations and copies in checkpoint(2) and restart(2).
fn fail_nth(args: &TortureArgs, kind: FailArg, context: &Context) -> Result<ExitCode> {
    let mut guest = args.guest.clone();
    if guest.kernel.flavour == FlavourArg::Base {
        guest.kernel.flavour = FlavourArg::Instrumented;
    }
    let name = kind.to_possible_value();
    let name = name.as_ref().map(clap::builder::PossibleValue::get_name);
    let programs = (!args.program.is_empty()).then(|| args.program.join(","));
    let nth = args.nth.as_ref();
    let nth = nth.map(|nth| format!("{}-{}", nth.start(), nth.end()));
    let command = Command {
        name: "torture",
        what: "fail-nth",
        args: &args.experiment,
        guest: &guest,
        break_switch: None,
        reproduce: CommandLine::new("torture")
            .option("--fail-nth", name)
            .option("--nth", nth)
            .option("--program", programs)
            .guest(&args.guest)
            .text(),
        journal: true,
        record: false,
        restart_kernel: None,
    };
    let which = Which {
        kinds: kind.kinds(),
        programs: args.program.clone(),
        nth: args.nth.clone(),
        mutant: args.mutant_number,
    };
    let root = context.root()?;
    let make = |_: &crate::boot_artefacts::BootArtefacts| Ok(FailNthExperiment::new(&root, which));
    experiment_run::run(&command, context, make, &screens::fail_nth::screen)
}

impl TortureArgs {
    /// Returns the command that repeats the run.
    fn reproduce(&self) -> String {
        CommandLine::new("torture")
            .option("--raw", Some(self.raw))
            .option("--forged", Some(self.forged))
            .option("--seed", Some(self.seed))
            .flag("--coverage", self.coverage)
            .guest(&self.guest)
            .text()
    }
}
