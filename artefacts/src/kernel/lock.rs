// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::{Error, Result};

/// Content of `kernel.lock`: the exact source package to use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KernelLock {
    /// The name of Debian's package.
    pub package: String,
    /// The stable series; a later version of it is acceptable too.
    pub series: String,
    /// The version of the package.
    pub version: String,
    /// The sha256 of the package's file.
    pub sha256: String,
}

impl KernelLock {
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        Self::parse(&text).map_err(|problem| Error::Malformed {
            path: path.to_owned(),
            problem,
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let lock: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if lock.sha256.len() != 64 || !lock.sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("`sha256` must be 64 hex digits".into());
        }
        if !lock.accepts(&lock.version) {
            return Err(format!(
                "`version` {} is not of the series {}",
                lock.version, lock.series
            ));
        }
        Ok(lock)
    }

    /// Returns true when a version of the package belongs to the series.
    pub fn accepts(&self, version: &str) -> bool {
        version
            .strip_prefix(&self.series)
            .is_some_and(|rest| rest.starts_with('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        package = "linux-source-6.12"
        series = "6.12"
        version = "6.12.117-1~deb12u1"
        sha256 = "e849faf31ca3555757f3a8877cb01af92122f744f75d1f3102734651c4e14703"
    "#;

    #[test]
    fn only_versions_of_the_series_are_accepted() {
        let lock = KernelLock::parse(GOOD).unwrap();
        assert!(lock.accepts("6.12.120-1"));
        assert!(!lock.accepts("6.120.1-1"));
        assert!(!lock.accepts("6.13.1-1"));
    }

    #[test]
    fn mistakes_are_reported() {
        let error = KernelLock::parse(&GOOD.replace("e849", "e84")).unwrap_err();
        assert!(error.contains("64 hex digits"), "{error}");
        let error = KernelLock::parse(&GOOD.replace("series", "serie")).unwrap_err();
        assert!(error.contains("serie"), "{error}");
        let error = KernelLock::parse(&GOOD.replace("\"6.12\"", "\"6.6\"")).unwrap_err();
        assert!(error.contains("not of the series"), "{error}");
    }
}
