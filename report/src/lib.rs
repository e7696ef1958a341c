// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports of nights: a page for people, and the formats that other programs read.
//!
//! [`Page`] makes one HTML file that needs neither a network nor a script. [`kcidb`], [`junit`] and
//! [`ktap`] write the results of a night, or of a run, in formats that other programs read.

mod evidence;
pub mod junit;
pub mod kcidb;
pub mod ktap;
mod links;
mod maps;
mod page;
pub mod results;
mod series;
mod trends;

pub use page::Page;
pub use results::NightResults;
