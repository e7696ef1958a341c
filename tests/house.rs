// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rules of the repository itself that a program can check (CONTRIBUTING.md).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

use crucible_artefacts::{Progress, host};

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _: &str) {}
    fn advance(&self, _: u64, _: u64) {}
    fn end(&self) {}
    fn note(&self, _: &str) {}
}

/// Installs what the checks run; once, since apt has one lock.
static TOOLS: LazyLock<()> =
    LazyLock::new(|| host::ensure_of(host::TEST_PACKAGES, true, &Quiet).expect("host packages"));

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

/// The files that git tracks.
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

/// Returns true for a file that is written in a language with comments, and by us.
fn is_source(name: &str) -> bool {
    let path = Path::new(name);
    let is_named = |names: &[&str]| names.iter().any(|n| path.ends_with(n));
    let ends = |ends: &[&str]| {
        path.extension()
            .is_some_and(|e| ends.iter().any(|end| e == *end))
    };
    ends(&["rs", "c", "h", "S", "sh", "gdb", "py", "config", "toml"])
        || is_named(&["Makefile", "Kconfig", ".ci/run"])
}

#[test]
fn every_file_has_a_licence_whose_text_is_there() {
    check("reuse", &["lint"]);
}

#[test]
fn every_source_file_names_its_licence_itself() {
    let files = files();
    let sources: Vec<_> = files.iter().filter(|name| is_source(name)).collect();
    assert!(sources.len() > 300, "{}", sources.len());
    let without: Vec<_> = sources
        .iter()
        .filter(|name| {
            let text = fs::read_to_string(Path::new(ROOT).join(name)).expect("a source file");
            let lines: Vec<_> = text.lines().collect();
            // gdb's sessions show line numbers, so the line stands last in what they debug.
            let named = |line: &&str| line.contains("SPDX-License-Identifier: ");
            !lines.iter().take(5).any(named) && !lines.last().is_some_and(named)
        })
        .collect();
    assert!(without.is_empty(), "no SPDX line: {without:#?}");
}

#[test]
fn no_word_is_misspelt() {
    check("codespell", &[]);
}

#[test]
fn no_path_of_a_machine_is_in_the_repository() {
    // Split, so that this file does not hold them.
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

/// The part of `cargo deny check licenses bans sources` that needs no download: the same
/// rules, from deny.toml.
#[test]
fn dependencies_are_as_deny_toml_permits() {
    let text = fs::read_to_string(Path::new(ROOT).join("deny.toml")).expect("deny.toml");
    let rules: toml::Table = text.parse().expect("deny.toml");
    let strings = |table: &str, key: &str| -> Vec<String> {
        let list = rules[table][key].as_array().expect(key);
        let word = |value: &toml::Value| match value {
            toml::Value::Table(entry) => entry["crate"].as_str().map(str::to_owned),
            other => other.as_str().map(str::to_owned),
        };
        list.iter().filter_map(word).collect()
    };
    let (allowed, skipped) = (strings("licenses", "allow"), strings("bans", "skip"));
    let output = run(
        "cargo",
        &["metadata", "--format-version=1", "--locked", "--offline"],
    );
    assert!(output.status.success(), "{output:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{}", packages.len());
    let mut wrong = Vec::new();
    let mut versions = BTreeMap::<&str, Vec<&str>>::new();
    let mut registries = BTreeSet::new();
    for package in packages {
        let of = |key: &str| package[key].as_str().unwrap_or("");
        let (name, version, licence) = (of("name"), of("version"), of("license"));
        versions.entry(name).or_default().push(version);
        let permitted =
            spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX).is_ok_and(|e| {
                e.evaluate(|one| {
                    one.license
                        .id()
                        .is_some_and(|id| allowed.iter().any(|allowed| allowed == id.name))
                })
            });
        if !permitted {
            wrong.push(format!("{name} {version}: licence {licence}"));
        }
        // Packages of the workspace have no source.
        let source = of("source");
        if !(source.is_empty() || source.starts_with("registry+")) {
            wrong.push(format!("{name} {version}: source {source}"));
        }
        registries.insert(source);
    }
    assert!(registries.len() <= 2, "{registries:?}");
    for (name, found) in versions.iter().filter(|(_, found)| found.len() > 1) {
        let skips = |version: &&&str| {
            let major = version.split('.').next().unwrap_or(version);
            skipped.contains(&format!("{name}@{major}"))
        };
        if found.iter().filter(|version| !skips(version)).count() > 1 {
            wrong.push(format!("{name}: several versions, {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
