// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Maps of sweeps and matrices: each point that a night has run is a cell with its last run.

use std::collections::BTreeMap;

use crucible_history::ResultRow;
use maud::{Markup, html};

/// Commands whose units are points: a night has a part of them.
const PARTS: [&str; 3] = ["sweep ", "matrix ", "torture"];

/// Maximum number of cells on a page, so that it stays small.
const CELLS: usize = 4_000;

/// The points of a map and their last runs, by row.
type Rows<'a> = BTreeMap<&'a str, Vec<(&'a str, &'a ResultRow)>>;

/// Returns true for a test that is a point of a map.
pub(crate) fn is_point(test: &str) -> bool {
    PARTS.iter().any(|part| test.starts_with(part))
}

/// Draws the maps of all results up to a night. `link` makes a link to a directory of the results.
pub(crate) fn maps(
    night: &str,
    results: &[ResultRow],
    link: impl Fn(&str) -> Option<String>,
) -> Markup {
    // For each point show the last night with a result of the kernel, and prefer a failure in it.
    let mut points: BTreeMap<(String, &str, &str), &ResultRow> = BTreeMap::new();
    let wanted = |it: &&ResultRow| is_point(&it.test.name) && it.counts() && *it.night <= *night;
    for result in results.iter().filter(wanted) {
        let (map, name) = result
            .test
            .name
            .split_once('/')
            .unwrap_or((&result.test.name, ""));
        let map = format!("{map} [{}]", result.test.variant);
        let (row, point) = name.rsplit_once('/').unwrap_or(("", name));
        let of = |it: &ResultRow| (it.night.clone(), it.is_failure());
        let known = points.entry((map, row, point)).or_insert(result);
        if of(result) > of(known) {
            *known = result;
        }
    }
    let all = points.len();
    let mut maps: BTreeMap<String, Rows<'_>> = BTreeMap::new();
    for ((map, row, point), result) in points.into_iter().take(CELLS) {
        let rows = maps.entry(map).or_default();
        rows.entry(row).or_default().push((point, result));
    }
    html! {
        @if maps.is_empty() { p { "No sweep, matrix or torture has run." } }
        @for (map, rows) in &maps {
            @let cells = rows.values().flatten();
            @let failures = cells.clone().filter(|(_, it)| it.is_failure()).count();
            h3 { (map) }
            p { (cells.count()) " points have run, " (failures) " fail." }
            @for (row, cells) in rows {
                @if !row.is_empty() { h4 { (row) } }
                ul.map {
                    @for (point, it) in cells { (cell(point, it, &link)) }
                }
            }
        }
        @if all > CELLS { p { (all - CELLS) " more points are in the history." } }
    }
}

fn cell(point: &str, result: &ResultRow, link: impl Fn(&str) -> Option<String>) -> Markup {
    let (class, mark, state) = match result.is_failure() {
        true => ("f", "✗", &*result.signature),
        false => ("p", "·", "passed"),
    };
    let title = format!("{point}: {state}, {}", result.night);
    html! {
        li class=(class) {
            @match link(&result.directory).filter(|_| result.is_failure()) {
                Some(target) => { a href=(target) title=(title) aria-label=(title) { (mark) } }
                None => { span title=(title) { (mark) } }
            }
        }
    }
}
