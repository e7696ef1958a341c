// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible results`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{ArgGroup, Args, Subcommand};
use crucible_history::Store;
use crucible_nightly::Basis;
use crucible_report::{NightResults, junit, kcidb, ktap};

use crate::context::{self, Context};
use crate::exit::{self, Usage};
use crate::{nightly_run, stdout};

/// `crucible results`
#[derive(Debug, Args)]
pub struct ResultsCommand {
    #[command(subcommand)]
    action: Action,
    /// The history, instead of the one in the directory of results
    #[arg(long, global = true, value_name = "FILE")]
    history: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Merge the results of shards, in any order and any number of times
    Merge {
        /// Files of shards, or of other histories
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print durations and turns of jobs, for `crucible nightly --basis`
    Basis,
    /// Write a night in a format that other programs read
    #[command(group = ArgGroup::new("format").required(true))]
    Export {
        /// The night; without it, the last one
        night: Option<String>,
        /// Print JSON of KCIDB 5.3, which KernelCI accepts
        #[arg(long, group = "format")]
        kcidb: bool,
        /// Print JUnit's XML
        #[arg(long, group = "format")]
        junit: bool,
        /// Print KTAP, the kernel's test format
        #[arg(long, group = "format")]
        ktap: bool,
        /// Name of the CI system in KCIDB
        #[arg(long, value_name = "NAME", value_parser = origin, default_value = "crucible")]
        origin: String,
    },
    /// Show the results of a night, and the changes since earlier nights
    Show {
        /// The night; without it, the last one
        night: Option<String>,
        /// Print the judgement of each test as one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs the subcommand.
pub fn run(command: &ResultsCommand, context: &Context) -> Result<ExitCode> {
    let path = match &command.history {
        Some(path) => path.clone(),
        None => nightly_run::history(&context.results()?),
    };
    match &command.action {
        Action::Merge { files } => {
            if let Some(missing) = files.iter().find(|file| !file.is_file()) {
                return Err(Usage(format!("there is no file {}", missing.display())).into());
            }
            let mut store = Store::open(&path)?;
            for file in files {
                let merged = store.merge(file)?;
                stdout::line(format_args!(
                    "{}: {} results added, {} known",
                    context::shown(file),
                    merged.added,
                    merged.known
                ))?;
            }
        }
        Action::Basis => {
            let basis = Basis::of(&nightly_run::existing(&path)?.results(None)?);
            stdout::json(&serde_json::to_string_pretty(&basis)?)?;
        }
        Action::Export {
            night,
            kcidb,
            junit,
            ktap: _,
            origin,
        } => {
            let store = nightly_run::existing(&path)?;
            let night = nightly_run::find(&store, night.as_deref())?;
            let night = NightResults::of(&store, &night.id, nightly_run::directory(&path))?;
            let text = match (kcidb, junit) {
                (true, _) => {
                    let value = kcidb::of_night(&night, origin);
                    return stdout::json(&serde_json::to_string_pretty(&value)?)
                        .map(|()| exit::PASS.into());
                }
                (_, true) => junit::of_night(&night)?,
                _ => ktap::of_night(&night),
            };
            stdout::screen(&text)?;
        }
        Action::Show { night, json } => {
            return nightly_run::show(&nightly_run::existing(&path)?, night.as_deref(), *json);
        }
    }
    Ok(exit::PASS.into())
}

fn origin(text: &str) -> Result<String, String> {
    match kcidb::is_origin(text) {
        true => Ok(text.to_owned()),
        false => Err("a CI system's name has small letters, digits and `_`".into()),
    }
}
