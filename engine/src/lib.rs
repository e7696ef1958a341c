// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenarios: parsed, planned, run, observed, compared.
//!
//! [`Scenario`] is a parsed `scenario.toml`. [`trial`] runs it in a [`Session`], which gets
//! its machines from a [`Lab`]. An [`experiment`] divides a command's work into units, whose
//! [`outcome`]s follow from one table, [`blame`]. The [`stream`] reports each step.

pub mod abort;
pub mod adversary;
pub mod backend;
pub mod blame;
mod books;
pub mod compare;
pub mod corpus;
pub mod coverage;
mod criu;
pub mod diff;
pub mod dir_lock;
pub mod event;
pub mod expected;
pub mod experiment;
pub mod eye;
pub mod guest;
mod identity;
pub mod interrupt;
mod leaks;
pub mod normalise;
pub mod outcome;
#[cfg(test)]
mod played;
pub mod random;
pub mod record;
pub mod results;
pub mod run;
pub mod scenario;
pub mod session;
pub mod strace;
pub mod stream;
pub mod sweep;
pub mod text;
pub mod trial;
pub mod verdict;

pub use backend::Backend;
pub use blame::{Blame, Condition};
pub use event::EventSpec;
pub use eye::Eye;
pub use outcome::Outcome;
pub use run::RestartIn;
pub use scenario::Scenario;
pub use session::{Lab, LabError, Session};
pub use verdict::Verdict;
