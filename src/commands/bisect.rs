// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible bisect`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use crucible_bisect::Options;
use crucible_engine::EventSpec;
use crucible_engine::trial;

use crate::bisection::{self, Question};
use crate::boot_artefacts::GuestArgs;
use crate::command_line::CommandLine;
use crate::commands::scenario;
use crate::context::Context;
use crate::exit::Usage;

/// The options of `crucible bisect`.
#[derive(Debug, Args)]
pub struct BisectArgs {
    /// Scenarios that fail: names that `crucible list` prints, or directories
    #[arg(required = true, value_name = "SCENARIO")]
    names: Vec<String>,
    /// A commit that does not fail
    #[arg(long, help_heading = "Commits", value_name = "REV")]
    good: String,
    /// A commit that fails
    #[arg(
        long,
        help_heading = "Commits",
        value_name = "REV",
        default_value = "HEAD"
    )]
    bad: String,
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
    #[arg(long, help_heading = "Search", value_name = "P", default_value_t = 0.99, value_parser = confidence)]
    confidence: f64,
    /// Look for a setting in which the failure is more frequent for so long; 0 for not at all
    #[arg(
        long,
        help_heading = "Search",
        value_name = "SECONDS",
        default_value_t = 120
    )]
    amplify: u32,
    /// Give up after so many runs
    #[arg(long, help_heading = "Search", value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
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

/// Bisects, and reports the first bad commit.
pub fn run(args: &BisectArgs, context: &Context) -> Result<ExitCode> {
    let kernel = &args.guest.kernel;
    if kernel.kernel.is_some() || kernel.kernel_src.is_some() {
        let why = "`bisect` builds the kernels of its range: name the tree with --src";
        return Err(Usage(why.into()).into());
    }
    let question = Question {
        source: match &args.src {
            Some(source) => source.clone(),
            None => context.sources()?.root().to_owned(),
        },
        good: args.good.clone(),
        bad: args.bad.clone(),
        scenarios: scenario::load(&args.names, false, &context.root()?).map_err(Usage)?,
        trial: trial::Options {
            repeat: 1,
            at: args.at.clone(),
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
        guest: args.guest.clone(),
        json: args.json,
        keep: args.keep,
        reproduce: args.reproduce(),
        scenario: CommandLine::new("scenario").text(),
    };
    bisection::run(&question, context)
}

impl BisectArgs {
    /// The command that searches again.
    fn reproduce(&self) -> String {
        let mut line = CommandLine::new("bisect");
        for name in &self.names {
            line = line.word(name);
        }
        line.option("--good", Some(&self.good))
            .option("--bad", Some(&self.bad))
            .option("--src", self.src.as_ref().map(|path| path.display()))
            .option("--at", self.at.as_ref())
            .option("--timeout", self.timeout)
            .option("--signature", self.signature.as_ref())
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
    fn a_good_commit_and_a_probability_are_needed() {
        let parse = |words: &[&str]| {
            let words = std::iter::once(&"bisect").chain(words);
            Cli::try_parse_from(words).map(|cli| cli.args)
        };
        assert!(parse(&["hello"]).is_err());
        let args = parse(&["hello", "--good", "v1"]).unwrap();
        assert_eq!((args.bad.as_str(), args.confidence), ("HEAD", 0.99));
        let line = "cargo run -q -- bisect hello --good v1 --bad HEAD";
        assert_eq!(args.reproduce(), line);
        for wrong in ["1", "0.3", "x", "NaN"] {
            assert!(parse(&["hello", "--good", "v1", "--confidence", wrong]).is_err());
        }
    }
}
