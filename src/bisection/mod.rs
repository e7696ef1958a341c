// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible bisect`: searches a history for the first bad kernel, and reports it.

mod failure;
mod history;
mod kernels;
mod series;
mod unpacked;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use crucible_bisect::{
    Graph, Journal, JournalError, Options, Progress, Report, Seen, Setting, Subject as _, What,
    bisect,
};
use crucible_engine::results::Store;
use crucible_engine::stream::{Body, EventFile, SCHEMA as EVENTS_SCHEMA, Stream};
use crucible_engine::trial;
use crucible_engine::{Condition, EventSpec, Outcome, Scenario};
use serde::Serialize;

use crate::boot_artefacts::GuestArgs;
use crate::context::{self, Context};
use crate::exit::Usage;
use crate::screens;
use crate::stdout;
use history::{History, Kind};
use kernels::Kernels;

/// Version of the record.
const SCHEMA: u32 = 3;

/// What is searched.
pub enum Range {
    /// Commits.
    Commits {
        /// The repository.
        source: PathBuf,
        /// The good end.
        good: String,
        /// The bad end.
        bad: String,
    },
    /// Lines of a configuration fragment.
    Config(PathBuf),
    /// Events up to this one.
    Events(EventSpec),
    /// Changes to the series.
    Series {
        /// The good version: a directory or a revision.
        good: String,
        /// The bad version; if `None`, the files as they are.
        bad: Option<String>,
    },
}

/// What is asked.
pub struct Question<'a> {
    /// What is searched.
    pub range: Range,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// How each case is run.
    pub trial: trial::Options,
    /// How to search.
    pub options: Options,
    /// Options of the guest.
    pub guest: GuestArgs,
    /// True when the record is to be printed.
    pub json: bool,
    /// True when the results are never to be pruned.
    pub keep: bool,
    /// Returns the command that repeats the search, with the options of a setting if one is given.
    pub reproduce: &'a dyn Fn(Option<&Setting>) -> String,
    /// Returns the command that runs the case of a setting on a kernel. The case is named if the
    /// flag is true.
    pub scenario: &'a dyn Fn(&Setting, bool, Ran<'_>) -> String,
}

/// The kernel that a command runs.
#[derive(Clone, Copy, Debug)]
pub enum Ran<'a> {
    /// That of the checkout.
    Checkout,
    /// That of the kernel tree in the current directory.
    Tree,
    /// This image.
    Image(&'a Path),
}

/// The record of a search.
#[derive(Serialize)]
pub struct Record {
    /// Version of the format.
    pub schema: u32,
    /// `bisect`.
    pub command: &'static str,
    /// The condition, with its blame, verdict and reason.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The exit code.
    pub exit_code: u8,
    /// The results; `None` if the host or an interruption ended the search.
    pub report: Option<Report>,
    /// Lines for the message of a commit that fixes it.
    pub trailers: Vec<String>,
    /// The repository.
    pub repository: String,
    /// The command that repeats the search.
    pub reproduce: String,
    /// The command that runs the scenario on the first bad kernel, or on the bad end.
    pub rerun: String,
    /// The directory.
    pub results: String,
}

/// Searches, and reports. Returns the exit code: 0 if one commit is named.
pub fn run(question: &Question<'_>, context: &Context) -> Result<ExitCode> {
    let history = match &question.range {
        Range::Commits { source, good, bad } => History::read(source, good, bad)?,
        Range::Config(fragment) => History::of_config(context.sources()?.root(), fragment)?,
        Range::Events(last) => History::of_events(context.sources()?.root(), last)?,
        Range::Series { good, bad } => {
            History::of_series(context.sources()?.root(), good, bad.as_deref())?
        }
    };
    let results = context.results()?;
    let failed = || format!("cannot write to {}", results.display());
    let store = Store::begin(&results, "bisect").with_context(failed)?;
    let stream = context.stream();
    let (file, file_error) = EventFile::create(store.dir()).with_context(failed)?;
    stream.add(Box::new(file));
    context.log().keep(store.dir()).with_context(failed)?;
    stream.tell(Body::RunStarted {
        schema: EVENTS_SCHEMA,
        command: "bisect".into(),
        arguments: env::args().collect(),
    });
    let mut journal = journal(&results)?;
    if journal.damaged() > 0 {
        let text = format!(
            "{} lines of the journal are damaged, and left out",
            journal.damaged()
        );
        stream.tell(Body::Note { text });
    }
    stream.tell(Body::Note {
        text: format!(
            "{} {} after {} up to {}, {} runs in the journal",
            history.commits.len() - 1,
            what(history.kind),
            short(&history.commits[Graph::GOOD]),
            short(&history.commits[history.graph.bad()]),
            journal.runs()
        ),
    });
    let mut kernels = Kernels::new(
        context,
        question.guest.clone(),
        &history,
        &question.scenarios,
        question.trial.clone(),
        &store,
    )?;
    kernels.identify()?;
    let mut tell = |progress: Progress| told(stream, &history, progress);
    let found = bisect(
        &mut kernels,
        &history.graph,
        &question.options,
        &mut journal,
        &mut tell,
    );
    let report = found.as_ref().ok();
    let image = kernels.image(last(&history, report));
    let usual = kernels.usual();
    drop(kernels);
    let ran = report.map(|report| &report.setting).or(usual.first());
    let rerun = rerun(question, &history, report, ran, image.as_deref());
    let other = report.map(|report| report.setting.clone());
    let other = other.filter(|setting| !usual.contains(setting));
    let finished = context::shown(store.finished());
    let (outcome, report) = match found {
        Ok(report) => {
            let why = screens::bisect::answer(&report);
            (Outcome::new(report.condition(), why), Some(report))
        }
        Err(stop) if stop.condition == Condition::Interrupted => {
            (Outcome::new(stop.condition, "interrupted"), None)
        }
        Err(stop) => (Outcome::new(stop.condition, stop.why), None),
    };
    if outcome.condition == Condition::Interrupted {
        stream.tell(Body::Interrupted);
    }
    let named = report
        .as_ref()
        .map_or_else(Vec::new, |report| report.answer.nodes());
    let record = Record {
        schema: SCHEMA,
        command: "bisect",
        exit_code: outcome.condition.exit_code(),
        trailers: trailers(&history, &named),
        repository: context::shown(&history.repository),
        reproduce: (question.reproduce)(other.as_ref()),
        rerun,
        results: finished.clone(),
        outcome,
        report,
    };
    stream.tell(Body::RunFinished {
        condition: record.outcome.condition,
        why: record.outcome.why.clone(),
        exit_code: record.exit_code,
        counts: std::collections::BTreeMap::new(),
        left: 0,
        record: format!("{finished}/record.json"),
    });
    let json = serde_json::to_string_pretty(&record)?;
    store
        .write(Path::new("record.json"), json.as_bytes())
        .map_or_else(Err, |()| file_error.take().map_or(Ok(()), Err))
        .and_then(|()| store.finish(question.keep))
        .with_context(failed)?;
    match question.json {
        true => stdout::json(&json)?,
        false => stdout::screen(&screens::bisect::screen(&record))?,
    }
    Ok(record.exit_code.into())
}

fn journal(results: &Path) -> Result<Journal> {
    let path = results.join("journals/observations.jsonl");
    Journal::open(&path).map_err(|error| match error {
        JournalError::Busy(_) => Usage(error.to_string()).into(),
        JournalError::Io { .. } => error.into(),
    })
}

fn what(kind: Kind) -> &'static str {
    match kind {
        Kind::Ours | Kind::Tree => "commits",
        Kind::Config => "lines",
        Kind::Event => "events",
        Kind::Series => "changes",
    }
}

/// Returns the first digits of a commit's hash; any other name as it is.
pub fn short(name: &str) -> &str {
    let is_hash = name.len() >= 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_hash {
        true => &name[..12],
        false => name,
    }
}

/// Tells a step as an event.
fn told(stream: &Stream, history: &History, progress: Progress) {
    let name = |node: usize| history.commits.get(node).cloned();
    let node = progress.node.and_then(name);
    let shown = match &node {
        Some(node) => short(node),
        None => "the bad end without the change",
    };
    let text = match &progress.what {
        What::Building => format!("{shown}: building"),
        What::Hidden { state, why } => {
            format!("{shown}: {}: {why}", screens::bisect::state(*state))
        }
        What::Ran { seen } => {
            let seen = match seen {
                Seen::Pass => "passes".to_owned(),
                Seen::Failed(signature) => signature.to_string(),
                Seen::Unclear(why) => format!("says nothing: {why}"),
            };
            match (progress.node_failures, progress.node_runs) {
                (_, 0) => format!("{shown}: {seen}"),
                (failures, runs) => format!("{shown}: {seen} ({failures} of {runs})"),
            }
        }
        What::Sought {
            signature,
            failures,
            runs,
        } => format!("looking for: {signature} ({failures} of {runs} runs)"),
        What::Amplified { setting, factor } => {
            format!("running {setting}: {factor:.1} times as often as usual")
        }
        What::Checking => format!("{shown}: checking the answer"),
    };
    stream.tell(Body::Bisected {
        text,
        node,
        node_runs: progress.node_runs,
        node_failures: progress.node_failures,
        builds: progress.builds,
        runs: progress.runs,
        left: progress.left as u64,
        likeliest: progress.likeliest.and_then(|(node, _)| name(node)),
        per_mille: progress
            .likeliest
            .map_or(0, |(_, mass)| (mass * 1000.0) as u32),
    });
}

/// Returns lines for the message of the commit that fixes it, if one commit is to blame.
fn trailers(history: &History, named: &[usize]) -> Vec<String> {
    let [node] = *named else { return Vec::new() };
    if !matches!(history.kind, Kind::Ours | Kind::Tree) {
        return Vec::new();
    }
    let ask = |arguments: &[&str]| history::ask(&history.repository, arguments);
    let commit = &history.commits[node];
    let fixes = ask(&[
        "log",
        "-1",
        "--abbrev=12",
        "--format=Fixes: %h (\"%s\")",
        commit,
    ]);
    let name = ask(&["config", "user.name"]);
    let by = name.zip(ask(&["config", "user.email"]));
    let by = by.map(|(name, email)| format!("Reported-by: {name} <{email}>"));
    fixes.into_iter().chain(by).collect()
}

/// Returns the node to run again: the last of the named ones, or the bad end.
fn last(history: &History, report: Option<&Report>) -> usize {
    let named = report.and_then(|report| report.answer.nodes().last().copied());
    named.unwrap_or(history.graph.bad())
}

/// Returns the command that runs the scenario on the first bad kernel, or on the bad end. `image`
/// is the bad end's, if it was built. `setting` is that of the search.
fn rerun(
    question: &Question<'_>,
    history: &History,
    report: Option<&Report>,
    setting: Option<&Setting>,
    image: Option<&Path>,
) -> String {
    let commit = short(&history.commits[last(history, report)]);
    let setting = setting.cloned().unwrap_or_default();
    let is_it = |scenario: &&Scenario| setting.case.split('/').next() == Some(&*scenario.name);
    let scenario = question.scenarios.iter().find(is_it);
    let has_others = scenario.is_some_and(|scenario| scenario.cases.len() > 1);
    let command = |kernel| (question.scenario)(&setting, has_others, kernel);
    match (history.kind, image) {
        (Kind::Ours, _) => {
            let prefix = &history.prefix;
            let command = command(Ran::Checkout);
            format!("git checkout {commit} -- {prefix}guest-kernel && {command}")
        }
        (Kind::Event, _) => format!("{} --at {commit}", command(Ran::Checkout)),
        (Kind::Series, Some(image)) => command(Ran::Image(image)),
        (Kind::Series | Kind::Config, _) => command(Ran::Checkout),
        (Kind::Tree, _) => format!("git checkout {commit} && {}", command(Ran::Tree)),
    }
}
