// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copies the gcov counters of a running kernel to the host.

use std::{collections::BTreeMap, path::Path, time::Duration};

use crate::guest::{Guest, GuestError};

/// Limit for the guest to copy its counters.
const LIMIT: Duration = Duration::from_secs(60);

/// Copies each counter file, because files in debugfs have no size, and prints its path.
const COPY: &str = "rm -rf /tmp/counts && mkdir /tmp/counts && cd /sys/kernel/debug/gcov || exit 1
n=0
find . -name '*.gcda' | while read -r path; do
	cat \"$path\" > /tmp/counts/$n && echo \"$path\" && n=$((n + 1)) || exit 1
done";

/// Reads the counters of every source that has gcno notes in `counted`. The key is the path in
/// the kernel's tree without extension.
pub fn fetch(guest: &mut Guest, counted: &Path) -> Result<BTreeMap<String, Vec<u8>>, GuestError> {
    let argv = ["/bin/sh", "-c", COPY].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/", LIMIT)?;
    if !run.success() {
        return Err(GuestError::Failed(format!(
            "cannot read the counters of the guest's kernel: {}",
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

/// Strips the build directory from a path in debugfs; returns the path in the kernel's tree.
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
