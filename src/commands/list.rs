// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible list`

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_engine::Scenario;
use serde::Serialize;

use crate::context::Context;
use crate::exit;
use crate::stdout;

/// The options of `crucible list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    summary: String,
    cases: Vec<Case>,
}

#[derive(Serialize)]
struct Case {
    name: String,
    at: String,
}

/// Lists the scenarios.
pub fn run(args: &ListArgs, context: &Context) -> Result<ExitCode> {
    let dir = context.root()?.join("scenarios");
    let names = Scenario::names(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut entries = Vec::new();
    for name in names {
        let scenario = Scenario::load(&dir.join(&name))?;
        let case = |c: &crucible_engine::scenario::Case| Case {
            name: c.name.clone(),
            at: c.at.to_string(),
        };
        entries.push(Entry {
            cases: scenario.cases.iter().map(case).collect(),
            name,
            summary: scenario.summary,
        });
    }
    if args.json {
        stdout::line(format_args!("{}", serde_json::to_string_pretty(&entries)?))?;
        return Ok(exit::PASS.into());
    }
    let width = entries.iter().map(|e| e.name.len()).max().unwrap_or(0);
    for entry in &entries {
        stdout::line(format_args!("{:width$}  {}", entry.name, entry.summary))?;
        for case in &entry.cases {
            stdout::line(format_args!(
                "{:width$}    {} at {}",
                "", case.name, case.at
            ))?;
        }
    }
    Ok(exit::PASS.into())
}
