// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Forged images that are guided by the kernel's coverage.

mod common;

use std::fs;
use std::path::Path;

use common::cli;
use serde_json::Value;

fn fuzz(corpus: &Path, options: &[&str]) -> cli::Ended {
    let corpus = corpus.to_str().expect("a path in UTF-8");
    let fuzz = ["-q", "fuzz", "--json", "--corpus", corpus];
    cli::run(&[&fuzz, options].concat())
}

/// Returns the first recipe of the corpus with a step, and its program.
fn recipe(corpus: &Path) -> (String, String) {
    let corpus: Value = serde_json::from_slice(&fs::read(corpus).unwrap()).unwrap();
    let programs = corpus["recipes"].as_object().expect("programs");
    let all = programs.iter().flat_map(|(program, recipes)| {
        recipes
            .as_array()
            .into_iter()
            .flatten()
            .map(move |r| (program, r))
    });
    let (program, recipe) = all
        .map(|(program, recipe)| (program.clone(), recipe.as_str().unwrap().to_owned()))
        .find(|(_, recipe)| recipe != "-")
        .expect("a recipe");
    (program, recipe)
}

#[test]
fn a_round_reaches_the_code_and_what_it_found_reaches_it_again() {
    common::fixture();
    let directory = tempfile::tempdir().unwrap();
    let corpus = directory.path().join("corpus.json");
    let ended = fuzz(&corpus, &["--minutes", "1"]);
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    let summary = &ended.record()["summary"];
    let reached = |summary: &Value| summary["reached"].as_u64().expect("a number");
    let blocks = summary["blocks"].as_u64().expect("a number");
    // On 30 November 2026, one round reached 56 of 100 blocks.
    assert!(reached(summary) * 5 > blocks * 2, "{summary:#}");
    for file in ["restart_task.c", "files.c", "dump.c", "vma.c"] {
        let files = summary["files"].as_array().expect("files");
        let found = files.iter().find(|one| one["file"] == file).expect(file);
        assert!(found["reached"].as_u64() > Some(0), "{found:#}");
    }
    assert!(summary["corpus"].as_u64() > Some(5), "{summary:#}");

    let (program, recipe) = recipe(&corpus);
    let ended = cli::run(&["-q", "fuzz", "--json", "--only", &program, &recipe]);
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    let again = &ended.record()["summary"];
    // The program's own image, and the recipe's.
    assert_eq!(again["restarts"], 2, "{again:#}");
    assert!(reached(again) > 1000, "{again:#}");
}

/// KASAN must report the overflow that a missing check of a length permits.
#[test]
#[ignore = "searches for up to half an hour"]
fn a_missing_check_of_a_length_is_found() {
    common::fixture();
    let directory = tempfile::tempdir().unwrap();
    let corpus = directory.path().join("corpus.json");
    let search = ["--minutes", "30", "--break", "check-length"];
    let ended = fuzz(&corpus, &search);
    assert_eq!(ended.code(), Some(1), "{}{}", ended.stdout, ended.stderr);
    let record = ended.record();
    let units = record["units"].as_array().expect("units");
    let found = units.iter().any(|unit| {
        let lines = unit["lines"].to_string();
        unit["blame"] == "kernel" && lines.contains("add_watch")
    });
    assert!(found, "{record:#}");
}
