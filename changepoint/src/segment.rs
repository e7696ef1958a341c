// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nights with any number of changes, and the nights that have the same rate as the last one.

use crate::{Evidence, JEFFREYS};

/// Returns, for each night, the probability that the last segment begins with it: the nights from
/// there on have one rate of failures, and the night before has a different one. The first night
/// stands for a series without any change.
///
/// `hazard` is the probability of a change between two nights, before any run. All partitions of
/// the series into segments are weighed, each with a rate of its own that has Jeffreys' prior (a
/// product partition model), in time quadratic in the number of nights.
pub fn last_segment(nights: &[Evidence], hazard: f64) -> Vec<f64> {
    let count = nights.len();
    let (change, none) = (hazard.ln(), (1.0 - hazard).ln());
    // The logarithm of the weight of all partitions of the first nights.
    let mut before = vec![0.0; count + 1];
    let mut ways = Vec::with_capacity(count);
    for end in 1..=count {
        ways.clear();
        let mut seen = Evidence::default();
        for start in (0..end).rev() {
            seen += nights[start];
            let same = (end - start - 1) as f64 * none;
            let begins = if start > 0 { change } else { 0.0 };
            ways.push(before[start] + begins + same + JEFFREYS.log_likelihood(seen));
        }
        before[end] = log_sum(&ways);
    }
    // The weights at the last end are the answer, the latest start first.
    ways.reverse();
    let sum = before[count];
    ways.iter().map(|way| (way - sum).exp()).collect()
}

/// Returns the logarithm of the sum of numbers given by their logarithms.
fn log_sum(logs: &[f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    most + logs.iter().map(|log| (log - most).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nights(runs: &[(u64, u64)]) -> Vec<Evidence> {
        let nights = runs
            .iter()
            .map(|&(runs, failures)| Evidence::new(runs, failures));
        nights.collect()
    }

    fn best(starts: &[f64]) -> usize {
        let most = (0..starts.len()).max_by(|&a, &b| starts[a].total_cmp(&starts[b]));
        most.unwrap()
    }

    #[test]
    fn the_probabilities_add_up() {
        for row in [&[(1, 0)][..], &[(5, 5), (5, 0), (1, 1)], &[(0, 0), (20, 3)]] {
            let starts = last_segment(&nights(row), 0.02);
            assert_eq!(starts.len(), row.len());
            assert!(
                (starts.iter().sum::<f64>() - 1.0).abs() < 1e-9,
                "{starts:?}"
            );
        }
        assert!(last_segment(&[], 0.02).is_empty());
    }

    #[test]
    fn the_last_of_several_changes_is_found() {
        let mut row = vec![(5, 0); 10];
        row.extend([(5, 5); 3]);
        row.extend([(5, 0); 4]);
        let starts = last_segment(&nights(&row), 0.02);
        assert_eq!(best(&starts), 13);
        assert!(starts[13] > 0.9, "{starts:?}");
        assert_eq!(best(&last_segment(&nights(&row[..13]), 0.02)), 10);
        assert_eq!(best(&last_segment(&nights(&row[..10]), 0.02)), 0);
    }

    /// Compares with the sum over all partitions, one by one.
    #[test]
    fn it_is_the_sum_over_all_partitions() {
        let row = nights(&[(3, 0), (2, 1), (4, 4), (1, 0), (5, 1)]);
        let hazard = 0.1_f64;
        let mut expected = vec![0.0; row.len()];
        for cuts in 0..1_u32 << (row.len() - 1) {
            let mut weight = 1.0;
            let mut seen = row[0];
            let mut start = 0;
            for (night, &runs) in row.iter().enumerate().skip(1) {
                if cuts & (1 << (night - 1)) != 0 {
                    weight *= hazard * JEFFREYS.log_likelihood(seen).exp();
                    seen = Evidence::default();
                    start = night;
                } else {
                    weight *= 1.0 - hazard;
                }
                seen += runs;
            }
            expected[start] += weight * JEFFREYS.log_likelihood(seen).exp();
        }
        let sum: f64 = expected.iter().sum();
        for (found, expected) in last_segment(&row, hazard).iter().zip(expected) {
            assert!((found - expected / sum).abs() < 1e-9, "{found} {expected}");
        }
    }
}
