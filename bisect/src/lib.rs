// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The search for the first bad kernel, over anything that can be built and run.
//!
//! [`bisect`] requests builds and runs from a [`Subject`], chooses the next one by the model of
//! [`crucible_changepoint`], and keeps each observation in a [`Journal`]. The kernels of a
//! repository are one subject; a simulation is another.

mod board;
mod cross;
mod graph;
mod journal;
mod report;
mod search;
mod signature;
mod subject;

pub use self::{
    board::Tally,
    cross::{Cross, Crossed, Half},
    graph::{Graph, Node},
    journal::{Journal, JournalError},
    report::{Answer, Check, NodeReport, NodeState, OtherFailure, Report, schema},
    search::{Options, Progress, What, bisect},
    signature::Signature,
    subject::{Built, Observation, Offer, REVERTED, Seen, Setting, Stop, Subject, Visit},
};
