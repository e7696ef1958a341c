// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::time::SystemTime;

use super::super::series::Series;
use super::*;

struct Bed {
    _dir: tempfile::TempDir,
    source: Source,
    tree: PathBuf,
    ours: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let bed = Self {
            source: Source {
                directory: root.join("linux"),
                version: "6.12.1".into(),
                identity: "one".into(),
                tree_name: "t".into(),
                immutable: false,
            },
            tree: root.join("trees/src"),
            ours: root.join("guest-kernel"),
            _dir: dir,
        };
        bed.source("kernel/fork.c", "a\nb\nc\n");
        bed.source("kernel/exit.c", "exit\n");
        bed.source("kernel/exit.o", "object");
        bed.source(".config", "CONFIG_X=y");
        bed.ours("src/kernel/checkpoint/sys.c", "one\n");
        bed.ours("patches/0001.patch", &Self::patch("b", "B"));
        bed
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

    /// Sets a file's time far back, so that a rewrite shows.
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
fn the_series_is_laid_over_and_the_source_left_alone() {
    let bed = Bed::new();
    bed.derive();
    assert_eq!(bed.read("kernel/fork.c").unwrap(), "a\nB\nc\n");
    assert_eq!(bed.read("kernel/checkpoint/sys.c").unwrap(), "one\n");
    assert_eq!(bed.read("kernel/exit.o"), None, "products are left out");
    assert_eq!(bed.read(".config"), None);
    let pristine = fs::read_to_string(bed.source.directory.join("kernel/fork.c")).unwrap();
    assert_eq!(pristine, "a\nb\nc\n");
}

#[test]
fn only_what_differs_is_written_again() {
    let bed = Bed::new();
    bed.derive();
    bed.age("kernel/fork.c");
    bed.age("kernel/checkpoint/sys.c");
    bed.derive();
    assert!(bed.is_aged("kernel/fork.c"));
    assert!(bed.is_aged("kernel/checkpoint/sys.c"));

    bed.ours("src/kernel/checkpoint/sys.c", "two\n");
    bed.derive();
    assert!(bed.is_aged("kernel/fork.c"));
    assert_eq!(bed.read("kernel/checkpoint/sys.c").unwrap(), "two\n");
    assert!(!bed.is_aged("kernel/checkpoint/sys.c"));
}

#[test]
fn what_leaves_the_series_is_undone() {
    let bed = Bed::new();
    bed.derive();
    fs::remove_file(bed.ours.join("patches/0001.patch")).unwrap();
    fs::remove_file(bed.ours.join("src/kernel/checkpoint/sys.c")).unwrap();
    bed.derive();
    assert_eq!(bed.read("kernel/fork.c").unwrap(), "a\nb\nc\n");
    assert_eq!(bed.read("kernel/checkpoint/sys.c"), None);
}

#[test]
fn a_foreign_tree_is_followed() {
    let bed = Bed::new();
    bed.derive();
    bed.source("kernel/new.c", "new\n");
    fs::remove_file(bed.source.directory.join("kernel/exit.c")).unwrap();
    bed.source("kernel/fork.c", "a\nb\nc\nd\n");
    bed.derive();
    assert_eq!(bed.read("kernel/new.c").unwrap(), "new\n");
    assert_eq!(bed.read("kernel/exit.c"), None);
    assert_eq!(bed.read("kernel/fork.c").unwrap(), "a\nB\nc\nd\n");
    assert!(bed.read("kernel/checkpoint/sys.c").is_some());
}

#[test]
fn a_patch_that_does_not_fit_is_named() {
    let bed = Bed::new();
    bed.ours("patches/0002.patch", &Bed::patch("x", "y"));
    mirror(&bed.source, &bed.tree).unwrap();
    let series = Series::load(&bed.ours).unwrap();
    let error = apply(&bed.source, &series, &bed.tree).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("0002.patch does not apply"), "{text}");
    assert!(text.contains("--kernel-src"), "{text}");
}
