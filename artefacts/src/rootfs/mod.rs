// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's read-only disks: the Debian userland, and the agent with its tools. They are
//! two images so that a change to the agent does not rebuild Debian, which takes a minute.

mod agent;
mod debian;
mod erofs;
mod lock;

pub use agent::agent;
pub(crate) use agent::keep_agent;
pub use debian::{debian, debian_cached, lock_debian, package_list};
pub use lock::{DebianPackage, DebianPackages};
