// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible scenario`

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use crucible_engine::event;
use crucible_engine::experiment::{RandomExperiment, ScenarioExperiment};
use crucible_engine::random;
use crucible_engine::trial::Options;
use crucible_engine::{Backend, EventSpec, RestartIn, Scenario};

use crate::boot_artefacts::GuestArgs;
use crate::breaks::BreakArgs;
use crate::command_line::CommandLine;
use crate::context::Context;
use crate::embedded;
use crate::exit::Usage;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::machines::MachineArg;
use crate::screens;

/// The options of `crucible scenario`.
#[derive(Debug, Args)]
pub struct ScenarioArgs {
    /// Scenarios to run: names that `crucible list` prints, or directories
    #[arg(
        required_unless_present_any = ["all", "random"],
        conflicts_with = "all",
        value_name = "SCENARIO"
    )]
    names: Vec<String>,
    /// Run every scenario
    #[arg(long)]
    all: bool,
    /// Run only this case of the scenario; may be given several times
    #[arg(long, value_name = "CASE", conflicts_with_all = ["all", "random", "accept"])]
    case: Vec<String>,
    /// Draw trees of processes by these seeds, such as `17` or `1..200`, and run each: it
    /// must restart, or be refused if it has unsupported state. A tree that fails is shrunk
    #[arg(long, value_name = "SEEDS", value_parser = seeds, conflicts_with_all = ["all", "names", "at", "accept", "backend", "repeat", "chain"])]
    random: Option<RangeInclusive<u64>>,
    /// Number of times to checkpoint and restart each case; from 10 on, the kernel's own counts
    /// show objects that each restart leaks
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Stop at this event instead of the scenario's: `vfork:3`, `syscall:read:5`,
    /// `signal:SIGCHLD:2`, `time:250ms`; docs/reference/events.md has the grammar
    #[arg(long, help_heading = "What to run", value_name = "EVENT")]
    at: Option<EventSpec>,
    /// Checkpoint, kill and restart each run N times: at the event, and then at the next events of any
    /// kind, as far as the run has them. The expected result does not apply
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "backend")]
    chain: u32,
    /// Keep the vCPUs of each guest busy with N processes
    #[arg(long, help_heading = "What to run", value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=64))]
    load: u32,
    /// Guest of the restart: the same guest, or a fresh guest with the same disk
    #[arg(
        long,
        help_heading = "What to run",
        value_enum,
        default_value_t,
        value_name = "WHERE"
    )]
    restart_in: RestartInArg,
    /// Restart in a fresh guest with this kernel image, to find out which half of
    /// checkpoint/restart is broken. Compares no second image
    #[arg(long, help_heading = "What to run", value_name = "IMAGE", conflicts_with_all = ["accept", "record", "resume", "repeat", "gdb", "chain"])]
    restart_kernel: Option<PathBuf>,
    /// Make the result the expected one, if all cases pass
    #[arg(long, help_heading = "Output", conflicts_with_all = ["at", "backend", "piece", "chain"])]
    accept: bool,
    /// Limit for each wait, in seconds, instead of the scenario's
    #[arg(long, help_heading = "What to run", value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Backend of checkpoint and restart. `crucible,criu` runs each scenario with both and
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
    /// Record the guest, so that `crucible replay` executes the same instructions again: in QEMU,
    /// with one vCPU, from its boot; about three times slower
    #[arg(long, help_heading = "Machine")]
    record: bool,
    #[command(flatten, next_help_heading = "What to run")]
    broken: BreakArgs,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// The values of `--restart-in`; see [`RestartIn`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum RestartInArg {
    #[default]
    Same,
    Fresh,
}

/// The values of `--backend`; see [`Backend`].
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
    args.check_record().map_err(Usage)?;
    let root = &context.root()?;
    if let Some(seeds) = &args.random {
        return random(args, seeds, root, context);
    }
    let mut scenarios = load(&args.names, args.all, root).map_err(Usage)?;
    match &mut scenarios[..] {
        [one] => choose_cases(one, &args.case).map_err(Usage)?,
        _ if args.case.is_empty() => {}
        _ => return Err(Usage("--case is for one scenario".into()).into()),
    }
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
        guest: &args.recorded(args.broken.guest(&args.guest)),
        break_switch: break_switch.as_deref(),
        reproduce: args.reproduce(),
        journal: !args.record && args.restart_kernel.is_none(),
        record: args.record,
        restart_kernel: args.restart_kernel.as_deref(),
    };
    let backends: Vec<_> = args.backend.iter().map(|&backend| backend.into()).collect();
    let experiment = ScenarioExperiment {
        scenarios,
        backends,
        options: args.options(),
        part: !args.case.is_empty(),
    };
    experiment_run::run(
        &command,
        context,
        |_| Ok(experiment),
        &screens::scenario::screen,
    )
}

/// Runs random trees.
fn random(
    args: &ScenarioArgs,
    seeds: &RangeInclusive<u64>,
    root: &Path,
    context: &Context,
) -> Result<ExitCode> {
    let names = [random::SCENARIO.to_owned()];
    let scenario = load(&names, false, root).map_err(Usage)?.remove(0);
    let break_switch = args.broken.name();
    let command = Command {
        name: "scenario",
        what: "random",
        args: &args.experiment,
        guest: &args.recorded(args.broken.guest(&args.guest)),
        break_switch: break_switch.as_deref(),
        reproduce: args.reproduce(),
        journal: !args.record,
        record: args.record,
        restart_kernel: args.restart_kernel.as_deref(),
    };
    let experiment = RandomExperiment::new(scenario, seeds.clone(), args.options());
    experiment_run::run(
        &command,
        context,
        |_| Ok(experiment),
        &screens::random::screen,
    )
}

/// Parses `17` or `1..200`, which includes its end.
fn seeds(text: &str) -> Result<RangeInclusive<u64>, String> {
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err("seeds are a number, such as 17, or a range, such as 1..200".into()),
    }
}

impl ScenarioArgs {
    /// Rejects options that cannot be recorded.
    fn check_record(&self) -> Result<(), String> {
        let machine = &self.guest.machine;
        let problem = match () {
            () if !self.record => return Ok(()),
            () if machine.machine == MachineArg::Kvm => "our own VMM on KVM",
            () if machine.vcpus != 1 => "a guest with several vCPUs (--vcpus 1 chooses one)",
            () if self.guest.gdb.is_some() => {
                "a guest that gdb stops; `crucible replay --gdb` debugs the recording"
            }
            () if self.experiment.resume => "the rest of an earlier run",
            () => return Ok(()),
        };
        Err(format!(
            "--record needs QEMU, a cold boot and one vCPU, and cannot record {problem}"
        ))
    }

    /// Returns the guest to run: one that boots in QEMU, if it is recorded.
    fn recorded(&self, mut guest: GuestArgs) -> GuestArgs {
        guest.machine.load = self.load;
        if self.record {
            guest.machine.machine = MachineArg::Qemu;
            guest.machine.cold = true;
        }
        guest
    }

    fn options(&self) -> Options {
        Options {
            repeat: self.repeat,
            at: self.at.clone(),
            restart_in: match self.restart_in {
                RestartInArg::Same if self.restart_kernel.is_none() => RestartIn::Same,
                _ => RestartIn::Fresh,
            },
            chain: self.chain,
            timeout: self.timeout,
            backend: Backend::default(),
            vcpus: self.guest.machine.vcpus,
            accept: self.accept,
        }
    }

    /// Returns the command that repeats the run.
    fn reproduce(&self) -> String {
        let fresh = (self.restart_in == RestartInArg::Fresh).then_some("fresh");
        let kernel = self.restart_kernel.as_ref();
        let kernel = kernel.map(|image| image.display().to_string());
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
        for case in &self.case {
            line = line.option("--case", Some(case));
        }
        let seeds = self
            .random
            .as_ref()
            .map(|seeds| match seeds.start() == seeds.end() {
                true => seeds.start().to_string(),
                false => format!("{}..{}", seeds.start(), seeds.end()),
            });
        line.option("--random", seeds)
            .option("--at", self.at.as_ref())
            .option("--restart-in", fresh)
            .option("--restart-kernel", kernel)
            .option("--backend", backends)
            .option("--repeat", (self.repeat > 1).then_some(self.repeat))
            .option("--chain", (self.chain > 1).then_some(self.chain))
            .option("--load", (self.load > 0).then_some(self.load))
            .option("--timeout", self.timeout)
            .option("--break", self.broken.name())
            .flag("--record", self.record)
            .option(
                "--without",
                experiment_run::closed(&self.experiment.without),
            )
            .guest(&self.guest)
            .text()
    }
}

/// Loads the scenarios with these names, or all of them. An error is a message for the user, with
/// the faulty name or file.
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

/// Drops all cases except the named ones, if any are named. An error is a message for the user.
pub(super) fn choose_cases(scenario: &mut Scenario, wanted: &[String]) -> Result<(), String> {
    let known: Vec<_> = scenario.cases.iter().map(|c| c.name.clone()).collect();
    if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
        return Err(format!(
            "there is no case `{unknown}`; the cases are {}",
            known.join(", ")
        ));
    }
    if !wanted.is_empty() {
        scenario.cases.retain(|case| wanted.contains(&case.name));
    }
    Ok(())
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
    fn only_one_vcpu_of_qemu_is_recorded() {
        let check = |words: &[&str]| args(words).unwrap().check_record();
        assert_eq!(check(&["hello", "--machine", "kvm"]), Ok(()));
        assert_eq!(check(&["hello", "--record"]), Ok(()));
        assert_eq!(check(&["hello", "--record", "--machine", "qemu"]), Ok(()));
        for (words, part) in [
            (["--machine", "kvm"], "our own VMM"),
            (["--vcpus", "2"], "several vCPUs"),
            (["--gdb", "./socket"], "gdb"),
        ] {
            let error = check(&["hello", "--record", words[0], words[1]]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let recorded = args(&["hello", "--record"]).unwrap();
        let guest = recorded.recorded(recorded.guest.clone());
        assert!(guest.machine.cold && guest.machine.machine == MachineArg::Qemu);
    }

    #[test]
    fn seeds_are_a_number_or_a_range() {
        assert_eq!(seeds("17"), Ok(17..=17));
        assert_eq!(seeds("1..200"), Ok(1..=200));
        for wrong in ["", "x", "3..2", "-1", "1..", "1...3"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
        let args = args(&["--random", "1..3"]).unwrap();
        assert_eq!(args.reproduce(), "cargo run -q -- scenario --random 1..3");
    }

    #[test]
    fn the_command_that_runs_it_again_has_its_links_and_its_load() {
        let args = args(&["hello", "--chain", "4", "--load", "2"]).unwrap();
        let line = args.reproduce();
        assert!(
            line.ends_with("scenario hello --chain 4 --load 2"),
            "{line}"
        );
        assert_eq!(args.options().links(), 4);
        assert_eq!(args.recorded(args.guest.clone()).machine.load, 2);
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
