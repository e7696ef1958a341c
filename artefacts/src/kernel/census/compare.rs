// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compares the census lists with a built kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crucible_protocol::census::{Calls, Entry, Function, write_calls};

use super::{Census, Flavour};

/// A difference between a list and a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A function that no list contains, with its calls.
    Unlisted(Function, Calls),
    /// A function whose calls differ from its entry: the calls found, then those of the entry.
    Changed(Function, Calls, Calls),
    /// An entry whose function does not sleep in this kernel.
    Stale(Function),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlisted(function, calls) => {
                write!(f, "{function}: sleeps by {}, ", write_calls(calls, calls))?;
                write!(f, "but is not in any list")
            }
            Self::Changed(function, listed, found) => write!(
                f,
                "{function}: sleeps by {}, but its entry has {}",
                write_calls(found, found),
                write_calls(listed, listed),
            ),
            Self::Stale(function) => {
                write!(f, "{function}: has an entry, but does not sleep")
            }
        }
    }
}

/// Returns the changes that make the lists match a kernel.
pub fn compare(entries: &[Entry], census: &Census, flavour: Flavour) -> Vec<Difference> {
    let calls_of = |entry: &Entry| match flavour {
        Flavour::Debug => entry.debug.clone(),
        _ => entry.base.clone(),
    };
    let listed: BTreeMap<_, _> = entries.iter().map(|e| (&e.function, calls_of(e))).collect();
    let functions: BTreeSet<_> = listed.keys().copied().chain(census.keys()).collect();
    let none = Calls::new();
    functions
        .into_iter()
        .filter_map(|function| {
            let found = census.get(function).unwrap_or(&none);
            match listed.get(function) {
                None => Some(Difference::Unlisted(function.clone(), found.clone())),
                Some(calls) if calls == found => None,
                Some(_) if found.is_empty() => Some(Difference::Stale(function.clone())),
                Some(calls) => Some(Difference::Changed(
                    function.clone(),
                    calls.clone(),
                    found.clone(),
                )),
            }
        })
        .collect()
}

/// Returns the calls of both flavours, in the notation of an entry.
pub fn merged(base: &Census, debug: &Census) -> BTreeMap<Function, String> {
    let functions: BTreeSet<_> = base.keys().chain(debug.keys()).collect();
    let none = Calls::new();
    functions
        .into_iter()
        .map(|function| {
            let of = |census: &Census| census.get(function).unwrap_or(&none).clone();
            (function.clone(), write_calls(&of(base), &of(debug)))
        })
        .collect()
}
