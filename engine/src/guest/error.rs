// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Errors of a guest.

use std::{io, time::Duration};

use crucible_protocol::frame::FrameError;
use crucible_vmm::{Alert, Exit, TaskStates};
use thiserror::Error;

/// The reason for which a request to a guest failed.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The kernel reported a fault.
    #[error("the guest's kernel reported: {}", headlines(.0))]
    Alert(Vec<Alert>),
    /// The machine ended.
    #[error("the machine ended: {0:?}")]
    Ended(Option<Exit>),
    /// The agent did not answer in time.
    #[error("the guest did not answer {what} within {} s", .limit.as_secs())]
    Silent {
        /// The request.
        what: &'static str,
        /// The limit.
        limit: Duration,
        /// States of the guest's tasks.
        states: Box<TaskStates>,
    },
    /// The agent reported an error.
    #[error("{0}")]
    Failed(String),
    /// The agent's answer has the wrong type.
    #[error("the agent's answer to {0} has the wrong type: run `crucible rootfs build`")]
    Confused(&'static str),
    /// The request cannot be sent.
    #[error("the channel to the guest is broken")]
    Channel(#[from] FrameError),
    /// The machine failed on the host.
    #[error(transparent)]
    Machine(#[from] crucible_vmm::Error),
    /// The host has no random numbers for a guest.
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
