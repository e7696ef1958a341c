// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fmt;

use serde::{Deserialize, Serialize};

/// A problem that a guest kernel reported about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The checker that reported it.
    pub kind: AlertKind,
    /// The first line of the report, without its time stamp.
    pub headline: String,
    /// The report as printed, with a few lines before it.
    pub lines: Vec<String>,
}

/// The kinds of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AlertKind {
    /// `Kernel panic`.
    Panic,
    /// A fault or a trap in kernel code, or a `BUG()`.
    Oops,
    /// A `BUG:` line of the kernel's own checks (atomic sleep, bad page, …).
    Bug,
    /// A `WARN()`, including those of the object debugger.
    Warning,
    /// A report of the lock validator, including its checks of RCU usage.
    Lockdep,
    /// A report of the address sanitizer.
    Kasan,
    /// A report of the concurrency sanitizer: a data race.
    Kcsan,
    /// A report of the undefined-behaviour sanitizer.
    Ubsan,
    /// A report of the leak detector.
    Kmemleak,
    /// A task that was blocked for too long.
    HungTask,
    /// An RCU stall.
    RcuStall,
    /// A CPU that does not schedule or does not serve interrupts.
    Lockup,
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Panic => "kernel panic",
            Self::Oops => "kernel oops",
            Self::Bug => "kernel bug",
            Self::Warning => "kernel warning",
            Self::Lockdep => "lockdep report",
            Self::Kasan => "KASAN report",
            Self::Kcsan => "KCSAN report",
            Self::Ubsan => "UBSAN report",
            Self::Kmemleak => "kmemleak report",
            Self::HungTask => "hung task",
            Self::RcuStall => "RCU stall",
            Self::Lockup => "CPU lockup",
        })
    }
}
