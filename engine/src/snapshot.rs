// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A scenario's reviewed result, kept by insta beside the scenario, so that
//! `cargo insta review` works. A missing or different one is never accepted silently.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook},
    path::Path,
};

use crucible_protocol::FileKind;

use crate::{
    compare::{self, Check, Outcome},
    normalise,
    run::Frozen,
    scenario::{Case, Scenario},
};

/// Directory of the snapshots in that of the scenario.
const DIR: &str = "snapshots";

/// Tells insta, by its environment, to write `.snap.new` files wherever this runs and to
/// leave the telling to us.
///
/// # Safety
/// No other thread may exist yet.
pub unsafe fn configure(checkout: &Path) {
    // SAFETY: the caller sees to it that nobody else reads the environment.
    unsafe {
        std::env::set_var("INSTA_WORKSPACE_ROOT", checkout);
        std::env::set_var("INSTA_UPDATE", "new");
        std::env::set_var("INSTA_OUTPUT", "none");
        std::env::set_var("INSTA_FORCE_PASS", "0");
    }
}

/// What people review: where it was stopped and what came out, without what a
/// package update changes.
pub fn rendered(case: &Case, point: &Frozen, outcome: &Outcome) -> String {
    let mut lines = vec![format!("case: {}", case.name), format!("at: {}", case.at)];
    let task = point.tasks.tasks.iter().find(|t| t.tid == point.freeze.tid);
    if let Some(task) = task.filter(|_| !case.any_task) {
        let site = task.site.split(' ').next().unwrap_or("");
        lines.push(format!("stopped: {} at {site}", task.comm));
    }
    let end = outcome.workload.map_or("unknown".into(), |e| e.to_string());
    lines.push(format!("end: {end}"));
    let mut uses = normalise::Uses::new();
    for (name, content) in [("stdout", &outcome.stdout), ("stderr", &outcome.stderr)] {
        let nonce = outcome.nonce.as_deref().unwrap_or("");
        let content = normalise::nonce(content, nonce, &mut uses);
        let content = normalise::addresses(&content);
        lines.push(format!("{name}:"));
        lines.extend(content.lines().map(|line| format!("  {line}")));
    }
    lines.push("files:".into());
    for file in &outcome.files {
        let kind = match &file.kind {
            FileKind::File { .. } => "file",
            FileKind::Dir => "directory",
            FileKind::Symlink { .. } => "link",
            _ => "special",
        };
        lines.push(format!("  {} {:04o} {kind}", file.path, file.mode));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Compares a result with the reviewed one.
pub fn check(scenario: &Scenario, result: &str) -> Check {
    const NAME: &str = "snapshot: the reviewed result";
    let dir = scenario.dir.join(DIR);
    let Ok(dir) = std::path::absolute(&dir) else {
        return Check::bad(NAME, format!("{} has no absolute path", dir.display()));
    };
    let mut settings = insta::Settings::new();
    settings.set_snapshot_path(&dir);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let name = scenario.name.as_str();
    // insta tells a difference by a panic, whose message is for tests.
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let same = catch_unwind(AssertUnwindSafe(|| {
        settings.bind(|| insta::assert_snapshot!(name, result));
    }));
    set_hook(hook);
    if same.is_ok() {
        return Check::good(NAME);
    }
    let reviewed = fs::read_to_string(dir.join(format!("{name}.snap")));
    let difference = match reviewed {
        Err(_) => "there is none yet".to_owned(),
        Ok(text) => compare::difference(content(&text).trim_end(), result.trim_end())
            .unwrap_or_else(|| "differs".to_owned()),
    };
    Check::bad(
        NAME,
        format!("{difference}\n  review it with `cargo insta review`, then commit it"),
    )
}

/// A snapshot file without its header.
fn content(file: &str) -> &str {
    file.strip_prefix("---\n")
        .and_then(|rest| rest.split_once("\n---\n"))
        .map_or(file, |(_, content)| content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn scenario(dir: PathBuf) -> Scenario {
        Scenario {
            name: "s".into(),
            dir,
            summary: String::new(),
            shared: Vec::new(),
            build: Vec::new(),
            cases: Vec::new(),
        }
    }

    #[test]
    fn a_missing_snapshot_is_written_for_review_and_not_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let check = check(&scenario(dir.path().into()), "one\n");
        assert!(!check.ok);
        assert!(check.difference.unwrap().contains("cargo insta review"));
        assert!(dir.path().join("snapshots/s.snap.new").exists());
    }

    #[test]
    fn a_different_one_is_explained_and_an_equal_one_passes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("snapshots")).unwrap();
        let file = dir.path().join("snapshots/s.snap");
        fs::write(&file, "---\nsource: x\n---\none\ntwo\n").unwrap();
        let scenario = scenario(dir.path().into());
        assert!(check(&scenario, "one\ntwo\n").ok);
        let difference = check(&scenario, "one\nthree\n").difference.unwrap();
        assert!(difference.contains("- two"), "{difference}");
        assert!(difference.contains("+ three"), "{difference}");
        assert_eq!(
            fs::read_to_string(file).unwrap(),
            "---\nsource: x\n---\none\ntwo\n"
        );
    }
}
