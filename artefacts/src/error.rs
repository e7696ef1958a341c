// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::io;
use std::path::{Path, PathBuf};

/// Errors of making artefacts.
///
/// Messages do not contain their source; print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An operation on a file or directory failed.
    #[error("cannot {what} {path}")]
    File {
        /// The operation.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program cannot be run.
    #[error("cannot run {program}; `crucible doctor` lists the programs that this host lacks")]
    Program {
        /// Name of the program.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// A program failed.
    #[error("{what} failed ({status})\n  command: {command}\n{words}")]
    Failed {
        /// Its purpose.
        what: String,
        /// Its exit status.
        status: String,
        /// Its command line.
        command: String,
        /// The last lines of its output, indented.
        words: String,
    },
    /// A program failed because of this host: its network, the user's rights, its package manager.
    #[error("{failure}\n{advice}")]
    Host {
        /// The failure.
        failure: Box<Error>,
        /// Advice for the user.
        advice: String,
    },
    /// A directory cannot be used.
    #[error("{path}: {problem}; {mend}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The problem.
        problem: String,
        /// Advice for the user.
        mend: String,
    },
    /// A file of this repository is malformed.
    #[error("{path}: {problem}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The problem.
        problem: String,
    },
    /// The hash of a download differs from the lock file.
    #[error(
        "{name} has the sha256 {found}, but the lock file says {wanted}; \
         it was damaged or replaced on its way, so it is not used"
    )]
    Checksum {
        /// Name of the download.
        name: String,
        /// Hash in the lock file.
        wanted: String,
        /// Hash of the download.
        found: String,
    },
    /// The kernel's source is not available.
    #[error(
        "no {package} {version}, and no other {series} either, is offered by this host's apt \
         sources: {words}\nCheck the network and /etc/apt/sources.list, name a kernel tree with \
         --kernel-src, or bring a cache from another machine with `crucible cache import`"
    )]
    NoKernelSource {
        /// The Debian package.
        package: String,
        /// The stable series.
        series: String,
        /// The pinned version.
        version: String,
        /// Output of apt.
        words: String,
    },
    /// Kconfig ignored lines of the configuration.
    #[error("Kconfig ignored {} line(s) of {fragments}: {}; a dependency is missing, or the symbol no longer exists", lines.len(), lines.join(", "))]
    Config {
        /// The merged fragments.
        fragments: String,
        /// The lines, with their resulting values.
        lines: Vec<String>,
    },
    /// A patch of the series does not apply.
    #[error(
        "{patch} does not apply to {tree}:\n{words}\nRefresh it against that tree, or name another with --kernel-src"
    )]
    Patch {
        /// The patch.
        patch: PathBuf,
        /// The kernel tree.
        tree: PathBuf,
        /// Output of `patch`.
        words: String,
    },
    /// Host packages are missing, and the user has given `--no-install`.
    #[error("this host lacks {}; install with: {command}", packages.join(" "))]
    MissingPackages {
        /// Their names.
        packages: Vec<String>,
        /// The command that installs them.
        command: String,
    },
    /// No directory for the cache is known.
    #[error(
        "neither CRUCIBLE_CACHE, XDG_CACHE_HOME nor HOME is set; set CRUCIBLE_CACHE to a directory"
    )]
    NoCache,
    /// The checkout that guests are built from does not exist.
    #[error(
        "crucible's sources are not at {path}; set CRUCIBLE_SOURCES to a checkout of the repository"
    )]
    NoSources {
        /// The expected directory.
        path: PathBuf,
    },
}

impl Error {
    /// Returns true when the host lacks something, so that the tested kernel is not the cause.
    pub fn is_host_setup(&self) -> bool {
        matches!(
            self,
            Self::Program { .. }
                | Self::MissingPackages { .. }
                | Self::NoKernelSource { .. }
                | Self::Host { .. }
                | Self::Directory { .. }
                | Self::NoCache
                | Self::NoSources { .. }
        )
    }

    /// Attributes the failure of a program to the host, with advice for the user.
    pub(crate) fn on_host(self, advice: impl Into<String>) -> Self {
        match self {
            Self::Failed { .. } => Self::Host {
                failure: Box::new(self),
                advice: advice.into(),
            },
            other => other,
        }
    }

    /// Adds operation and file to an I/O error, for `map_err`.
    pub fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { what, path, source }
    }
}

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
