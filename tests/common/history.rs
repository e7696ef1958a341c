// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Histories of `guest-kernel/` in which a bug is planted.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::cli;

/// The planted bug: a restart that changes the umask.
pub const BUG: (&str, &str) = ("fs->umask = rec->umask;", "fs->umask = rec->umask ^ 2;");

/// Runs git; returns its output.
pub fn git(directory: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=x", "-c", "user.email=x@localhost"])
        .args(args)
        .current_dir(directory)
        .output()
        .expect("git");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Commits everything; returns the commit.
pub fn commit(directory: &Path, subject: &str) -> String {
    git(directory, &["add", "-A"]);
    git(directory, &["commit", "-q", "-m", subject]);
    git(directory, &["rev-parse", "HEAD"])
}

/// Changes a source file.
pub fn change(directory: &Path, name: &str, how: &dyn Fn(String) -> String) {
    let sources = directory.join("guest-kernel/src/kernel/checkpoint");
    let path = sources.join(name);
    let text = fs::read_to_string(&path).expect("a source file");
    let changed = how(text.clone());
    assert_ne!(text, changed, "{name}");
    fs::write(path, changed).expect("a source file");
}

/// Makes a history of one commit, with the tag `good`.
pub fn base(directory: &Path) {
    let copied = Command::new("cp")
        .args(["-a", concat!(env!("CARGO_MANIFEST_DIR"), "/guest-kernel")])
        .arg(directory)
        .status();
    assert!(copied.expect("cp").success());
    git(directory, &["init", "-q"]);
    commit(directory, "base");
    git(directory, &["tag", "good"]);
}

/// Returns the record that a search has printed.
pub fn record(ended: &cli::Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}", ended.stderr))
}

/// Returns the words of a search of this history, from its good end on.
pub fn search(history: &Path) -> Vec<&str> {
    let source = history.to_str().expect("a path in UTF-8");
    vec![
        "bisect", "hello", "--json", "--good", "good", "--src", source,
    ]
}
