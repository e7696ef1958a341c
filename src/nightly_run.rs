// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a night for the command: plan, jobs, history, judgement, record, screen.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use crucible_artefacts::Fingerprint;
use crucible_engine::outcome::Outcome;
use crucible_engine::record::{Record, SCHEMA, UnitRecord};
use crucible_engine::results;
use crucible_engine::stream::{Body, EventFile, SCHEMA as EVENTS_SCHEMA, Stream};
use crucible_engine::{Condition, Scenario};
use crucible_history::{Change, Judgement, Night as NightRow, Store};
use crucible_nightly::{
    Basis, Error as NightError, Listener, Night, NightReport, Offer, Plan, Ran, Settings,
    ShardSpec, Step, bisect, jobs, plan, unfinished,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::commands::nightly::NightlyArgs;
use crate::context::{self, Context};
use crate::exit::{HostTrouble, Usage};
use crate::experiment_run::{self, ExperimentArgs};
use crate::{machines, screens, stdout};

/// Returns the file of the history in a directory of results.
pub fn history(results: &Path) -> PathBuf {
    results.join("history.sqlite")
}

/// Opens an existing history.
pub fn existing(path: &Path) -> Result<Store> {
    match path.is_file() {
        true => Ok(Store::open(path)?),
        false => {
            let path = context::shown(path);
            let why = format!("there is no history {path}; `crucible nightly` makes one");
            Err(Usage(why).into())
        }
    }
}

/// Returns the directory with the results of a history. It is the directory of the history itself,
/// so both can be moved together.
pub fn directory(history: &Path) -> &Path {
    match history.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Finds a night of a history; the last one if `night` is `None`.
pub fn find(store: &Store, night: Option<&str>) -> Result<NightRow> {
    let mut nights = store.nights()?;
    let last = nights.len().checked_sub(1);
    let at = match night {
        Some(wanted) => nights.iter().position(|it| it.id == wanted),
        None => last,
    };
    let Some(at) = at else {
        let known: Vec<_> = nights.iter().rev().take(5).map(|it| &*it.id).collect();
        let why = format!(
            "there is no such night; the last ones are {}",
            known.join(", ")
        );
        return Err(Usage(why).into());
    };
    Ok(nights.swap_remove(at))
}

/// Shows a night of a history; the last one if `night` is `None`.
pub fn show(store: &Store, night: Option<&str>, json: bool) -> Result<ExitCode> {
    let night = find(store, night)?;
    let report = NightReport::of(store, &night.id, None)?;
    match json {
        true => stdout::json(&serde_json::to_string_pretty(&report)?)?,
        false => stdout::screen(&screens::nightly::screen(&report))?,
    }
    Ok(report.condition.exit_code().into())
}

/// Directory of the scenario whose comparison must fail, relative to the sources.
const CANARY: &str = "scenarios/shared/canary";

/// File of a night with the basis of its plan.
const BASIS: &str = "basis.json";

/// Prints the plan of a night.
pub fn show_plan(args: &NightlyArgs, context: &Context) -> Result<ExitCode> {
    let (plan, ..) = planned(args, &name(args, &context.results()?)?, context)?;
    if args.json {
        let jobs = plan
            .jobs
            .iter()
            .map(|(job, shard)| json!({ "shard": shard, "job": job }));
        let value = json!({
            "hash": plan.hash,
            "shard": args.shard.number,
            "shards": args.shard.of,
            "jobs": jobs.collect::<Vec<_>>(),
        });
        stdout::json(&serde_json::to_string_pretty(&value)?)?;
        return Ok(crate::exit::PASS.into());
    }
    let mut text = format!("plan {}: {} jobs\n", plan.hash, plan.jobs.len());
    for (job, shard) in &plan.jobs {
        text += &format!("{shard:>3}  {}\n", job.key());
    }
    stdout::screen(&text)?;
    Ok(crate::exit::PASS.into())
}

/// Returns the words of the command that runs the failed and missing tests of a night again, as a
/// separate night; empty if there are no such tests. Returns `None` if the history has no such
/// night.
///
/// # Errors
/// The history or a scenario cannot be read.
pub fn again(night: &str, context: &Context) -> Result<Option<Vec<String>>> {
    let results = context.results()?;
    let path = history(&results);
    if !path.is_file() {
        return Ok(None);
    }
    let store = Store::open(&path)?;
    let Some(row) = store.nights()?.into_iter().find(|it| it.id == night) else {
        return Ok(None);
    };
    let begun = results.join("nights").join(night).join(BASIS);
    let basis = basis_of(&begun)?.unwrap_or_default();
    let jobs = jobs(&offer(context)?, &basis);
    let whole = plan(jobs.clone(), &basis, row.shards).hash == row.plan;
    let keys = unfinished(&jobs, &store, night, whole)?;
    if keys.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut words = vec!["nightly".to_owned()];
    for key in keys {
        words.extend(["--job".to_owned(), key]);
    }
    // With the same basis, the night has the same parts of sweeps and of the matrix.
    if begun.is_file() {
        words.extend(["--basis".to_owned(), begun.display().to_string()]);
    }
    Ok(Some(words))
}

/// Returns the scenarios of this checkout and the machine backends of this host.
fn offer(context: &Context) -> Result<Offer> {
    let scenarios = context.root()?.join("scenarios");
    let mut offer = Offer {
        canary: Some(CANARY.into()),
        ..Offer::default()
    };
    for name in Scenario::names(&scenarios)? {
        let scenario = Scenario::load(&scenarios.join(&name)).map_err(|e| Usage(e.to_string()))?;
        let cases = scenario.cases.into_iter().map(|case| case.name);
        offer.scenarios.push((name, cases.collect()));
    }
    if machines::probe(context)?.usable {
        offer.machines.push("kvm".into());
    }
    offer.machines.push("qemu".into());
    Ok(offer)
}

/// Makes the plan. Returns it with its inputs and the directory of the results.
fn planned(args: &NightlyArgs, night: &str, context: &Context) -> Result<(Plan, Basis, PathBuf)> {
    let results = context.results()?;
    let basis = basis(args, &results, night)?;
    let mut jobs = jobs(&offer(context)?, &basis);
    if !args.job.is_empty() {
        jobs.retain(|job| args.job.iter().any(|pattern| is_like(pattern, &job.key())));
        if jobs.is_empty() {
            let why = "no job matches that; `crucible nightly --plan` lists all jobs";
            return Err(Usage(why.into()).into());
        }
    }
    Ok((plan(jobs, &basis, args.shard.of), basis, results))
}

/// Returns the basis of a plan: the user's basis, the basis from the night's start, or a basis made
/// from the history, if the night has no other shards, whose history may differ.
fn basis(args: &NightlyArgs, results: &Path, night: &str) -> Result<Basis> {
    let begun = results.join("nights").join(night).join(BASIS);
    let path = match &args.basis {
        Some(path) => path,
        None if begun.is_file() => &begun,
        None if args.shard.of == 1 && history(results).is_file() => {
            return Ok(Basis::of(&Store::open(&history(results))?.results(None)?));
        }
        None => return Ok(Basis::default()),
    };
    let none = || Usage(format!("there is no file {}", path.display()));
    Ok(basis_of(path)?.ok_or_else(none)?)
}

/// Reads a basis; returns `None` if there is no such file.
fn basis_of(path: &Path) -> Result<Option<Basis>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?,
    };
    let malformed = |e| Usage(format!("{} is no basis: {e}", path.display()));
    Ok(Some(serde_json::from_str(&text).map_err(malformed)?))
}

/// Returns true when a text begins with the pattern, or matches it; `*` stands for any text.
fn is_like(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    pattern.contains('*') || rest.is_empty() || rest.starts_with(" [")
}

/// Runs a night, or a shard of one.
pub fn run(args: &NightlyArgs, context: &Context) -> Result<ExitCode> {
    let began = Instant::now();
    if args.shard.of > 1 && args.night.is_none() {
        let why = "the shards of a night need one name: give each --night NAME";
        return Err(Usage(why.into()).into());
    }
    context.host()?;
    let night = name(args, &context.results()?)?;
    let (plan, basis, results) = planned(args, &night, context)?;
    let store = results::Store::begin(&results, "nightly")
        .with_context(|| format!("cannot write to {}", results.display()))?;
    let stream = context.stream();
    let (file, file_error) = EventFile::create(store.dir())?;
    stream.add(Box::new(file));
    context.log().keep(store.dir())?;
    let shared = ExperimentArgs {
        junit: args.junit.clone(),
        ktap: args.ktap.clone(),
        ..ExperimentArgs::default()
    };
    let outputs = experiment_run::outputs(&shared, context);
    stream.tell(Body::RunStarted {
        schema: EVENTS_SCHEMA,
        command: "nightly".into(),
        arguments: env::args().collect(),
    });
    let program = env::current_exe().context("cannot find this program")?;
    let flavours: BTreeSet<_> = plan
        .of_shard(args.shard.number)
        .map(|job| job.variant.flavour.clone())
        .collect();
    let mut provenance: BTreeMap<String, Value> = BTreeMap::new();
    let mut missing = BTreeMap::new();
    for flavour in flavours {
        let name = format!("preparing the {flavour} kernel");
        stream.tell(Body::PreparationStarted { name });
        let made = prepare(&program, &flavour)?;
        stream.tell(Body::PreparationFinished);
        match made {
            Ok(parts) => {
                provenance.insert(flavour, parts);
            }
            // A kernel that does not build may be the very failure that a night is to find.
            Err(why) => {
                let text = why.clone();
                stream.tell(Body::Note { text });
                missing.insert(flavour, why);
            }
        }
    }
    let settings = Settings {
        night,
        shard: args.shard,
        root: context.root()?,
        // Jobs run in a different directory.
        results: results.canonicalize().context("cannot find the results")?,
        program,
        deadline: args.budget.map(|budget| began + budget),
        suspects: basis.suspects.clone(),
        kernels: provenance
            .iter()
            .map(|(flavour, parts)| {
                let hash = parts["kernel"]["hash"].as_str().unwrap_or_default();
                (flavour.clone(), hash.to_owned())
            })
            .collect(),
        missing,
        harness: harness(&provenance),
        provenance: serde_json::to_string(&provenance)?,
    };
    let mut ear = Ear {
        stream,
        units: Vec::new(),
    };
    let begun = settings.directory().join(BASIS);
    let mut night = Night::begin(&settings, &plan).map_err(usage)?;
    if !begun.exists() {
        fs::write(&begun, serde_json::to_string_pretty(&basis)?)
            .with_context(|| format!("cannot write {}", begun.display()))?;
    }
    let ran = night.run(&mut ear)?;
    let file = night.file().to_owned();
    drop(night);
    let report = concluded(args, &settings, &file, stream)?;
    let condition = match ran {
        Ran::Interrupted => Condition::Interrupted,
        Ran::All | Ran::Some => report.condition,
    };
    let finished = context::shown(store.finished());
    let outcome = Outcome::new(condition, report.why.clone());
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for unit in &ear.units {
        *counts
            .entry(unit.outcome.condition.name().into())
            .or_default() += 1;
    }
    let record = Record {
        schema: SCHEMA,
        command: "nightly".into(),
        exit_code: condition.exit_code(),
        outcome,
        counts,
        left: report.planned.saturating_sub(report.ran) as u64,
        units: ear.units,
        skipped: Vec::new(),
        guests: Vec::new(),
        summary: serde_json::to_value(&report)?,
        without: Vec::new(),
        reproduce: reproduce(args, &settings),
        provenance: serde_json::to_value(&provenance)?,
        guest: None,
        machine: None,
        machine_ready_ms: None,
        recordings: Vec::new(),
        ms: began.elapsed().as_millis() as u64,
        results: finished.clone(),
    };
    stream.tell(Body::RunFinished {
        condition,
        why: record.outcome.why.clone(),
        exit_code: record.exit_code,
        counts: record.counts.clone(),
        left: record.left,
        record: format!("{finished}/record.json"),
    });
    let json = serde_json::to_string_pretty(&record)?;
    store.write(Path::new("record.json"), json.as_bytes())?;
    file_error.take().map_or(Ok(()), Err)?;
    store.finish(false)?;
    for (path, written) in outputs {
        experiment_run::write(&path, &written)?;
    }
    if args.json {
        stdout::json(&json)?;
    } else {
        let mut text = screens::nightly::screen(&report);
        text += &format!("  shard    {}\n", context::shown(&file));
        screens::end(&mut text, &record);
        stdout::screen(&text)?;
    }
    hook(args, &report)?;
    Ok(record.exit_code.into())
}

/// Returns the name of the night: the user's, or the date. Continues an unfinished night of that
/// date; if it has ended, adds a number.
fn name(args: &NightlyArgs, results: &Path) -> Result<String> {
    if let Some(name) = &args.night {
        return Ok(name.clone());
    }
    let date = Timestamp::now().strftime("%Y-%m-%d").to_string();
    for number in 1.. {
        let name = match number {
            1 => date.clone(),
            number => format!("{date}.{number:02}"),
        };
        let directory = results.join("nights").join(&name);
        let path = directory.join("shard-1-of-1.sqlite");
        if !path.is_file() {
            return Ok(name);
        }
        let ended = Store::open(&path)?.shards(&name)?;
        if !ended.iter().any(|it| it.finished.is_some()) {
            return Ok(name);
        }
    }
    bail!("too many nights on {date}")
}

fn usage(error: NightError) -> anyhow::Error {
    match error {
        NightError::History(crucible_history::Error::OtherPlan { night, .. }) => Usage(format!(
            "the night {night} has begun with a different plan (the checkout, the history or the \
             options have changed since); give a new one another name with --night"
        ))
        .into(),
        NightError::Busy => Usage(error.to_string()).into(),
        error => error.into(),
    }
}

/// Builds everything of a flavour, and returns its hashes and versions, or the reason why it
/// cannot be made.
fn prepare(program: &Path, flavour: &str) -> Result<Result<Value, String>> {
    let output = Command::new(program)
        .args(["--quiet", "provenance", "--flavour", flavour])
        .stdin(Stdio::null())
        .output()
        .context("cannot start crucible")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        let first = words.lines().next().unwrap_or_default();
        let first = first.trim_start_matches("crucible: ");
        let why = format!("the {flavour} kernel cannot be made: {first}");
        // The host must be repaired before any test of the night can run.
        return match output.status.code() {
            Some(..=127) | None => Ok(Err(why)),
            Some(_) => Err(anyhow::Error::new(HostTrouble(
                words.trim().trim_start_matches("crucible: ").to_owned(),
            ))),
        };
    }
    let parts = serde_json::from_slice(&output.stdout);
    Ok(Ok(parts.context("`crucible provenance` prints no JSON")?))
}

/// Returns a hash of all inputs except the kernel that change the number of a guest's instructions.
fn harness(provenance: &BTreeMap<String, Value>) -> String {
    let mut hash = Fingerprint::new("harness");
    // These inputs are the same for all flavours.
    if let Some(parts) = provenance.values().next() {
        for name in ["agent", "userland", "qemu"] {
            hash = hash.add(name, parts[name].to_string());
        }
        let compiler = &parts["kernel"]["inputs"]["compiler"];
        hash = hash.add("compiler", compiler.to_string());
    }
    hash.finish()
}

/// Judges the results of a shard: with the history if it is the whole night.
fn concluded(
    args: &NightlyArgs,
    settings: &Settings,
    file: &Path,
    stream: &Stream,
) -> Result<NightReport> {
    if args.shard != ShardSpec::WHOLE {
        let store = Store::open(file)?;
        let number = Some(args.shard.number);
        return Ok(NightReport::of(&store, &settings.night, number)?);
    }
    let mut store = Store::open(&history(&settings.results))?;
    store.merge(file)?;
    let mut report = NightReport::of(&store, &settings.night, None)?;
    if !args.no_bisect {
        let mut tell = |text: &str| stream.tell(Body::Note { text: text.into() });
        if bisect(settings, &store, &report, &mut tell)? > 0 {
            report = NightReport::of(&store, &settings.night, None)?;
        }
    }
    store.retain(args.keep_nights as usize)?;
    Ok(report)
}

fn reproduce(args: &NightlyArgs, settings: &Settings) -> String {
    let mut line = crate::command_line::CommandLine::new("nightly");
    let whole = args.shard == ShardSpec::WHOLE;
    let shard = format!("{}/{}", args.shard.number, args.shard.of);
    line = line
        .option("--shard", (!whole).then_some(shard))
        .option("--night", Some(&settings.night))
        .option("--basis", args.basis.as_ref().map(|path| path.display()));
    for job in &args.job {
        line = line.option("--job", Some(job));
    }
    line.text()
}

/// Runs the user's command for each new regression: one for each signature.
fn hook(args: &NightlyArgs, report: &NightReport) -> Result<()> {
    let Some(command) = &args.hook else {
        return Ok(());
    };
    let mut new: BTreeMap<&str, Vec<&Judgement>> = BTreeMap::new();
    let is_new = |test: &&Judgement| matches!(test.change, Change::Regressed | Change::TurnedFlaky);
    for test in report.tests.iter().filter(is_new) {
        new.entry(&test.why).or_default().push(test);
    }
    for (signature, tests) in new {
        let value = json!({ "night": report.night, "signature": signature, "tests": tests });
        let mut child = Command::new("/bin/sh")
            .args(["-c", command])
            .stdin(Stdio::piped())
            .spawn()
            .context("cannot start the hook")?;
        if let Some(mut input) = child.stdin.take() {
            // A hook need not read it.
            let _ = writeln!(input, "{value}");
        }
        let status = child.wait().context("cannot wait for the hook")?;
        if !status.success() {
            stdout::message(format_args!(
                "crucible: the hook failed for {signature}: {status}"
            ));
        }
    }
    Ok(())
}

/// Emits the steps of a night as events, and keeps the units for the record.
struct Ear<'a> {
    stream: &'a Stream,
    units: Vec<UnitRecord>,
}

impl Listener for Ear<'_> {
    fn hear(&mut self, step: Step<'_>) {
        match step {
            Step::Planned(units, resumed) => self.stream.tell(Body::Planned { units, resumed }),
            Step::Job(name) => self.stream.tell(Body::Note { text: name.into() }),
            Step::Result(row, outcome) => {
                let key = match row.attempt {
                    1 => row.test.to_string(),
                    attempt => format!("{} run {attempt}", row.test),
                };
                let body = match row.attempt {
                    1 => Body::UnitFinished {
                        outcome: outcome.clone(),
                        unit_ms: row.ms,
                    },
                    // A result that is not in the plan is still a row of the history.
                    _ => Body::Note {
                        text: format!("{} ({})", outcome.condition.name(), outcome.why),
                    },
                };
                self.stream.tell_of(&key, body);
                self.units.push(UnitRecord {
                    key,
                    outcome: outcome.clone(),
                    ms: row.ms,
                    detail: json!({ "signature": row.signature, "directory": row.directory }),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_chosen_by_name_or_by_pattern() {
        let job = "scenario vfork [crucible/base/qemu]";
        for like in [
            "scenario vfork",
            "scenario *",
            "*vfork*",
            "*",
            job,
            "*/base/*",
        ] {
            assert!(is_like(like, job), "{like}");
        }
        for unlike in ["scenario vf", "scenario", "vfork", "*/debug/*", ""] {
            assert!(!is_like(unlike, job), "{unlike}");
        }
    }
}
