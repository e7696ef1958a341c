// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that crucible reads and writes: names that the kernel's build cannot use, owners,
//! and rights.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::{Finding, State};

/// Examines the cache's directory, in which the kernel is built.
pub fn cache(path: &Path) -> Finding {
    finding("cache", path, name(path).or_else(|| rights(path)))
}

/// Examines a directory that crucible writes to, or its nearest parent that exists.
pub fn writable(what: &'static str, path: &Path) -> Finding {
    let existing: PathBuf = path
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"))
        .into();
    let problem = encoding(path).or_else(|| rights(&existing));
    finding(what, path, problem)
}

/// Examines a directory that crucible reads.
pub fn readable(what: &'static str, path: &Path) -> Finding {
    finding(what, path, encoding(path))
}

fn finding(what: &'static str, path: &Path, problem: Option<String>) -> Finding {
    let path = path.display();
    match problem {
        None => Finding::new(State::Ok, what, path.to_string()),
        Some(problem) => Finding::new(State::Missing, what, format!("{path}: {problem}")),
    }
}

/// Returns why no directory of this name can be used.
fn encoding(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| {
        "the name is not UTF-8; use another directory (CRUCIBLE_CACHE for the cache, \
         CRUCIBLE_RESULTS for the results, another clone for the sources)"
            .to_owned()
    })
}

/// Returns why the kernel's build fails in a directory of this name: its Makefile refuses spaces
/// and colons.
fn name(path: &Path) -> Option<String> {
    let text = path.to_string_lossy();
    let refused = text.contains(|c: char| c.is_whitespace() || c == ':');
    encoding(path).or_else(|| {
        refused.then(|| {
            "the kernel cannot be built in a path with spaces or colons; set CRUCIBLE_CACHE to \
             another directory"
                .to_owned()
        })
    })
}

/// Returns why this process cannot rely on the directory's content.
fn rights(path: &Path) -> Option<String> {
    let Ok(metadata) = path.metadata() else {
        return Some("cannot be examined".to_owned());
    };
    let me = rustix::process::geteuid().as_raw();
    let owner = metadata.uid();
    if rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return Some(format!(
            "user {me} cannot write here; run `sudo chown -R {me} {}`",
            path.display()
        ));
    }
    (owner != me && owner != 0).then(|| {
        format!(
            "it belongs to user {owner}, not to user {me}, and its content would be run as root; \
             run `chown -R {me} {}` or set CRUCIBLE_CACHE",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::chown;

    use super::*;

    #[test]
    fn names_that_make_cannot_use_are_found() {
        assert_eq!(name(Path::new("/tmp/cache-1.2_x")), None);
        for bad in ["/tmp/my cache", "/tmp/a:b", "/tmp/a\tb"] {
            let problem = name(Path::new(bad)).expect(bad);
            assert!(problem.contains("CRUCIBLE_CACHE"), "{problem}");
        }
        let raw = Path::new(OsStr::from_bytes(b"/tmp/\xff"));
        assert!(name(raw).expect("a problem").contains("UTF-8"));
    }

    #[test]
    fn another_users_directory_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        let finding = writable("cache", &directory.path().join("not/there/yet"));
        assert_eq!(finding.state, State::Ok, "{}", finding.detail);
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(12345), None).expect("chown");
            let finding = writable("cache", directory.path());
            assert_eq!(finding.state, State::Missing);
            assert!(finding.detail.contains("user 12345"), "{}", finding.detail);
        }
    }
}
