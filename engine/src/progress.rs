// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the engine tells while it works. Terminals, JSON and reports only listen.

use serde::Serialize;

use crate::verdict::Verdict;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A machine is being started.
    Booting,
    /// Its agent answered.
    Booted {
        /// Milliseconds from the machine's start.
        ready_ms: u64,
        /// The guest kernel's release.
        kernel: String,
    },
    /// A scenario begins.
    Scenario {
        /// Its name.
        name: String,
        /// Its summary.
        summary: String,
    },
    /// A command that builds its workload begins.
    Building {
        /// The command.
        command: String,
    },
    /// A case begins.
    Case {
        /// Its name.
        name: String,
        /// Where it is stopped.
        at: String,
    },
    /// A step of a case begins.
    Step {
        /// Which.
        name: String,
    },
    /// A step is done.
    StepDone {
        /// Which.
        name: String,
        /// How long it took.
        ms: u64,
    },
    /// A case is decided.
    CaseDone {
        /// Its name.
        name: String,
        /// What it came to.
        verdict: Verdict,
        /// Why.
        why: String,
    },
    /// A scenario is decided.
    ScenarioDone {
        /// Its name.
        name: String,
        /// What it came to.
        verdict: Verdict,
        /// Why.
        why: String,
    },
}

/// Who listens.
pub type Sink<'a> = &'a dyn Fn(&Event);
