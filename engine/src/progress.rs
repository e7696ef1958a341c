// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress events of the engine.

use serde::Serialize;

use crate::verdict::Verdict;

/// A progress event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A machine starts.
    Booting,
    /// The guest's agent has answered.
    Booted {
        /// Milliseconds since the start of the machine.
        ready_ms: u64,
        /// Release of the guest's kernel (uname -r).
        kernel: String,
    },
    /// A scenario starts.
    Scenario {
        /// Name.
        name: String,
        /// Summary in `scenario.toml`.
        summary: String,
    },
    /// A command that builds the workload starts.
    Building {
        /// The command.
        command: String,
    },
    /// A case starts.
    Case {
        /// Name.
        name: String,
        /// Event at which it is stopped.
        at: String,
    },
    /// A step of a case starts.
    Step {
        /// Name of the step.
        name: String,
    },
    /// A step is complete.
    StepDone {
        /// Name of the step.
        name: String,
        /// Duration in milliseconds.
        ms: u64,
    },
    /// A case has a verdict.
    CaseDone {
        /// Name.
        name: String,
        /// The verdict.
        verdict: Verdict,
        /// Reason in one line.
        why: String,
    },
    /// A scenario has a verdict.
    ScenarioDone {
        /// Name.
        name: String,
        /// The verdict.
        verdict: Verdict,
        /// Reason in one line.
        why: String,
    },
}

/// A receiver of progress events.
pub type Sink<'a> = &'a dyn Fn(&Event);
