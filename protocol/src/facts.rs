// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of a container's tasks, as the guest observes it.

pub mod table;

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};

/// The tasks of a frozen container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// All tasks, sorted by process ID and thread ID.
    pub tasks: Vec<TaskFacts>,
}

/// A task as `/proc` shows it. All IDs are those of the container's pid namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFacts {
    /// Process ID.
    pub pid: i32,
    /// Thread ID; equals `pid` for the leader.
    pub tid: i32,
    /// Process ID of the parent.
    pub ppid: i32,
    /// Process group ID.
    pub pgid: i32,
    /// Session ID.
    pub sid: i32,
    /// Command name.
    pub comm: String,
    /// State letter of `/proc/PID/stat`.
    pub state: char,
    /// The line of `/proc/PID/ckpt_site`; empty if the kernel lacks that file.
    pub site: String,
    /// All other facts by name: `status.SigBlk`, `fd/3.link`, `maps`, …
    pub facts: BTreeMap<String, Fact>,
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// A text.
    Text(String),
    /// Lines whose order has no meaning, sorted, with repetitions.
    Lines(Vec<String>),
    /// Bytes that are not text.
    Bytes {
        /// The bytes in hexadecimal.
        hex: String,
    },
}

impl Fact {
    /// Returns content as a fact: bytes if it has a NUL or is not UTF-8, else a text.
    #[must_use]
    pub fn of(content: Vec<u8>) -> Self {
        match String::from_utf8(content) {
            Ok(text) if !text.contains('\0') => Self::Text(text),
            Ok(text) => Self::bytes(text.as_bytes()),
            Err(error) => Self::bytes(error.as_bytes()),
        }
    }

    /// Returns bytes as a fact, even if they are a text.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
        Self::Bytes { hex: hex.collect() }
    }

    /// Returns the fact as lines: bytes in groups of eight, with their text.
    #[must_use]
    pub fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Lines(lines) => lines.join("\n").into(),
            Self::Bytes { hex } => {
                let words = hex.as_bytes().chunks(64);
                let lines = words.map(|word| {
                    let byte = |pair: &[u8]| {
                        let digits = std::str::from_utf8(pair).unwrap_or_default();
                        u8::from_str_radix(digits, 16).unwrap_or_default()
                    };
                    let text: String = word
                        .chunks(2)
                        .map(|pair| match byte(pair) {
                            byte @ 0x20..0x7f => char::from(byte),
                            _ => '.',
                        })
                        .collect();
                    format!("{} {text}", String::from_utf8_lossy(word))
                });
                lines.collect::<Vec<_>>().join("\n").into()
            }
        }
    }

    /// Adds a line. A text becomes lines.
    pub fn add(&mut self, line: String) {
        let mut lines = match std::mem::replace(self, Self::Lines(Vec::new())) {
            Self::Lines(lines) => lines,
            other => vec![other.shown().into_owned()],
        };
        lines.push(line);
        lines.sort_unstable();
        *self = Self::Lines(lines);
    }
}

impl PartialEq<str> for Fact {
    fn eq(&self, other: &str) -> bool {
        matches!(self, Self::Text(text) if text == other)
    }
}

impl From<String> for Fact {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Fact {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_as_bytes() {
        let arguments = Fact::of(b"a\0b c\0".to_vec());
        assert_ne!(arguments, Fact::of(b"a b\0c\0".to_vec()));
        assert_eq!(arguments.shown(), "610062206300 a.b c.");
        assert_eq!(Fact::of(vec![0xff]), Fact::bytes(&[0xff]));
        assert_eq!(Fact::of(b"text\n".to_vec()), Fact::from("text\n"));
        for fact in [arguments, "x".into(), Fact::Lines(vec!["y".into()])] {
            let json = serde_json::to_string(&fact).unwrap();
            assert_eq!(serde_json::from_str::<Fact>(&json).unwrap(), fact);
        }
    }

    #[test]
    fn each_of_several_lines_is_kept() {
        let mut fact = Fact::from("wd:2");
        fact.add("wd:1".into());
        fact.add("wd:2".into());
        let lines = ["wd:1", "wd:2", "wd:2"].map(str::to_owned);
        assert_eq!(fact, Fact::Lines(lines.to_vec()));
    }
}

/// The event that triggered a freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// The thread that caused the event, by its ID in the container; 0 for a timer.
    pub tid: i32,
    /// The number of times that the event had occurred when the container was quiesced.
    pub count: u64,
}
