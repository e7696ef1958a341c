// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forges images by recipes, and keeps those recipes that reach new lines of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use crucible_protocol::image::damage::{self, Forged, Recipe};
use fastrand::Rng;
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use serde::{Deserialize, Serialize};

use crate::{
    Options,
    attempt::{Attempt, Outcome},
    kcov::{Coverage, Taken},
    victim,
};

/// The host's task: the recipes that earlier rounds have found.
#[derive(Deserialize)]
struct Task {
    /// The recipes to begin with.
    recipes: Vec<String>,
    /// The addresses that they reach.
    known: BTreeSet<u32>,
    /// A part of the listed changes, to be tried first.
    listed: Option<Listed>,
}

/// A part of the list of changes, in an order drawn from a seed.
#[derive(Clone, Copy, Deserialize)]
struct Listed {
    /// Seed of the order.
    seed: u64,
    /// Number of changes before this part.
    from: usize,
    /// Number of changes in it.
    count: usize,
}

impl Listed {
    /// Returns the recipes of the part, the last one first. There are none after the list's end.
    fn recipes(self, records: &[Forged]) -> Vec<Recipe> {
        let mut order: Vec<u32> = (0..).take(damage::changes(records).len()).collect();
        Rng::with_seed(self.seed).shuffle(&mut order);
        let part = order.into_iter().skip(self.from).take(self.count);
        let mut recipes: Vec<_> = part.map(Recipe::listed).collect();
        recipes.reverse();
        recipes
    }
}

/// The report on standard output, which the host reads.
#[derive(Default, Serialize)]
struct Report {
    /// Number of restarts.
    restarts: u32,
    /// Number of those that succeeded.
    restored: u32,
    /// Number of restarts whose coverage did not fit into KCOV's area.
    full: u32,
    /// Number of refusals by errno.
    errnos: BTreeMap<String, u32>,
    /// Duration in milliseconds.
    ms: u64,
    /// Each recipe that has reached new addresses, with those addresses.
    found: Vec<(String, Vec<u32>)>,
}

/// Runs as a child of a process that collects its coverage.
pub fn run(options: &Options, task: &Path) -> Result<ExitCode> {
    let coverage = Coverage::begin()?;
    // SAFETY: this program has a single thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let code = match child(options, task, &coverage) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("torture: {error:#}");
                    match error.is::<Finding>() {
                        true => FOUND,
                        false => 1,
                    }
                }
            };
            std::process::exit(code);
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => Ok(ExitCode::from(code as u8)),
            status => bail!("the fuzzer ended with {status:?}"),
        },
    }
}

fn child(options: &Options, task: &Path, coverage: &Coverage) -> Result<()> {
    let task: Task = serde_json::from_reader(File::open(task)?).context("the task")?;
    let recipes: Vec<Recipe> = task
        .recipes
        .iter()
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let image = victim::image(&options.argv, &options.at, options.user)?;
    let records = damage::take_apart(&image[..]).context("the undamaged image cannot be parsed")?;
    let mut fuzzer = Fuzzer {
        attempt: Attempt::prepare(options.user)?,
        kernel: Complaints::begin()?,
        program: options.name.clone().unwrap_or_default(),
        records,
        coverage,
        known: task.known,
        report: Report::default(),
    };
    let began = Instant::now();
    // This run's reached code includes that of checkpoint(2), which no recipe changes.
    fuzzer.try_one(&Recipe::default())?;
    match options.seconds {
        None => {
            for recipe in &recipes {
                fuzzer.try_one(recipe)?;
            }
        }
        Some(seconds) => {
            let listed = task.listed.map(|listed| listed.recipes(&fuzzer.records));
            let limit = Duration::from_secs(seconds);
            fuzzer.search(recipes, listed.unwrap_or_default(), options.seed, limit)?;
        }
    }
    fuzzer.report.ms = began.elapsed().as_millis() as u64;
    fuzzer.attempt.finish()?;
    println!("{}", serde_json::to_string(&fuzzer.report)?);
    Ok(())
}

/// A mistake of a restart.
#[derive(Debug)]
struct Finding(String);

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Finding {}

/// Maximum number of steps of a recipe that is changed because its image restarts: more would hide
/// the effect of a new step.
const FEW: usize = 2;

/// The result of a recipe.
struct TryResult {
    /// True when it has reached a new address.
    is_new: bool,
    /// True when its image has restarted.
    restored: bool,
}

struct Fuzzer<'a> {
    attempt: Attempt,
    kernel: Complaints,
    program: String,
    records: Vec<Forged>,
    coverage: &'a Coverage,
    known: BTreeSet<u32>,
    report: Report,
}

impl Fuzzer<'_> {
    /// Changes recipes for a while, including those that have reached a new address. Three of four
    /// recipes are listed changes at first: a check that is missing for one field is found when the
    /// list reaches it, and not when the field is drawn.
    ///
    /// Half of all changes are made to images that restart: in a refused image, the kernel does
    /// not look at anything after the refused record.
    fn search(
        &mut self,
        mut recipes: Vec<Recipe>,
        mut listed: Vec<Recipe>,
        seed: u64,
        limit: Duration,
    ) -> Result<()> {
        let mut rng = Rng::with_seed(seed);
        let own = [Recipe::default()];
        let mut restored = Vec::new();
        let began = Instant::now();
        while began.elapsed() < limit {
            let from = match rng.u8(0..8) {
                0..=2 => &own[..],
                3 => &restored,
                // The newest recipes reach new blocks more often than the others.
                4 | 5 => &recipes[recipes.len().saturating_sub(8)..],
                _ => &recipes,
            };
            let next = match rng.u8(0..4) {
                0 => None,
                _ => listed.pop(),
            };
            let recipe = next.unwrap_or_else(|| {
                let parent = rng.choice(from).cloned().unwrap_or_default();
                parent.mutated(&mut rng)
            });
            let tried = self.try_one(&recipe)?;
            if tried.is_new {
                recipes.push(recipe.clone());
            }
            if tried.restored && recipe.steps() <= FEW {
                restored.push(recipe);
            }
        }
        Ok(())
    }

    /// Restarts the image of a recipe.
    fn try_one(&mut self, recipe: &Recipe) -> Result<TryResult> {
        let Self { program, .. } = self;
        // If the guest crashes, its console has the recipe.
        self.kernel.tell(&format!("fuzz: {program} {recipe}"))?;
        let place = format!("restart of {program} {recipe}");
        let outcome = self.attempt.restart(&recipe.image(&self.records));
        if let Some(line) = self.kernel.complaint()? {
            bail!(Finding(format!("{place}: the kernel reports: {line}")));
        }
        self.report.restarts += 1;
        let outcome = outcome.map_err(|error| Finding(format!("{place}: {error:#}")))?;
        let restored = matches!(outcome, Outcome::Restored);
        match outcome {
            Outcome::Restored => self.report.restored += 1,
            Outcome::Refused { errno, .. } => {
                let errno = format!("{errno:?}");
                *self.report.errnos.entry(errno).or_default() += 1;
            }
        }
        let Taken {
            mut reached,
            is_full,
        } = self.coverage.take();
        self.report.full += u32::from(is_full);
        reached.retain(|address| self.known.insert(*address));
        let is_new = !reached.is_empty();
        if is_new {
            self.report.found.push((recipe.to_string(), reached));
        }
        Ok(TryResult { is_new, restored })
    }
}

/// Turns off the limit on writes to the kernel's log, which drops lines without a message.
const UNLIMITED: &str = "/proc/sys/kernel/printk_devkmsg";

/// The exit code for a fault of a restart; 1 is for errors before it, 2 for wrong usage.
const FOUND: i32 = 3;

/// The kernel's log, which this program writes to and in which the kernel reports errors.
struct Complaints {
    log: File,
}

impl Complaints {
    /// Begins at the log's end.
    fn begin() -> Result<Self> {
        // Include the newline, which the kernel requires.
        std::fs::write(UNLIMITED, "on\n").context(UNLIMITED)?;
        let mut log = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("/dev/kmsg")?;
        log.seek(SeekFrom::End(0)).context("/dev/kmsg")?;
        Ok(Self { log })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.log.write_all(line.as_bytes()).context("/dev/kmsg")
    }

    /// Returns the first line of a report since the last call.
    fn complaint(&mut self) -> Result<Option<String>> {
        let mut first = None;
        let mut record = vec![0; 8192];
        loop {
            let length = match self.log.read(&mut record) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(first),
                // The log has overwritten unread records.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) => return Err(error).context("/dev/kmsg"),
            };
            let text = String::from_utf8_lossy(&record[..length]);
            // "4,1051,123456,-;text"
            let line = text.split_once(';').map_or("", |(_, line)| line);
            if first.is_none() && is_report(line) {
                first = Some(line.lines().next().unwrap_or("").to_owned());
            }
        }
    }
}

/// Returns true for the first line of a report by the kernel's checkers.
fn is_report(line: &str) -> bool {
    ["BUG: ", "WARNING: ", "UBSAN: ", "INFO: task ", "Oops"]
        .iter()
        .any(|head| line.starts_with(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_told_from_what_the_fuzzer_writes() {
        assert!(is_report("BUG: KASAN: slab-out-of-bounds in read_groups"));
        assert!(is_report("WARNING: CPU: 0 PID: 7 at kernel/seccomp.c:404"));
        assert!(!is_report("fuzz: many 1f,a03"));
        assert!(!is_report("restart: BUG: in a path of an image"));
    }
}
