// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The commands, a file each.

pub mod bisect;
pub mod cache;
pub mod clean;
pub mod clones;
pub mod completions;
pub mod diff;
pub mod doctor;
pub mod exec;
pub mod fuzz;
pub mod inspect;
pub mod kernel;
pub mod list;
pub mod matrix;
pub mod mutate;
pub mod nested;
pub mod nightly;
pub mod provenance;
pub mod replay;
pub mod report;
pub mod rerun;
pub mod results;
pub mod rootfs;
pub mod scenario;
pub mod shell;
pub mod speed;
pub mod sweep;
pub mod torture;
pub mod trace;
pub mod watch;
