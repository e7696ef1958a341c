// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible torture`

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use crucible_artefacts::Progress;
use crucible_engine::coverage::{self, Coverage};
use crucible_engine::guest::{Guest, GuestError};
use serde_json::{Value, json};

use crate::boot_artefacts::{BootArtefacts, FlavourArg, GuestArgs};
use crate::context::Context;
use crate::coverage_report;
use crate::exit;
use crate::temporary::Temporary;

/// Time limit for an answer of the agent.
const BOOT: Duration = Duration::from_secs(120);

/// Time limit per image on average; the debug kernel under TCG needs a tenth of it.
const PER_IMAGE: Duration = Duration::from_secs(2);

/// Number of images between two reports of progress. Each batch starts and freezes the program
/// anew, and has a seed of its own.
const BATCH: u32 = 250;

/// The program whose image each batch damages, in turn. Every second one has a bit of every kind
/// of state.
const ORDER: [&str; 6] = ["tree", "many", "threads", "many", "chain", "many"];

/// The programs, with their sources in this checkout and their compiler commands.
const PROGRAMS: [(&str, &[&str], &str); 4] = [
    (
        "tree",
        &["scenarios/tree/tree.c", "scenarios/shared/nonce.h"],
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
const AT: &str = "syscall 110 1";

/// kmemleak reports objects that have been unreachable for 5 s. The second scan clears objects
/// that the first one missed because a register or a stack still referred to them.
const LEAKS: &str = "cd /sys/kernel/debug 2>/dev/null && test -e kmemleak || exit 0
echo scan > kmemleak && sleep 6 && echo scan > kmemleak && cat kmemleak";

/// The options of `crucible torture`.
#[derive(Debug, Args)]
pub struct TortureArgs {
    #[command(flatten)]
    guest: GuestArgs,
    /// Number of images with damaged bytes; all of them must be refused
    #[arg(
        long,
        help_heading = "Images",
        value_name = "N",
        default_value_t = 1000
    )]
    raw: u32,
    /// Number of images with changed records and correct checksums
    #[arg(
        long,
        help_heading = "Images",
        value_name = "N",
        default_value_t = 5000
    )]
    forged: u32,
    /// Seed of the random changes
    #[arg(
        long,
        help_heading = "Images",
        value_name = "SEED",
        default_value_t = 1
    )]
    seed: u64,
    /// Report which of restart(2)'s refusals were reached, with the coverage kernel. Exit
    /// with 1 if a type of record was never refused
    #[arg(long, help_heading = "Output", conflicts_with_all = ["flavour", "kernel"])]
    coverage: bool,
}

/// Feeds damaged and forged images to restart(2) in a guest, and checks for kernel reports, memory
/// leaks and remaining tasks. Prints one JSON object.
pub fn run(args: &TortureArgs, context: &Context) -> Result<ExitCode> {
    let mut wanted = args.guest.clone();
    if args.coverage {
        wanted.kernel.flavour = FlavourArg::Coverage;
    }
    let images = BootArtefacts::prepare(context, &wanted)?;
    let root = context.root()?;
    let directory = Temporary::new("torture")?;
    let mut guest = images.boot(context, directory.path(), BOOT)?;
    prepare(&mut guest, &root)?;
    let failure = match torture(&mut guest, args, context.progress()) {
        Ok(Ok(mut report)) => {
            let coverage = counts(&mut guest, &images, args)?;
            guest.shutdown()?;
            if let Some(coverage) = &coverage {
                report["coverage"] = serde_json::to_value(coverage)?;
            }
            println!("{report}");
            return Ok(match coverage {
                Some(coverage) => tell(&coverage).into(),
                None => exit::PASS.into(),
            });
        }
        Ok(Err(failure)) => failure,
        Err(error @ (GuestError::Alert(_) | GuestError::Silent { .. } | GuestError::Ended(_))) => {
            error.to_string()
        }
        Err(error) => return Err(error.into()),
    };
    let kept = directory.keep();
    eprintln!("crucible: torture: {failure}");
    eprintln!("  console  {}", kept.join("console.log").display());
    Ok(exit::DIVERGED.into())
}

/// Prints the refusals that were reached, and returns the exit code.
fn tell(coverage: &Coverage) -> u8 {
    for line in coverage_report::lines(coverage) {
        eprintln!("crucible: torture: {line}");
    }
    if coverage.silent().is_empty() {
        exit::PASS
    } else {
        exit::DIVERGED
    }
}

/// Returns the refusals that the guest has reached, if `--coverage` requests them.
fn counts(
    guest: &mut Guest,
    images: &BootArtefacts,
    args: &TortureArgs,
) -> Result<Option<Coverage>> {
    if !args.coverage {
        return Ok(None);
    }
    let counted = images.kernel.counted().context(
        "the cached kernel lacks its coverage notes: run `crucible clean` and try again",
    )?;
    let counts = coverage::fetch(guest, &counted)?;
    Ok(Some(coverage::measure(&counted, &counts)?))
}

fn prepare(guest: &mut Guest, root: &Path) -> Result<()> {
    guest.prepare(None)?;
    for (program, sources, compile) in PROGRAMS {
        for source in sources {
            let path = root.join(source);
            let content =
                fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            guest.write_file(&format!("/work/{name}"), 0o644, &content)?;
        }
        let build = format!("{compile} -o {program} {program}.c && chmod 777 .");
        let run = guest.exec(&sh(&build), &BTreeMap::new(), "/work", BOOT)?;
        if !run.success() {
            bail!("cannot build {program}: {}", run.stderr);
        }
    }
    Ok(())
}

/// Returns the summary of all images. The inner error is a failure.
fn torture(
    guest: &mut Guest,
    args: &TortureArgs,
    progress: &dyn Progress,
) -> Result<Result<Value, String>, GuestError> {
    progress.begin("damaging images");
    let result = batches(guest, args, progress);
    progress.end();
    let report = match result? {
        Ok(report) => report,
        Err(failure) => return Ok(Err(failure)),
    };
    let leaks = guest.exec(&sh(LEAKS), &BTreeMap::new(), "/", BOOT)?;
    guest.check_alerts()?;
    let leaked = leaks.stdout.trim();
    Ok(match leaked {
        "" => Ok(report),
        _ => Err(format!("the kernel has leaked memory:\n{leaked}")),
    })
}

/// Returns the sum of all batches. The inner error is the message of the batch that failed.
fn batches(
    guest: &mut Guest,
    args: &TortureArgs,
    progress: &dyn Progress,
) -> Result<Result<Value, String>, GuestError> {
    let total = args.raw + args.forged;
    let mut sum = json!({ "seed": args.seed });
    let mut done = 0;
    for &program in ORDER.iter().cycle() {
        if done == total {
            break;
        }
        let raw = args.raw.saturating_sub(done).min(BATCH);
        let forged = (BATCH - raw).min(total - done - raw);
        let seed = args.seed.wrapping_add(u64::from(done));
        let command = format!(
            "torture --raw {raw} --forged {forged} --seed {seed} --at '{AT}' -- ./{program}"
        );
        let limit = BOOT + PER_IMAGE * BATCH;
        let run = guest.exec(&sh(&command), &BTreeMap::new(), "/work", limit)?;
        let report = serde_json::from_str(run.stdout.trim());
        let (true, Ok(report)) = (run.success(), report) else {
            return Ok(Err(format!(
                "{}\n  repeat   {command}",
                run.stderr.trim_end()
            )));
        };
        add(&mut sum, &report);
        done += raw + forged;
        progress.advance(done.into(), total.into());
    }
    Ok(Ok(sum))
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

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
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
}
