// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible nightly`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use crucible_nightly::ShardSpec;

use crate::context::Context;
use crate::nightly_run;

/// The options of `crucible nightly`.
#[derive(Debug, Args)]
pub struct NightlyArgs {
    /// Time that the night may take, such as `2h` or `90m`; without it, everything is run
    #[arg(long, help_heading = "Plan", value_name = "DURATION", value_parser = duration)]
    pub budget: Option<Duration>,
    /// The shard of the night to run, such as `2/3`; `auto` reads the variables of Kubernetes,
    /// Slurm and GitLab, and CRUCIBLE_SHARD
    #[arg(long, help_heading = "Plan", value_name = "I/N|auto", value_parser = shard, default_value = "1/1", requires_if("auto", "night"))]
    pub shard: ShardSpec,
    /// Name of the night, the same for all its shards; nights are sorted by it. Default: the date
    #[arg(long, help_heading = "Plan", value_name = "NAME", value_parser = name)]
    pub night: Option<String>,
    /// File with the durations by which the shards are planned, which `crucible results basis`
    /// writes. Default: this host's history; none for a part of a night
    #[arg(long, help_heading = "Plan", value_name = "FILE")]
    pub basis: Option<PathBuf>,
    /// Run only jobs that match this pattern, such as `scenario vfork*`; may be given several times
    #[arg(long, help_heading = "Plan", value_name = "PATTERN")]
    pub job: Vec<String>,
    /// Print the jobs of each shard, and run nothing
    #[arg(long, help_heading = "Plan")]
    pub plan: bool,
    /// Do not bisect new regressions
    #[arg(long, help_heading = "Plan")]
    pub no_bisect: bool,
    /// Command that is run by a shell for each new regression, with a description in JSON on its
    /// standard input
    #[arg(long, help_heading = "Output", value_name = "COMMAND")]
    pub hook: Option<String>,
    /// Number of nights that the history keeps
    #[arg(long, help_heading = "Output", value_name = "N", default_value_t = 90)]
    pub keep_nights: u32,
    /// Print the record as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write the results as JUnit XML
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the results as KTAP, the kernel's test format
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    pub ktap: Option<PathBuf>,
}

/// Runs a night, or a shard of one.
pub fn run(args: &NightlyArgs, context: &Context) -> Result<ExitCode> {
    match args.plan {
        true => nightly_run::show_plan(args, context),
        false => nightly_run::run(args, context),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().ok();
    let positive = parsed.and_then(|it| Duration::try_from(it).ok());
    positive
        .filter(|it| !it.is_zero())
        .ok_or_else(|| "a duration is a number with a unit, such as 2h, 90m or 1h30m".into())
}

fn shard(text: &str) -> Result<ShardSpec, String> {
    let shard = match text {
        "auto" => ShardSpec::auto(|name| std::env::var(name).ok()),
        text => ShardSpec::parse(text),
    };
    shard.map_err(|error| error.to_string())
}

/// Checks a name that becomes the name of a directory.
fn name(text: &str) -> Result<String, String> {
    let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    match !text.is_empty() && text.chars().all(usable) && !text.starts_with('.') {
        true => Ok(text.to_owned()),
        false => Err("a night's name has letters, digits, `-`, `_` and `.`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_and_names_are_checked_at_once() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        for wrong in ["", "10", "-1h", "0s", "1 parsec"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(name("2026-11-29").is_ok());
        for wrong in ["", "../x", ".x", "a b"] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shard("2/3"), Ok(ShardSpec { number: 2, of: 3 }));
        assert!(shard("3/2").is_err());
    }
}
