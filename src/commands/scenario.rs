// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible scenario`

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crucible_engine::event;
use crucible_engine::experiment::ScenarioExperiment;
use crucible_engine::trial::Options;
use crucible_engine::{Backend, EventSpec, RestartIn, Scenario};

use crate::boot_artefacts::GuestArgs;
use crate::breaks::BreakArgs;
use crate::command_line::CommandLine;
use crate::context::Context;
use crate::embedded;
use crate::exit::Usage;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::screens;

/// The options of `crucible scenario`.
#[derive(Debug, Args)]
pub struct ScenarioArgs {
    /// Scenarios to run: names that `crucible list` prints, or directories
    #[arg(
        required_unless_present = "all",
        conflicts_with = "all",
        value_name = "SCENARIO"
    )]
    names: Vec<String>,
    /// Run every scenario
    #[arg(long)]
    all: bool,
    /// Number of times to checkpoint and restart each case
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Stop at this event instead of the scenario's: `vfork:3`, `syscall:read:5`,
    /// `signal:SIGCHLD:2`, `time:250ms`; docs/reference/events.md has the grammar
    #[arg(long, help_heading = "What to run", value_name = "EVENT")]
    at: Option<EventSpec>,
    /// Where to restart: in the same guest, or in a fresh guest with the same disk
    #[arg(
        long,
        help_heading = "What to run",
        value_enum,
        default_value_t,
        value_name = "WHERE"
    )]
    restart_in: RestartInArg,
    /// Make the result the expected one, if all cases pass
    #[arg(long, help_heading = "Output", conflicts_with_all = ["at", "backend", "piece"])]
    accept: bool,
    /// Limit for each wait, in seconds, instead of the scenario's
    #[arg(long, help_heading = "What to run", value_name = "SECONDS")]
    timeout: Option<u64>,
    /// What checkpoints and restarts. `crucible,criu` runs each scenario with both and
    /// prints a table; the exit code is that of the first
    #[arg(
        long = "backend",
        alias = "engine",
        help_heading = "What to run",
        value_enum,
        value_name = "BACKEND",
        value_delimiter = ',',
        default_value = "crucible"
    )]
    backend: Vec<BackendArg>,
    #[command(flatten, next_help_heading = "What to run")]
    broken: BreakArgs,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// [`RestartIn`], on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum RestartInArg {
    #[default]
    Same,
    Fresh,
}

/// [`Backend`], on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum BackendArg {
    #[default]
    Crucible,
    Criu,
}

impl From<BackendArg> for Backend {
    fn from(backend: BackendArg) -> Self {
        match backend {
            BackendArg::Crucible => Self::Crucible,
            BackendArg::Criu => Self::Criu,
        }
    }
}

/// Runs scenarios and reports the results.
pub fn run(args: &ScenarioArgs, context: &Context) -> Result<ExitCode> {
    let root = &context.root()?;
    let scenarios = load(&args.names, args.all, root).map_err(Usage)?;
    if args.accept && embedded::in_use() && scenarios.iter().any(|s| s.dir.starts_with(root)) {
        let why = "--accept changes a scenario's expected result, and the scenarios that come with \
                   the program cannot be changed; run crucible in a checkout, or copy the \
                   scenario's directory";
        return Err(Usage(why.into()).into());
    }
    let what = match &scenarios[..] {
        [one] => one.name.clone(),
        _ => "all".to_owned(),
    };
    let break_switch = args.broken.name();
    let command = Command {
        name: "scenario",
        what: &what,
        args: &args.experiment,
        guest: &args.broken.guest(&args.guest),
        break_switch: break_switch.as_deref(),
        reproduce: args.reproduce(),
        journal: true,
    };
    let backends: Vec<_> = args.backend.iter().map(|&backend| backend.into()).collect();
    let experiment = ScenarioExperiment {
        scenarios,
        backends,
        options: args.options(),
    };
    experiment_run::run(
        &command,
        context,
        |_| Ok(experiment),
        &screens::scenario::screen,
    )
}

impl ScenarioArgs {
    fn options(&self) -> Options {
        Options {
            repeat: self.repeat,
            at: self.at.clone(),
            restart_in: match self.restart_in {
                RestartInArg::Same => RestartIn::Same,
                RestartInArg::Fresh => RestartIn::Fresh,
            },
            timeout: self.timeout,
            backend: Backend::default(),
            vcpus: self.guest.machine.vcpus,
            accept: self.accept,
        }
    }

    /// The command that runs the same again.
    fn reproduce(&self) -> String {
        let fresh = (self.restart_in == RestartInArg::Fresh).then_some("fresh");
        let backends: Vec<_> = self
            .backend
            .iter()
            .map(|&b| Backend::from(b).name())
            .collect();
        let backends = (backends != [Backend::Crucible.name()]).then(|| backends.join(","));
        let mut line = CommandLine::new("scenario").flag("--all", self.all);
        for name in &self.names {
            line = line.word(name);
        }
        line.option("--at", self.at.as_ref())
            .option("--restart-in", fresh)
            .option("--backend", backends)
            .option("--repeat", (self.repeat > 1).then_some(self.repeat))
            .option("--timeout", self.timeout)
            .option("--break", self.broken.name())
            .option(
                "--without",
                experiment_run::closed(&self.experiment.without),
            )
            .guest(&self.guest)
            .text()
    }
}

/// Loads the scenarios with these names, or all of them. An error is for the user: it
/// says what is wrong with a name or a file.
pub(super) fn load(names: &[String], all: bool, root: &Path) -> Result<Vec<Scenario>, String> {
    let dir: PathBuf = root.join("scenarios");
    let known = Scenario::names(&dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    let names = if all { &known[..] } else { names };
    names
        .iter()
        .map(|name| {
            let path = locate(name, &dir, &known)?;
            Scenario::load(&path).map_err(|e| e.to_string())
        })
        .collect()
}

/// Finds the directory of the scenario `name`: one in `scenarios/`, or a directory. Without a
/// slash, a name in `scenarios/` takes precedence; with a slash, an existing directory
/// does, and `hello/` or `./hello` without one mean the name.
fn locate(name: &str, dir: &Path, known: &[String]) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let is_scenario = path.join("scenario.toml").is_file();
    let last = path.file_name().unwrap_or_default().to_string_lossy();
    let is_ours = known.iter().any(|known| *known == last);
    match name.contains('/') {
        false if is_ours => Ok(dir.join(name)),
        true if is_ours && !path.exists() => Ok(dir.join(&*last)),
        _ if is_scenario => Ok(path.to_owned()),
        _ if path.is_dir() => Err(format!("{name} is not a scenario: it has no scenario.toml")),
        true => Err(format!("there is no directory {name}")),
        false => Err(
            match event::suggest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("there is no scenario `{name}`; did you mean `{near}`?"),
                None => format!(
                    "there is no scenario `{name}`; there are {}",
                    known.join(", ")
                ),
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: ScenarioArgs,
    }

    fn args(words: &[&str]) -> Result<ScenarioArgs, clap::Error> {
        let words = std::iter::once(&"scenario").chain(words);
        Cli::try_parse_from(words).map(|cli| cli.args)
    }

    #[test]
    fn a_name_or_all_is_needed() {
        assert!(args(&[]).is_err());
        assert!(args(&["--all"]).is_ok());
        assert!(args(&["hello", "--all"]).is_err());
        assert!(args(&["hello", "--repeat", "0"]).is_err());
    }

    #[test]
    fn a_bad_event_is_a_wrong_command_line() {
        let error = args(&["hello", "--at", "vfrok"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `vfork`?"), "{error}");
    }

    #[test]
    fn a_scenario_is_found_by_its_name_and_by_its_directory() {
        let ours = Path::new("/ours");
        let known = ["hello".to_owned()];
        let find = |name: &str| locate(name, ours, &known);
        for name in ["hello", "hello/", "./hello", "scenarios/of-nobody/hello"] {
            assert_eq!(find(name), Ok("/ours/hello".into()), "{name}");
        }
        let own = tempfile::tempdir().unwrap();
        let at = own.path().to_str().unwrap();
        assert!(find(at).unwrap_err().contains("it has no scenario.toml"));
        std::fs::write(own.path().join("scenario.toml"), "").unwrap();
        assert_eq!(find(at), Ok(own.path().to_owned()));
        assert_eq!(find(&format!("{at}/")).unwrap(), own.path());
        assert!(find("nothing").unwrap_err().contains("there are hello"));
    }

    #[test]
    fn the_command_that_reproduces_it_has_the_options_that_matter() {
        let args = args(&[
            "vfork",
            "--at",
            "vfork:2",
            "--restart-in",
            "fresh",
            "--json",
        ])
        .unwrap();
        assert_eq!(
            args.reproduce(),
            "cargo run -q -- scenario vfork --at vfork:2 --restart-in fresh"
        );
    }
}
