//! The commands, a file each.

pub mod clean;
pub mod doctor;
pub mod kernel;
pub mod rootfs;
pub mod shell;
