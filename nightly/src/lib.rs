// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A night: many runs of crucible by one plan, within a budget of time, with a history.
//!
//! [`plan()`] lists the jobs of a night and the shard of each; it depends on nothing but its
//! arguments. [`Night::run`] runs the jobs of a shard, each as a separate process of crucible, and
//! stores every finished unit in the shard's file of the history immediately.

mod again;
mod basis;
mod bisection;
mod child;
mod follow;
mod job;
mod plan;
mod report;
mod run;
mod shard;
mod steps;

pub use again::unfinished;
pub use basis::Basis;
pub use bisection::bisect;
pub use job::{Job, Kind, Offer, Variant, jobs};
pub use plan::{Plan, plan};
pub use report::NightReport;
pub use run::{BUDGET_USED_UP, Error, Listener, Night, Ran, Settings, Step};
pub use shard::{ShardError, ShardSpec};
