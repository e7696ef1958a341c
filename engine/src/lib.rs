// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenarios: parsed, planned, run, observed, compared.

pub mod event;
pub mod guest;
