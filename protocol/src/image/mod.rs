// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads checkpoint images: record by record with every checksum verified, and as
//! a [`Summary`] of what is in them, task by task.
//!
//! The format is `guest-kernel/src/include/uapi/linux/checkpoint.h`.

pub mod damage;
mod layout;
mod record;
mod summary;

pub use record::{ImageError, Kind, Reader, Record};
pub use summary::{Descriptor, Mapping, Memory, Registers, Signal, Summary, Task};
