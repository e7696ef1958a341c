// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The census: the lists in `guest-kernel/census/` match the kernel, and the census finds a new
//! sleep of any form.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use common::fixture;
use crucible_artefacts::Silent;
use crucible_artefacts::kernel::Flavour;
use crucible_artefacts::kernel::census::{self, Difference};
use crucible_protocol::census::{Calls, Class, Entry, Function, LISTS, entries};

fn listed() -> Vec<Entry> {
    entries().expect("the census lists")
}

fn the_lists_are_those_of(flavour: Flavour) {
    let fixture = fixture();
    let entries = listed();
    let primitives = census::primitives(&entries);
    let census = census::census(
        &fixture.cache,
        &fixture.sources,
        flavour,
        &primitives,
        &Silent,
    )
    .expect("a census");
    // A much lower number would mean that objects were missed or could not be read.
    assert!(census.len() > 400, "{} functions", census.len());
    let differences = census::compare(&entries, &census, flavour);
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert!(
        lines.is_empty(),
        "{}\n`crucible kernel census` prints the entries to write",
        lines.join("\n")
    );
}

#[test]
fn every_sleep_of_the_base_flavour_is_listed() {
    the_lists_are_those_of(Flavour::Base);
}

#[test]
fn every_sleep_of_the_debug_flavour_is_listed() {
    the_lists_are_those_of(Flavour::Debug);
}

#[test]
fn every_file_in_the_census_directory_is_a_list() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-kernel/census");
    let files: BTreeSet<_> = fs::read_dir(directory)
        .expect("the lists")
        .map(|entry| entry.expect("an entry").file_name().into_string().unwrap())
        .collect();
    let read: BTreeSet<_> = LISTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, read);
}

/// Compiles the added sleeps with the kernel's compiler options and the given optimisation.
fn planted(optimise: &str, primitives: &BTreeSet<String>) -> BTreeMap<String, Calls> {
    let directory = tempfile::tempdir().unwrap();
    let object = directory.path().join("planted.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/census/planted.c");
    let status = Command::new("gcc")
        .args([optimise, "-ffreestanding", "-fno-pic", "-mcmodel=kernel"])
        .args(["-Wall", "-Wextra", "-Werror", "-c", "-o"])
        .args([&object, &source])
        .status()
        .expect("gcc");
    assert!(status.success());
    census::object_calls(&fs::read(object).unwrap(), primitives).expect("an ELF object")
}

#[test]
fn planted_sleeps_of_every_form_are_found() {
    let mut primitives = census::primitives(&listed());
    primitives.insert("planted_static".into());
    for optimise in ["-O2", "-Os", "-O0"] {
        let found = planted(optimise, &primitives);
        let calls = |function: &str| {
            let calls = found.get(function);
            let calls = calls.unwrap_or_else(|| panic!("no {function}: {found:#?}"));
            let lines = calls.iter().map(|(name, count)| format!("{name}:{count}"));
            lines.collect::<Vec<_>>().join(" ")
        };
        let event = calls("planted_wait_event");
        assert!(event.starts_with("prepare_to_wait_event:"), "{event}");
        assert!(event.contains(" schedule:"), "{event}");
        assert_eq!(calls("planted_completion"), "wait_for_completion:1");
        assert_eq!(calls("planted_state"), "schedule_timeout:1");
        assert!(calls("planted_io").starts_with("io_schedule:"));
        assert!(calls("planted_msleep").starts_with("msleep:"));
        assert_eq!(calls("planted_inline"), "prepare_to_wait:1 schedule:1");
        assert_eq!(calls("planted_static"), "schedule:2");
        assert_eq!(calls("calls_planted_static"), "planted_static:1");
        assert!(!found.contains_key("planted_nothing"), "{found:#?}");
        // The function that it calls is not a primitive, and has its own entry.
        assert!(!found.contains_key("calls_planted_io"), "{found:#?}");
    }
}

#[test]
fn an_added_sleep_is_reported_as_a_difference() {
    let entries = listed();
    let primitives = census::primitives(&entries);
    let mut census: census::Census = entries
        .iter()
        .filter(|entry| !entry.base.is_empty())
        .map(|entry| (entry.function.clone(), entry.base.clone()))
        .collect();
    assert_eq!(census::compare(&entries, &census, Flavour::Base), []);
    for (name, calls) in planted("-O2", &primitives) {
        let file = "fs/pipe.c".to_owned();
        let function = Function { file, name };
        census.insert(function.clone(), calls.clone());
        let differences = census::compare(&entries, &census, Flavour::Base);
        assert_eq!(differences, [Difference::Unlisted(function.clone(), calls)]);
        census.remove(&function);
    }
    // Add one more sleep to a function that has one, and remove one elsewhere.
    let bounded = entries.iter().find(|entry| entry.class == Class::Bounded);
    let function = &bounded.expect("a bounded entry").function;
    let calls = census.get_mut(function).expect("its calls");
    *calls.values_mut().next().expect("a call") += 1;
    let differences = census::compare(&entries, &census, Flavour::Base);
    assert!(
        matches!(&differences[..], [Difference::Changed(f, ..)] if f == function),
        "{differences:?}"
    );
    census.remove(function);
    let differences = census::compare(&entries, &census, Flavour::Base);
    assert_eq!(differences, [Difference::Stale(function.clone())]);
}
