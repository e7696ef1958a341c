// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links from the page to the files beside it.

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Returns true for a path that cannot leave the directory that it is relative to. A history may
/// come from another user.
pub(crate) fn stays_within(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty() && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// Returns the path that leads from a directory to a file; both are absolute.
pub(crate) fn relative(from: &Path, to: &Path) -> PathBuf {
    let shared = from.components().zip(to.components());
    let shared = shared.take_while(|(a, b)| a == b).count();
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect()
}

/// Returns a path as the target of a link: no part of it can be taken for a scheme or a query.
pub(crate) fn target(path: &Path) -> String {
    let mut text = String::new();
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'/' | b'~' => {
                text.push(char::from(byte));
            }
            // Writing to a string cannot fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_from_the_page_to_the_file() {
        let from = |from: &str, to: &str| target(&relative(Path::new(from), Path::new(to)));
        assert_eq!(from("/r/nights/n", "/r/nights/n/runs/a"), "runs/a");
        assert_eq!(from("/tmp", "/r/a b"), "../r/a%20b");
        assert_eq!(from("/r", "/r/javascript:x?\"<"), "javascript%3Ax%3F%22%3C");
    }

    #[test]
    fn a_history_cannot_name_files_elsewhere() {
        assert!(stays_within("nights/n/runs/a"));
        for wrong in ["", "/etc", "../x", "a/../../x"] {
            assert!(!stays_within(wrong), "{wrong}");
        }
    }
}
