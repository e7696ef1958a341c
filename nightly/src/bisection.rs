// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bisection of each new regression of a night, within the rest of its budget.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crucible_engine::interrupt;
use crucible_history::{Bisection, Change, Judgement, Shard, Store};
use serde_json::Value;

use crate::child::{end, spawn};
use crate::report::NightReport;
use crate::run::{Error, PERIOD, Settings, io_error};

/// Bisects the regressions of a night between the commit of their last good night and its own, one
/// for each signature, and keeps the results. Returns the number of searches.
///
/// # Errors
/// Fails if the history or a file cannot be used.
pub fn bisect(
    settings: &Settings,
    store: &Store,
    report: &NightReport,
    listener: &mut dyn FnMut(&str),
) -> Result<usize, Error> {
    let mut new: BTreeMap<&str, &Judgement> = BTreeMap::new();
    for test in &report.tests {
        if test.change == Change::Regressed && !test.test.is_comparison() {
            new.entry(&test.why).or_insert(test);
        }
    }
    let mut searches = 0;
    for (signature, test) in new {
        // A bisection can run only the tests of scenarios.
        let Some(unit) = test.test.name.strip_prefix("scenario ") else {
            continue;
        };
        let (scenario, case) = unit.split_once('/').unwrap_or((unit, ""));
        let Some(last_good) = &test.last_good else {
            continue;
        };
        let commits = (
            commit(&store.shards(last_good)?),
            commit(&store.shards(&report.night)?),
        );
        let (Some(good), Some(bad)) = commits else {
            continue;
        };
        if good == bad || interrupt::requested() || settings.is_over() {
            continue;
        }
        listener(&format!(
            "bisecting {} for {scenario}/{case}: {signature}",
            test.test
        ));
        searches += 1;
        let flavour = test.test.variant.split('/').nth(1).unwrap_or("base");
        let results = settings.directory().join("bisections").join(scenario);
        let answer = search(settings, &results, &[scenario, &good, &bad, flavour])?;
        let directory = results.strip_prefix(&settings.results).unwrap_or(&results);
        store.bisected(&Bisection {
            night: report.night.clone(),
            signature: signature.to_owned(),
            test: test.test.clone(),
            good,
            bad,
            answer,
            directory: directory.to_string_lossy().into_owned(),
        })?;
    }
    Ok(searches)
}

/// Returns the commit that the processes of a night ran, if all ran the same commit.
fn commit(shards: &[Shard]) -> Option<String> {
    let commits = shards.iter().map(|shard| {
        let provenance: Value = serde_json::from_str(&shard.provenance).ok()?;
        let parts = provenance.as_object()?.values().next()?;
        // Uncommitted changes cannot be checked out.
        let clean = parts["checkout"]["dirty"] == false;
        let commit = parts["checkout"]["commit"].as_str();
        commit.filter(|_| clean).map(str::to_owned)
    });
    let commits: Option<Vec<_>> = commits.collect();
    let first = commits.as_ref()?.first()?;
    commits
        .iter()
        .flatten()
        .all(|it| it == first)
        .then(|| first.clone())
}

/// Runs `crucible bisect`. Returns its answer in one line.
fn search(
    settings: &Settings,
    results: &Path,
    [scenario, good, bad, flavour]: &[&str; 4],
) -> Result<String, Error> {
    fs::create_dir_all(results).map_err(io_error(format!("cannot make {}", results.display())))?;
    let file = |name: &str| {
        let path = results.join(name);
        let what = format!("cannot write {}", path.display());
        File::create(path).map_err(io_error(what))
    };
    let mut command = Command::new(&settings.program);
    command
        .args(["--quiet", "bisect", scenario, "--good", good, "--bad", bad])
        .args(["--keep", "--json"])
        .env("CRUCIBLE_RESULTS", results)
        .current_dir(&settings.root)
        .stdin(Stdio::null())
        .stdout(file("bisection.json")?)
        .stderr(file("stderr.txt")?);
    if *flavour != "base" {
        command.args(["--flavour", flavour]);
    }
    let mut child = spawn(&mut command).map_err(io_error("cannot start crucible"))?;
    let mut asked = false;
    let status = loop {
        if let Some(status) = child
            .try_wait()
            .map_err(io_error("cannot wait for crucible"))?
        {
            break status;
        }
        if !asked && (interrupt::requested() || settings.is_over()) {
            asked = true;
            end(&child);
        }
        thread::sleep(PERIOD);
    };
    let record = fs::read(results.join("bisection.json")).unwrap_or_default();
    let record: Value = serde_json::from_slice(&record).unwrap_or_default();
    Ok(match (asked, record["why"].as_str()) {
        (true, _) => "not finished within the night's budget".to_owned(),
        (false, Some(why)) => why.to_owned(),
        (false, None) => format!("the bisection ended without an answer ({status})"),
    })
}
