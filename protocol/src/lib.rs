// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The typed messages between host and guest, and the reader of checkpoint images.
//!
//! Nothing in this crate opens a file or a socket: framing works on any `Read` or `Write`, and the
//! rest is plain data.

pub mod bytes;
pub mod census;
pub mod dice;
pub mod facts;
pub mod frame;
pub mod identity;
pub mod image;
pub mod line;
pub mod matrix;
pub mod message;
mod shown;
pub mod stdio;
pub mod trigger;

pub use facts::{Fact, Freeze, Observation, TaskFacts};
pub use identity::{Begin, Identity, Mac};
pub use message::{
    Ended, Envelope, FileEntry, FileKind, Reply, Request, Stopped, Terminal, ToolRun,
};
pub use shown::{shown, shown_json, shown_lines};
pub use trigger::{EventKind, Trigger};

/// Version of the protocol; host and agent must have the same one.
pub const VERSION: u32 = 9;

/// Name of the virtio-serial port that carries the messages.
pub const PORT_NAME: &str = "org.crucible.channel";

/// The text with which a mark on the console begins; see [`Request::Mark`].
pub const CONSOLE_MARK: &str = "crucible: mark ";

/// The working directory of the workload in the guest.
pub const WORK_DIR: &str = "/work";

/// The directory of the runner's own files in [`WORK_DIR`]: `stdout`, `stderr`, `status`.
pub const RUN_DIR: &str = "/work/.crucible";

/// The mount point of the agent's own disk once Debian is the root.
pub const TOOLS_DIR: &str = "/opt/crucible";

/// A directory of the scratch disk that runs do not empty: images, logs, built workloads.
pub const KEEP_DIR: &str = "/scratch/keep";

/// System call number of `checkpoint(2)`.
pub const SYS_CHECKPOINT: i64 = 500;

/// System call number of `restart(2)`.
pub const SYS_RESTART: i64 = 501;
