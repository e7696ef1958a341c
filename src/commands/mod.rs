//! The commands, a file each.

pub mod clean;
pub mod doctor;
pub mod kernel;
pub mod list;
pub mod rootfs;
pub mod scenario;
pub mod shell;
