// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the jobs of a shard.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crucible_bisect::Signature;
use crucible_engine::interrupt;
use crucible_engine::outcome::Outcome;
use crucible_engine::stream::{Body, Event};
use crucible_history::{
    Error as HistoryError, Night as NightRow, Planned, ResultRow, Shard, Skipped, Store, TestId,
};
use jiff::Timestamp;

use crate::child::{end, spawn};
use crate::follow::Follower;
use crate::job::{Job, Kind};
use crate::plan::Plan;
use crate::shard::ShardSpec;
use crate::steps::Steps;

/// Interval of checks of a running job.
pub(crate) const PERIOD: Duration = Duration::from_millis(200);

/// Reason for a test that was not run.
pub const BUDGET_USED_UP: &str = "the night's budget was used up";

/// Number of runs of a failing unit, including the first: they distinguish a flaky test from a
/// broken one.
const RUNS: u32 = 5;

/// Maximum number of failing runs that a night records.
const RECORDINGS: u32 = 8;

/// Number of failing units of a run above which they are run only once more.
const MANY: usize = 50;

/// The reason why a night cannot continue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The history cannot be written.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A file or a process of the host.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// Its error.
        source: io::Error,
    },
    /// Another process runs this shard of the night.
    #[error("another process runs this shard of the night")]
    Busy,
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Io { what, source }
}

/// Settings of a night.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the night.
    pub night: String,
    /// The shard.
    pub shard: ShardSpec,
    /// Directory that the jobs' paths are relative to.
    pub root: PathBuf,
    /// Directory of all results; absolute.
    pub results: PathBuf,
    /// This program, and the global options of each job.
    pub program: PathBuf,
    /// Time at which the night ends, complete or not.
    pub deadline: Option<Instant>,
    /// Tests that failed or were flaky in their last night.
    pub suspects: BTreeSet<TestId>,
    /// Hashes of kernels by flavour.
    pub kernels: BTreeMap<String, String>,
    /// Flavours whose kernel cannot be made, with the reason.
    pub missing: BTreeMap<String, String>,
    /// Hash of the other inputs that change the number of a guest's instructions.
    pub harness: String,
    /// Hashes and versions of everything that runs, as JSON.
    pub provenance: String,
}

impl Settings {
    /// Returns the directory of the night, with the files of its shards and the runs that failed.
    pub fn directory(&self) -> PathBuf {
        self.results.join("nights").join(&self.night)
    }

    /// Returns true when the budget is used up.
    pub(crate) fn is_over(&self) -> bool {
        let deadline = self.deadline;
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn file(&self) -> PathBuf {
        let ShardSpec { number, of } = self.shard;
        self.directory()
            .join(format!("shard-{number}-of-{of}.sqlite"))
    }
}

/// A step of a night.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// The number of tests that are to be run, including those that an earlier process has run, and
    /// the number of tests that it has run.
    Planned(u64, u64),
    /// A job starts.
    Job(&'a str),
    /// A test has a result.
    Result(&'a ResultRow, &'a Outcome),
}

/// Receives the steps of a night.
pub trait Listener {
    /// Takes a step.
    fn hear(&mut self, step: Step<'_>);
}

/// The extent of a shard's run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// All of its jobs.
    All,
    /// The jobs that fit the budget.
    Some,
    /// It was interrupted.
    Interrupted,
}

/// A shard of a night that runs.
pub struct Night<'a> {
    settings: &'a Settings,
    plan: &'a Plan,
    store: Store,
    process: Shard,
    /// Tests that have a result.
    done: BTreeSet<TestId>,
    /// Number of recorded runs.
    recorded: u32,
    _lock: File,
}

impl<'a> Night<'a> {
    /// Begins a night, or continues it.
    ///
    /// # Errors
    /// Fails if the night has a different plan, if another process runs the shard, or if the host
    /// cannot keep the results.
    pub fn begin(settings: &'a Settings, plan: &'a Plan) -> Result<Self, Error> {
        let directory = settings.directory();
        fs::create_dir_all(&directory)
            .map_err(io_error(format!("cannot make {}", directory.display())))?;
        let path = settings.file();
        let lock = path.with_extension("lock");
        let lock =
            File::create(&lock).map_err(io_error(format!("cannot write {}", lock.display())))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::Busy,
            fs::TryLockError::Error(source) => io_error("cannot lock the shard's file")(source),
        })?;
        let mut store = Store::open(&path)?;
        let night = NightRow {
            id: settings.night.clone(),
            plan: plan.hash.clone(),
            shards: settings.shard.of,
        };
        let planned = plan.jobs.iter().flat_map(|(job, shard)| {
            job.tests.iter().map(|test| Planned {
                test: test.clone(),
                shard: *shard,
            })
        });
        store.plan(&night, &planned.collect::<Vec<_>>())?;
        let done = store.results(Some(&settings.night))?;
        let done = done.into_iter().filter(ResultRow::counts).map(|it| it.test);
        let now = Timestamp::now().to_string();
        let process = Shard {
            night: settings.night.clone(),
            number: settings.shard.number,
            process: format!("{now} {}", std::process::id()),
            started: now,
            finished: None,
            provenance: settings.provenance.clone(),
        };
        store.shard(&process)?;
        Ok(Self {
            settings,
            plan,
            done: done.collect(),
            recorded: 0,
            store,
            process,
            _lock: lock,
        })
    }

    /// Returns the file of the shard.
    pub fn file(&self) -> &Path {
        self.store.path()
    }

    /// Runs the jobs of the shard, within the budget.
    ///
    /// # Errors
    /// Fails if a result cannot be kept.
    pub fn run(&mut self, listener: &mut dyn Listener) -> Result<Ran, Error> {
        let jobs: Vec<_> = self
            .plan
            .of_shard(self.settings.shard.number)
            .cloned()
            .collect();
        let tests: BTreeSet<_> = jobs.iter().flat_map(|job| &job.tests).collect();
        let known = tests.iter().filter(|test| self.done.contains(test)).count();
        listener.hear(Step::Planned(tests.len() as u64, known as u64));
        let mut ran = Ran::All;
        for group in groups(&jobs) {
            if interrupt::requested() {
                return Ok(Ran::Interrupted);
            }
            let left: Vec<_> = group
                .into_iter()
                .filter(|job| {
                    job.tests.is_empty() || job.tests.iter().any(|test| !self.done.contains(test))
                })
                .collect();
            let Some(first) = left.first() else { continue };
            if let Some(why) = self.settings.missing.get(&first.variant.flavour) {
                self.skip(&left, why)?;
                continue;
            }
            if self.is_over() {
                ran = Ran::Some;
                self.skip(&left, BUDGET_USED_UP)?;
                continue;
            }
            let name = match &left[..] {
                [one] => one.key(),
                several => format!("{} scenarios [{}]", several.len(), first.variant),
            };
            listener.hear(Step::Job(&name));
            let ended = self.job(&left, listener)?;
            if interrupt::requested() {
                return Ok(Ran::Interrupted);
            }
            let why = match ended {
                _ if self.is_over() => {
                    ran = Ran::Some;
                    BUDGET_USED_UP.into()
                }
                ended => ended,
            };
            self.skip(&left, &why)?;
        }
        self.process.finished = Some(Timestamp::now().to_string());
        self.store.shard(&self.process)?;
        Ok(ran)
    }

    fn is_over(&self) -> bool {
        self.settings.is_over()
    }

    /// Records the reason for each test without a result.
    fn skip(&self, jobs: &[&Job], why: &str) -> Result<(), Error> {
        for test in jobs.iter().flat_map(|job| &job.tests) {
            if !self.done.contains(test) {
                let skipped = Skipped {
                    test: test.clone(),
                    reason: why.into(),
                };
                self.store.skip(&self.settings.night, &skipped)?;
            }
        }
        Ok(())
    }

    /// Runs jobs as one run of crucible, and failing units again. Returns the reason why a test may
    /// have no result.
    fn job(&mut self, jobs: &[&Job], listener: &mut dyn Listener) -> Result<String, Error> {
        let first = jobs[0];
        let slug: String = first
            .key()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let results = self
            .settings
            .directory()
            .join("runs")
            .join(slug.trim_end_matches('-'));
        fs::create_dir_all(&results)
            .map_err(io_error(format!("cannot make {}", results.display())))?;
        let first_words = words_of(jobs);
        let (status, bad, run) = self.one(jobs, Some(1), &results, &first_words, listener)?;
        let mut keeps = !bad.is_empty();
        if let Some(run) = &run
            && keeps
            && first.kind != Kind::Canary
        {
            // This number of failures is not a flake.
            let runs = if bad.len() > MANY { 2 } else { RUNS };
            for attempt in 2..=runs {
                if interrupt::requested() || self.is_over() {
                    break;
                }
                let run = run.to_string_lossy().into_owned();
                let words = ["rerun".into(), run, "--".into(), "--json".into()];
                self.one(jobs, Some(attempt), &results, &words, listener)?;
            }
            if can_be_recorded(jobs) && bad.len() <= MANY {
                self.record(jobs, run, &results, listener)?;
            }
        }
        self.confirm(jobs, &bad, &results, listener)?;
        let code = status.code();
        let stderr = results.join("stderr.txt");
        let said = fs::read_to_string(&stderr).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty());
        let why = match (code, last) {
            (Some(0 | 1), _) => "the run had no such unit".to_owned(),
            (_, Some(line)) => format!("{status}: {}", line.trim_start_matches("crucible: ")),
            (_, None) => status.to_string(),
        };
        keeps |= !matches!(code, Some(0));
        if !keeps || first.kind == Kind::Canary && code == Some(1) {
            // The history has the passes; only failures need their files.
            let _ = fs::remove_dir_all(&results);
        }
        Ok(why)
    }

    /// Makes one more run of the failing units, which is recorded, for `crucible replay`. It is
    /// not a result: a recorded guest has a different clock.
    fn record(
        &mut self,
        jobs: &[&Job],
        run: &Path,
        results: &Path,
        listener: &mut dyn Listener,
    ) -> Result<(), Error> {
        if self.recorded >= RECORDINGS || interrupt::requested() || self.is_over() {
            return Ok(());
        }
        self.recorded += 1;
        let run = run.to_string_lossy().into_owned();
        let words = ["rerun".into(), run, "--".into(), "--record".into()];
        self.one(jobs, None, results, &words, listener)?;
        Ok(())
    }

    /// Runs scenarios again whose tests passed, although they did not in their last night.
    fn confirm(
        &mut self,
        jobs: &[&Job],
        bad: &BTreeSet<String>,
        results: &Path,
        listener: &mut dyn Listener,
    ) -> Result<(), Error> {
        let fails = |test: &TestId| {
            bad.iter()
                .any(|unit| job_of(jobs, unit).test(unit) == *test)
        };
        let better = |test: &TestId| {
            self.settings.suspects.contains(test) && self.done.contains(test) && !fails(test)
        };
        let better: Vec<_> = jobs
            .iter()
            .filter(|job| job.kind == Kind::Scenario && job.tests.iter().any(better))
            .copied()
            .collect();
        if better.is_empty() {
            return Ok(());
        }
        for attempt in 2..=RUNS {
            if interrupt::requested() || self.is_over() {
                break;
            }
            let words = words_of(&better);
            self.one(&better, Some(attempt), results, &words, listener)?;
        }
        Ok(())
    }

    /// Makes one run of crucible; without a number, its results are not kept. Returns its exit
    /// status, the units that failed, and its directory.
    fn one(
        &mut self,
        jobs: &[&Job],
        attempt: Option<u32>,
        results: &Path,
        words: &[String],
        listener: &mut dyn Listener,
    ) -> Result<(ExitStatus, BTreeSet<String>, Option<PathBuf>), Error> {
        let mut follower = Follower::new(results);
        let stderr = results.join("stderr.txt");
        let stderr = File::create(&stderr)
            .map_err(io_error(format!("cannot write {}", stderr.display())))?;
        let mut command = Command::new(&self.settings.program);
        command
            .arg("--quiet")
            .args(words)
            .env("CRUCIBLE_RESULTS", results)
            .current_dir(&self.settings.root)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let mut child = spawn(&mut command).map_err(io_error("cannot start crucible"))?;
        let mut seen = Seen::default();
        let mut asked = false;
        let status = loop {
            let status = child
                .try_wait()
                .map_err(io_error("cannot wait for crucible"))?;
            // All events that it wrote before its end are in the file now.
            for event in follower
                .read()
                .map_err(io_error("cannot read a run's events"))?
            {
                if let Some(attempt) = attempt {
                    self.event(jobs, attempt, results, &mut seen, &event, listener)?;
                }
            }
            if let Some(status) = status {
                break status;
            }
            if !asked && (interrupt::requested() || self.is_over()) {
                asked = true;
                end(&child);
            }
            thread::sleep(PERIOD);
        };
        Ok((status, seen.bad, follower.run()))
    }

    fn event(
        &mut self,
        jobs: &[&Job],
        attempt: u32,
        results: &Path,
        seen: &mut Seen,
        event: &Event,
        listener: &mut dyn Listener,
    ) -> Result<(), Error> {
        let Some(unit) = &event.unit else {
            return Ok(());
        };
        match &event.body {
            Body::UnitStarted => {
                seen.steps.remove(unit);
            }
            Body::UnitFinished { outcome, unit_ms } => {
                let job = job_of(jobs, unit);
                let steps = seen.steps.remove(unit).unwrap_or_default();
                let outcome = match job.kind {
                    Kind::Canary => canary(outcome),
                    Kind::Scenario | Kind::Part => outcome.clone(),
                };
                let place = results
                    .strip_prefix(&self.settings.results)
                    .unwrap_or(results);
                let flavour = &job.variant.flavour;
                let mut row = ResultRow {
                    night: self.settings.night.clone(),
                    test: job.test(unit),
                    attempt,
                    time: event.time.clone(),
                    ms: *unit_ms,
                    condition: outcome.condition.name().into(),
                    verdict: outcome.verdict().name().into(),
                    blame: outcome
                        .condition
                        .blame()
                        .map_or("", |blame| blame.name())
                        .into(),
                    signature: signature(unit, &outcome),
                    why: outcome.why.clone(),
                    kernel: self
                        .settings
                        .kernels
                        .get(flavour)
                        .cloned()
                        .unwrap_or_default(),
                    harness: self.settings.harness.clone(),
                    directory: String::new(),
                    metrics: steps.metrics(),
                };
                if !outcome.is_pass() {
                    row.directory = place.to_string_lossy().into_owned();
                    seen.bad.insert(unit.clone());
                }
                self.store.add(&row)?;
                if row.counts() {
                    self.done.insert(row.test.clone());
                }
                listener.hear(Step::Result(&row, &outcome));
            }
            body => seen.steps.entry(unit.clone()).or_default().hear(body),
        }
        Ok(())
    }
}

/// The steps and failures of a run.
#[derive(Default)]
struct Seen {
    /// The steps of the units that run.
    steps: BTreeMap<String, Steps>,
    /// The units that did not pass.
    bad: BTreeSet<String>,
}

/// Groups the jobs that one run of crucible makes: scenarios of one variant.
fn groups(jobs: &[Job]) -> Vec<Vec<&Job>> {
    let alike = |a: &Job, b: &Job| {
        a.kind == Kind::Scenario && a.kind == b.kind && a.variant == b.variant && a.rank == b.rank
    };
    let groups = jobs.chunk_by(alike);
    groups.map(|group| group.iter().collect()).collect()
}

/// Returns true when a run of these jobs can be recorded.
fn can_be_recorded(jobs: &[&Job]) -> bool {
    let variant = &jobs[0].variant;
    jobs[0].kind == Kind::Scenario && variant.backend == "crucible" && variant.machine == "qemu"
}

/// Returns the command line of the run that makes these jobs.
fn words_of(jobs: &[&Job]) -> Vec<String> {
    let mut words = jobs[0].arguments();
    let others = jobs[1..].iter().map(|job| job.words[1].clone());
    words.splice(2..2, others);
    words.push("--json".into());
    words
}

/// Returns the job that a unit of a run belongs to.
fn job_of<'a>(jobs: &[&'a Job], unit: &str) -> &'a Job {
    let of = |job: &&&Job| {
        let scenario = job.words.get(1).map_or("", String::as_str);
        unit.strip_prefix(scenario)
            .is_some_and(|rest| rest.starts_with('/'))
    };
    match jobs {
        [one] => one,
        _ => jobs.iter().find(of).copied().unwrap_or(jobs[0]),
    }
}

/// Returns the outcome of a canary, which must fail.
fn canary(outcome: &Outcome) -> Outcome {
    use crucible_engine::Condition;
    match outcome.condition.is_bad() {
        true => Outcome::passed(format!("it fails as it must: {}", outcome.why)),
        false => Outcome::new(
            Condition::RequestFailed,
            format!(
                "the canary detects its restart, and no check noticed it: {}",
                outcome.why
            ),
        ),
    }
}

/// Returns the signature of a failure; empty for a pass.
fn signature(unit: &str, outcome: &Outcome) -> String {
    let (scenario, case) = unit.split_once('/').unwrap_or((unit, ""));
    let Some(signature) = Signature::of(scenario, case, outcome) else {
        return String::new();
    };
    let condition = signature.condition.name();
    match signature.at.is_empty() {
        true => condition.to_owned(),
        false => format!("{condition} at {}", signature.at),
    }
}
