// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `torture`: feeds damaged and forged images of a program to `restart(2)`.
//!
//! The program runs as an unprivileged user until a trigger stops it, and is
//! checkpointed. Every restart is asked for by that user, who has
//! CAP_CHECKPOINT_RESTORE and nothing else. Raw damage must be refused. A forgery must be
//! refused, or be restored with no more rights than the user has. After each, no task
//! may be left.

mod attempt;
mod victim;

use std::{collections::BTreeMap, ffi::OsString, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use crucible_protocol::image::damage;
use fastrand::Rng;
use serde::Serialize;

use attempt::{Attempt, Outcome};

/// Feed damaged and forged images of a program to restart(2).
///
/// Exit status: 0 all as it should be, 1 something was not, 2 wrong usage.
#[derive(Parser)]
struct Options {
    /// Images with bytes that went wrong.
    #[arg(long, default_value_t = 1000)]
    raw: u32,
    /// Images with changed structure and right checksums.
    #[arg(long, default_value_t = 5000)]
    forged: u32,
    /// Seed of both; the same seed gives the same images of the same program state.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// User and group that the program and the restarts run as.
    #[arg(long, default_value_t = 65534)]
    user: u32,
    /// Where to stop the program, as `cgroup.freeze_at` takes it.
    #[arg(long)]
    at: String,
    /// Path of the program, then its arguments.
    #[arg(last = true, required = true)]
    argv: Vec<OsString>,
}

/// What became of the images of one kind.
#[derive(Default, Serialize)]
struct Tally {
    refused: u32,
    restored: u32,
    /// How often each errno was the answer.
    errnos: BTreeMap<String, u32>,
}

/// What the host reads.
#[derive(Default, Serialize)]
struct Report {
    image_bytes: usize,
    raw: Tally,
    forged: Tally,
    /// How often each reason was given, numbers left out.
    reasons: BTreeMap<String, u32>,
    /// Refused forgeries by the type of record that was changed first.
    refused_by_type: BTreeMap<String, u32>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let image = victim::image(&options.argv, &options.at, options.user)?;
    let records = damage::take_apart(&image[..]).context("the image is not sound")?;
    let attempt = Attempt::prepare(options.user)?;
    if let Outcome::Refused { errno, reason } = attempt.restart(&image)? {
        bail!("the undamaged image was refused: {reason} ({errno})");
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
            "raw damage {number} ({what}), seed {}, was not noticed",
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
        bail!("after it all the undamaged image was refused: {reason} ({errno})");
    }
    attempt.finish()?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
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

/// The kernel's message with every number made `N`, so that like is counted with like.
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
    fn like_reasons_are_one() {
        let a = without_numbers("pid 3: descriptor 17 (-EBADF)");
        assert_eq!(a, without_numbers("pid 4: descriptor 9 (-EBADF)"));
    }
}
