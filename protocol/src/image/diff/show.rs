// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Differences in words.

use std::fmt;

use super::{Difference, Value};

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = &self.task {
            write!(f, "task {} ({}), ", task.tid, task.comm)?;
            if task.tid != task.pid {
                write!(f, "thread of {}, ", task.pid)?;
            }
        }
        match &self.descriptors[..] {
            [] => {}
            [only] => write!(f, "descriptor {only}, ")?,
            [first, rest @ ..] => write!(f, "descriptor {first} and {} more, ", rest.len())?,
        }
        if let Some((start, end)) = self.mapping {
            write!(f, "mapping {start:#x}-{end:#x}")?;
            match self.what.as_str() {
                "" => write!(f, ", ")?,
                what => write!(f, " of {what}, ")?,
            }
        } else if !self.what.is_empty() {
            write!(f, "{}, ", self.what)?;
        }
        write!(f, "{}", self.record)?;
        if !self.field.is_empty() {
            write!(f, " {}", self.field)?;
        }
        match self.offset {
            Some(address) if self.mapping.is_some() => write!(f, " at {address:#x}")?,
            Some(offset) => write!(f, " at byte {offset}")?,
            None => {}
        }
        match (&self.first, &self.second) {
            (Value::Present, Value::Absent) if self.field.ends_with(".order") => {
                write!(f, ": in another place")
            }
            (Value::Present, Value::Absent) => write!(f, ": only in the first image"),
            (Value::Absent, Value::Present) => write!(f, ": only in the second image"),
            (first, second) => write!(f, ": {first}, then {second}"),
        }
    }
}
