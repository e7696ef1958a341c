// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible report`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_report::Page;

use crate::context::{self, Context};
use crate::{exit, nightly_run, stdout};

/// The options of `crucible report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The night; without it, the last one
    night: Option<String>,
    /// The history, instead of the one in the directory of results
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// The page. Default: `report.html` in the directory of the night
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes the page of a night.
pub fn run(args: &ReportArgs, context: &Context) -> Result<ExitCode> {
    let history = match &args.history {
        Some(path) => path.clone(),
        None => nightly_run::history(&context.results()?),
    };
    let store = nightly_run::existing(&history)?;
    let night = nightly_run::find(&store, args.night.as_deref())?;
    let results = nightly_run::directory(&history);
    let out = match &args.out {
        Some(path) => path.clone(),
        None => results.join("nights").join(&night.id).join("report.html"),
    };
    let beside = nightly_run::directory(&out);
    let name = |path: &Path| context::shown(path);
    fs::create_dir_all(beside).with_context(|| format!("cannot make {}", name(beside)))?;
    let absolute = |path: &Path| {
        let found = path.canonicalize();
        found.with_context(|| format!("cannot find {}", name(path)))
    };
    let page = Page::of(&store, &night.id, &absolute(results)?, &absolute(beside)?)?;
    fs::write(&out, page.html()).with_context(|| format!("cannot write {}", name(&out)))?;
    stdout::line(format_args!("{}", name(&out)))?;
    Ok(exit::PASS.into())
}
