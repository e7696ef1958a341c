// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::time::SystemTime;

use super::super::series::Series;
use super::*;

struct Fixture {
    _dir: tempfile::TempDir,
    source: Source,
    tree: PathBuf,
    ours: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let fixture = Self {
            source: Source {
                directory: root.join("linux"),
                version: "6.12.1".into(),
                identity: "one".into(),
                tree_name: "t".into(),
                immutable: false,
                carries: false,
            },
            tree: root.join("trees/src"),
            ours: root.join("guest-kernel"),
            _dir: dir,
        };
        fixture.source("kernel/fork.c", "a\nb\nc\n");
        fixture.source("kernel/exit.c", "exit\n");
        fixture.source("kernel/exit.o", "object");
        fixture.source(".config", "CONFIG_X=y");
        fixture.ours("src/kernel/checkpoint/sys.c", "one\n");
        fixture.ours("patches/0001.patch", &Self::patch("b", "B"));
        fixture
    }

    fn patch(from: &str, to: &str) -> String {
        format!(
            "fork: Change it\n\n--- a/kernel/fork.c\n+++ b/kernel/fork.c\n\
             @@ -1,3 +1,3 @@\n a\n-{from}\n+{to}\n c\n"
        )
    }

    fn source(&self, path: &str, text: &str) {
        write(&self.source.directory.join(path), text.as_bytes()).unwrap();
    }

    fn ours(&self, path: &str, text: &str) {
        write(&self.ours.join(path), text.as_bytes()).unwrap();
    }

    fn derive(&self) {
        mirror(&self.source, &self.tree).unwrap();
        apply(&self.source, &Series::load(&self.ours).unwrap(), &self.tree).unwrap();
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.tree.join(path)).ok()
    }

    /// Sets a file's modification time far back, so that a rewrite can be detected.
    fn age(&self, path: &str) {
        let file = File::options()
            .append(true)
            .open(self.tree.join(path))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }

    fn is_aged(&self, path: &str) -> bool {
        let metadata = fs::metadata(self.tree.join(path)).unwrap();
        metadata.modified().unwrap() == SystemTime::UNIX_EPOCH
    }
}

#[test]
fn the_series_is_applied_and_the_source_left_alone() {
    let fixture = Fixture::new();
    fixture.derive();
    assert_eq!(fixture.read("kernel/fork.c").unwrap(), "a\nB\nc\n");
    assert_eq!(fixture.read("kernel/checkpoint/sys.c").unwrap(), "one\n");
    assert_eq!(
        fixture.read("kernel/exit.o"),
        None,
        "build products are not mirrored"
    );
    assert_eq!(fixture.read(".config"), None);
    let pristine = fs::read_to_string(fixture.source.directory.join("kernel/fork.c")).unwrap();
    assert_eq!(pristine, "a\nb\nc\n");
}

#[test]
fn only_changed_files_are_written() {
    let fixture = Fixture::new();
    fixture.derive();
    fixture.age("kernel/fork.c");
    fixture.age("kernel/checkpoint/sys.c");
    fixture.derive();
    assert!(fixture.is_aged("kernel/fork.c"));
    assert!(fixture.is_aged("kernel/checkpoint/sys.c"));

    fixture.ours("src/kernel/checkpoint/sys.c", "two\n");
    fixture.derive();
    assert!(fixture.is_aged("kernel/fork.c"));
    assert_eq!(fixture.read("kernel/checkpoint/sys.c").unwrap(), "two\n");
    assert!(!fixture.is_aged("kernel/checkpoint/sys.c"));
}

#[test]
fn a_file_removed_from_the_series_is_reverted() {
    let fixture = Fixture::new();
    fixture.derive();
    fs::remove_file(fixture.ours.join("patches/0001.patch")).unwrap();
    fs::remove_file(fixture.ours.join("src/kernel/checkpoint/sys.c")).unwrap();
    fixture.derive();
    assert_eq!(fixture.read("kernel/fork.c").unwrap(), "a\nb\nc\n");
    assert_eq!(fixture.read("kernel/checkpoint/sys.c"), None);
}

#[test]
fn changes_of_a_foreign_tree_are_followed() {
    let fixture = Fixture::new();
    fixture.derive();
    fixture.source("kernel/new.c", "new\n");
    fs::remove_file(fixture.source.directory.join("kernel/exit.c")).unwrap();
    fixture.source("kernel/fork.c", "a\nb\nc\nd\n");
    fixture.derive();
    assert_eq!(fixture.read("kernel/new.c").unwrap(), "new\n");
    assert_eq!(fixture.read("kernel/exit.c"), None);
    assert_eq!(fixture.read("kernel/fork.c").unwrap(), "a\nB\nc\nd\n");
    assert!(fixture.read("kernel/checkpoint/sys.c").is_some());
}

#[test]
fn a_patch_that_does_not_apply_is_reported() {
    let fixture = Fixture::new();
    fixture.ours("patches/0002.patch", &Fixture::patch("x", "y"));
    mirror(&fixture.source, &fixture.tree).unwrap();
    let series = Series::load(&fixture.ours).unwrap();
    let error = apply(&fixture.source, &series, &fixture.tree).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("0002.patch does not apply"), "{text}");
    assert!(text.contains("--kernel-src"), "{text}");
}

#[test]
fn a_tree_that_carries_the_change_is_mirrored_as_it_is() {
    let fixture = Fixture::new();
    fixture.source("kernel/checkpoint/Kconfig", "config CHECKPOINT\n");
    fixture.source("kernel/checkpoint/sys.c", "theirs\n");
    fixture.source("kernel/checkpoint/sys.o", "object");
    let derive = || {
        mirror(&fixture.source, &fixture.tree).unwrap();
        let series = Series::carried(&fixture.source.directory).unwrap();
        apply(&fixture.source, &series, &fixture.tree).unwrap();
        series.files.into_keys().collect::<Vec<_>>()
    };
    let files = derive();
    let expected = ["kernel/checkpoint/Kconfig", "kernel/checkpoint/sys.c"];
    assert_eq!(files, expected.map(PathBuf::from));
    assert_eq!(fixture.read("kernel/fork.c").as_deref(), Some("a\nb\nc\n"));
    let time = fixture.tree.join("kernel/checkpoint/sys.c");
    let time = || time.metadata().unwrap().modified().unwrap();
    let before = time();
    derive();
    assert_eq!(time(), before);
    fixture.source("kernel/checkpoint/sys.c", "changed\n");
    derive();
    let now = fixture.read("kernel/checkpoint/sys.c");
    assert_eq!(now.as_deref(), Some("changed\n"));
    // Return to a tree without the series, as a bisection does.
    fs::remove_dir_all(fixture.source.directory.join("kernel/checkpoint")).unwrap();
    fixture.derive();
    assert_eq!(fixture.read("kernel/fork.c").as_deref(), Some("a\nB\nc\n"));
    assert_eq!(fixture.read("kernel/checkpoint/Kconfig"), None);
}
