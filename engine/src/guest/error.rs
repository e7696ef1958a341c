// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Why a guest gives no answer.

use std::{io, time::Duration};

use crucible_protocol::frame::FrameError;
use crucible_vmm::{Alert, Exit, TaskStates};
use thiserror::Error;

/// Why the guest gave no answer.
#[derive(Debug, Error)]
pub enum GuestError {
    /// Its kernel reported a fault.
    #[error("the guest's kernel reported: {}", headlines(.0))]
    Alert(Vec<Alert>),
    /// The machine ended.
    #[error("the machine ended: {0:?}")]
    Ended(Option<Exit>),
    /// There was no answer in time.
    #[error("the guest gave no answer in {} s to {what}", .limit.as_secs())]
    Silent {
        /// The question.
        what: &'static str,
        /// How long it had.
        limit: Duration,
        /// What its tasks were doing.
        states: Box<TaskStates>,
    },
    /// The agent answered that it could not.
    #[error("{0}")]
    Failed(String),
    /// The agent's answer makes no sense.
    #[error("the agent's answer to {0} is of the wrong kind: rebuild its disk")]
    Confused(&'static str),
    /// The channel cannot carry the question.
    #[error("the channel to the guest is broken")]
    Channel(#[from] FrameError),
    /// The host's side of the machine failed.
    #[error(transparent)]
    Machine(#[from] crucible_vmm::Error),
    /// The host has no random numbers.
    #[error("cannot get random numbers")]
    Random(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

fn headlines(alerts: &[Alert]) -> String {
    let lines: Vec<_> = alerts.iter().map(|a| a.headline.as_str()).collect();
    lines.join("; ")
}
