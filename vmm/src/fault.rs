// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// A failure of the host's disk, which a guest cannot distinguish from an error of its own. It
/// does not describe the guest's end: the guest sees an I/O error, or only its console's log is
/// incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFault {
    /// The kind of failure.
    pub kind: FaultKind,
    /// The failed operation with its file and error.
    pub detail: String,
}

/// The kinds of failures of the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// There is no space left, or the user's quota is exhausted.
    DiskFull,
    /// Any other error.
    Io,
}

impl HostFault {
    /// Returns the fault for `error`, which occurred while trying to `what`, in the infinitive.
    pub(crate) fn new(what: impl fmt::Display, error: &io::Error) -> Self {
        Self {
            kind: FaultKind::of(error),
            detail: format!("cannot {what}: {error}"),
        }
    }
}

impl FaultKind {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Io,
        }
    }
}

impl fmt::Display for HostFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FaultKind::DiskFull => "the host's disk is full",
            FaultKind::Io => "the host's disk failed",
        };
        write!(f, "{kind}: {}", self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_apart_from_a_broken_one() {
        for (errno, kind) in [
            (libc::ENOSPC, FaultKind::DiskFull),
            (libc::EDQUOT, FaultKind::DiskFull),
            (libc::EIO, FaultKind::Io),
            (libc::EFBIG, FaultKind::Io),
        ] {
            let fault = HostFault::new("write to x", &io::Error::from_raw_os_error(errno));
            assert_eq!(fault.kind, kind);
            assert!(fault.detail.starts_with("cannot write to x: "), "{fault}");
        }
    }
}
