// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The listeners of a run's events: the terminal, JUnit, KTAP.

pub mod junit;
pub mod ktap;
pub mod terminal;
