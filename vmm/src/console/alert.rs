// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a guest kernel reported about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Which of its checkers spoke.
    pub kind: AlertKind,
    /// The line that says it, without its time stamp.
    pub headline: String,
    /// The report as printed, with a few lines before it.
    pub lines: Vec<String>,
}

/// The kinds of report.
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
    /// A `WARN()`, that of the object debugger among them.
    Warning,
    /// The lock validator, or RCU's use of it.
    Lockdep,
    /// The address sanitizer.
    Kasan,
    /// The undefined-behaviour sanitizer.
    Ubsan,
    /// The leak detector.
    Kmemleak,
    /// A task that did not run for too long.
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
            Self::Ubsan => "UBSAN report",
            Self::Kmemleak => "kmemleak report",
            Self::HungTask => "hung task",
            Self::RcuStall => "RCU stall",
            Self::Lockup => "CPU lockup",
        })
    }
}
