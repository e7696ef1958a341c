// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rules of the repository that a program can check (CONTRIBUTING.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use crucible_artefacts::{Silent, host};

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Installs the tools that the checks run. Does so once, because apt allows one process at a time.
static TOOLS: LazyLock<()> =
    LazyLock::new(|| host::ensure_of(host::TEST_PACKAGES, true, &Silent).expect("host packages"));

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(ROOT)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn check(program: &str, args: &[&str]) {
    LazyLock::force(&TOOLS);
    let output = run(program, args);
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

/// Returns the paths of the files that git tracks.
fn files() -> Vec<String> {
    let output = run("git", &["ls-files", "-z"]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("names in UTF-8")
        .split_terminator('\0')
        .filter(|name| Path::new(ROOT).join(name).is_file())
        .map(str::to_owned)
        .collect()
}

/// Returns true for one of our own files in a language that has comments.
fn is_source(name: &str) -> bool {
    let path = Path::new(name);
    let is_named = |names: &[&str]| names.iter().any(|n| path.ends_with(n));
    let ends = |ends: &[&str]| {
        path.extension()
            .is_some_and(|e| ends.iter().any(|end| e == *end))
    };
    ends(&[
        "rs", "c", "h", "S", "sh", "gdb", "py", "config", "toml", "yml",
    ]) || is_named(&["Makefile", "Kconfig", ".ci/run"])
}

#[test]
fn every_file_has_a_licence_and_its_text_exists() {
    check("reuse", &["lint"]);
}

#[test]
fn every_source_file_has_an_spdx_line() {
    let files = files();
    let sources: Vec<_> = files.iter().filter(|name| is_source(name)).collect();
    assert!(sources.len() > 300, "{}", sources.len());
    let without: Vec<_> = sources
        .iter()
        .filter(|name| {
            let text = fs::read_to_string(Path::new(ROOT).join(name)).expect("a source file");
            let lines: Vec<_> = text.lines().collect();
            // The documented gdb sessions show line numbers, so the SPDX line is the last one in
            // the files that they debug.
            let named = |line: &&str| line.contains(concat!("SPDX-License-", "Identifier: "));
            !lines.iter().take(5).any(named) && !lines.last().is_some_and(named)
        })
        .collect();
    assert!(without.is_empty(), "no SPDX line: {without:#?}");
}

/// Programs that read a patch take one line as its subject.
#[test]
fn the_subject_of_a_patch_is_one_line() {
    let files = files();
    let patches: Vec<_> = files
        .iter()
        .filter(|name| name.ends_with(".patch"))
        .collect();
    assert!(patches.len() > 20, "{}", patches.len());
    for name in patches {
        let text = fs::read_to_string(Path::new(ROOT).join(name)).expect("a patch");
        let mut lines = text.lines();
        assert!(
            lines
                .next()
                .is_some_and(|line| line.starts_with("Subject: ")),
            "{name}"
        );
        assert_eq!(lines.next(), Some(""), "{name}");
    }
}

/// A tool that reformats comments can leave `///text`, without the space.
#[test]
fn comments_begin_with_a_space() {
    for name in files().iter().filter(|name| name.ends_with(".rs")) {
        let text = fs::read_to_string(Path::new(ROOT).join(name)).expect("a source file");
        for line in text.lines() {
            let rest = line.trim_start();
            let rest = rest.strip_prefix("///").or(rest.strip_prefix("//!"));
            let joined = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with([' ', '/']));
            assert!(!joined, "{name}: {line}");
        }
    }
}

#[test]
fn the_spelling_is_right() {
    check("codespell", &[]);
}

/// Installs checkers of workflow files in a virtual environment below `target/`; returns its
/// programs' directory.
fn workflow_checkers() -> PathBuf {
    const PACKAGES: [&str; 2] = ["check-jsonschema==0.39.0", "zizmor==1.32.0"];
    LazyLock::force(&TOOLS);
    let venv = Path::new(ROOT).join("target/tools/workflows");
    let programs = venv.join("bin");
    if !programs.join("zizmor").exists() {
        let venv = venv.to_str().expect("a path in UTF-8");
        check("python3", &["-m", "venv", venv]);
        let pip = programs.join("pip");
        let mut args = vec!["--quiet", "--disable-pip-version-check", "install"];
        args.extend(PACKAGES);
        check(pip.to_str().expect("a path in UTF-8"), &args);
    }
    programs
}

#[test]
fn the_workflow_is_valid_and_runs_the_checks() {
    const WORKFLOW: &str = ".github/workflows/ci.yml";
    let programs = workflow_checkers();
    let schema = programs.join("check-jsonschema");
    let schema = schema.to_str().expect("a path in UTF-8");
    check(
        schema,
        &["--builtin-schema", "vendor.github-workflows", WORKFLOW],
    );
    let zizmor = programs.join("zizmor");
    check(
        zizmor.to_str().expect("a path in UTF-8"),
        &["--offline", "--quiet", WORKFLOW],
    );
    let text = fs::read_to_string(Path::new(ROOT).join(WORKFLOW)).expect("the workflow");
    let runs: Vec<_> = text
        .lines()
        .filter_map(|l| l.trim().strip_prefix("run: "))
        .collect();
    assert_eq!(runs, [".ci/run"]);
}

#[test]
fn no_file_contains_a_local_path() {
    // The texts are split, so that this file does not contain them.
    let paths = [
        concat!("/", "home/"),
        concat!("/", "work/main"),
        concat!("/", "root/.cargo"),
    ];
    let with: Vec<_> = files()
        .into_iter()
        .filter(|name| {
            let bytes = fs::read(Path::new(ROOT).join(name)).expect("a file");
            let text = String::from_utf8_lossy(&bytes);
            paths.iter().any(|path| text.contains(path))
        })
        .collect();
    assert!(with.is_empty(), "{with:#?}");
}

/// The commands that tests run have their own results directory, so that `cargo test` never
/// evicts a developer's results.
#[test]
fn only_the_testkit_knows_the_built_binary() {
    let name = concat!("CARGO_BIN_EXE", "_crucible");
    let naming = |file: &String| {
        file.starts_with("tests/")
            && file.ends_with(".rs")
            && fs::read_to_string(Path::new(ROOT).join(file)).is_ok_and(|text| text.contains(name))
    };
    let found: Vec<_> = files().into_iter().filter(naming).collect();
    assert_eq!(found, ["tests/common/cli.rs"]);
}
