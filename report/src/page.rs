// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page of a night.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crucible_history::{Bisection, Change, Error, Judgement, ResultRow, Shard, Store, TestId};
use crucible_nightly::NightReport;
use crucible_protocol::shown_lines;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::evidence::{self, Evidence};
use crate::links;
use crate::maps::{is_point, maps};
use crate::series::Series;
use crate::trends::trends;

/// Maximum number of tests named in the head of a group.
const NAMED: usize = 3;

/// Maximum number of bytes of evidence on the page; further failures have links.
const EVIDENCE: usize = 256 << 10;

/// The page's content security policy. The browser runs no script and loads nothing from a network,
/// whatever a guest has printed.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The sections of the first screen: anchor, title, changes.
const SECTIONS: [(&str, &str, &[Change]); 4] = [
    ("new", "New", &[Change::Regressed]),
    ("fixed", "Fixed", &[Change::Fixed]),
    ("flaky", "Flaky", &[Change::TurnedFlaky, Change::StillFlaky]),
    ("failing", "Failing as before", &[Change::StillFailing]),
];

/// A night with everything that its page shows.
pub struct Page {
    report: NightReport,
    results: Vec<ResultRow>,
    shards: Vec<Shard>,
    plan: String,
    /// Directory of all results.
    directory: PathBuf,
    /// Directory of the page.
    beside: PathBuf,
}

impl Page {
    /// Reads a night from a history.
    ///
    /// `directory` is the directory of all results, and `beside` is the directory of the page,
    /// which has relative links to the runs; both are absolute.
    ///
    /// # Errors
    /// Fails if the history cannot be read.
    pub fn of(store: &Store, night: &str, directory: &Path, beside: &Path) -> Result<Self, Error> {
        let nights = store.nights()?;
        let plan = nights.into_iter().find(|it| it.id == night);
        let results = store.results(None)?;
        Ok(Self {
            report: NightReport::with(store, night, None, &results)?,
            results,
            shards: store.shards(night)?,
            plan: plan.map_or(String::new(), |it| it.plan),
            directory: directory.to_owned(),
            beside: beside.to_owned(),
        })
    }

    /// Returns the exit code of the night.
    pub fn exit_code(&self) -> u8 {
        self.report.condition.exit_code()
    }

    /// Returns the page, one file of HTML.
    pub fn html(&self) -> String {
        let series = Series::new(&self.report.night, &self.results);
        let title = format!("{}: {}", self.report.night, self.report.verdict());
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    title { (title) }
                    style { (PreEscaped(include_str!("style.css"))) }
                }
                body {
                    a.skip href="#main" { "Skip to the results" }
                    header { (self.head()) (self.contents()) }
                    main id="main" tabindex="-1" { (self.body(&series)) }
                    footer { (self.foot()) }
                }
            }
        };
        // The replacement of control characters, which guests print.
        shown_lines(&page.into_string()).into_owned()
    }

    fn head(&self) -> Markup {
        let report = &self.report;
        let class = match report.condition.exit_code() {
            0 => "good",
            _ => "bad",
        };
        html! {
            h1 { "Night " (report.night) ": " span class=(class) { (report.verdict()) } }
            p { (report.why) "." }
            p.dim {
                (report.planned) " tests are planned by name; " (report.ran)
                " ran, points of sweeps and matrices included, in " (report.runs) " runs."
            }
            @for missing in &report.missing_shards {
                p.bad { "Shard " (missing) " has no results, or has not ended." }
            }
        }
    }

    /// Returns the table of contents: numbers of tests, with links to their sections.
    fn contents(&self) -> Markup {
        let sections = SECTIONS.map(|(id, title, changes)| (id, title, self.count(changes)));
        let others = [
            ("slower", "Slower", self.report.slower.len()),
            ("not-run", "Not run", self.count(&[Change::NotRun])),
        ];
        html! {
            nav aria-label="What has changed" {
                ul {
                    @for (id, title, count) in sections.into_iter().chain(others) {
                        li { a href=(format!("#{id}")) { b { (count) } (title) } }
                    }
                    li { a href="#tests" { b { (self.report.tests.len()) } "All tests" } }
                    li { a href="#maps" { "Maps" } }
                    li { a href="#trends" { "Trends" } }
                }
            }
        }
    }

    /// Returns the tests with one of these changes. Tests that a different backend fails are
    /// only listed among all tests.
    fn with<'a>(&'a self, changes: &'a [Change]) -> impl Iterator<Item = &'a Judgement> {
        let tests = self.report.tests.iter();
        tests.filter(move |test| {
            let ours = !test.test.is_comparison() || test.change == Change::NotRun;
            ours && changes.contains(&test.change)
        })
    }

    fn count(&self, changes: &[Change]) -> usize {
        self.with(changes).count()
    }

    /// Returns the tests with one of these changes by signature or reason.
    fn groups<'a>(&'a self, changes: &'a [Change]) -> BTreeMap<&'a str, Vec<&'a Judgement>> {
        let mut groups: BTreeMap<&str, Vec<&Judgement>> = BTreeMap::new();
        for test in self.with(changes) {
            groups.entry(&test.why).or_default().push(test);
        }
        groups
    }

    fn body(&self, series: &Series<'_>) -> Markup {
        let mut left = EVIDENCE;
        html! {
            @for (id, title, changes) in SECTIONS {
                @let groups = self.groups(changes);
                section aria-labelledby=(id) {
                    h2 id=(id) { (title) }
                    @if groups.is_empty() { p.dim { "None." } }
                    @for (number, (signature, tests)) in groups.into_iter().enumerate() {
                        // Unfold the sections that most readers need.
                        details open[id == "new" && number == 0] {
                            (self.group(signature, &tests, series, &mut left))
                        }
                    }
                }
            }
            section aria-labelledby="slower" { h2 id="slower" { "Slower" } (self.slower()) }
            section aria-labelledby="not-run" { h2 id="not-run" { "Not run" } (self.not_run()) }
            section aria-labelledby="tests" { h2 id="tests" { "All tests" } (self.tests(series)) }
            section aria-labelledby="maps" {
                h2 id="maps" { "Maps" }
                (maps(&self.report.night, &self.results, |directory| self.link(directory)))
            }
            section aria-labelledby="trends" {
                h2 id="trends" { "Trends" }
                (trends(&series.nights, &self.results))
            }
        }
    }

    /// Returns the group of the tests that fail with a signature, which is usually one bug.
    fn group(
        &self,
        signature: &str,
        tests: &[&Judgement],
        series: &Series<'_>,
        left: &mut usize,
    ) -> Markup {
        let named: Vec<_> = tests
            .iter()
            .take(NAMED)
            .map(|it| it.test.to_string())
            .collect();
        let more = tests.len().saturating_sub(NAMED);
        let first = tests.iter().find(|it| !it.directory.is_empty());
        let evidence =
            first.and_then(|it| evidence::find(&self.directory, &it.directory, &it.test.name));
        let evidence = evidence.filter(|it| {
            let size = it.lines.len() + it.frozen.iter().map(String::len).sum::<usize>() + 1024;
            let fits = size <= *left;
            *left -= if fits { size } else { 0 };
            fits
        });
        let found = self
            .report
            .bisections
            .iter()
            .filter(|it| it.signature == signature);
        html! {
                summary {
                    @if !signature.is_empty() { strong { (signature) } ": " }
                    (named.join(", "))
                    @if more > 0 { " and " (more) " more" }
                    @if let Some(first) = tests.first() { " " (series.drawing(&first.test)) }
                }
                div {
                    (self.facts(tests))
                    @for found in found { (self.bisected(found)) }
                    @match &evidence {
                        Some(evidence) => { (self.evidence(evidence)) }
                        None => { @if let Some(link) = first.and_then(|it| self.link(&it.directory)) {
                            p { a href=(link) { "runs" } }
                        } }
                    }
                    @if more > 0 {
                        ul { @for test in tests { li { (test.test) " " (series.drawing(&test.test)) } } }
                    }
                }
        }
    }

    /// Returns the rate of a group's failures, and the nights in which they began.
    fn facts(&self, tests: &[&Judgement]) -> Markup {
        let runs: u64 = tests.iter().map(|it| it.runs).sum();
        let failures: u64 = tests.iter().map(|it| it.failures).sum();
        let Some(first) = tests.first() else {
            return html! {};
        };
        let flaky = matches!(first.change, Change::TurnedFlaky | Change::StillFlaky);
        html! {
            p {
                (failures) " of " (runs) " runs failed tonight"
                @if flaky { "; " (format!("{:.1}", first.rate * 100.0)) " % since it began" }
                "."
            }
            @match &first.since {
                Some((from, to)) if from == to => { p { "Began in " (from) "." } }
                Some((from, to)) => { p { "Began between " (from) " and " (to) "." } }
                None => { p { "It has been so in all nights of the history." } }
            }
            @if let Some(good) = first.last_good.as_ref().filter(|_| first.change.is_bad()) {
                p { "Last good night: " (good) "." }
            }
        }
    }

    fn bisected(&self, found: &Bisection) -> Markup {
        html! {
            p {
                "Bisected in " (found.night) ": " (found.answer)
                @if let Some(link) = self.link(&found.directory) { " (" a href=(link) { "search" } ")" }
            }
        }
    }

    fn evidence(&self, evidence: &Evidence) -> Markup {
        html! {
            p { (evidence.why) }
            @if !evidence.lines.is_empty() { pre tabindex="0" { (evidence.lines) } }
            @if !evidence.frozen.is_empty() {
                h3 { "Frozen tree" }
                pre tabindex="0" {
                    "   pid    tid task, state and site\n"
                    (evidence.frozen.join("\n"))
                }
            }
            ul.k {
                @for (what, path) in &evidence.files {
                    li { a href=(links::target(&links::relative(&self.beside, path))) { (what) } }
                }
            }
            @if !evidence.reproduce.is_empty() { pre tabindex="0" { (evidence.reproduce) } }
            @if let Some(run) = &evidence.replay {
                @let path = links::relative(&self.beside, run);
                p { "It was " a href=(links::target(&path)) { "recorded" } "; in the directory of this page:" }
                pre tabindex="0" { "crucible replay " (path.display()) }
            }
        }
    }

    fn slower(&self) -> Markup {
        html! {
            @if self.report.slower.is_empty() { p.dim { "None." } }
            ul {
                @for it in &self.report.slower {
                    li {
                        (it.test) ": " strong { (it.metric) } " takes "
                        (format!("{:.1}", (it.ratio() - 1.0) * 100.0))
                        " % more instructions since " (it.since) "."
                    }
                }
            }
        }
    }

    fn not_run(&self) -> Markup {
        let groups = self.groups(&[Change::NotRun]);
        html! {
            @if groups.is_empty() { p.dim { "None." } }
            @for (reason, tests) in groups {
                details {
                    summary { strong { (reason) } ": " (tests.len()) " tests" }
                    div {
                        ul {
                            @for test in tests {
                                li {
                                    (test.test)
                                    @if let Some(link) = self.link(&test.directory) {
                                        " (" a href=(link) { "runs" } ")"
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns a table of tests by variant: backend, kernel and machine.
    fn tests(&self, series: &Series<'_>) -> Markup {
        let shown = self
            .report
            .tests
            .iter()
            .filter(|it| !is_point(&it.test.name));
        let by_test: BTreeMap<&TestId, &Judgement> = shown.map(|it| (&it.test, it)).collect();
        let variants: BTreeSet<&str> = by_test.keys().map(|it| it.variant.as_str()).collect();
        let mut rows: BTreeMap<&str, BTreeMap<&str, &Judgement>> = BTreeMap::new();
        for (test, judged) in &by_test {
            rows.entry(&test.name)
                .or_default()
                .insert(&test.variant, judged);
        }
        html! {
            p.dim {
                "The columns are backend/kernel/machine. A drawing has a stroke for each of the last "
                (series.nights.len()) " nights, the last one at its right: low passed, half high passed \
                 and failed, full height failed, a gap did not run."
            }
            div.scroll tabindex="0" role="region" aria-label="Table of tests" {
                table {
                    thead { tr {
                        th scope="col" { "test" }
                        @for variant in &variants { th scope="col" { (variant) } }
                    } }
                    tbody {
                        @for (name, cells) in rows {
                            tr {
                                th scope="row" { (name) }
                                @for variant in &variants {
                                    td { @if let Some(it) = cells.get(variant) { (cell(it, series)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn foot(&self) -> Markup {
        html! {
            h2 id="provenance" { "What ran" }
            p { "Plan " code { (self.plan) } "." }
            ul {
                @for shard in &self.shards {
                    li {
                        "Shard " (shard.number) ", from " (shard.started)
                        @match &shard.finished {
                            Some(end) => { " to " (end) "." }
                            None => { ", not ended." }
                        }
                        @if shard.provenance.len() <= 64 << 10 {
                            details {
                                summary { "Hashes and versions" }
                                div { pre tabindex="0" { (shard.provenance) } }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns a link from the page to an existing directory of the results.
    fn link(&self, directory: &str) -> Option<String> {
        let path = self.directory.join(directory);
        let there = links::stays_within(directory) && path.is_dir();
        there.then(|| links::target(&links::relative(&self.beside, &path)))
    }
}

fn cell(test: &Judgement, series: &Series<'_>) -> Markup {
    let (class, mark) = match test.change {
        Change::Regressed => ("bad", "new"),
        Change::StillFailing => ("bad", "fails"),
        Change::TurnedFlaky | Change::StillFlaky => ("bad", "flaky"),
        Change::Fixed => ("good", "fixed"),
        Change::StillPassing => ("", "ok"),
        Change::NotRun => ("dim", "–"),
    };
    html! {
        @if class.is_empty() { (mark) } @else { span class=(class) { (mark) } }
        " " (series.drawing(&test.test))
    }
}
