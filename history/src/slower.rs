// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds phases that take more guest instructions than in earlier nights.
//!
//! Wall-clock times vary by 26 to 42 % on a shared host, instruction counts by 3 %. So only metrics
//! in `instructions` are judged, and only nights with the same machine, compiler, agent and
//! userland are compared: a change of one of them begins a new series.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::row::{ResultRow, TestId};

/// Unit of the metrics that are judged.
pub const INSTRUCTIONS: &str = "instructions";

/// Number of nights that a series needs before it is judged.
const ENOUGH: usize = 10;

/// Maximum number of earlier nights to compare with.
const BASELINE: usize = 30;

/// Maximum number of the latest nights that are averaged: one night cannot show a small change.
const WINDOW: usize = 3;

/// Smallest ratio of two averages that counts as a change.
const SMALLEST: f64 = 1.02;

/// Least size of a change, in standard errors. With a baseline of 10 to 30 nights, chance exceeds
/// 5 about once in 50,000 nights and metrics.
const CLEAR: f64 = 5.0;

/// Factor by which the largest of ten to thirty deviations increases a spread.
const TRIMMED: f64 = 1.15;

/// Lower bound of the relative spread between nights; a smaller one is taken to be chance.
const SPREAD: f64 = 0.003;

/// A phase that takes more instructions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Slower {
    /// The test.
    pub test: TestId,
    /// The phase.
    pub metric: String,
    /// Median of the earlier nights, in instructions.
    pub before: f64,
    /// Mean of the last nights, in instructions.
    pub now: f64,
    /// Number of the last nights that were taken together.
    pub nights: usize,
    /// First of these nights.
    pub since: String,
}

impl Slower {
    /// Returns the change as a ratio: 1.2 for 20 % more.
    pub fn ratio(&self) -> f64 {
        self.now / self.before
    }
}

/// Returns the phases that have become slower as of a night, the largest change first. `results`
/// has the results of this night and of earlier ones.
pub fn slower(night: &str, results: &[ResultRow]) -> Vec<Slower> {
    let mut harnesses: BTreeMap<&TestId, &str> = BTreeMap::new();
    for result in results.iter().filter(|it| it.night == night) {
        harnesses.entry(&result.test).or_insert(&result.harness);
    }
    let mut series: BTreeMap<(&TestId, &str), BTreeMap<&str, Vec<f64>>> = BTreeMap::new();
    for result in results {
        let wanted = harnesses.get(&result.test).copied();
        let passed = result.blame.is_empty() && result.night.as_str() <= night;
        if !passed || wanted != Some(&*result.harness) {
            continue;
        }
        for metric in &result.metrics {
            if metric.unit == INSTRUCTIONS && metric.value > 0.0 {
                let nights = series.entry((&result.test, &metric.name)).or_default();
                nights
                    .entry(&result.night)
                    .or_default()
                    .push(metric.value.ln());
            }
        }
    }
    let mut found: Vec<_> = series
        .into_iter()
        .filter_map(|((test, metric), nights)| {
            let (names, values): (Vec<_>, Vec<_>) = nights
                .into_iter()
                .map(|(night, values)| (night, median(values)))
                .unzip();
            if names.last() != Some(&night) {
                return None;
            }
            let (nights, before, now) = change(&values)?;
            Some(Slower {
                test: test.clone(),
                metric: metric.to_owned(),
                before: before.exp(),
                now: now.exp(),
                nights,
                since: names[names.len() - nights].to_owned(),
            })
        })
        .collect();
    found.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
    found
}

/// Looks for a rise at the end of a series of logarithms. Returns the number of nights since, and
/// the levels before and after.
fn change(values: &[f64]) -> Option<(usize, f64, f64)> {
    (1..=WINDOW).find_map(|window| {
        let end = values.len().checked_sub(window)?;
        if end < ENOUGH {
            return None;
        }
        let baseline = &values[end.saturating_sub(BASELINE)..end];
        let level = median(baseline.to_vec());
        let spread = spread(baseline, level).max(SPREAD);
        let now = values[end..].iter().sum::<f64>() / window as f64;
        // The variance of a median is that of a mean times pi / 2.
        let of_level = std::f64::consts::FRAC_PI_2 / baseline.len() as f64;
        let error = spread * (1.0 / window as f64 + of_level).sqrt();
        let rise = now - level;
        (rise > CLEAR * error && rise > SMALLEST.ln()).then_some((window, level, now))
    })
}

/// Returns the spread of values around a level: the larger of two estimates, because a small one
/// causes alarms. The largest deviation is left out, because one night with a concurrent build on
/// the same host must not hide all later changes.
fn spread(values: &[f64], level: f64) -> f64 {
    let mut deviations: Vec<_> = values.iter().map(|value| (value - level).abs()).collect();
    let robust = 1.4826 * median(deviations.clone());
    deviations.sort_by(f64::total_cmp);
    deviations.pop();
    let squares: f64 = deviations.iter().map(|it| it * it).sum();
    robust.max((squares / deviations.len().max(1) as f64).sqrt() * TRIMMED)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => 0.0,
        count if count % 2 == 0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::Metric;

    /// Runs of a phase in a night.
    const RUNS: usize = 11;

    /// Relative spread of a run.
    const NOISE: f64 = 0.03;

    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
            (number as f64 + 0.5) / (1_u64 << 53) as f64
        }

        /// Returns a number with the standard normal distribution (Box and Muller).
        fn normal(&mut self) -> f64 {
            let (a, b) = (self.uniform(), self.uniform());
            (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
        }

        /// Returns a night's median.
        fn night(&mut self, factor: f64) -> f64 {
            let runs = (0..RUNS).map(|_| (1e8 * factor).ln() + NOISE * self.normal());
            median(runs.collect())
        }
    }

    #[test]
    fn a_fifth_more_is_seen_in_the_first_night() {
        for seed in 1..=200 {
            let mut random = Random(seed * 7919);
            let mut values: Vec<_> = (0..20).map(|_| random.night(1.0)).collect();
            values.push(random.night(1.2));
            let (nights, before, now) = change(&values).expect("a change");
            assert_eq!(nights, 1);
            assert!(((now - before).exp() - 1.2).abs() < 0.05);
        }
    }

    #[test]
    fn a_twentieth_more_is_seen_within_three_nights() {
        let mut seen = 0;
        for seed in 1..=200 {
            let mut random = Random(seed * 104_729);
            let mut values: Vec<_> = (0..30).map(|_| random.night(1.0)).collect();
            let mut nights = (0..3).map(|_| {
                values.push(random.night(1.05));
                change(&values).is_some()
            });
            seen += u64::from(nights.any(|seen| seen));
        }
        assert!(seen >= 180, "{seen}");
    }

    /// 200 nights of a phase, for 100 seeds: 19,000 judgements.
    #[test]
    fn nights_that_are_alike_are_not_flagged() {
        let mut flagged = 0;
        for seed in 1..=100 {
            let mut random = Random(seed * 31_337);
            let values: Vec<_> = (0..200).map(|_| random.night(1.0)).collect();
            flagged += (ENOUGH + 1..=200)
                .filter(|&end| change(&values[..end]).is_some())
                .count();
        }
        assert!(flagged <= 3, "{flagged}");
    }

    #[test]
    fn another_machine_begins_a_new_series() {
        let row = |night: usize, harness: &str, instructions: f64| ResultRow {
            night: format!("n{night:02}"),
            test: TestId {
                name: "benchmark hello/main".into(),
                variant: "v".into(),
            },
            attempt: 1,
            time: String::new(),
            ms: 1,
            condition: "passed".into(),
            verdict: "pass".into(),
            blame: String::new(),
            signature: String::new(),
            why: String::new(),
            kernel: String::new(),
            harness: harness.into(),
            directory: String::new(),
            metrics: vec![
                Metric {
                    name: "restart".into(),
                    value: instructions,
                    unit: INSTRUCTIONS.into(),
                },
                Metric {
                    name: "restart".into(),
                    value: instructions,
                    unit: "ms".into(),
                },
            ],
        };
        let mut results: Vec<_> = (0..15).map(|night| row(night, "a", 1e8)).collect();
        results.push(row(15, "b", 2e8));
        assert_eq!(slower("n15", &results), []);
        results.pop();
        results.push(row(15, "a", 1.3e8));
        let found = slower("n15", &results);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].metric.as_str(), found[0].since.as_str()),
            ("restart", "n15")
        );
        assert!((found[0].ratio() - 1.3).abs() < 1e-6);
        // As of an earlier night, there is no change.
        assert_eq!(slower("n14", &results), []);
    }
}
