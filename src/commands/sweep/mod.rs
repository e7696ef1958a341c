// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible sweep`

mod chain;
mod journal;
mod summary;
mod trials;

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use crucible_engine::abort::Abort;
use crucible_engine::results::Store;
use crucible_engine::scenario::Case;
use crucible_engine::sweep::{self, Baseline, Point, PointOutcome, PointResult};
use crucible_engine::{Scenario, Session};
use crucible_protocol::EventKind;

use crate::boot_artefacts::{BootArtefacts, FlavourArg, GuestArgs};
use crate::breaks::BreakArgs;
use crate::commands::scenario;
use crate::context::{self, Context};
use crate::exit;
use crate::guests::HostLab;
use journal::Journal;
use summary::{CaseSweep, Summary};

/// Time between two reports of progress.
const PERIOD: Duration = Duration::from_secs(30);

/// The options of `crucible sweep`.
#[derive(Debug, Args)]
pub struct SweepArgs {
    /// The scenario to sweep: a name that `crucible list` prints, or a directory
    scenario: String,
    /// Sweep only this case
    #[arg(long, help_heading = "Points", value_name = "NAME")]
    case: Option<String>,
    /// Kind of event to checkpoint at
    #[arg(
        long,
        help_heading = "Points",
        value_enum,
        default_value_t,
        value_name = "KIND"
    )]
    event: KindArg,
    /// Number of guests to run in parallel
    #[arg(long, help_heading = "Run", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// Try only every Kth point of each kind of event
    #[arg(long, help_heading = "Points", value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Try at most N points per case, sampled evenly over event kinds
    #[arg(long, help_heading = "Points", value_name = "N")]
    limit: Option<usize>,
    /// Try only this point, named as in a report: `2.1:7`
    #[arg(long, help_heading = "Points", value_name = "TASK:NTH", conflicts_with_all = ["every", "limit", "resume"])]
    point: Option<String>,
    /// Make N controls and N restarted runs at the point, and compare how often each outcome occurs
    #[arg(long, help_heading = "Run", value_name = "N", requires_all = ["point", "case"], conflicts_with_all = ["chain", "jobs"], value_parser = clap::value_parser!(u64).range(1..))]
    trials: Option<u64>,
    /// Checkpoint, kill and restart one run at every event, instead of one run per point
    #[arg(long, help_heading = "Run", conflicts_with_all = ["every", "limit", "resume", "point", "jobs"])]
    chain: bool,
    /// Resume an interrupted sweep
    #[arg(long, help_heading = "Run")]
    resume: bool,
    /// Print the record as one JSON object
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Limit for each wait, in seconds, instead of the scenario's
    #[arg(long, help_heading = "Run", value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten, next_help_heading = "Run")]
    broken: BreakArgs,
    #[command(flatten)]
    guest: GuestArgs,
}

/// Kinds of events, on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum KindArg {
    /// vfork(2) and clone(2) with CLONE_VFORK
    Vfork,
    /// ptrace stops of tracees
    #[default]
    PtraceStop,
    /// Entries of system calls
    Syscall,
    /// Exits of system calls
    SyscallExit,
    /// Deliveries of signals to a handler
    Signal,
    /// Waits in execve(2) for the other threads of the process to exit
    ExecWait,
    /// All of these
    All,
}

impl KindArg {
    fn kind(self) -> EventKind {
        match self {
            Self::Vfork => EventKind::Vfork,
            Self::PtraceStop => EventKind::PtraceStop,
            Self::Syscall => EventKind::Syscall { number: None },
            Self::SyscallExit => EventKind::SyscallExit { number: None },
            Self::Signal => EventKind::Signal { number: None },
            Self::ExecWait => EventKind::ExecWait,
            Self::All => EventKind::All,
        }
    }

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Sweeps a scenario and reports the results.
pub fn run(args: &SweepArgs, context: &Context) -> Result<ExitCode> {
    let root = &context.root()?;
    let scenario = match chosen(args, root) {
        Ok(scenario) => scenario,
        Err(message) => {
            eprintln!("crucible: {message}");
            return Ok(exit::USAGE.into());
        }
    };
    if args.guest.machine.vcpus > 1 {
        eprintln!(
            "crucible: a sweep runs on one CPU: with several, events have no fixed order by which \
             to name them"
        );
        return Ok(exit::USAGE.into());
    }
    let guest = args.broken.guest(&args.guest);
    let images = BootArtefacts::prepare(context, &guest)?;
    let lab = HostLab::new(&images, context);
    let results = context.results()?;
    let store = Store::begin(&results, &format!("sweep-{}", scenario.name))
        .with_context(|| format!("cannot write to {}", results.display()))?;
    if args.chain {
        return chain::run(args, context, &lab, store, &scenario);
    }
    if let Some(count) = args.trials {
        return trials::run(args, count, context, &lab, store, &scenario);
    }
    let sampled = args.point.is_some() || args.limit.is_some() || args.every > 1;
    let mut summary = Summary::new(&scenario.name, &args.event.name(), reproduce(args), sampled);
    let machine = format!("{:?} {}", images.kind(), args.guest.machine.vcpus);
    for case in &scenario.cases {
        let mut case = case.clone();
        case.timeout = args.timeout.unwrap_or(case.timeout);
        let sweep = Sweep {
            args,
            context,
            lab: &lab,
            store: &store,
            scenario: &scenario,
            case: &case,
        };
        let key = format!("{}-{}-{}", scenario.name, case.name, args.event.name());
        let file = results.join("sweeps").join(format!("{key}.jsonl"));
        let identity = journal::identity(
            &scenario,
            &case,
            &scenario::versions(&images),
            &machine,
            args.broken.name().as_deref(),
        )?;
        let mut journal = match Journal::open(&file, &identity, args.resume) {
            Ok(journal) => journal,
            Err(message) => {
                eprintln!("crucible: {message}");
                return Ok(exit::USAGE.into());
            }
        };
        summary.cases.push(sweep.run(&mut journal)?);
    }
    let json = summary.json()?;
    let record = keep(store, &json)?;
    if args.json {
        println!("{json}");
    } else {
        print!("{}", summary.text());
        println!("  record   {record}");
    }
    Ok(summary.exit_code().into())
}

/// Writes the record and completes the results directory. Returns the path of the record.
fn keep(store: Store, json: &str) -> Result<String> {
    store.write(Path::new("sweep.json"), json.as_bytes())?;
    let record = context::shown(&store.finished().join("sweep.json"));
    store.finish(false)?;
    Ok(record)
}

/// Returns the scenario with the selected cases. The error is a mistake on the command line.
fn chosen(args: &SweepArgs, root: &Path) -> Result<Scenario, String> {
    let names = std::slice::from_ref(&args.scenario);
    let mut scenario = scenario::load(names, false, root)?.remove(0);
    if let Some(wanted) = &args.case {
        let known: Vec<_> = scenario.cases.iter().map(|c| c.name.clone()).collect();
        scenario.cases.retain(|case| case.name == *wanted);
        if scenario.cases.is_empty() {
            return Err(format!(
                "there is no case `{wanted}`; the cases are {}",
                known.join(", ")
            ));
        }
    }
    Ok(scenario)
}

/// Returns the command that tries one point, without the point's name.
fn reproduce(args: &SweepArgs) -> String {
    let mut words = vec![
        format!("{} sweep", context::program()),
        args.scenario.clone(),
        format!("--event {}", args.event.name()),
    ];
    if let Some(name) = args.broken.name() {
        words.push(format!("--break {name}"));
    } else if args.guest.kernel.flavour == FlavourArg::Debug {
        words.push("--flavour debug".into());
    }
    words.join(" ")
}

/// Returns the point with this name, such as `2.1:7`.
fn named<'a>(points: &'a [Point], wanted: &str) -> Result<&'a Point, String> {
    let name = |point: &Point| format!("{}:{}", point.task, point.nth);
    let mut points = points.iter();
    let found = points.find(|point| name(point) == wanted);
    found.ok_or_else(|| format!("the run has no point {wanted}"))
}

/// A case that is being swept.
struct Sweep<'a> {
    args: &'a SweepArgs,
    context: &'a Context,
    lab: &'a HostLab<'a>,
    store: &'a Store,
    scenario: &'a Scenario,
    case: &'a Case,
}

impl Sweep<'_> {
    fn run(&self, journal: &mut Journal) -> Result<CaseSweep> {
        let name = format!("{} {}", self.scenario.name, self.case.name);
        let progress = self.context.progress();
        progress.note(&format!("sweep of {name}: listing the events of a run"));
        let mut session = self.session("job-1");
        let kind = self.args.event.kind();
        let baseline = sweep::baseline(&mut session, self.scenario, self.case, kind);
        let baseline = match baseline {
            Ok(baseline) => baseline,
            Err(stop) => return Ok(CaseSweep::stopped(&self.case.name, stop)),
        };
        let points = match self.points(&baseline) {
            Ok(points) => points,
            Err(message) => {
                let stop = Abort::unknown(message);
                return Ok(CaseSweep::stopped(&self.case.name, stop));
            }
        };
        // A single point is not a sweep, and must not replace the journal of one.
        if self.args.point.is_none() {
            journal.begin()?;
        }
        let (mut tried, left) = journal.split(&points);
        progress.note(&format!(
            "sweep of {name}: {} events, {} points, {} left to try",
            baseline.listing.points.len(),
            points.len(),
            left.len()
        ));
        let queue = Queue {
            points: left.iter(),
            total: left.len(),
            tried: &mut tried,
            journal,
            begun: Instant::now(),
            told: Instant::now(),
            failed: None,
        };
        let queue = Mutex::new(queue);
        thread::scope(|scope| {
            for job in 2..=self.args.jobs {
                let (queue, baseline) = (&queue, &baseline);
                scope.spawn(move || {
                    self.work(self.session(&format!("job-{job}")), baseline, queue);
                });
            }
            self.work(session, &baseline, &queue);
        });
        let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = queue.failed {
            return Err(error);
        }
        Ok(CaseSweep {
            name: self.case.name.clone(),
            events: baseline.listing.points.len(),
            unnamed: baseline.listing.unnamed,
            ends: baseline.listing.ends,
            points: points.len(),
            undisturbed_ms: baseline.ms,
            stop: None,
            tried,
        })
    }

    fn points(&self, baseline: &Baseline) -> Result<Vec<Point>, String> {
        let all = &baseline.listing.points;
        if let Some(wanted) = &self.args.point {
            return Ok(vec![named(all, wanted)?.clone()]);
        }
        let mut points = sweep::stratified(all, self.args.every as usize);
        points.truncate(self.args.limit.unwrap_or(usize::MAX));
        match points.is_empty() {
            true => Err(format!("the run has no event {}", self.args.event.name())),
            false => Ok(points),
        }
    }

    fn session(&self, name: &str) -> Session<'_> {
        let switch = self.args.broken.name();
        Session::in_dir(self.lab, self.store, name, switch, &|_| {})
    }

    /// Tries points from the queue until it is empty.
    fn work(&self, mut session: Session<'_>, baseline: &Baseline, queue: &Mutex<Queue<'_>>) {
        let locked = || queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some(point) = locked().next() else { break };
            let tried = self.attempt(&mut session, baseline, point);
            let mut queue = locked();
            queue.add(tried);
            if queue.told.elapsed() >= PERIOD {
                queue.told = Instant::now();
                let name = format!("{} {}", self.scenario.name, self.case.name);
                self.context.progress().note(&queue.progress(&name));
            }
        }
        if let Err(error) = session.close() {
            self.context
                .progress()
                .note(&format!("the guest did not shut down: {error}"));
        }
    }

    fn attempt(
        &self,
        session: &mut Session<'_>,
        baseline: &Baseline,
        point: &Point,
    ) -> PointResult {
        let kind = self.args.event.kind();
        let output = &baseline.output;
        let tried = sweep::attempt(session, self.scenario, self.case, kind, output, point);
        if tried.outcome != PointOutcome::Passed {
            self.context.progress().note(&format!(
                "{} {} at {}:{} ({}): {} ({})",
                self.scenario.name,
                self.case.name,
                point.task,
                point.nth,
                tried.what(),
                tried.outcome.name(),
                tried.cause
            ));
        }
        tried
    }
}

/// State that the guests of a case share.
struct Queue<'a> {
    points: std::slice::Iter<'a, Point>,
    total: usize,
    tried: &'a mut Vec<PointResult>,
    journal: &'a mut Journal,
    begun: Instant,
    told: Instant,
    failed: Option<anyhow::Error>,
}

impl<'a> Queue<'a> {
    /// Returns the next point, or `None` once the queue is empty or a result could not be written.
    fn next(&mut self) -> Option<&'a Point> {
        match self.failed {
            Some(_) => None,
            None => self.points.next(),
        }
    }

    fn add(&mut self, tried: PointResult) {
        if let Err(error) = self.journal.add(&tried) {
            self.failed = Some(error);
        }
        self.tried.push(tried);
    }

    fn progress(&self, name: &str) -> String {
        let left = self.points.len();
        let tried = self.total - left;
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let rest = self.begun.elapsed() / number(tried.max(1)) * number(left);
        format!(
            "sweep of {name}: {tried} of {} points, about {} min left",
            self.total,
            rest.as_secs().div_ceil(60)
        )
    }
}
