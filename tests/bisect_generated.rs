// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible bisect` with real builds, over generated histories of forty commits: the number of
//! commits that it builds, and the effect of `kill -9` at random moments. `CRUCIBLE_SEED` is the
//! first history's seed, `CRUCIBLE_HISTORIES` their number, and `CRUCIBLE_KILLS` the number of
//! kills.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::cli;
use common::history::{BUG, base, change, commit, git, record, search};
use common::killing::{Random, kill, number};
use serde_json::Value;
use tempfile::TempDir;

/// Number of commits after the good end.
const COMMITS: u64 = 40;

/// Files that harmless commits change. The side branch changes a different file.
const FILES: [&str; 8] = [
    "pipe.c",
    "tty.c",
    "timers.c",
    "signal.c",
    "seccomp.c",
    "procfs.c",
    "epoll.c",
    "vma.c",
];
const SIDE: &str = "inotify.c";

/// A replacement that makes a restart fail in a different way.
const OTHER: (&str, &str) = ("ret = sched_setattr(current, &attr);", "ret = -EPERM;");

/// Code that keeps a kernel from booting.
const STOP: &str =
    "\nstatic int __init stop(void)\n{\n\tpanic(\"planted\");\n}\nlate_initcall(stop);\n";

/// Code that no compiler accepts.
const BROKEN: &str = "\nbroken\n";

/// A history.
struct History {
    directory: TempDir,
    culprit: String,
    /// The culprit's parent, if it does not build.
    neighbour: Option<String>,
}

/// Generates a history: a planted bug, a commit that does not build and one that does not boot,
/// one that changes no kernel, a merge, a different bug for three commits after the planted one,
/// and, for odd seeds, a parent of the culprit that does not build.
fn generate(seed: u64) -> History {
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path();
    base(place);
    let neighbour = seed % 2 == 1;
    let culprit = 8 + random.below(COMMITS - 16);
    // Each change, with the number of the commit that reverts it.
    let mut free: Vec<u64> = (1..COMMITS)
        .filter(|at| at % 2 == 1)
        .filter(|at| !(culprit - 2..=culprit + 5).contains(at))
        .collect();
    let mut draw = || free.swap_remove(random.below(free.len() as u64) as usize);
    let (unbuildable, unbootable, merge, nothing) = (draw(), draw(), draw(), draw());
    let mut found = None;
    let mut parent = None;
    for at in 1..=COMMITS {
        let edit = |name: &str, how: &dyn Fn(String) -> String| change(place, name, how);
        let note = |name: &str| {
            let line = format!("\nstatic const int note_{at} __used = {at};\n");
            edit(name, &|text| text + &line);
        };
        let file = FILES[random.below(FILES.len() as u64) as usize];
        // The note of each commit makes its kernel differ from the others.
        note(file);
        let subject = if at == culprit {
            edit("fs.c", &|text| text.replace(BUG.0, BUG.1));
            if neighbour {
                edit("task.c", &|text| text.replace(BROKEN, ""));
            }
            "Plant the bug"
        } else if at == culprit - 1 && neighbour {
            edit("task.c", &|text| text + BROKEN);
            "Break the build before the bug"
        } else if at == culprit + 2 {
            edit("sched.c", &|text| text.replace(OTHER.0, OTHER.1));
            "Plant another bug"
        } else if at == culprit + 5 {
            edit("sched.c", &|text| text.replace(OTHER.1, OTHER.0));
            "Mend the other bug"
        } else if at == unbuildable {
            edit("files.c", &|text| text + BROKEN);
            "Break the build"
        } else if at == unbuildable + 1 {
            edit("files.c", &|text| text.replace(BROKEN, ""));
            "Mend the build"
        } else if at == unbootable {
            edit("sys.c", &|text| text + STOP);
            "Break the boot"
        } else if at == unbootable + 1 {
            edit("sys.c", &|text| text.replace(STOP, ""));
            "Mend the boot"
        } else if at == nothing {
            git(place, &["checkout", "-q", "."]);
            edit(file, &|text| text + "\n/* A comment. */\n");
            "Say something"
        } else if at == merge {
            git(place, &["checkout", "-q", "."]);
            let main = git(place, &["rev-parse", "HEAD"]);
            let from = if at == 1 { "HEAD" } else { "HEAD~1" };
            git(place, &["checkout", "-q", "-b", "side", from]);
            note(SIDE);
            commit(place, "side: Change something");
            git(place, &["checkout", "-q", "-B", "main", &main]);
            git(
                place,
                &["merge", "-q", "--no-ff", "-m", "Merge side", "side"],
            );
            continue;
        } else {
            "Change something"
        };
        let made = commit(place, &format!("{file}: {subject} ({at})"));
        if at == culprit {
            found = Some(made);
        } else if at == culprit - 1 && neighbour {
            parent = Some(made);
        }
    }
    History {
        culprit: found.expect("a culprit"),
        neighbour: parent,
        directory,
    }
}

/// Prepares the search, with results in `results`.
fn prepare(history: &History, results: &Path) -> std::process::Command {
    let mut command = cli::program(&search(history.directory.path()));
    command.env("CRUCIBLE_RESULTS", results);
    command
}

/// Checks that the report names the culprit, or it and its parent if that does not build.
fn check(history: &History, report: &Value) {
    let name = |node: &Value| {
        let node = node.as_u64().expect("a number") as usize;
        report["nodes"][node]["name"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    match &history.neighbour {
        None => {
            assert_eq!(report["answer"], "culprit", "{report:#}");
            assert_eq!(name(&report["node"]), history.culprit, "{report:#}");
        }
        Some(neighbour) => {
            assert_eq!(report["answer"], "not-separable", "{report:#}");
            let candidates = report["candidates"].as_array().expect("candidates");
            let names: Vec<String> = candidates.iter().map(name).collect();
            assert_eq!(names, [neighbour.clone(), history.culprit.clone()]);
        }
    }
}

/// Returns the number of commits that were built and could be run, without the two ends.
fn steps(report: &Value) -> usize {
    let nodes = report["nodes"].as_array().expect("nodes");
    let inner = &nodes[1..nodes.len() - 1];
    inner.iter().filter(|node| node["state"] == "built").count()
}

#[test]
#[ignore = "builds a dozen kernels for each history"]
fn the_planted_bug_is_found_in_few_builds() {
    let first = number("CRUCIBLE_SEED", 1);
    for seed in first..first + number("CRUCIBLE_HISTORIES", 3) {
        println!("CRUCIBLE_SEED={seed}");
        let history = generate(seed);
        let results = tempfile::tempdir().expect("a directory");
        let command = prepare(&history, results.path());
        let ended = cli::spawn(command, results.path().to_owned(), None).end();
        let record = record(&ended);
        let report = &record["report"];
        assert!(report.is_object(), "{record:#}\n{}", ended.stderr);
        println!(
            "seed {seed}: {} steps, {} builds, {} runs, {} s",
            steps(report),
            report["builds"],
            report["runs"],
            report["seconds"]
        );
        check(&history, report);
        assert!(steps(report) <= 7, "{report:#}");
    }
}

/// Returns the lines of the journal that are complete.
fn observations(results: &Path) -> String {
    let text = fs::read_to_string(results.join("journals/observations.jsonl"));
    let mut text = text.unwrap_or_default();
    text.truncate(text.rfind('\n').map_or(0, |at| at + 1));
    text
}

/// Returns the number of runs of each kernel with the given setting.
fn runs(observations: &str, setting: &Value) -> BTreeMap<String, u64> {
    let lines = observations
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a whole line"));
    let mut counts = BTreeMap::new();
    for line in lines.filter(|line| line["what"] == "ran" && line["setting"] == *setting) {
        let image = line["image"].as_str().expect("an image").to_owned();
        *counts.entry(image).or_default() += 1;
    }
    counts
}

#[test]
#[ignore = "builds kernels for an hour"]
fn a_search_that_is_killed_loses_nothing_and_counts_nothing_twice() {
    let wanted = number("CRUCIBLE_KILLS", 200);
    let seed = number("CRUCIBLE_SEED", 1);
    let mut random = Random::new(seed);
    let mut killed = 0;
    for seed in seed.. {
        println!("CRUCIBLE_SEED={seed}");
        let history = generate(seed);
        let results = tempfile::tempdir().expect("a directory");
        let output = results.path().join("record");
        let mut known = String::new();
        loop {
            let mut command = prepare(&history, results.path());
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            command.stdout(fs::File::create(&output).expect("a file"));
            command.stderr(fs::File::create(results.path().join("stderr")).expect("a file"));
            let child = command.spawn().expect("the crucible binary to run");
            let after = Duration::from_millis(random.below(25_000));
            let was_killed = kill(child, after);
            let now = observations(results.path());
            assert!(now.starts_with(&known), "lost: {known}\nleft: {now}");
            known = now;
            if !was_killed {
                break;
            }
            killed += 1;
        }
        let text = fs::read_to_string(&output).expect("a record");
        let record: Value = serde_json::from_str(&text).expect("a record");
        let report = &record["report"];
        assert!(report.is_object(), "{record:#}");
        check(&history, report);
        let counted = runs(&known, &report["setting"]);
        for node in report["nodes"].as_array().expect("nodes") {
            let image = node["image"].as_str().unwrap_or_default();
            let seen =
                node["runs"].as_u64().expect("runs") + node["unclear"].as_u64().expect("runs");
            assert_eq!(seen, counted.get(image).copied().unwrap_or(0), "{node:#}");
        }
        println!(
            "{killed} kills; seed {seed}: {} lines",
            known.lines().count()
        );
        if killed >= wanted {
            return;
        }
    }
}
