// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares two images record by record and field by field.
//!
//! Both are read once, side by side; equal records are not decoded. Records are matched by their
//! meaning: sections by task, records in a section by type and by their key (the
//! address of a mapping, the number of a timer), numbers of objects by the objects that they name.
//! So a lost record is one difference, and not one of each record after it. Every byte of every
//! payload is compared; only [`Rule`]s ignore a difference.

mod align;
mod compare;
mod name;
mod pairs;
mod rules;
mod show;
pub(super) mod table;
mod value;

use std::collections::BTreeMap;
use std::io::Read;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use name::{FieldValue, fields};
pub use rules::Rule;
pub use value::Value;

use super::record::ImageError;

/// Number of differences that a [`Comparison`] lists.
pub const MOST: usize = 100;

/// A task of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskName {
    /// Process ID.
    pub pid: i32,
    /// Thread ID.
    pub tid: i32,
    /// Command name.
    pub comm: String,
}

/// A difference between two images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The task in whose section the record is; an object that several tasks share is in the
    /// section of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskName>,
    /// The type of the record.
    pub record: String,
    /// Number of the object in the first image, or in the second if the first does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<u32>,
    /// The descriptors of that task which refer to the object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<u32>,
    /// First and last address, plus one, of the mapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping: Option<(u64, u64)>,
    /// Description of the object or the mapping: a path, or a kind of file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub what: String,
    /// The field; empty if one image lacks the record.
    pub field: String,
    /// For bytes, the offset of the first one that differs: in memory its address, in a file its
    /// offset there, else its offset in the payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The value in the first image.
    pub first: Value,
    /// The value in the second image.
    pub second: Value,
}

/// The result of a comparison of two images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// The differences, in the order of the images; at most [`MOST`].
    pub differences: Vec<Difference>,
    /// Number of further differences.
    pub more: u64,
    /// Number of differences that each rule has ignored.
    pub rules: BTreeMap<Rule, u64>,
    /// Number of records of both images.
    pub records: (u64, u64),
    /// Size in bytes of both images.
    pub bytes: (u64, u64),
}

impl Comparison {
    /// Returns true when no difference is left.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty() && self.more == 0
    }
}

/// One of two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

/// An image that cannot be compared.
#[derive(Debug, Error)]
#[error("{error}")]
pub struct Unreadable {
    /// The image.
    pub which: Which,
    /// The reason why it cannot be read.
    #[source]
    pub error: ImageError,
}

/// Compares two images. With `exact`, no rule is used.
///
/// # Errors
/// Fails if one cannot be read, is damaged or is malformed.
pub fn compare(first: impl Read, second: impl Read, exact: bool) -> Result<Comparison, Unreadable> {
    align::images(first, second, exact)
}

#[cfg(test)]
mod tests;
