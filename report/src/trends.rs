// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Trends: durations and metrics of tests over the last nights.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crucible_history::{ResultRow, TestId};
use maud::{Markup, html};

use crate::maps::is_point;

/// Maximum number of trends on a page.
const SHOWN: usize = 60;

/// Height of a drawing.
const HEIGHT: f64 = 20.0;

/// A metric of a test over the nights that have it.
struct Trend<'a> {
    test: &'a TestId,
    metric: &'a str,
    unit: &'a str,
    /// Number of the night and median.
    points: Vec<(usize, f64)>,
}

impl Trend<'_> {
    /// Returns the median of the nights before the last one.
    fn usual(&self) -> f64 {
        let before = &self.points[..self.points.len().saturating_sub(1)];
        median(before.iter().map(|&(_, value)| value).collect())
    }

    fn last(&self) -> f64 {
        self.points.last().map_or(0.0, |&(_, value)| value)
    }

    /// Returns the last night's value, divided by the median of the nights before.
    fn ratio(&self) -> f64 {
        match self.usual() {
            usual if usual > 0.0 => self.last() / usual,
            _ => 1.0,
        }
    }

    /// Returns the sort key: instructions before times, which vary more, and large changes first.
    fn rank(&self) -> (bool, f64) {
        let clock = self.unit == "ms";
        (clock, -self.ratio().max(f64::MIN_POSITIVE).ln().abs())
    }
}

/// Draws the trends that changed most in the last of the nights.
pub(crate) fn trends(nights: &[&str], results: &[ResultRow]) -> Markup {
    let at: BTreeMap<&str, usize> = nights.iter().copied().zip(0..).collect();
    let mut values: BTreeMap<(&TestId, &str, &str), BTreeMap<usize, Vec<f64>>> = BTreeMap::new();
    let passed = |it: &&ResultRow| it.blame.is_empty() && !is_point(&it.test.name);
    for result in results.iter().filter(passed) {
        let Some(&at) = at.get(result.night.as_str()) else {
            continue;
        };
        let whole = ("all", "ms", result.ms as f64);
        let metrics = result.metrics.iter();
        let metrics = metrics.map(|it| (it.name.as_str(), it.unit.as_str(), it.value));
        for (name, unit, value) in [whole].into_iter().chain(metrics) {
            let series = values.entry((&result.test, name, unit)).or_default();
            series.entry(at).or_default().push(value);
        }
    }
    let last = nights.len().saturating_sub(1);
    let series = values
        .into_iter()
        .map(|((test, metric, unit), values)| Trend {
            test,
            metric,
            unit,
            points: values
                .into_iter()
                .map(|(at, it)| (at, median(it)))
                .collect(),
        });
    let now = |it: &Trend<'_>| it.points.len() > 1 && it.points.last().is_some_and(|p| p.0 == last);
    let mut series: Vec<_> = series.filter(now).collect();
    series.sort_by(|a, b| {
        let (a, b) = (a.rank(), b.rank());
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let more = series.len().saturating_sub(SHOWN);
    html! {
        @if series.is_empty() {
            p { "Trends need two nights with passing runs." }
        } @else {
            div.scroll tabindex="0" role="region" aria-label="Table of trends" {
                table {
                    thead { tr {
                        th scope="col" { "test" } th scope="col" { "metric" }
                        th scope="col" { "median before" } th scope="col" { "last night" }
                        th scope="col" { "change" } th scope="col" { "nights" }
                    } }
                    tbody {
                        @for trend in series.iter().take(SHOWN) { (row(trend, nights.len())) }
                    }
                }
            }
        }
        @if more > 0 {
            p { (more) " trends that changed less are in the history." }
        }
    }
}

fn row(trend: &Trend<'_>, nights: usize) -> Markup {
    let change = (trend.ratio() - 1.0) * 100.0;
    html! {
        tr {
            th scope="row" { (trend.test) }
            td { (trend.metric) }
            td.r { (quantity(trend.usual(), trend.unit)) }
            td.r { (quantity(trend.last(), trend.unit)) }
            td.r { (format!("{change:+.1} %")) }
            td {
                svg.t viewBox=(format!("0 0 {nights} {HEIGHT}")) aria-hidden="true"
                    preserveAspectRatio="none" { path d=(path(&trend.points)) {} }
            }
        }
    }
}

/// Returns a number with its unit.
fn quantity(value: f64, unit: &str) -> String {
    let (value, prefix) = match value {
        value if unit == "ms" => (value, ""),
        value if value >= 1e9 => (value / 1e9, "G"),
        value if value >= 1e6 => (value / 1e6, "M"),
        value if value >= 1e3 => (value / 1e3, "k"),
        value => (value, ""),
    };
    match prefix {
        "" => format!("{value:.0} {unit}"),
        prefix => format!("{value:.2} {prefix} {unit}"),
    }
}

/// Returns a line from zero to the largest value.
fn path(points: &[(usize, f64)]) -> String {
    let largest = points.iter().map(|&(_, value)| value).fold(1e-9, f64::max);
    let mut path = String::new();
    for (number, &(at, value)) in points.iter().enumerate() {
        let y = HEIGHT - value / largest * (HEIGHT - 2.0);
        let command = if number == 0 { 'M' } else { 'L' };
        // Writing to a string cannot fail.
        let _ = write!(path, "{command}{at} {y:.1}");
    }
    path
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => values[count / 2],
    }
}
