// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Our change to the kernel: new files, and patches to existing files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::{Error, Result};

/// Paths of the files of checkpoint and restart, in a tree that carries them.
const CARRIED: [&str; 2] = ["kernel/checkpoint", "arch/x86/kernel/checkpoint.c"];

/// The system call table, and the name of an entry that only our change adds.
const TABLE: (&str, &str) = ("arch/x86/entry/syscalls/syscall_64.tbl", "sys_restart");

/// Returns true when the commits of a kernel's tree already contain checkpoint and restart. Our
/// series does not apply to such a tree.
pub(super) fn carries(tree: &Path) -> bool {
    let (table, entry) = TABLE;
    let listed = |text: String| text.split_whitespace().any(|word| word == entry);
    tree.join(CARRIED[0]).join("Kconfig").is_file()
        || fs::read_to_string(tree.join(table)).is_ok_and(listed)
}

/// The complete kernel change.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    /// New files, by their path in the kernel's tree.
    pub files: BTreeMap<PathBuf, Vec<u8>>,
    /// The patches, in the order in which they apply.
    pub patches: Vec<Patch>,
}

/// A patch to existing files of the kernel.
#[derive(Debug, Clone)]
pub(super) struct Patch {
    /// The path of the patch file.
    pub path: PathBuf,
    /// The content of the patch file.
    pub text: String,
    /// The files that the patch changes, by their path in the kernel's tree.
    pub targets: Vec<PathBuf>,
}

impl Series {
    /// Reads `src/` and `patches/` of `guest-kernel/`.
    pub fn load(directory: &Path) -> Result<Self> {
        let mut series = Self::default();
        let src = directory.join("src");
        for entry in WalkDir::new(&src).sort_by_file_name() {
            let entry = entry.map_err(|error| Error::Malformed {
                path: src.clone(),
                problem: error.to_string(),
            })?;
            let name = entry.file_name().to_string_lossy();
            let junk = name.ends_with('~') || name.starts_with('.');
            if !entry.file_type().is_file() || junk {
                continue;
            }
            let content = fs::read(entry.path()).map_err(Error::file("read", entry.path()))?;
            if let Ok(path) = entry.path().strip_prefix(&src) {
                series.files.insert(path.to_owned(), content);
            }
        }
        let patches = directory.join("patches");
        let mut paths = Vec::new();
        for entry in fs::read_dir(&patches).map_err(Error::file("list", &patches))? {
            let path = entry.map_err(Error::file("list", &patches))?.path();
            if path.extension().is_some_and(|e| e == "patch") {
                paths.push(path);
            }
        }
        paths.sort();
        for path in paths {
            series.patches.push(Patch::load(path)?);
        }
        Ok(series)
    }

    /// Returns the files of checkpoint and restart in a tree that carries them, as a series that
    /// changes nothing in that tree.
    pub fn carried(tree: &Path) -> Result<Self> {
        let mut series = Self::default();
        for place in CARRIED {
            for entry in WalkDir::new(tree.join(place)).sort_by_file_name() {
                // A tree may have only some of them.
                let Ok(entry) = entry else { continue };
                if !entry.file_type().is_file() || super::tree::is_product(entry.path()) {
                    continue;
                }
                let content = fs::read(entry.path()).map_err(Error::file("read", entry.path()))?;
                if let Ok(path) = entry.path().strip_prefix(tree) {
                    series.files.insert(path.to_owned(), content);
                }
            }
        }
        Ok(series)
    }

    /// Returns all inputs of the series, each with its name.
    pub fn inputs(&self) -> impl Iterator<Item = (String, &[u8])> {
        let files = self
            .files
            .iter()
            .map(|(path, content)| (format!("src/{}", path.display()), content.as_slice()));
        let patches = self.patches.iter().map(|patch| {
            let name = patch.path.file_name().unwrap_or_default();
            (
                format!("patches/{}", name.to_string_lossy()),
                patch.text.as_bytes(),
            )
        });
        files.chain(patches)
    }
}

impl Patch {
    fn load(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        let targets = targets(&text);
        if targets.is_empty() {
            return Err(Error::Malformed {
                path,
                problem: "this patch changes nothing: it has no `+++ b/FILE` line".into(),
            });
        }
        Ok(Self {
            path,
            text,
            targets,
        })
    }

    /// Returns the patch's message: its subject, and its body.
    pub fn message(&self) -> (String, String) {
        let mut subject = String::new();
        let mut body = Vec::new();
        for line in self.text.lines() {
            if line == "---" || line.starts_with("diff --git ") || line.starts_with("--- ") {
                break;
            }
            let header = ["From ", "From: ", "Date: "];
            if let Some(text) = line.strip_prefix("Subject: ") {
                // Git adds the `[PATCH 3/9] ` prefix; it is not part of the subject.
                subject = match text.split_once("] ") {
                    Some((tag, rest)) if tag.starts_with("[PATCH") => rest.into(),
                    _ => text.into(),
                };
            } else if !header.iter().any(|h| line.starts_with(h)) {
                body.push(line);
            }
        }
        let mut body = body.join("\n").trim().to_owned();
        if subject.is_empty() {
            let (first, rest) = body.split_once('\n').unwrap_or((&body, ""));
            subject = first.trim().to_owned();
            body = rest.trim().to_owned();
        }
        (subject, body)
    }
}

/// Returns the files that a unified diff changes.
fn targets(text: &str) -> Vec<PathBuf> {
    let mut targets = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(old) = line.strip_prefix("--- ") else {
            continue;
        };
        let Some(new) = lines.peek().and_then(|next| next.strip_prefix("+++ ")) else {
            continue;
        };
        let name = if new.starts_with("/dev/null") {
            old
        } else {
            new
        };
        let name = name.split('\t').next().unwrap_or_default().trim();
        if let Some((_, path)) = name.split_once('/') {
            targets.push(PathBuf::from(path));
        }
    }
    targets.sort();
    targets.dedup();
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "\
Subject: [PATCH 2/3] signal: Report the site of a task

A frozen task looks the same from outside wherever it sleeps.
---
 kernel/signal.c | 1 +
diff --git a/kernel/signal.c b/kernel/signal.c
--- a/kernel/signal.c
+++ b/kernel/signal.c
@@ -1,2 +1,3 @@
 a
--- not a file
+b
diff --git a/kernel/fork.c b/kernel/fork.c
--- a/kernel/fork.c\t2024-01-01
+++ b/kernel/fork.c\t2024-01-01
@@ -1 +1 @@
-x
+y
";

    #[test]
    fn a_mailed_patch_is_parsed() {
        assert_eq!(
            targets(PATCH),
            [
                PathBuf::from("kernel/fork.c"),
                PathBuf::from("kernel/signal.c")
            ]
        );
        let patch = Patch {
            path: "x.patch".into(),
            text: PATCH.into(),
            targets: Vec::new(),
        };
        let (subject, body) = patch.message();
        assert_eq!(subject, "signal: Report the site of a task");
        assert_eq!(
            body,
            "A frozen task looks the same from outside wherever it sleeps."
        );
    }

    #[test]
    fn a_plain_header_is_parsed() {
        let patch = Patch {
            path: "x.patch".into(),
            text: "fork: Do it\n\nBecause.\n\n--- a/x\n+++ b/x\n".into(),
            targets: Vec::new(),
        };
        assert_eq!(patch.message(), ("fork: Do it".into(), "Because.".into()));
    }
}
