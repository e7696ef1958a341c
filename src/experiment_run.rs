// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs an experiment for a command: artefacts, journal, guests, listeners, record, screen.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use crucible_engine::Eye;
use crucible_engine::experiment::{
    self, Experiment, Identity, Journal, JournalError, Report, Setup,
};
use crucible_engine::interrupt;
use crucible_engine::record::{Record, SCHEMA, UnitRecord};
use crucible_engine::results::Store;
use crucible_engine::stream::{Body, EventFile, SCHEMA as EVENTS_SCHEMA};
use serde_json::{Value, json};

use crate::boot_artefacts::{self, BootArtefacts, GuestArgs, KernelArgs};
use crate::context::{self, Context};
use crate::earlier::Earlier;
use crate::exit::{self, Usage};
use crate::guests::HostLab;
use crate::listeners::junit::JUnit;
use crate::listeners::ktap::{Ktap, Written};
use crate::provenance::{Provenance, kernel_parts, provenance};
use crate::recordings;
use crate::stdout;

/// The options that all experiments share.
#[derive(Debug, Clone, Default, Args)]
pub struct ExperimentArgs {
    /// Number of guests to run in parallel
    #[arg(long, help_heading = "Run", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub jobs: u8,
    /// Resume an interrupted run: skip the units that it has finished
    #[arg(long, help_heading = "Run")]
    pub resume: bool,
    /// Print the record as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Write the results as JUnit XML
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    pub junit: Option<PathBuf>,
    /// Write the results as KTAP, the kernel's test format
    #[arg(long, help_heading = "Output", value_name = "FILE")]
    pub ktap: Option<PathBuf>,
    /// Disable these checks (eyes), for measurements only
    #[arg(long, hide = true, value_name = "EYE", value_delimiter = ',', value_parser = eye)]
    pub without: Vec<Eye>,
    /// Never prune this results directory, and keep the scratch disks
    #[arg(long, help_heading = "Output")]
    pub keep: bool,
}

/// Parses the name of an eye.
fn eye(name: &str) -> Result<Eye, String> {
    let found = Eye::ALL.into_iter().find(|eye| eye.name() == name);
    found.ok_or_else(|| format!("the eyes are {}", Eye::ALL.map(Eye::name).join(", ")))
}

/// Returns the value of `--without`, if it names a check.
pub fn closed(without: &[Eye]) -> Option<String> {
    let names: Vec<_> = without.iter().map(|eye| eye.name()).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// Fails if `--without` names a check that the command does not make.
fn refuse_idle_eyes(command: &str, without: &[Eye]) -> Result<(), Usage> {
    match without.iter().find(|eye| eye.is_of_mutants()) {
        Some(eye) if command != "mutate" => Err(Usage(format!(
            "--without {}: only `crucible mutate` has that eye; leave it out",
            eye.name()
        ))),
        _ => Ok(()),
    }
}

/// A command's description of its experiment.
pub struct Command<'a> {
    /// Its name: `scenario`, `sweep`, …
    pub name: &'a str,
    /// The part of the names of its results and journal that differs between runs of the command:
    /// the scenario's name, for example.
    pub what: &'a str,
    /// The shared options.
    pub args: &'a ExperimentArgs,
    /// Options of the guest.
    pub guest: &'a GuestArgs,
    /// Switch of the debug kernel.
    pub break_switch: Option<&'a str>,
    /// The command that repeats the run.
    pub reproduce: String,
    /// True when a journal is kept.
    pub journal: bool,
    /// True when guests are recorded.
    pub record: bool,
    /// The image of the kernel for the restart, if it is a different one.
    pub restart_kernel: Option<&'a Path>,
}

/// Formats a finished run for the screen.
pub type Screen<D, S> = dyn Fn(&Report<D, S>, &Record) -> String;

/// Runs an experiment that `make` returns once the artefacts exist, and reports it. Returns the
/// exit code.
pub fn run<E: Experiment>(
    command: &Command<'_>,
    context: &Context,
    make: impl FnOnce(&BootArtefacts) -> Result<E>,
    screen: &Screen<E::Detail, E::Summary>,
) -> Result<ExitCode> {
    refuse_idle_eyes(command.name, &command.args.without)?;
    let began = Instant::now();
    let results = context.results()?;
    let store = Store::begin(&results, &title(command))
        .with_context(|| format!("cannot write to {}", results.display()))?;
    let stream = context.stream();
    let (file, file_error) = EventFile::create(store.dir())
        .with_context(|| format!("cannot write to {}", store.dir().display()))?;
    stream.add(Box::new(file));
    context
        .log()
        .keep(store.dir())
        .with_context(|| format!("cannot write to {}", store.dir().display()))?;
    let outputs = outputs(command.args, context);
    stream.tell(Body::RunStarted {
        schema: EVENTS_SCHEMA,
        command: command.name.into(),
        arguments: env::args().collect(),
    });
    let images = BootArtefacts::prepare(context, command.guest)?;
    let restart = command.restart_kernel.map(|image| {
        let mut guest = command.guest.clone();
        guest.kernel = KernelArgs::image(image);
        BootArtefacts::prepare(context, &guest)
    });
    let restart = restart.transpose()?;
    let mut experiment = make(&images)?;
    let mut provenance = provenance(&images)?;
    provenance.restart_kernel = restart.as_ref().map(kernel_parts).transpose()?;
    let again = context.earlier();
    if let Some(differs) = again.and_then(|earlier| earlier.differs(&provenance)) {
        context.progress().note(&differs);
    }
    let journal = journal(
        command,
        &results,
        &images,
        &provenance,
        &experiment,
        context,
    )?;
    let lab = HostLab::new(&images, context, command.record)
        .restarting_in(restart.as_ref())
        .loaded(command.guest.machine.load)
        .fitting(&experiment);
    let setup = Setup {
        lab: &lab,
        store: &store,
        stream,
        jobs: command.args.jobs,
        break_switch: command.break_switch,
        without: &command.args.without,
        skip: again.map(|earlier| &earlier.passed),
    };
    let report = experiment::execute(&mut experiment, setup, journal);
    let finished = context::shown(store.finished());
    let recordings = match command.record {
        true => recordings::complete(&store)?,
        false => Vec::new(),
    };
    let booted = report.booted.as_ref();
    let record = Record {
        schema: SCHEMA,
        command: command.name.into(),
        outcome: report.outcome(),
        exit_code: report.exit_code(),
        counts: report.counts(),
        left: report.left as u64,
        units: units(&experiment, &report),
        skipped: again.map(Earlier::skipped).unwrap_or_default(),
        guests: report.guests.clone(),
        summary: serde_json::to_value(&report.summary)?,
        without: command.args.without.clone(),
        reproduce: command.reproduce.clone(),
        provenance: serde_json::to_value(&provenance)?,
        guest: booted.map(|booted| booted.guest.clone()),
        machine: booted.map(|booted| booted.machine.clone()),
        machine_ready_ms: booted.map(|booted| booted.ready_ms),
        recordings,
        ms: began.elapsed().as_millis() as u64,
        results: finished.clone(),
    };
    stream.tell(Body::RunFinished {
        condition: record.outcome.condition,
        why: record.outcome.why.clone(),
        exit_code: record.exit_code,
        counts: record.counts.clone(),
        left: record.left,
        record: format!("{finished}/record.json"),
    });
    let json = serde_json::to_string_pretty(&record)?;
    // Remove the guests' disks first: they may have filled the host's disk.
    if !command.args.keep {
        store.remove_disks().context("cannot remove the disks")?;
    }
    let kept = store
        .write(Path::new("record.json"), json.as_bytes())
        .map_or_else(Err, |()| file_error.take().map_or(Ok(()), Err))
        .and_then(|()| store.finish(command.args.keep))
        .with_context(|| format!("cannot write to {}", results.display()));
    for (path, written) in outputs {
        write(&path, &written)?;
    }
    match command.args.json {
        true => stdout::json(&json)?,
        false => stdout::screen(&screen(&report, &record))?,
    }
    kept?;
    Ok(record.exit_code.into())
}

/// Returns the part of the name of the run's directory that follows the time.
fn title(command: &Command<'_>) -> String {
    match command.name {
        "scenario" => command.what.to_owned(),
        name if command.what.is_empty() => name.to_owned(),
        name => format!("{name}-{}", command.what),
    }
}

/// Adds the listeners that write files. Returns the files.
pub fn outputs(args: &ExperimentArgs, context: &Context) -> Vec<(PathBuf, Written)> {
    let mut outputs = Vec::new();
    if let Some(path) = &args.junit {
        let written = Written::default();
        context.stream().add(Box::new(JUnit::new(written.clone())));
        outputs.push((path.clone(), written));
    }
    if let Some(path) = &args.ktap {
        let written = Written::default();
        context.stream().add(Box::new(Ktap::new(written.clone())));
        outputs.push((path.clone(), written));
    }
    outputs
}

/// Writes the output of a listener to its file.
pub fn write(path: &Path, written: &Written) -> Result<()> {
    let text = written
        .take()
        .unwrap_or_else(|| Err("the run has no last event".into()));
    let text = text.map_err(|error| anyhow!("cannot format {}: {error}", path.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn journal<E: Experiment>(
    command: &Command<'_>,
    results: &Path,
    images: &BootArtefacts,
    provenance: &Provenance,
    experiment: &E,
    context: &Context,
) -> Result<Journal<E::Detail>> {
    if context.earlier().is_some() {
        if command.args.resume {
            return Err(exit::Usage("`rerun` and --resume exclude each other".into()).into());
        }
        // A part of a run must not replace the journal of the whole run.
        return Ok(Journal::none());
    }
    if !command.journal {
        return Ok(Journal::none());
    }
    let mut identity = Identity::new(command.name);
    identity.add("kernel", serde_json::to_string(&provenance.kernel)?);
    identity.add("agent", &provenance.agent);
    identity.add("userland", serde_json::to_string(&provenance.userland)?);
    identity.add("qemu", provenance.qemu.as_deref().unwrap_or_default());
    let machine = &command.guest.machine;
    let memory = boot_artefacts::memory_mib(command.guest);
    let described = format!("{:?} {} {memory}", images.kind(), machine.vcpus);
    identity.add("machine", described);
    if machine.load > 0 {
        identity.add("load", machine.load.to_string());
    }
    identity.add("break", command.break_switch.unwrap_or_default());
    identity.add("without", closed(&command.args.without).unwrap_or_default());
    experiment
        .identify(&mut identity)
        .context("cannot read the sources")?;
    let path = results
        .join("journals")
        .join(format!("{}.jsonl", title(command)));
    Journal::open(&path, identity, command.args.resume).map_err(|error| match error {
        JournalError::Io { .. } => error.into(),
        _ => exit::Usage(error.to_string()).into(),
    })
}

fn units<E: Experiment>(experiment: &E, report: &Report<E::Detail, E::Summary>) -> Vec<UnitRecord> {
    let findings = report.findings.iter();
    findings
        .map(|finding| UnitRecord {
            key: finding.key.clone(),
            outcome: finding.outcome.clone(),
            ms: finding.ms,
            detail: detail(finding.detail.as_ref().map(|d| experiment.recorded(d))),
        })
        .collect()
}

/// Returns the data of a unit's record besides its outcome.
fn detail(recorded: Option<Value>) -> Value {
    let mut detail = recorded.unwrap_or_else(|| json!({}));
    if let Some(fields) = detail.as_object_mut() {
        // Drop the unit's own data of this name: the outcome has it. An object can have each name
        // only once.
        for name in ["key", "condition", "blame", "verdict", "why", "lines", "ms"] {
            fields.remove(name);
        }
    }
    match detail {
        Value::Object(_) => detail,
        other => json!({ "detail": other }),
    }
}

/// Installs the handlers of Ctrl-C and SIGTERM.
pub fn handle_signals() -> Result<()> {
    crucible_artefacts::on_interrupt(interrupt::requested);
    interrupt::install().context("cannot handle signals")
}
