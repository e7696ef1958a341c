// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel series in the form in which it would be mailed.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use common::fixture;
use crucible_artefacts::Silent;
use crucible_artefacts::kernel::{self, Signer};
use crucible_mutants::{Half, Mutant};

#[test]
fn the_exported_series_passes_checkpatch() {
    let fixture = fixture();
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer {
        name: "Crucible Tests".into(),
        email: "tests@crucible.example".into(),
    };
    let export = kernel::export(
        &fixture.cache,
        &fixture.sources,
        directory.path(),
        &signer,
        &Silent,
    )
    .unwrap();
    assert!(!export.patches.is_empty());
    let mut complaints = String::new();
    for patch in &export.patches {
        let text = fs::read_to_string(patch).unwrap();
        assert!(text.contains("\nSubject: [PATCH "), "{}", patch.display());
        assert!(text.contains("\nSigned-off-by: "), "{}", patch.display());
        // FILE_PATH_CHANGES requires a MAINTAINERS entry; the maintainer is for the upstream
        // community to decide.
        let output = Command::new(&export.checkpatch)
            .args(["--no-tree", "--strict", "--terse", "--summary-file"])
            .args(["--ignore", "FILE_PATH_CHANGES"])
            .arg(patch)
            .output()
            .unwrap();
        if !output.status.success() {
            complaints.push_str(&String::from_utf8_lossy(&output.stdout));
        }
    }
    assert!(complaints.is_empty(), "{complaints}");
}

#[test]
fn the_sources_have_mutants_and_the_list_of_equivalent_ones_is_true() {
    let fixture = fixture();
    let all = kernel::all_mutants(&fixture.cache, &fixture.sources, &Silent).unwrap();
    // Code that the parser cannot read would silently have no mutants.
    assert_eq!(all.unread, [""; 0]);
    let saving = |one: &&Mutant| one.half == Half::Saving;
    let restoring = |one: &&Mutant| one.half == Half::Restoring;
    assert!(all.mutants.iter().filter(saving).count() > 1000);
    assert!(all.mutants.iter().filter(restoring).count() > 1000);
    let ids: BTreeSet<_> = all.mutants.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids.len(), all.mutants.len(), "two mutants have one name");
    let list = fixture.sources.root().join("guest-kernel/mutants.toml");
    let text = fs::read_to_string(list).unwrap();
    if let Err(error) = crucible_mutants::equivalents(&text, &ids) {
        panic!("guest-kernel/mutants.toml: {error}");
    }
}

#[test]
fn a_line_that_kconfig_drops_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let fragment = directory.path().join("mine.config");
    std::fs::write(&fragment, "CONFIG_NO_SUCH_OPTION=y\n").expect("a file");
    let output = common::cli::program(&["-q", "kernel", "build", "--config"])
        .arg(&fragment)
        .output()
        .expect("the crucible binary to run");
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("mine.config: CONFIG_NO_SUCH_OPTION=y (is n)"),
        "{said}"
    );
}
