// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Errors of a guest.

use std::{io, time::Duration};

use crucible_protocol::frame::FrameError;
use crucible_vmm::{Alert, Exit, HostFault, MemoryDump, TaskStates};
use thiserror::Error;

use crate::text::from_tree;

/// The reason why a request to a guest failed.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The kernel reported a fault.
    #[error("the guest's kernel reported: {}", headlines(.alerts))]
    Alert {
        /// The reports.
        alerts: Vec<Alert>,
        /// True when the guest has had a trigger, so that checkpoint/restart may be the cause.
        used: bool,
        /// The guest's memory, if it has panicked.
        memory: Option<MemoryDump>,
    },
    /// The machine ended.
    #[error("{}", ended(exit.as_ref()))]
    Ended {
        /// The end of the machine; `None` if only its channel has ended.
        exit: Option<Exit>,
        /// True when the guest has had a trigger.
        used: bool,
        /// The guest's memory, if it has crashed.
        memory: Option<MemoryDump>,
    },
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
    /// The host could not read or write a disk of the guest.
    #[error("the host failed the guest's disk: {}", .0.detail)]
    Host(HostFault),
    /// The command was interrupted.
    #[error("interrupted")]
    Interrupted,
    /// The agent reported an error.
    #[error("{0}")]
    Failed(String),
    /// The agent's answer has the wrong type.
    #[error("the agent's answer to {0} has the wrong type: run `crucible rootfs build`")]
    Confused(&'static str),
    /// The agent's answer does not fit a message.
    #[error("the agent's answer to {what} has {bytes} bytes, more than a message may have")]
    TooLarge {
        /// The request.
        what: &'static str,
        /// Size of the answer.
        bytes: u64,
    },
    /// The console does not show the guest's output.
    #[error("the guest's console did not show a mark within {} s", .0.as_secs())]
    NoMark(Duration),
    /// The channel carries something that is not a message.
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

impl GuestError {
    /// Returns true when the guest can serve further requests.
    pub fn guest_usable(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::TooLarge { .. })
    }
}

fn headlines(alerts: &[Alert]) -> String {
    let lines: Vec<_> = alerts.iter().map(|a| from_tree(&a.headline)).collect();
    lines.join("; ")
}

fn ended(exit: Option<&Exit>) -> String {
    match exit {
        Some(Exit::Shutdown) => "the guest shut down without a request from crucible".into(),
        Some(Exit::Reset) => "the guest reset".into(),
        Some(Exit::TripleFault { .. }) => "the guest triple faulted".into(),
        Some(Exit::Kvm { detail, .. }) => format!("KVM cannot run the guest: {detail}"),
        Some(Exit::Panic) => "the guest's kernel panicked".into(),
        Some(Exit::Killed) => "the machine was killed".into(),
        Some(Exit::HostError { detail, .. }) => format!("the machine's process failed: {detail}"),
        None => "the channel to the guest ended, but the machine continues".into(),
    }
}
