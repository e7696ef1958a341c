// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The measured values.

use crucible_vmm::Phase;
use serde::{Deserialize, Serialize};

use super::contender::Contender;

/// Starts of several contenders in turn, on one host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Group {
    /// The name of the group of contenders.
    pub name: String,
    /// One sample per start, in order.
    pub samples: Vec<Sample>,
}

/// The measurement of one start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// The contender that was started.
    pub contender: Contender,
    /// Time from just before the creation of the machine's process to the agent's first answer, in
    /// microseconds.
    pub micros: u64,
    /// Uptime of the guest's kernel at that answer, in milliseconds; meaningless for a guest that
    /// started from a snapshot.
    pub uptime_ms: u64,
    /// Memory of the machine's process without the guest's memory, in KiB.
    pub footprint_kib: u64,
    /// Phases of the process before the guest ran; empty if the VMM does not report them.
    pub phases: Vec<Phase>,
}

/// Returns the median; for an even number of values the mean of the middle two, and 0 for none.
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
