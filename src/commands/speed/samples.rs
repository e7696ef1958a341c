// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What was measured.

use crucible_vmm::Phase;
use serde::{Deserialize, Serialize};

use super::contender::Contender;

/// Starts on one host, in turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// Which contenders.
    pub name: String,
    /// One for each start, in their order.
    pub samples: Vec<Sample>,
}

/// One start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// What was started.
    pub contender: Contender,
    /// From before the machine's process was made to the agent's first answer, in
    /// microseconds.
    pub micros: u64,
    /// The guest kernel's age at that answer, in milliseconds; of no meaning for one
    /// that was saved.
    pub uptime_ms: u64,
    /// The memory of the machine's process beyond the guest's, in KiB.
    pub footprint_kib: u64,
    /// What the process did before the guest ran, where it tells.
    pub phases: Vec<Phase>,
}

/// The middle one; of an even number, the mean of the two. 0 of none.
pub fn median(values: impl IntoIterator<Item = u64>) -> u64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle)) {
        (_, None) => 0,
        (1, Some(&value)) => value,
        (_, Some(&value)) => values[middle - 1].midpoint(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), 0);
        assert_eq!(median([7]), 7);
        assert_eq!(median([9, 1, 5]), 5);
        assert_eq!(median([9, 1, 5, 7]), 6);
    }
}
