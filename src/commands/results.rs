// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible results`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use crucible_history::Store;
use crucible_nightly::Basis;

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
    /// Take over the results of shards, in any order and as often as you like
    Merge {
        /// Files of shards, or of other histories
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print durations and turns of jobs, for `crucible nightly --basis`
    Basis,
    /// Show what a night found, and what has changed since the nights before it
    Show {
        /// The night; without it, the last one
        night: Option<String>,
        /// Print what is said of each test as one JSON object
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
            let basis = Basis::of(&existing(&path)?.results(None)?);
            stdout::json(&serde_json::to_string_pretty(&basis)?)?;
        }
        Action::Show { night, json } => {
            return nightly_run::show(&existing(&path)?, night.as_deref(), *json);
        }
    }
    Ok(exit::PASS.into())
}

/// Opens a history that is there.
fn existing(path: &std::path::Path) -> Result<Store> {
    match path.is_file() {
        true => Ok(Store::open(path)?),
        false => {
            let path = context::shown(path);
            let why = format!("there is no history {path}; `crucible nightly` makes one");
            Err(Usage(why).into())
        }
    }
}
