// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `torture`: feeds damaged and forged images of a program to `restart(2)`.
//!
//! The program runs as an unprivileged user until a trigger freezes it, and is checkpointed. That
//! user then restarts each image with CAP_CHECKPOINT_RESTORE and no other capability. Damaged
//! images must be refused. A forged image must either be refused, or be restored with no more
//! rights than the user has. After each attempt, no task may remain. With `--each`, each field is
//! forged in turn, and the report has the result of each image. With `--fuzz`, images are forged
//! by recipes, which are kept if they reach new lines of the kernel.

mod attempt;
mod fuzz;
mod kcov;
mod victim;

use std::{collections::BTreeMap, ffi::OsString, fmt, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use crucible_protocol::image::{Kind, damage};
use fastrand::Rng;
use serde::Serialize;

use attempt::{Attempt, Outcome};

/// Feed damaged and forged images of a program to restart(2).
///
/// Exit status: 0 all images were handled correctly, 1 an image was not or another error
/// occurred, 2 wrong usage; with --fuzz, 3 an image was not and 1 another error.
#[derive(Parser)]
struct Options {
    /// Number of images with changed bytes.
    #[arg(long, default_value_t = 1000)]
    raw: u32,
    /// Number of images with changed records and correct checksums.
    #[arg(long, default_value_t = 5000)]
    forged: u32,
    /// Seed for both kinds; a seed generates the same images from the same program state.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Change each field of each type of record in turn instead, and report each outcome.
    #[arg(long)]
    each: bool,
    /// With --each: change the records of these types only, but several of them, and to many
    /// values.
    #[arg(long, value_name = "TYPE", value_delimiter = ',', requires = "each")]
    of: Vec<String>,
    /// Forge by the recipes in this file, a JSON object that the host writes, and report the
    /// coverage of each.
    #[arg(long, value_name = "FILE")]
    fuzz: Option<PathBuf>,
    /// With --fuzz: change the recipes for this time, instead of running each of them once.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// With --fuzz: the program's name in the report.
    #[arg(long)]
    name: Option<String>,
    /// User and group that the program and the restarts run as.
    #[arg(long, default_value_t = 65534)]
    user: u32,
    /// Event at which to freeze the program, in the syntax of `cgroup.freeze_at`.
    #[arg(long)]
    at: String,
    /// Path of the program, then its arguments.
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

/// Results of the images of one kind.
#[derive(Default, Serialize)]
struct Tally {
    refused: u32,
    restored: u32,
    /// Number of refusals by errno.
    errnos: BTreeMap<String, u32>,
}

/// The report on standard output, which the host reads.
#[derive(Default, Serialize)]
struct Report {
    image_bytes: usize,
    raw: Tally,
    forged: Tally,
    /// Number of refusals by reason, with the numbers in the reason replaced.
    reasons: BTreeMap<String, u32>,
    /// Number of refused forgeries by the type of the first changed record.
    refused_by_type: BTreeMap<String, u32>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let done = match &options.fuzz {
        Some(task) => fuzz::run(&options, task),
        None => run(&options).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let image = victim::image(&options.argv, &options.at, options.user)?;
    let records = damage::take_apart(&image[..]).context("the undamaged image cannot be parsed")?;
    let mut attempt = Attempt::prepare(options.user)?;
    if let Outcome::Refused { errno, reason } = attempt.restart(&image)? {
        bail!("the undamaged image was refused: {reason} ({errno})");
    }
    if options.each {
        attempt.keep_frozen();
        let mut outcomes = BTreeMap::new();
        let changes = match &options.of[..] {
            [] => damage::changes(&records),
            of => damage::thorough(&records, &kinds(of)?),
        };
        for change in changes {
            let outcome = attempt
                .restart(&change.image(&records))
                .with_context(|| change.name.clone())?;
            outcomes.insert(change.name, outcome.to_string());
        }
        attempt.finish()?;
        println!("{}", serde_json::to_string(&outcomes)?);
        return Ok(());
    }
    let mut report = Report {
        image_bytes: image.len(),
        ..Report::default()
    };

    let mut rng = Rng::with_seed(options.seed);
    for number in 0..options.raw {
        let (what, damaged) = damage::raw(&image, &mut rng);
        let outcome = attempt
            .restart(&damaged)
            .with_context(|| format!("raw damage {number} ({what}), seed {}", options.seed))?;
        ensure!(
            !matches!(outcome, Outcome::Restored),
            "raw damage {number} ({what}), seed {}, was not refused",
            options.seed
        );
        report.raw.count(&outcome);
        report.note(outcome);
    }
    for number in 0..options.forged {
        let (kind, forged) = damage::forge(&records, &mut rng);
        let outcome = attempt
            .restart(&forged)
            .with_context(|| format!("forgery {number} ({kind:?}), seed {}", options.seed))?;
        report.forged.count(&outcome);
        if matches!(outcome, Outcome::Refused { .. }) {
            let name = format!("{kind:?}");
            *report.refused_by_type.entry(name).or_default() += 1;
        }
        report.note(outcome);
    }
    if let Outcome::Refused { errno, reason } = attempt.restart(&image)? {
        bail!("the undamaged image was refused after all attempts: {reason} ({errno})");
    }
    attempt.finish()?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// Returns the types of records with these names.
fn kinds(names: &[String]) -> Result<Vec<Kind>> {
    let find = |name: &String| {
        let known = Kind::ALL.iter().map(|(kind, _)| *kind);
        let found = known.into_iter().find(|kind| format!("{kind:?}") == *name);
        found.with_context(|| format!("no record is of type {name}"))
    };
    names.iter().map(find).collect()
}

impl Tally {
    fn count(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Restored => self.restored += 1,
            Outcome::Refused { errno, .. } => {
                self.refused += 1;
                *self.errnos.entry(format!("{errno:?}")).or_default() += 1;
            }
        }
    }
}

impl Report {
    fn note(&mut self, outcome: Outcome) {
        if let Outcome::Refused { reason, .. } = outcome {
            *self.reasons.entry(without_numbers(&reason)).or_default() += 1;
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Restored => f.write_str("restored"),
            Outcome::Refused { errno, reason } => {
                write!(f, "{errno:?}: {}", without_numbers(reason))
            }
        }
    }
}

/// Returns the kernel's message with `N` for every word with a digit, so that similar messages are
/// counted together.
fn without_numbers(reason: &str) -> String {
    let mut text = String::new();
    for word in reason.split_whitespace() {
        if !text.is_empty() {
            text.push(' ');
        }
        if word.contains(|c: char| c.is_ascii_digit()) {
            text.push('N');
        } else {
            text.push_str(word);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_are_equal() {
        let a = without_numbers("pid 3: descriptor 17 (-EBADF)");
        assert_eq!(a, without_numbers("pid 4: descriptor 9 (-EBADF)"));
    }
}
