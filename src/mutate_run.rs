// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Prepares the inputs of `crucible mutate`, in addition to the kernel with the mutants: a disk
//! on which all workloads are built, the lines that each case runs, and the list of equivalent
//! mutants.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use crucible_artefacts::{Fingerprint, Sources, scratch};
use crucible_engine::experiment::{self, Journal, Reach, ReachExperiment, Setup};
use crucible_engine::results::{SCRATCH, Store};
use crucible_engine::stream::Stream;
use crucible_engine::{Scenario, Session, interrupt, trial};
use crucible_mutants::{Equivalent, Mutant};

use crate::boot_artefacts::{BootArtefacts, FlavourArg, GuestArgs};
use crate::context::Context;
use crate::exit;
use crate::guests::HostLab;

/// Increase these when the procedure for the disk and the lines changes.
const RECIPES: [&str; 2] = ["workloads 1", "reach 1"];

/// The list of equivalent mutants, in the sources.
const EQUIVALENTS: &str = "guest-kernel/mutants.toml";

/// The program whose image is forged, in the sources.
const FORGER: &str = "rootfs/torture/many.c";

/// The scenario whose trees a checkpoint must refuse, in the sources.
const REFUSALS: &str = "tests/scenarios/refused";

/// The lines that each case runs, in its artefact.
const REACH: &str = "reach.json";

/// Returns a disk with all workloads, including that of `others`, built in a guest of these
/// images, and the lines that each case runs on the kernel that counts lines. Both are made once.
pub fn prepare(
    context: &Context,
    images: &BootArtefacts,
    guest: &GuestArgs,
    scenarios: &[Scenario],
    others: Option<&Scenario>,
    jobs: u8,
) -> Result<(PathBuf, Reach)> {
    let mut fingerprint = Fingerprint::new(RECIPES[0]);
    let all: Vec<_> = scenarios.iter().chain(others).cloned().collect();
    for scenario in &all {
        fingerprint = fingerprint.add("scenario", &scenario.name);
        let toml = fs::read(scenario.dir.join("scenario.toml"))?;
        fingerprint = fingerprint.add("toml", toml);
        for source in scenario.sources()? {
            fingerprint = fingerprint.add(&source.path, &source.content);
        }
    }
    let userland = images.content_hash(&images.debian)?;
    let key = fingerprint.add("userland", userland).finish();
    let cache = context.cache()?;
    let progress = context.progress();
    let disk = match cache.get("scratch", &key) {
        Some(directory) => directory,
        None => {
            progress.note("building the workloads of all scenarios on one disk, once");
            let store = Store::begin(&context.results()?, "mutate-workloads")?;
            let disk = workloads(context, images, &store, &all)?;
            let kept = cache.get_or_build("scratch", &key, progress, |directory| {
                scratch::copy(&disk, &directory.join(SCRATCH))
            })?;
            store.remove_disks()?;
            store.finish(false)?;
            kept
        }
    }
    .join(SCRATCH);
    let mut guest = guest.clone();
    guest.kernel.flavour = FlavourArg::Coverage;
    let images = BootArtefacts::prepare(context, &guest)?;
    let key = Fingerprint::new(RECIPES[1])
        .add("workloads", key)
        .add("kernel", &images.kernel.identity.hash)
        .add("agent", images.content_hash(&images.agent)?)
        .add("machine", format!("{:?}", images.kind()))
        .finish();
    let directory = match cache.get("reach", &key) {
        Some(directory) => directory,
        None => {
            progress.note("finding the lines that each case runs, once for this kernel");
            let reach = reach(context, &images, scenarios, &disk, jobs, &key)?;
            let text = serde_json::to_vec(&reach)?;
            cache.get_or_build("reach", &key, progress, |directory| {
                let path = directory.join(REACH);
                fs::write(&path, &text).map_err(|source| crucible_artefacts::Error::File {
                    what: "write",
                    path,
                    source,
                })
            })?
        }
    };
    let text = fs::read(directory.join(REACH))?;
    Ok((disk, serde_json::from_slice(&text)?))
}

/// Builds all workloads in one guest. Returns its disk.
fn workloads(
    context: &Context,
    images: &BootArtefacts,
    store: &Store,
    scenarios: &[Scenario],
) -> Result<PathBuf> {
    let lab = HostLab::new(images, context, false);
    let stream = Stream::default();
    let mut session = Session::new(setup(&lab, store, &stream, 1), 1);
    for scenario in scenarios {
        trial::build(&mut session, scenario)
            .map_err(|stop| anyhow!("{}: {}", scenario.name, stop.why))?;
    }
    session.close().map_err(|stop| anyhow!(stop.why))?;
    Ok(store.dir().join(SCRATCH))
}

/// Runs each case on the kernel that counts lines.
fn reach(
    context: &Context,
    images: &BootArtefacts,
    scenarios: &[Scenario],
    disk: &Path,
    jobs: u8,
    key: &str,
) -> Result<Reach> {
    let counted = images.kernel.counted().context(
        "the cached kernel lacks its coverage notes: run `crucible clean` and try again",
    )?;
    let mut experiment = ReachExperiment {
        scenarios: scenarios.to_vec(),
        counted,
        disk: disk.to_owned(),
    };
    let results = context.results()?;
    let store = Store::begin(&results, "mutate-reach")?;
    let lab = HostLab::new(images, context, false).fitting(&experiment);
    // Do not report these units: the run's own units are mutants.
    let stream = Stream::default();
    let path = results.join("journals/mutate-reach.jsonl");
    let identity = || {
        let mut identity = experiment::Identity::new("mutate-reach");
        identity.add("key", key);
        identity
    };
    let journal = Journal::open(&path, identity(), true)
        .or_else(|_| Journal::open(&path, identity(), false))?;
    let report = experiment::execute(&mut experiment, setup(&lab, &store, &stream, jobs), journal);
    store.remove_disks()?;
    store.finish(false)?;
    if interrupt::requested() || report.left > 0 {
        bail!("not all cases were run: {}", report.outcome().why);
    }
    for failed in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        let why = &failed.outcome.why;
        let text = format!(
            "{} is left out, because it does not pass: {why}",
            failed.key
        );
        context.progress().note(&text);
    }
    if report.summary.cases.is_empty() {
        bail!("no case passes on the kernel that counts lines");
    }
    Ok(report.summary)
}

fn setup<'a>(lab: &'a HostLab<'a>, store: &'a Store, stream: &'a Stream, jobs: u8) -> Setup<'a> {
    Setup {
        lab,
        store,
        stream,
        jobs,
        break_switch: None,
        without: &[],
        skip: None,
    }
}

/// Returns the source of the program whose image is forged.
pub fn forger(sources: &Sources) -> Result<Vec<u8>> {
    let path = sources.root().join(FORGER);
    fs::read(&path).with_context(|| format!("cannot read {FORGER}"))
}

/// Returns the scenario whose trees a checkpoint must refuse; `None` if the sources lack the tests.
pub fn refusals(sources: &Sources) -> Result<Option<Scenario>> {
    let path = sources.root().join(REFUSALS);
    if !path.exists() {
        return Ok(None);
    }
    let scenario = Scenario::load(&path).with_context(|| format!("cannot read {REFUSALS}"))?;
    Ok(Some(scenario))
}

/// Returns the equivalent mutants.
pub fn equivalents(sources: &Sources, mutants: &[Mutant]) -> Result<BTreeMap<String, Equivalent>> {
    let path = sources.root().join(EQUIVALENTS);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {EQUIVALENTS}"))?;
    let known: BTreeSet<_> = mutants.iter().map(|one| one.id.as_str()).collect();
    crucible_mutants::equivalents(&text, &known)
        .map_err(|error| exit::Usage(format!("{EQUIVALENTS}: {error}")).into())
}
