// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program from `cargo install --path .` works anywhere, without the checkout.

mod common;

use std::path::Path;
use std::process::{Command, Output};

/// The checkout.
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn output(command: &mut Command) -> Output {
    let output = command.output().expect("a program that starts");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr),
    );
    output
}

/// Runs a script in a mount namespace in which the checkout is an empty directory.
fn without_checkout(script: &str, home: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
        .args([
            "sh",
            "-euc",
            &format!("mount -t tmpfs none {ROOT:?}; {script}"),
        ])
        .current_dir("/")
        .env("XDG_STATE_HOME", home)
        .env_remove("CRUCIBLE_SOURCES")
        .env_remove("CRUCIBLE_RESULTS");
    command
}

#[test]
fn an_installed_program_needs_no_checkout() {
    // The kernel and the userland, which all tests share.
    common::fixture();
    let directory = tempfile::tempdir().expect("a directory");
    let home = directory.path();
    output(
        Command::new(env!("CARGO"))
            .args(["install", "--quiet", "--locked", "--path", ROOT, "--root"])
            .arg(home),
    );
    let program = home.join("bin/crucible");
    let program = program.display();

    let list = output(&mut without_checkout(&format!("exec {program} list"), home));
    let list = String::from_utf8(list.stdout).expect("text");
    assert!(list.contains("vfork"), "{list}");

    let run = format!("exec {program} scenario hello --json");
    let run = output(&mut without_checkout(&run, home));
    let record: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(record["verdict"], "pass", "{record:#}");
    // Relative to `/`, the path in the record leads to the files.
    let results = Path::new("/").join(record["results"].as_str().expect("a path"));
    assert!(
        results.starts_with(home.join("crucible/results")),
        "{record:#}"
    );
    assert!(results.join("record.json").is_file(), "{record:#}");
    let again = record["reproduce"].as_str().expect("a command");
    assert!(again.starts_with("crucible scenario hello"), "{again}");

    // This does not change the sources that are compiled into the program.
    let accept = format!("{program} scenario hello --accept || exit $(($? - 128))");
    let refused = without_checkout(&accept, home).output().expect("a shell");
    assert!(refused.status.success(), "{refused:?}");
}
