// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Follows the worked examples of `docs/howto/add-a-*.md` and the tutorial in a copy of the
//! checkout, so that the pages work on the current tree.
//!
//! A page consists of steps in fenced blocks: `diff` is applied, a block with `file=PATH` becomes
//! that file, and the commands of `console` are run. The lines below a command must occur in its
//! output, in that order.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use walkdir::WalkDir;

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A step of a page.
#[derive(Debug)]
enum Step {
    Apply(String),
    Create {
        path: String,
        text: String,
    },
    Run {
        command: String,
        expected: Vec<String>,
    },
}

/// Returns the steps of a page.
fn steps(page: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else {
            continue;
        };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let text = block.join("\n") + "\n";
        if let Some((_, path)) = info.split_once(" file=") {
            let path = path.to_owned();
            steps.push(Step::Create { path, text });
        } else if info == "diff" {
            steps.push(Step::Apply(text));
        } else if info == "console" {
            steps.extend(commands(&block));
        }
    }
    steps
}

fn commands(block: &[&str]) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in block {
        if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step::Run {
                command: command.to_owned(),
                expected: Vec::new(),
            });
        } else if let Some(Step::Run { expected, .. }) = steps.last_mut() {
            expected.push(line.trim().to_owned());
        }
    }
    steps
}

/// Copies the files that git tracks, and those that it would add, to a directory.
fn copy_checkout(to: &Path) {
    let list = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(ROOT)
        .output()
        .expect("git");
    for name in list
        .stdout
        .split(|byte| *byte == 0)
        .filter(|n| !n.is_empty())
    {
        let name = PathBuf::from(String::from_utf8(name.to_vec()).expect("a name"));
        let (from, to) = (Path::new(ROOT).join(&name), to.join(&name));
        // Deleted in the checkout, but still in git's index.
        if !from.exists() {
            continue;
        }
        fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
        let content = fs::read(&from).expect("a file");
        // Cargo and make compare times, so equal files keep theirs.
        if fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        fs::copy(&from, &to).expect("a copy");
    }
}

/// Removes the last run's examples from the copy.
fn remove_untracked(checkout: &Path) {
    for name in [
        "mine",
        "results",
        "scenarios/ioprio",
        "src/commands/paths.rs",
        "vmm/src/kvm/devices/pvpanic.rs",
    ] {
        let path = checkout.join(name);
        let _ = fs::remove_dir_all(&path);
        let _ = fs::remove_file(&path);
    }
}

fn apply(diff: &str, checkout: &Path) {
    let mut git = Command::new("git")
        .args(["apply", "--whitespace=nowarn", "-C1", "-"])
        .current_dir(checkout)
        // Inside a repository, git would apply the patch to that repository.
        .env("GIT_CEILING_DIRECTORIES", checkout.parent().expect("a directory"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("git");
    let mut input = git.stdin.take().expect("a pipe");
    input.write_all(diff.as_bytes()).expect("git reads");
    drop(input);
    assert!(
        git.wait().expect("git").success(),
        "does not apply:\n{diff}"
    );
}

fn run(command: &str, expected: &[String], checkout: &Path) {
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(checkout)
        .env("CARGO_TARGET_DIR", Path::new(ROOT).join("target/examples"))
        .env_remove("CRUCIBLE_SOURCES")
        .env_remove("CRUCIBLE_RESULTS")
        .output()
        .expect("a shell");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    for wanted in expected {
        assert!(
            lines.any(|line| line.contains(wanted.as_str())),
            "`{command}` does not print {wanted:?}:\n{text}"
        );
    }
}

fn follow(name: &str, page: &str, checkout: &Path) {
    let steps = steps(page);
    let has = |kind: fn(&Step) -> bool| steps.iter().any(kind);
    assert!(
        has(|step| matches!(step, Step::Run { expected, .. } if !expected.is_empty())),
        "{name} runs nothing"
    );
    for step in steps {
        match step {
            Step::Apply(diff) => apply(&diff, checkout),
            Step::Create { path, text } => {
                let path = checkout.join(path);
                fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
                fs::write(path, text).expect("a file");
            }
            Step::Run { command, expected } => {
                eprintln!("{name}: {command}");
                run(&command, &expected, checkout);
            }
        }
    }
}

/// Returns the pages that are followed, in this order: the tutorial ends with a broken kernel.
fn followed() -> Vec<PathBuf> {
    let docs = Path::new(ROOT).join("docs");
    let is_example = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with("add-a-")
    };
    let mut pages: Vec<_> = fs::read_dir(docs.join("howto"))
        .expect("docs/howto")
        .map(|entry| entry.expect("an entry").path())
        .filter(is_example)
        .collect();
    pages.sort();
    assert!(pages.len() >= 6, "{pages:?}");
    pages.push(docs.join("tutorial.md"));
    pages
}

#[test]
fn every_session_in_a_page_is_followed() {
    let docs = WalkDir::new(Path::new(ROOT).join("docs"));
    let pages = docs
        .into_iter()
        .map(|entry| entry.expect("an entry").into_path());
    let others = ["README.md", "CONTRIBUTING.md"].map(|name| Path::new(ROOT).join(name));
    let with_session: BTreeSet<_> = pages
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .chain(others)
        .filter(|path| {
            fs::read_to_string(path)
                .expect("a page")
                .contains("\n```console")
        })
        .collect();
    assert_eq!(with_session, followed().into_iter().collect());
}

#[test]
fn the_worked_examples_work() {
    // The kernel and the userland, which all tests share.
    common::fixture();
    let checkout = Path::new(ROOT).join("target/examples/checkout");
    fs::create_dir_all(&checkout).expect("a directory");
    remove_untracked(&checkout);
    copy_checkout(&checkout);
    for page in followed() {
        let text = fs::read_to_string(&page).expect("a page");
        follow(&page.display().to_string(), &text, &checkout);
    }
}

#[test]
fn steps_are_read_in_order() {
    let page = "text\n```diff\n-a\n+b\n```\n```toml file=x/y.toml\nk = 1\n```\n\
                ```console\n$ one\n  out\n$ two\n```\n    $ not a step\n";
    let steps = steps(page);
    assert_eq!(
        format!("{steps:?}"),
        "[Apply(\"-a\\n+b\\n\"), Create { path: \"x/y.toml\", text: \"k = 1\\n\" }, \
         Run { command: \"one\", expected: [\"out\"] }, Run { command: \"two\", expected: [] }]"
    );
}
