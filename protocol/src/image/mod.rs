// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads checkpoint images: record by record while verifying every checksum, and as a [`Summary`]
//! of the tasks in them.
//!
//! The format is `guest-kernel/src/include/uapi/linux/checkpoint.h`.

pub mod damage;
pub mod diff;
mod layout;
mod record;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod samples;
mod summary;

pub use record::{ImageError, Kind, Reader, Record};
pub use summary::{Descriptor, Mapping, Memory, OpenFile, Registers, Signal, Summary, Task};
