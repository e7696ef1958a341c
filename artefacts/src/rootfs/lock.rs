// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Debian packages of the userland: those that it should have (`rootfs/userland.lock`), and
//! those that it has.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::{Error, Result};

/// The head of `userland.lock`.
const HEAD: &str = "\
# SPDX-License-Identifier: Apache-2.0 OR MIT
# The Debian packages of the guest's userland, those of packages.txt and what they depend on: name,
# version, architecture, and sha256 of the package's file. `crucible rootfs lock` writes this file.
# Where the archive has replaced a version, the newer one is taken with a notice.
";

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebianPackage {
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// The sha256 of its file.
    pub sha256: String,
}

/// Debian packages by their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DebianPackages(pub BTreeMap<String, DebianPackage>);

impl DebianPackages {
    /// Reads a list.
    ///
    /// # Errors
    /// The lock file cannot be read or is malformed.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::file("read", path))?;
        Self::parse(&text).map_err(|problem| Error::Malformed {
            path: path.to_owned(),
            problem,
        })
    }

    /// Parses lines of name, version, architecture and sha256. `#` starts a comment.
    fn parse(text: &str) -> Result<Self, String> {
        let mut packages = BTreeMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let words: Vec<_> = line.split_whitespace().collect();
            let &[name, version, architecture, sha256] = words.as_slice() else {
                return Err(format!(
                    "`{line}` is not a name, a version, an architecture and a sha256"
                ));
            };
            if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(format!("the sha256 of {name} must be 64 hex digits"));
            }
            let package = DebianPackage {
                version: version.into(),
                architecture: architecture.into(),
                sha256: sha256.into(),
            };
            if packages.insert(name.to_owned(), package).is_some() {
                return Err(format!("{name} is listed twice"));
            }
        }
        if packages.is_empty() {
            return Err("it has no packages; run `crucible rootfs lock`".into());
        }
        Ok(Self(packages))
    }

    /// Returns the text of `userland.lock` with these packages.
    pub fn lock_file(&self) -> String {
        format!("{HEAD}{self}")
    }

    /// Returns apt's preferences for these versions. A version that the archive no longer has is
    /// ignored.
    pub(super) fn preferences(&self) -> String {
        let one = |(name, package): (&String, &DebianPackage)| {
            let version = &package.version;
            format!("Package: {name}\nPin: version {version}\nPin-Priority: 1001\n\n")
        };
        self.0.iter().map(one).collect()
    }

    /// Checks that a package of the pinned version is the pinned file.
    pub(super) fn check(&self, found: &Self) -> Result<()> {
        for (name, wanted) in &self.0 {
            let Some(package) = found.0.get(name) else {
                continue;
            };
            if package.version == wanted.version && package.sha256 != wanted.sha256 {
                return Err(Error::Checksum {
                    name: format!("{name} {}", package.version),
                    wanted: wanted.sha256.clone(),
                    found: package.sha256.clone(),
                });
            }
        }
        Ok(())
    }

    /// Returns a description of the packages in which `found` differs; `None` if there are none.
    pub fn difference(&self, found: &Self) -> Option<String> {
        let mut words = Vec::new();
        for (name, package) in &found.0 {
            match self.0.get(name) {
                Some(same) if same == package => {}
                Some(other) => words.push(format!(
                    "{name} {} instead of {}",
                    package.version, other.version
                )),
                None => words.push(format!("{name} {} in addition", package.version)),
            }
        }
        let gone = self.0.keys().filter(|name| !found.0.contains_key(*name));
        words.extend(gone.map(|name| format!("no {name}")));
        (!words.is_empty()).then(|| words.join(", "))
    }
}

impl fmt::Display for DebianPackages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, package) in &self.0 {
            let DebianPackage {
                version,
                architecture,
                sha256,
            } = package;
            writeln!(f, "{name} {version} {architecture} {sha256}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> DebianPackages {
        DebianPackages::parse(&text.replace('H', &"a".repeat(64))).unwrap()
    }

    #[test]
    fn the_file_is_read_as_it_is_written() {
        let packages = list("gcc 4:12.2.0-3 amd64 H\nbase-files 12.4+deb12u15 amd64 H\n");
        let text = packages.lock_file();
        assert!(text.starts_with("# SPDX"));
        assert_eq!(DebianPackages::parse(&text), Ok(packages));
    }

    #[test]
    fn mistakes_are_reported() {
        for (text, problem) in [
            ("gcc 1\n", "gcc 1"),
            ("gcc 1 amd64 abc\n", "64 hex digits"),
            ("a 1 all H\na 2 all H\n", "twice"),
            ("# nothing\n", "rootfs lock"),
        ] {
            let text = text.replace('H', &"a".repeat(64));
            let error = DebianPackages::parse(&text).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn another_file_of_the_pinned_version_is_refused_and_a_newer_version_is_not() {
        let lock = list("gcc 1 amd64 H\nmake 1 amd64 H\n");
        let other = "b".repeat(64);
        let newer = list(&format!("gcc 2 amd64 {other}\nmake 1 amd64 H\n"));
        lock.check(&newer).unwrap();
        assert_eq!(lock.difference(&newer).unwrap(), "gcc 2 instead of 1");
        let forged = list(&format!("gcc 1 amd64 {other}\nmake 1 amd64 H\n"));
        assert!(matches!(lock.check(&forged), Err(Error::Checksum { .. })));
        assert_eq!(lock.difference(&lock), None);
    }
}
