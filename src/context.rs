// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The context of a command: the global options, cache, sources, results and progress.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;
use clap::Args;
use crucible_artefacts::{Cache, Error, Progress, Sources, directory, host};
use crucible_engine::stream::{Body, Stream};

use crate::bundle::Bundle;
use crate::earlier::Earlier;
use crate::embedded;
use crate::listeners::terminal::Terminal;
use crate::log::Log;

/// The options that all commands share.
#[derive(Debug, Args)]
pub struct Global {
    /// Do not install missing host packages: list them and exit
    #[arg(long, global = true, help_heading = "Global options")]
    pub no_install: bool,
    /// Do not report progress
    #[arg(short, long, global = true, help_heading = "Global options")]
    pub quiet: bool,
    /// Show the commands that are run, and the messages of machines and agents; a run keeps
    /// them in crucible.log in any case
    #[arg(
        short,
        long,
        global = true,
        help_heading = "Global options",
        conflicts_with = "quiet"
    )]
    pub verbose: bool,
}

/// The context of a command.
pub struct Context {
    install: bool,
    log: Log,
    reporter: Reporter,
    earlier: OnceLock<Earlier>,
}

/// Emits the steps that prepare a run as events.
struct Reporter(Stream);

impl Progress for Reporter {
    fn begin(&self, name: &str) {
        self.0.tell(Body::PreparationStarted { name: name.into() });
    }

    fn advance(&self, done: u64, total: u64) {
        self.0.tell(Body::PreparationAdvanced { done, total });
    }

    fn end(&self) {
        self.0.tell(Body::PreparationFinished);
    }

    fn note(&self, text: &str) {
        self.0.tell(Body::Note { text: text.into() });
    }
}

impl Context {
    /// Creates the context from the global options.
    pub fn new(global: &Global) -> Self {
        let stream = Stream::default();
        stream.add(Box::new(Terminal::new(global.quiet)));
        Self {
            install: !global.no_install,
            log: Log::install(global.verbose),
            reporter: Reporter(stream),
            earlier: OnceLock::new(),
        }
    }

    /// Lets experiments run only units that an earlier run lacks. Only the first call has an
    /// effect.
    pub fn follow(&self, earlier: Earlier) {
        let _ = self.earlier.set(earlier);
    }

    /// Returns the run whose failed units are to be run again.
    pub fn earlier(&self) -> Option<&Earlier> {
        self.earlier.get()
    }

    /// Returns the receiver of the progress of preparations.
    pub fn progress(&self) -> &dyn Progress {
        &self.reporter
    }

    /// Returns the receiver of all events.
    pub fn stream(&self) -> &Stream {
        &self.reporter.0
    }

    /// Returns the log.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Returns the cache.
    pub fn cache(&self) -> Result<Cache> {
        Ok(Cache::from_env()?)
    }

    /// Returns the sources that guests are built from: a checkout, or the program's own copy.
    pub fn sources(&self) -> Result<Sources> {
        if embedded::in_use() {
            return embedded::unpack(&self.cache()?, self.progress());
        }
        Ok(Sources::find()?)
    }

    /// Returns the directory with `scenarios/`: this program's bundle, or the sources.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(match Bundle::of_this_program()? {
            Some(bundle) => bundle.root().to_owned(),
            None => self.sources()?.root().to_owned(),
        })
    }

    /// Returns the directory of the results of runs: `$CRUCIBLE_RESULTS`, `results/` in the bundle
    /// or the checkout, or, for an installed program, `crucible/results` in `$XDG_STATE_HOME` or
    /// `~/.local/state`.
    ///
    /// # Errors
    ///
    /// Others may write to it: results are read, and their disks booted, by this user.
    pub fn results(&self) -> Result<PathBuf> {
        let path = self.results_path()?;
        // A bundle's disk contains the uids of the host on which it was made.
        if path.exists() && Bundle::of_this_program()?.is_none() {
            directory::check_owner(&path, "CRUCIBLE_RESULTS")?;
        }
        Ok(path)
    }

    fn results_path(&self) -> Result<PathBuf> {
        let set = |name| {
            env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        if let Some(named) = set("CRUCIBLE_RESULTS") {
            return Ok(std::path::absolute(named)?);
        }
        if !embedded::in_use() || Bundle::of_this_program()?.is_some() {
            return Ok(self.root()?.join("results"));
        }
        let state = set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .ok_or(Error::NoCache)?;
        Ok(state.join("crucible/results"))
    }

    /// Installs missing host packages, or fails with their names after `--no-install`.
    pub fn host(&self) -> Result<()> {
        Ok(host::ensure(self.install, self.progress())?)
    }
}

/// Returns a path as it can be typed in the current directory: relative if it is below.
pub fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    let path = path.strip_prefix(&here).unwrap_or(path);
    path.to_string_lossy().into_owned()
}

/// Returns the command that starts this program, for the commands that it suggests.
pub fn program() -> &'static str {
    match (embedded::is_moved(), cfg!(debug_assertions)) {
        (true, _) => "crucible",
        (false, true) => "cargo run -q --",
        (false, false) => "cargo run --release -q --",
    }
}
