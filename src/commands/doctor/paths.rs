// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Directories that crucible reads and writes: names that the kernel's build cannot use, owners,
//! and rights.

use std::path::{Path, PathBuf};

use super::{Finding, State};
use anyhow::{Error, Result};

/// Reports whether the cache, in which the kernel is built, can be used.
pub fn cache(root: Result<&Path, &Error>) -> Finding {
    match root {
        Ok(path) => Finding::new(State::Ok, "cache", path.display().to_string()),
        Err(error) => Finding::new(State::Missing, "cache", format!("{error:#}")),
    }
}

/// Examines the directory of the results, or its nearest parent that exists.
pub fn results(path: Result<PathBuf>) -> Finding {
    let examine = || {
        let path = path?;
        if let Some(problem) = encoding(&path) {
            return Ok((path, Some(problem)));
        }
        let existing: &Path = path
            .ancestors()
            .find(|path| path.exists())
            .unwrap_or(Path::new("/"));
        let problem = if existing == path {
            None
        } else {
            rights(existing)
        };
        Ok((path, problem))
    };
    match examine() {
        Ok((path, problem)) => finding("results", &path, problem),
        Err(error) => {
            let error: Error = error;
            Finding::new(State::Missing, "results", format!("{error:#}"))
        }
    }
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

/// Returns the reason why a directory of this name cannot be used, if there is one.
fn encoding(path: &Path) -> Option<String> {
    path.to_str().is_none().then(|| {
        "the name is not UTF-8; use another directory (CRUCIBLE_RESULTS for the results, another \
         clone for the sources)"
            .to_owned()
    })
}

/// Returns the reason why this user cannot make a directory in `path`, if there is one.
fn rights(path: &Path) -> Option<String> {
    let me = rustix::process::geteuid().as_raw();
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(path, access).is_err().then(|| {
        format!(
            "user {me} cannot write to {}; set CRUCIBLE_RESULTS to another directory",
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use crucible_artefacts::directory;

    use super::*;

    #[test]
    fn a_directory_that_does_not_exist_yet_is_judged_by_its_parent() {
        let directory = tempfile::tempdir().expect("a directory");
        let finding = results(Ok(directory.path().join("not/there/yet")));
        assert_eq!(finding.state, State::Ok, "{}", finding.detail);
    }

    #[test]
    fn a_directory_that_others_may_write_is_reported() {
        let directory = tempfile::tempdir().expect("a directory");
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(directory.path(), mode).expect("chmod");
        let checked = directory::check_owner(directory.path(), "CRUCIBLE_RESULTS");
        let finding = results(
            checked
                .map(|()| directory.path().into())
                .map_err(Into::into),
        );
        assert_eq!(finding.state, State::Missing);
        assert!(finding.detail.contains("chmod go-w"), "{}", finding.detail);
    }
}
