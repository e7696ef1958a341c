// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenarios: parsed, planned, run, observed, compared.
//!
//! [`Scenario`] is a parsed `scenario.toml`. [`trial`] runs it in a [`Session`], which gets
//! its machines from a [`Lab`], and returns [`record`]s. [`progress`] events report the
//! steps.

pub mod abort;
pub mod backend;
pub mod compare;
pub mod coverage;
mod criu;
pub mod dir_lock;
pub mod event;
pub mod expected;
pub mod guest;
mod identity;
pub mod normalise;
pub mod progress;
pub mod record;
pub mod results;
pub mod run;
pub mod scenario;
pub mod session;
pub mod strace;
pub mod sweep;
pub mod trial;
pub mod verdict;

pub use backend::Backend;
pub use event::EventSpec;
pub use run::RestartIn;
pub use scenario::Scenario;
pub use session::{Lab, LabError, Session};
pub use verdict::Verdict;
