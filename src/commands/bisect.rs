// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible bisect`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crucible_bisect::Options;
use crucible_engine::EventSpec;
use crucible_engine::trial;

use crate::bisection::{self, Question, Range};
use crate::boot_artefacts::GuestArgs;
use crate::command_line::CommandLine;
use crate::commands::scenario;
use crate::context::Context;
use crate::exit::Usage;

/// Probability of an answer, if none is asked for.
const CONFIDENCE: f64 = 0.99;

/// Seconds to look for another setting, if none are given.
const AMPLIFY: u32 = 120;

/// Number of runs after which a search ends, if none is given.
const RUNS: u64 = 2000;

/// The options of `crucible bisect`.
#[derive(Debug, Args)]
pub struct BisectArgs {
    /// Scenarios that fail: names that `crucible list` prints, or directories
    #[arg(required = true, value_name = "SCENARIO")]
    names: Vec<String>,
    /// A commit that does not fail
    #[arg(long, help_heading = "Commits", value_name = "REV")]
    good: Option<String>,
    /// A commit that fails
    #[arg(
        long,
        help_heading = "Commits",
        value_name = "REV",
        default_value = "HEAD"
    )]
    bad: String,
    /// What differs: commits; the lines of the fragment of --config, of which the kernel has more and
    /// more; or the events up to that of --at
    #[arg(
        long,
        help_heading = "Commits",
        value_enum,
        default_value_t,
        value_name = "AXIS"
    )]
    axis: Axis,
    /// Repository with the commits: a kernel tree, with or without checkpoint/restart, or a checkout
    /// of crucible; this checkout otherwise
    #[arg(long, help_heading = "Commits", value_name = "DIR")]
    src: Option<PathBuf>,
    /// Stop at this event instead of the scenario's
    #[arg(long, help_heading = "What to run", value_name = "EVENT")]
    at: Option<EventSpec>,
    /// Limit for each wait, in seconds, instead of the scenario's
    #[arg(long, help_heading = "What to run", value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Look for the failure whose name contains this, instead of the most frequent one of the bad
    /// commit; the screen of an earlier search names all
    #[arg(long, help_heading = "Search", value_name = "TEXT")]
    signature: Option<String>,
    /// Go on until the answer has this probability
    #[arg(long, help_heading = "Search", value_name = "P", default_value_t = CONFIDENCE, value_parser = confidence)]
    confidence: f64,
    /// Look for a setting in which the failure is more frequent for so long; 0 for not at all
    #[arg(
        long,
        help_heading = "Search",
        value_name = "SECONDS",
        default_value_t = AMPLIFY
    )]
    amplify: u32,
    /// Give up after this many runs
    #[arg(long, help_heading = "Search", value_name = "N", default_value_t = RUNS, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Print the record as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Never prune this results directory
    #[arg(long, help_heading = "Output")]
    keep: bool,
    #[command(flatten)]
    guest: GuestArgs,
}

/// What differs between the kernels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Axis {
    #[default]
    Commits,
    Config,
    Event,
}

/// Bisects, and reports the first bad commit.
pub fn run(args: &BisectArgs, context: &Context) -> Result<ExitCode> {
    let kernel = &args.guest.kernel;
    if kernel.kernel.is_some() || kernel.kernel_src.is_some() {
        let why = "`bisect` builds the kernels of its range: name the tree with --src";
        return Err(Usage(why.into()).into());
    }
    let (range, guest) = args.range(context)?;
    let question = Question {
        scenarios: scenario::load(&args.names, false, &context.root()?).map_err(Usage)?,
        trial: trial::Options {
            repeat: 1,
            at: args.at.clone().filter(|_| args.axis != Axis::Event),
            timeout: args.timeout,
            ..trial::Options::default()
        },
        options: Options {
            confidence: args.confidence,
            signature: args.signature.clone(),
            amplify_seconds: args.amplify.into(),
            runs: args.runs,
            ..Options::default()
        },
        range,
        guest,
        json: args.json,
        keep: args.keep,
        reproduce: args.reproduce(),
        scenario: CommandLine::new("scenario").text(),
    };
    bisection::run(&question, context)
}

impl BisectArgs {
    /// Returns what is searched, and the guest without it.
    fn range(&self, context: &Context) -> Result<(Range, GuestArgs)> {
        let mut guest = self.guest.clone();
        let usage = |why: &str| Usage(why.into());
        let range = match self.axis {
            Axis::Commits => Range::Commits {
                source: match &self.src {
                    Some(source) => source.clone(),
                    None => context.sources()?.root().to_owned(),
                },
                good: match &self.good {
                    Some(good) => good.clone(),
                    None => {
                        return Err(usage("--good REV names a commit that does not fail").into());
                    }
                },
                bad: self.bad.clone(),
            },
            Axis::Config => {
                let fragment = guest.kernel.config.take();
                Range::Config(fragment.ok_or_else(|| usage("--axis config needs --config"))?)
            }
            Axis::Event => {
                let last = self.at.clone();
                Range::Events(last.ok_or_else(|| usage("--axis event needs --at"))?)
            }
        };
        Ok((range, guest))
    }

    /// The command that searches again.
    fn reproduce(&self) -> String {
        let mut line = CommandLine::new("bisect");
        for name in &self.names {
            line = line.word(name);
        }
        let axis = match self.axis {
            Axis::Commits => None,
            Axis::Config => Some("config"),
            Axis::Event => Some("event"),
        };
        let bad = Some(&self.bad).filter(|_| axis.is_none());
        line.option("--axis", axis)
            .option("--good", self.good.as_ref())
            .option("--bad", bad)
            .option("--src", self.src.as_ref().map(|path| path.display()))
            .option("--at", self.at.as_ref())
            .option("--timeout", self.timeout)
            .option("--signature", self.signature.as_ref())
            .option(
                "--confidence",
                (self.confidence != CONFIDENCE).then_some(self.confidence),
            )
            .option(
                "--amplify",
                (self.amplify != AMPLIFY).then_some(self.amplify),
            )
            .option("--runs", (self.runs != RUNS).then_some(self.runs))
            .guest(&self.guest)
            .text()
    }
}

/// Parses a probability that a search can reach.
fn confidence(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.5..1.0).contains(&value) => Ok(value),
        _ => Err("a probability from 0.5 to below 1, such as 0.99".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: BisectArgs,
    }

    #[test]
    fn the_command_that_searches_again_has_the_options_that_matter() {
        let parse = |words: &[&str]| {
            let words = std::iter::once(&"bisect").chain(words);
            Cli::try_parse_from(words).map(|cli| cli.args)
        };
        let args = parse(&["hello", "--good", "v1"]).unwrap();
        assert_eq!((args.bad.as_str(), args.confidence), ("HEAD", 0.99));
        let line = "cargo run -q -- bisect hello --good v1 --bad HEAD";
        assert_eq!(args.reproduce(), line);
        let event = parse(&["hello", "--axis", "event", "--at", "vfork:8"]).unwrap();
        assert!(event.reproduce().ends_with("--axis event --at vfork:8"));
        let sure = parse(&["hello", "--good", "v1", "--confidence", "0.9999"]).unwrap();
        assert!(sure.reproduce().ends_with("--confidence 0.9999"));
        for wrong in ["1", "0.3", "x", "NaN"] {
            assert!(parse(&["hello", "--good", "v1", "--confidence", wrong]).is_err());
        }
    }
}
