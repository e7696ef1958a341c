// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The history of a laboratory: the plan, the runs and the results of each night, in SQLite.
//!
//! Each shard of a night writes a file of its own, so that neither a network file system nor a
//! killed process can harm the results of others. [`Store::merge`] takes such files over in any
//! order, any number of times, with the same result. The judgement of a test (regressed,
//! flaky, never run) is computed from it and never stored.

mod judge;
mod migrations;
mod row;
mod slower;
mod store;

pub use judge::{Change, Judgement, Status, judge};
pub use row::{Bisection, Metric, Night, Planned, ResultRow, Shard, Skipped, TestId};
pub use slower::{INSTRUCTIONS, Slower, slower};
pub use store::{Error, Merged, Store};
