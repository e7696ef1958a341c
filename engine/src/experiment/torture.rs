// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible torture`: each batch of damaged images is a unit.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use super::{Done, Experiment, Finding, Group, Identity, Summary};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    coverage::{self, Coverage},
    guest::Guest,
    outcome::Outcome,
    session::Session,
};

/// Time limit for an answer of the agent.
const LIMIT: Duration = Duration::from_secs(120);

/// Time limit per image on average; the debug kernel under TCG needs a tenth of it.
const PER_IMAGE: Duration = Duration::from_secs(2);

/// Number of images of a batch. Each batch starts and freezes the program again, and has a seed of
/// its own.
const BATCH: u32 = 250;

/// The program whose image each batch damages, in turn. Every second program has each kind of
/// state.
const ORDER: [&str; 6] = ["tree", "many", "threads", "many", "chain", "many"];

/// The programs, with their sources in the checkout and their compiler commands.
const PROGRAMS: [(&str, &[&str], &str); 4] = [
    (
        "tree",
        &[
            "scenarios/tree/tree.c",
            "scenarios/shared/workload.c",
            "scenarios/shared/workload.h",
        ],
        "gcc -O2",
    ),
    ("many", &["rootfs/torture/many.c"], "gcc -O2 -pthread"),
    (
        "threads",
        &["scenarios/threads/threads.c"],
        "gcc -O2 -pthread",
    ),
    ("chain", &["scenarios/vfork-chain/chain.c"], "gcc -O2"),
];

/// The event at which the programs are frozen: their getppid(2).
pub(super) const AT: &str = "syscall 110 1";

/// Damaged and forged images.
pub struct TortureExperiment {
    root: PathBuf,
    raw: u32,
    forged: u32,
    seed: u64,
    counted: Option<PathBuf>,
    coverage: Mutex<Option<Coverage>>,
}

/// A batch of images.
#[derive(Clone, Debug)]
pub struct Batch {
    number: u32,
    program: &'static str,
    raw: u32,
    forged: u32,
    seed: u64,
}

impl Batch {
    fn command(&self) -> String {
        let Self {
            program,
            raw,
            forged,
            seed,
            ..
        } = self;
        format!("torture --raw {raw} --forged {forged} --seed {seed} --at '{AT}' -- ./{program}")
    }
}

/// The results of all batches.
#[derive(Clone, Debug, Serialize)]
pub struct TortureSummary {
    /// Sums of the counts of all batches.
    #[serde(flatten)]
    pub sum: Value,
    /// The refusals that were reached, if they were counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coverage: Option<Coverage>,
}

impl Summary for TortureSummary {
    fn outcomes(&self) -> Vec<Outcome> {
        let silent = self.coverage.iter().flat_map(Coverage::silent);
        let silent: Vec<_> = silent.map(str::to_owned).collect();
        if silent.is_empty() {
            return Vec::new();
        }
        let why = format!("never refused: {}", silent.join(", "));
        vec![Outcome::new(Condition::Diverged, why)]
    }
}

impl TortureExperiment {
    /// Returns the experiment of these numbers of images. The programs' sources are below `root`.
    /// With a kernel that counts lines, the refusals that were reached are reported.
    pub fn new(root: &Path, raw: u32, forged: u32, seed: u64, counted: Option<PathBuf>) -> Self {
        Self {
            root: root.to_owned(),
            raw,
            forged,
            seed,
            counted,
            coverage: Mutex::default(),
        }
    }

    fn batches(&self) -> Vec<Batch> {
        let total = self.raw + self.forged;
        let mut batches = Vec::new();
        let mut done = 0;
        for (number, &program) in (1..).zip(ORDER.iter().cycle()) {
            if done == total {
                break;
            }
            let raw = self.raw.saturating_sub(done).min(BATCH);
            let forged = (BATCH - raw).min(total - done - raw);
            batches.push(Batch {
                number,
                program,
                raw,
                forged,
                seed: self.seed.wrapping_add(u64::from(done)),
            });
            done += raw + forged;
        }
        batches
    }

    fn ready(&self, session: &mut Session<'_>) -> Result<(), Abort> {
        let patience = session.patience();
        let (guest, new) = session.guest().map_err(Abort::session)?;
        if !new {
            return Ok(());
        }
        let before = |error| Abort::guest(Phase::Before, error);
        guest.prepare(None).map_err(before)?;
        build_programs(guest, &self.root, patience)
    }

    fn batch(&self, session: &mut Session<'_>, batch: &Batch) -> Result<(Outcome, Value), Abort> {
        let limit = (LIMIT + PER_IMAGE * BATCH) * session.patience();
        let after = |error| Abort::guest(Phase::After, error);
        let guest = session.running();
        guest.mark_used();
        let run = exec(guest, &batch.command(), limit).map_err(after)?;
        guest.settle().map_err(after)?;
        match run {
            Ok(stdout) => {
                let report = serde_json::from_str(stdout.trim())
                    .map_err(|_| Abort::failed(format!("torture printed no report: {stdout}")))?;
                let images = batch.raw + batch.forged;
                Ok((Outcome::passed(format!("{images} images")), report))
            }
            Err(mut lines) => {
                let why = lines.first().cloned();
                lines.push(format!("in the guest: {}", batch.command()));
                let why = why.unwrap_or_else(|| "torture failed without a message".into());
                let outcome = Outcome {
                    lines,
                    ..Outcome::new(Condition::Diverged, why)
                };
                Ok((outcome, Value::Null))
            }
        }
    }
}

/// Returns the names and contents of the programs' sources, which are below `root`.
pub(super) fn program_sources(root: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let sources = PROGRAMS.iter().flat_map(|(_, sources, _)| *sources);
    let read = |source: &str| {
        let path = root.join(source);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((name.into_owned(), fs::read(&path)?))
    };
    sources.map(|source| read(source)).collect()
}

/// Builds the programs in the guest's `/work`.
pub(super) fn build_programs(guest: &mut Guest, root: &Path, patience: u32) -> Result<(), Abort> {
    let before = |error| Abort::guest(Phase::Before, error);
    let sources =
        program_sources(root).map_err(|e| Abort::io("cannot read the programs' sources", &e))?;
    for (name, content) in sources {
        guest
            .write_file(&format!("/work/{name}"), 0o644, &content)
            .map_err(before)?;
    }
    for (program, _, compile) in PROGRAMS {
        let build = format!("{compile} -o {program} {program}.c workload.c && chmod 777 .");
        let run = exec(guest, &build, LIMIT * patience).map_err(before)?;
        if let Err(stderr) = run {
            let why = format!("{program}'s build failed");
            return Err(Abort::new(Condition::BuildFailed, why).with(stderr));
        }
    }
    Ok(())
}

/// Runs a command. The inner error has its messages.
fn exec(
    guest: &mut Guest,
    command: &str,
    limit: Duration,
) -> Result<Result<String, Vec<String>>, crate::guest::GuestError> {
    let argv = ["/bin/sh", "-c", command].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/work", limit)?;
    Ok(match run.success() {
        true => Ok(run.stdout),
        false => Err(run.stderr.lines().map(str::to_owned).collect()),
    })
}

/// Adds the counts of a report to the sum.
fn add(sum: &mut Value, report: &Value) {
    let (Some(sum), Some(report)) = (sum.as_object_mut(), report.as_object()) else {
        return;
    };
    for (name, value) in report {
        let total = sum.entry(name).or_insert_with(|| match value {
            Value::Object(_) => json!({}),
            _ => json!(0),
        });
        match value.as_u64() {
            // The size of the image is reported, not summed.
            Some(size) if name == "image_bytes" => *total = size.into(),
            Some(count) => *total = (total.as_u64().unwrap_or(0) + count).into(),
            None => add(total, value),
        }
    }
}

impl Experiment for TortureExperiment {
    type Unit = Batch;
    type Detail = Value;
    type Summary = TortureSummary;

    fn key(&self, unit: &Batch) -> String {
        format!("{:04}/{}", unit.number, unit.program)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        for (name, content) in program_sources(&self.root)? {
            identity.add(&name, content);
        }
        let Self {
            raw, forged, seed, ..
        } = self;
        identity.add("images", format!("{raw} {forged} {seed}"));
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        Ok(self
            .batches()
            .into_iter()
            .map(|batch| vec![batch])
            .collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[Batch],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            self.ready(session)?;
            let (outcome, report) = self.batch(session, unit)?;
            done(unit, outcome, Some(report))?;
        }
        Ok(())
    }

    fn conclude(&self, session: &mut Session<'_>) -> Result<(), Abort> {
        let Some(counted) = &self.counted else {
            return Ok(());
        };
        let counts = coverage::fetch(session.running(), counted)
            .map_err(|error| Abort::guest(Phase::After, error))?;
        let measured = coverage::measure(counted, &counts)
            .map_err(|e| Abort::failed(crate::abort::full(&e)))?;
        let mut coverage = self.coverage.lock().unwrap_or_else(PoisonError::into_inner);
        *coverage = Some(measured);
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<Value>]) -> TortureSummary {
        let mut sum = json!({ "seed": self.seed });
        for report in findings
            .iter()
            .filter_map(|finding| finding.detail.as_ref())
        {
            add(&mut sum, report);
        }
        let mut coverage = self.coverage.lock().unwrap_or_else(PoisonError::into_inner);
        TortureSummary {
            sum,
            coverage: coverage.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_and_sizes_are_not() {
        let mut sum = json!({ "seed": 1 });
        let report = json!({ "image_bytes": 9, "raw": { "refused": 2, "errnos": { "EIO": 2 } } });
        add(&mut sum, &report);
        add(&mut sum, &report);
        let expected = json!({
            "seed": 1, "image_bytes": 9, "raw": { "refused": 4, "errnos": { "EIO": 4 } },
        });
        assert_eq!(sum, expected);
    }

    #[test]
    fn the_batches_have_all_images_and_seeds_of_their_own() {
        let torture = TortureExperiment::new(Path::new("/"), 300, 400, 7, None);
        let batches = torture.batches();
        let numbers: Vec<_> = batches.iter().map(|b| (b.raw, b.forged, b.seed)).collect();
        assert_eq!(numbers, [(250, 0, 7), (50, 200, 257), (0, 200, 507)]);
        let programs: Vec<_> = batches.iter().map(|b| b.program).collect();
        assert_eq!(programs, ORDER[..3]);
    }
}
