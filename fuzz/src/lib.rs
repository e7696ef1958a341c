// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The functions behind the fuzz targets, which the repository's tests also run with the seeds.

#[path = "../../tests/fuzz/targets.rs"]
pub mod targets;
