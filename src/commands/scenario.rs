// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible scenario`

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use crucible_artefacts::kernel::Flavour;
use crucible_engine::event;
use crucible_engine::progress::Event;
use crucible_engine::record::Versions;
use crucible_engine::results::Store;
use crucible_engine::trial::{self, Options};
use crucible_engine::{Backend, EventSpec, RestartIn, Scenario, Session, Verdict};

use crate::boot_artefacts::{BootArtefacts, FlavourArg, GuestArgs};
use crate::breaks::BreakArgs;
use crate::context::{self, Context};
use crate::embedded;
use crate::exit;
use crate::guests::HostLab;
use crate::machines::MachineArgs;
use crate::{backend_table, report};

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
    /// Run every scenario, in one guest
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
    /// Print the record as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Never prune this results directory, and keep the scratch disk
    #[arg(long, help_heading = "Output")]
    keep: bool,
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
    let scenarios = match load(&args.names, args.all, root) {
        Ok(scenarios) => scenarios,
        Err(message) => {
            eprintln!("crucible: {message}");
            return Ok(exit::USAGE.into());
        }
    };
    if args.accept && embedded::in_use() && scenarios.iter().any(|s| s.dir.starts_with(root)) {
        eprintln!(
            "crucible: --accept changes a scenario's expected result, and the scenarios that come \
             with the program cannot be changed; run crucible in a checkout, or copy the \
             scenario's directory"
        );
        return Ok(exit::USAGE.into());
    }
    let images = BootArtefacts::prepare(context, &args.broken.guest(&args.guest))?;
    let lab = HostLab::new(&images, context);
    let what = match &scenarios[..] {
        [one] => one.name.as_str(),
        _ => "all",
    };
    let results = context.results()?;
    let store = Store::begin(&results, what)
        .with_context(|| format!("cannot write to {}", results.display()))?;
    let progress = Steps::new(context);
    let sink = |event: &Event| progress.hear(event);
    let mut session = Session::new(&lab, &store, args.broken.name(), &sink);
    let options = |backend: BackendArg| Options {
        repeat: args.repeat,
        at: args.at.clone(),
        restart_in: match args.restart_in {
            RestartInArg::Same => RestartIn::Same,
            RestartInArg::Fresh => RestartIn::Fresh,
        },
        timeout: args.timeout,
        backend: backend.into(),
        vcpus: args.guest.machine.vcpus,
        accept: args.accept,
    };
    let mut records = Vec::new();
    for (n, scenario) in scenarios.iter().enumerate() {
        let name = args.names.get(n).unwrap_or(&scenario.name);
        for &backend in &args.backend {
            records.push(trial::scenario(
                &mut session,
                scenario,
                &options(backend),
                &store,
                reproduce(args, backend, name),
                versions(&images),
            ));
        }
    }
    if let Err(error) = session.close() {
        context
            .progress()
            .note(&format!("the guest did not shut down: {error}"));
    }
    let finished = context::shown(store.finished());
    for record in &mut records {
        record.results.clone_from(&finished);
    }
    let first = Backend::from(args.backend[0]);
    let decides = records.iter().filter(|record| record.backend == first);
    let verdict = Verdict::of_all(decides.map(|r| r.verdict));
    let json = report::json(&records, verdict)?;
    store.write(Path::new("record.json"), json.as_bytes())?;
    let table = (args.backend.len() > 1).then(|| backend_table::table(&records));
    if let Some(table) = &table {
        store.write(Path::new("backends.md"), table.as_bytes())?;
    }
    let keep_disk = args.keep;
    if !keep_disk {
        remove_if_there(&store.dir().join("scratch.ext4"))?;
    }
    store.finish(args.keep)?;
    if args.json {
        println!("{json}");
    } else if let Some(table) = table {
        print!("{table}");
        println!("\n  record   {}/record.json", records[0].results);
        println!("  table    {}/backends.md", records[0].results);
    } else {
        print!("{}", report::screen(&records));
    }
    Ok(verdict.exit_code().into())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
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

/// The command that runs one scenario again with the same options.
fn reproduce(args: &ScenarioArgs, backend: BackendArg, name: &str) -> String {
    let mut words = vec![format!("{} scenario", context::program()), name.to_owned()];
    let mut add = |option: &str, value: Option<String>| {
        words.extend(value.map(|value| format!("{option} {value}")));
    };
    add("--at", args.at.as_ref().map(ToString::to_string));
    add(
        "--restart-in",
        (args.restart_in == RestartInArg::Fresh).then(|| "fresh".into()),
    );
    add(
        "--backend",
        (backend == BackendArg::Criu).then(|| "criu".into()),
    );
    add(
        "--repeat",
        (args.repeat > 1).then(|| args.repeat.to_string()),
    );
    add("--timeout", args.timeout.map(|t| t.to_string()));
    add("--break", args.broken.name());
    add(
        "--flavour",
        (args.guest.kernel.flavour != FlavourArg::Base)
            .then(|| Flavour::from(args.guest.kernel.flavour).name().into()),
    );
    let path = |path: &Option<PathBuf>| path.as_ref().map(|p| p.display().to_string());
    add("--kernel", path(&args.guest.kernel.kernel));
    add("--kernel-src", path(&args.guest.kernel.kernel_src));
    let MachineArgs {
        machine,
        vcpus,
        cold,
    } = args.guest.machine;
    let machine = machine.to_possible_value();
    add(
        "--machine",
        machine
            .filter(|value| value.get_name() != "auto")
            .map(|value| value.get_name().to_owned()),
    );
    add("--vcpus", (vcpus > 1).then(|| vcpus.to_string()));
    if cold {
        words.push("--cold".into());
    }
    words.join(" ")
}

pub(super) fn versions(images: &BootArtefacts) -> Versions {
    let file = |path: &Path| {
        path.file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    let identity = &images.kernel.identity;
    let parts = [
        ("kernel", format!("{} {}", identity.version, identity.hash)),
        ("agent", file(&images.agent)),
        ("userland", file(&images.debian)),
    ];
    Versions {
        crucible: env!("CARGO_PKG_VERSION").into(),
        parts: parts.map(|(name, value)| (name.to_owned(), value)).into(),
        ..Versions::default()
    }
}

/// Shows the engine's events as progress.
struct Steps<'a> {
    context: &'a Context,
    place: RefCell<String>,
}

impl<'a> Steps<'a> {
    fn new(context: &'a Context) -> Self {
        Self {
            context,
            place: RefCell::default(),
        }
    }

    fn hear(&self, event: &Event) {
        let progress = self.context.progress();
        match event {
            Event::Booting => progress.note("booting a guest"),
            Event::Booted { ready_ms, kernel } => {
                progress.note(&format!("Linux {kernel} is ready after {ready_ms} ms"));
            }
            Event::Scenario { name, summary } => {
                self.place.replace(name.clone());
                progress.note(&format!("scenario {name}: {summary}"));
            }
            Event::Building { command } => progress.note(&format!("building: {command}")),
            Event::Case { name, at } => progress.note(&format!("case {name}, stopped at {at}")),
            Event::Step { name } => progress.begin(&format!("{}: {name}", self.place.borrow())),
            Event::StepDone { .. } => progress.end(),
            Event::CaseDone { name, verdict, why } => {
                progress.note(&format!("case {name}: {} ({why})", verdict.name()));
            }
            Event::ScenarioDone { .. } => {}
        }
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
            reproduce(&args, BackendArg::Crucible, "vfork"),
            "cargo run -q -- scenario vfork --at vfork:2 --restart-in fresh"
        );
    }
}
