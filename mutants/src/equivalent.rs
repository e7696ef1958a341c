// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The checked list of equivalent mutants, which behave like the code.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use thiserror::Error;

/// A mutant that behaves like the code.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Equivalent {
    /// Name of the mutant.
    pub id: String,
    /// Its place and its text, for the reader.
    pub what: String,
    /// The proof that no program can distinguish it from the code.
    pub why: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    equivalent: Vec<Equivalent>,
}

/// An error of the list.
#[derive(Debug, Error)]
pub enum EquivalentsError {
    /// The list is malformed.
    #[error("{0}")]
    Malformed(#[from] toml::de::Error),
    /// An entry has no reason.
    #[error("{0} has no reason")]
    NoReason(String),
    /// A mutant is listed twice.
    #[error("{0} is listed twice")]
    Twice(String),
    /// The sources no longer have such a mutant.
    #[error("the sources have no mutant {0}")]
    Gone(String),
}

/// Reads the list. `known` are the names of all mutants of the sources.
///
/// # Errors
/// An entry has no reason, or no mutant.
pub fn equivalents(
    text: &str,
    known: &BTreeSet<&str>,
) -> Result<BTreeMap<String, Equivalent>, EquivalentsError> {
    let list: List = toml::from_str(text)?;
    let mut equivalents = BTreeMap::new();
    for one in list.equivalent {
        if one.why.trim().is_empty() {
            return Err(EquivalentsError::NoReason(one.id));
        }
        if !known.contains(one.id.as_str()) {
            return Err(EquivalentsError::Gone(one.id));
        }
        if let Some(first) = equivalents.insert(one.id.clone(), one) {
            return Err(EquivalentsError::Twice(first.id));
        }
    }
    Ok(equivalents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entry_has_a_mutant_and_a_reason() {
        let known = BTreeSet::from(["a", "b"]);
        let entry = |id: &str, why: &str| {
            format!("[[equivalent]]\nid = \"{id}\"\nwhat = \"x.c:1\"\nwhy = \"{why}\"\n")
        };
        let read = |text: &str| equivalents(text, &known).map_err(|error| error.to_string());
        assert_eq!(read("").unwrap().len(), 0);
        let both = entry("a", "because") + &entry("b", "because");
        assert_eq!(read(&both).unwrap().len(), 2);
        assert_eq!(read(&entry("a", " ")).unwrap_err(), "a has no reason");
        assert!(
            read(&entry("c", "because"))
                .unwrap_err()
                .contains("no mutant c")
        );
        let twice = entry("a", "because") + &entry("a", "because");
        assert!(read(&twice).unwrap_err().contains("listed twice"));
        assert!(read("[[equivalent]]\nid = \"a\"\n").is_err());
    }
}
