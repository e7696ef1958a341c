// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Artefacts: the parts of a guest, made from pinned sources and cached under a hash of their
//! inputs: its [`kernel`], its root file systems ([`rootfs`]) and its [`scratch`] disk; and the
//! [`host`] packages that are needed to make and to run them.
//!
//! This crate prints nothing: long steps report to a [`Progress`].

mod cache;
mod checkout;
pub mod directory;
mod error;
mod hash;
pub mod host;
pub mod kernel;
mod manifest;
mod progress;
pub mod rootfs;
mod run;
pub mod scratch;
mod sources;
pub mod transfer;

pub use cache::{Cache, Lock};
pub use checkout::Checkout;
pub use error::{Error, Result};
pub use hash::{Fingerprint, content_hash};
pub use progress::{Beside, Progress, Silent, Step};
pub use run::on_interrupt;
pub use sources::Sources;
