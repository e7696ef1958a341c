// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Brings the counts of a running kernel to the host.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::guest::{Guest, GuestError};

/// How long the guest may take to copy its counts.
const LIMIT: Duration = Duration::from_secs(60);

/// Copies each file of counts, since debugfs tells no sizes, and prints where it was.
const COPY: &str = "rm -rf /tmp/counts && mkdir /tmp/counts && cd /sys/kernel/debug/gcov || exit 1
n=0
find . -name '*.gcda' | while read -r path; do
	cat \"$path\" > /tmp/counts/$n && echo \"$path\" && n=$((n + 1)) || exit 1
done";

/// The counts of every source that has notes in `counted`, by its path in the kernel's tree
/// without the extension.
pub fn fetch(guest: &mut Guest, counted: &Path) -> Result<BTreeMap<String, Vec<u8>>, GuestError> {
    let argv = ["/bin/sh", "-c", COPY].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/", LIMIT)?;
    if !run.success() {
        return Err(GuestError::Failed(format!(
            "the guest's kernel does not tell its counts: {}",
            run.stderr.trim()
        )));
    }
    let mut counts = BTreeMap::new();
    for (number, path) in run.stdout.lines().enumerate() {
        if let Some(stem) = stem(path, counted) {
            let content = guest.read_file(&format!("/tmp/counts/{number}"))?;
            counts.insert(stem.to_owned(), content);
        }
    }
    Ok(counts)
}

/// The part of a path in debugfs, which begins with where the kernel was built, that is a
/// path in the kernel's tree.
fn stem<'a>(path: &'a str, counted: &Path) -> Option<&'a str> {
    let path = path.strip_suffix(".gcda")?;
    path.match_indices('/')
        .map(|(at, _)| &path[at + 1..])
        .find(|stem| counted.join(format!("{stem}.gcno")).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_path_in_the_tree_is_found_in_that_of_the_build() {
        let counted = tempfile::tempdir().unwrap();
        fs::create_dir_all(counted.path().join("kernel/checkpoint")).unwrap();
        fs::write(counted.path().join("kernel/checkpoint/vma.gcno"), "").unwrap();
        let stem = |path| stem(path, counted.path());
        let path = "./build/kernel/base/kernel/checkpoint/vma.gcda";
        assert_eq!(stem(path), Some("kernel/checkpoint/vma"));
        assert_eq!(stem("./build/kernel/fork.gcda"), None);
        assert_eq!(stem("./build/kernel/checkpoint/vma.gcno"), None);
    }
}
