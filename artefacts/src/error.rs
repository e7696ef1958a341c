// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong while making artefacts.
///
/// The messages leave out their source; whoever prints them walks the chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or directory cannot be used.
    #[error("cannot {what} {path}")]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that is needed cannot be run.
    #[error("cannot run {program}; `crucible doctor` tells what this host lacks")]
    Program {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A program failed.
    #[error("{what} failed ({status})\n  command: {command}\n{words}")]
    Failed {
        /// What it was to do.
        what: String,
        /// How it ended.
        status: String,
        /// Its command line.
        command: String,
        /// The last lines of what it said, indented.
        words: String,
    },
    /// A file of ours does not say what it should.
    #[error("{path}: {problem}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A download is not what the lock file says.
    #[error(
        "{name} has the sha256 {found}, but the lock file says {wanted}; \
         it was damaged or replaced on its way, so it is not used"
    )]
    Checksum {
        /// What was fetched.
        name: String,
        /// What the lock file says.
        wanted: String,
        /// What it is.
        found: String,
    },
    /// The kernel's source is not to be had.
    #[error(
        "no {package} {version}, and no other 6.12 either, is offered by this host's apt sources: {words}"
    )]
    NoKernelSource {
        /// The Debian package.
        package: String,
        /// The pinned version.
        version: String,
        /// What apt said.
        words: String,
    },
    /// A configuration line was not taken by Kconfig.
    #[error("Kconfig did not take {} line(s) of {fragments}: {}; a dependency is missing or the symbol is gone", lines.len(), lines.join(", "))]
    Config {
        /// The fragments that were merged.
        fragments: String,
        /// The lines, with what became of them.
        lines: Vec<String>,
    },
    /// A patch of ours does not fit the tree.
    #[error(
        "{patch} does not apply to {tree}:\n{words}\nRefresh it against that tree, or name another with --kernel-src"
    )]
    Patch {
        /// The patch.
        patch: PathBuf,
        /// The kernel tree.
        tree: PathBuf,
        /// What `patch` said.
        words: String,
    },
    /// Host packages are missing and were not to be installed.
    #[error("this host lacks {}; install with: {command}", packages.join(" "))]
    MissingPackages {
        /// Their names.
        packages: Vec<String>,
        /// The one command that brings them.
        command: String,
    },
    /// The place for the cache is unknown.
    #[error(
        "neither CRUCIBLE_CACHE, XDG_CACHE_HOME nor HOME is set; set CRUCIBLE_CACHE to a directory"
    )]
    NoCache,
    /// Crucible's own sources, from which guests are made, are not found.
    #[error(
        "crucible's sources are not at {path}; set CRUCIBLE_SOURCES to a checkout of the repository"
    )]
    NoSources {
        /// Where they were looked for.
        path: PathBuf,
    },
}

impl Error {
    /// Whether the host has to be set up first: nothing that is under test is
    /// at fault.
    pub fn is_host_setup(&self) -> bool {
        matches!(
            self,
            Self::Program { .. }
                | Self::MissingPackages { .. }
                | Self::NoKernelSource { .. }
                | Self::NoCache
                | Self::NoSources { .. }
        )
    }

    /// For `map_err`: an I/O error with the file it is about.
    pub(crate) fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
