// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible bisect` over a small history of `guest-kernel/` with a planted bug: interrupted,
//! resumed, and repeated.

mod common;

use std::fs;
use std::path::Path;

use common::cli;
use common::history::{BUG, base, change, commit, git, record, search};
use serde_json::Value;

/// Makes a history with six commits after its first one. Returns the culprit.
fn plant(directory: &Path) -> String {
    base(directory);
    let change = |name: &str, how: &dyn Fn(String) -> String| change(directory, name, how);
    change("fs.c", &|text| text + "\n/* A comment. */\n");
    commit(directory, "fs: Say something");
    change("sched.c", &|text| text + "\nbroken\n");
    commit(directory, "sched: Break the build");
    change("sched.c", &|text| text.replace("\nbroken\n", ""));
    commit(directory, "sched: Mend the build");
    change("fs.c", &|text| text.replace(BUG.0, BUG.1));
    let culprit = commit(directory, "fs: Restore another umask");
    fs::write(directory.join("guest-kernel/NOTES"), "notes\n").expect("a file");
    commit(directory, "docs: Take notes");
    fs::write(directory.join("README"), "not the kernel\n").expect("a file");
    commit(directory, "docs: Write a page");
    culprit
}

#[test]
fn a_planted_bug_is_found_after_an_interruption_and_then_known() {
    let history = tempfile::tempdir().expect("a directory");
    let culprit = plant(history.path());
    let results = tempfile::tempdir().expect("a directory");
    let start = || {
        let mut command = cli::program(&search(history.path()));
        command.env("CRUCIBLE_RESULTS", results.path());
        cli::spawn(command, results.path().to_owned(), None)
    };
    // Interrupt it once the bad end has failed.
    let mut first = start();
    first.wait_event("looking for");
    first.signal("-INT");
    let first = first.end();
    assert_eq!(first.status.code(), Some(130), "{first:?}");
    assert_eq!(record(&first)["report"], Value::Null);

    let second = start().end();
    assert_eq!(second.status.code(), Some(0), "{second:?}");
    let second = record(&second);
    let report = &second["report"];
    assert_eq!(report["answer"], "culprit");
    let nodes = report["nodes"].as_array().expect("nodes");
    // The commit that does not touch the kernel's directory is not among them.
    assert_eq!(nodes.len(), 6);
    let node = &nodes[report["node"].as_u64().expect("a number") as usize];
    assert_eq!(node["name"], culprit.as_str());
    assert!(node["failures"].as_u64() >= Some(3), "{node}");
    assert!(report["reused"].as_u64() >= Some(2), "{report}");
    let check = |what: &str| {
        let checks = report["checks"].as_array().expect("checks");
        checks
            .iter()
            .find(|check| check["what"] == what)
            .expect(what)
            .clone()
    };
    for good in ["parent", "reverted"] {
        assert_eq!(check(good)["failures"], 0, "{good}");
        assert!(check(good)["runs"].as_u64() >= Some(3), "{good}");
    }
    let lines = check("culprit")["lines"].to_string();
    assert!(lines.contains("Umask"), "{lines}");
    // The restarting half is broken.
    let crossed = &report["crossed"];
    assert_eq!(crossed["half"], "restart", "{crossed:#}");
    assert_eq!(crossed["checkpointed_by_good"]["failures"], 1);
    assert!(crossed["checkpointed_by_bad"]["runs"].as_u64() >= Some(3));
    let fixes = format!("Fixes: {} (\"fs: Restore another umask\")", &culprit[..12]);
    assert_eq!(second["trailers"][0], fixes.as_str());

    // A known observation needs no run.
    let third = record(&start().end());
    assert_eq!(third["report"]["node"], report["node"]);
    assert_eq!(third["report"]["runs"], 0, "{third:#} after {second:#}");
    assert_eq!(third["report"]["builds"], 0, "{third:#} after {second:#}");
    assert_eq!(git(history.path(), &["status", "--porcelain"]), "");
    assert_eq!(
        git(history.path(), &["worktree", "list"]).lines().count(),
        1
    );
}

#[test]
fn a_broken_checkpoint_is_told_from_a_broken_restart() {
    let history = tempfile::tempdir().expect("a directory");
    base(history.path());
    let (right, wrong) = ("rec.umask = t->fs->umask;", "rec.umask = t->fs->umask ^ 2;");
    change(history.path(), "fs.c", &|text| text.replace(right, wrong));
    commit(history.path(), "fs: Save another umask");
    let ended = cli::run(&search(history.path()));
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let record = record(&ended);
    let crossed = &record["report"]["crossed"];
    assert_eq!(crossed["half"], "checkpoint", "{record:#}");
    assert_eq!(crossed["checkpointed_by_bad"]["failures"], 1);
    assert_eq!(crossed["checkpointed_by_good"]["failures"], 0);
}

/// Nothing is committed: two versions of the series are compared.
#[test]
fn the_patch_that_breaks_a_changed_series_is_found() {
    let changed = tempfile::tempdir().expect("a directory");
    base(changed.path());
    let patch = |name: &str, from: &str, to: &str| {
        let path = changed.path().join("guest-kernel/patches").join(name);
        let text = fs::read_to_string(&path).expect("a patch");
        assert!(text.contains(from), "{name}");
        fs::write(path, text.replace(from, to)).expect("a patch");
    };
    let comment = "/* Check the flags of a saved restart block. */";
    let other = "/* Check the flags of a saved futex(2). */";
    patch("0005-restart-functions.patch", comment, other);
    // A checkpoint cannot list the mounts of the container.
    let (right, wrong) = ("return m.count;", "return -EIO;");
    patch("0010-proc-list-mounts.patch", right, wrong);
    for name in ["fs.c", "pipe.c"] {
        let note = "\nstatic const int note __used = 1;\n";
        change(changed.path(), name, &|text| text + note);
    }
    let bad = changed.path().to_str().expect("a path in UTF-8");
    let good = env!("CARGO_MANIFEST_DIR");
    let search = [
        "bisect", "hello", "--json", "--axis", "series", "--good", good, "--bad", bad,
    ];
    let ended = cli::run(&search);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    let record = record(&ended);
    let report = &record["report"];
    let nodes = report["nodes"].as_array().expect("nodes");
    let names: Vec<_> = nodes.iter().map(|node| node["name"].as_str()).collect();
    let sources = "src/kernel/checkpoint";
    let wanted = [
        "the good series".to_owned(),
        "patches/0005-restart-functions.patch".to_owned(),
        "patches/0010-proc-list-mounts.patch".to_owned(),
        format!("{sources}/fs.c"),
        format!("{sources}/pipe.c"),
    ];
    assert_eq!(names, wanted.each_ref().map(|name| Some(name.as_str())));
    assert_eq!(report["answer"], "culprit", "{record:#}");
    assert_eq!(report["node"], 2, "{record:#}");
    // A comment makes no other kernel.
    assert_eq!(nodes[1]["same_as"], 0, "{record:#}");
    let reverted = &report["checks"][2];
    assert_eq!(reverted["what"], "reverted", "{record:#}");
    assert_eq!(reverted["failures"], 0, "{record:#}");
    let rerun = record["rerun"].as_str().expect("a command");
    assert!(rerun.contains("scenario hello --kernel"), "{rerun}");
}

#[test]
fn a_range_in_which_nothing_fails_has_no_answer() {
    let history = tempfile::tempdir().expect("a directory");
    let culprit = plant(history.path());
    let parent = git(history.path(), &["rev-parse", &format!("{culprit}^")]);
    let few = ["--bad", &parent, "--amplify", "0", "--runs", "3"];
    let ended = cli::run(&[&search(history.path())[..], &few].concat());
    assert_eq!(ended.status.code(), Some(125), "{ended:?}");
    let record = record(&ended);
    assert_eq!(record["condition"], "undecided", "{record:#}");
    assert_eq!(record["blame"], "workload", "{record:#}");
}

#[test]
fn a_range_that_is_none_is_a_usage_error() {
    let history = tempfile::tempdir().expect("a directory");
    fs::create_dir(history.path().join("guest-kernel")).expect("a directory");
    fs::write(history.path().join("guest-kernel/kernel.lock"), "").expect("a file");
    git(history.path(), &["init", "-q"]);
    let base = commit(history.path(), "base");
    fs::write(history.path().join("page"), "text").expect("a file");
    let page = commit(history.path(), "docs: Add a page");
    git(history.path(), &["checkout", "-q", "-b", "side", &base]);
    fs::write(history.path().join("guest-kernel/a"), "").expect("a file");
    let side = commit(history.path(), "kernel: Change");
    let source = history.path().to_str().expect("a path in UTF-8");
    let why = |good: &str, bad: &str, more: &[&str]| {
        let args = [
            "bisect", "hello", "--src", source, "--good", good, "--bad", bad,
        ];
        let ended = cli::run(&[&args, more].concat());
        assert_eq!(ended.status.code(), Some(128), "{ended:?}");
        ended.stderr
    };
    assert!(why(&base, &page, &[]).contains("touches guest-kernel"));
    assert!(why(&page, &side, &[]).contains("is not an ancestor"));
    assert!(why(&base, &side, &["--kernel-src", source]).contains("--src"));
    assert!(why(&base, "nothing", &[]).contains("has no commit nothing"));
    for (axis, lacks) in [
        ("commits", "--good"),
        ("config", "--config"),
        ("event", "--at"),
        ("series", "--good"),
    ] {
        let ended = cli::run(&["bisect", "hello", "--axis", axis]);
        assert_eq!(ended.status.code(), Some(128), "{ended:?}");
        assert!(ended.stderr.contains(lacks), "{ended:?}");
    }
}
