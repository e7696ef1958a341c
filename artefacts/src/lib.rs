// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a guest is made of, from pinned sources to cached files that are named
//! by a hash of all that went into them: its [`kernel`], its root file system
//! ([`rootfs`]) and its [`scratch`] disk; and the [`host`] packages that are
//! needed to make and to run them.
//!
//! Nothing here prints: long steps are told to a [`Progress`].

mod cache;
mod error;
mod hash;
pub mod host;
pub mod kernel;
mod progress;
pub mod rootfs;
mod run;
pub mod scratch;
mod sources;

pub use cache::Cache;
pub use error::{Error, Result};
pub use hash::Fingerprint;
pub use progress::{Progress, Silent, Step};
pub use sources::Sources;
