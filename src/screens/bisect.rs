// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible bisect`.

use std::fmt::Write as _;

use crucible_bisect::{Answer, Crossed, NodeReport, NodeState, Report};

use super::lines;
use crate::bisection::{Record, short};

/// Minimum probability of a shown commit that was not built.
const LIKELY: f64 = 0.01;

/// Returns the result of a search, in one line.
pub fn answer(report: &Report) -> String {
    let name = |node: usize| {
        let node = &report.nodes[node];
        match node.title.is_empty() {
            true => format!("`{}`", node.name),
            false => format!("{} (\"{}\")", short(&node.name), node.title),
        }
    };
    let what = match report.nodes.iter().all(|node| node.title.is_empty()) {
        true => "one",
        false => "commit",
    };
    match &report.answer {
        Answer::Culprit { node } => format!("{} is the first bad {what}", name(*node)),
        Answer::Merge { node } => format!(
            "{} is the first bad commit: a merge, of which neither side alone is bad",
            name(*node)
        ),
        Answer::NotSeparable { candidates } => {
            let names: Vec<_> = candidates.iter().map(|&node| name(node)).collect();
            format!(
                "not separable: one of {} is the first bad {what}",
                names.join(", ")
            )
        }
        Answer::NotReproduced => "not reproduced: the bad end shows no failure".into(),
        Answer::BothEnds => {
            "both ends show the failure equally often; name an older good end".into()
        }
        Answer::SameKernel => {
            "both ends are the same kernel, byte for byte: the difference is not in the kernel"
                .into()
        }
        Answer::NoEnd { node, why } => format!("{} gives no observation: {why}", name(*node)),
        Answer::Undecided => {
            let likeliest = (0..report.nodes.len()).max_by(|&a, &b| {
                report.nodes[a]
                    .posterior
                    .total_cmp(&report.nodes[b].posterior)
            });
            match likeliest {
                Some(node) => format!(
                    "undecided after {} runs; the most probable is {} with {:.0} %",
                    report.runs,
                    name(node),
                    report.nodes[node].posterior * 100.0
                ),
                None => "undecided".into(),
            }
        }
    }
}

/// Returns the name of a node's state.
pub fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Untouched => "not built",
        NodeState::Built => "built",
        NodeState::Unbuildable => "does not build",
        NodeState::Unbootable => "does not boot",
        NodeState::Drowned => "shows other failures",
    }
}

/// Formats a finished search.
pub fn screen(record: &Record) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "bisect: {}", record.outcome.why);
    match &record.report {
        Some(report) => found(&mut text, report, record),
        None => {
            let _ = writeln!(text, "  the same command continues the search");
        }
    }
    let _ = writeln!(text, "  repeat   {}", record.reproduce);
    let _ = writeln!(text, "  record   {}/record.json", record.results);
    text
}

fn found(text: &mut String, report: &Report, record: &Record) {
    if let Some(sought) = &report.sought {
        let _ = writeln!(text, "  failure  {sought}");
        let _ = write!(text, "  setting  {}", report.setting);
        if report.amplified > 1.05 {
            let _ = write!(text, ", {:.1} times as often as usual", report.amplified);
        }
        text.push('\n');
    }
    if !report.answer.nodes().is_empty() {
        let _ = writeln!(
            text,
            "  certain  {:.2} % ({:.1} % required)",
            report.probability * 100.0,
            report.confidence * 100.0
        );
    }
    for check in &report.checks {
        let what = match check.node {
            Some(node) => {
                let node = &report.nodes[node];
                format!("{} {} {}", check.what, short(&node.name), node.title)
            }
            None => "the bad end without the change".into(),
        };
        let (failures, runs) = (check.failures, check.runs);
        let _ = writeln!(text, "  {failures:3} of {runs:3} fail: {what}");
    }
    if let Some(crossed) = &report.crossed {
        let of = |by: &Crossed| format!("{} of {} fail", by.failures, by.runs);
        let _ = writeln!(
            text,
            "  half     {}\n           {} from the parent's images, {} from the culprit's",
            crossed.half,
            of(&crossed.checkpointed_by_good),
            of(&crossed.checkpointed_by_bad)
        );
    }
    let shown = report.checks.iter().find(|check| !check.lines.is_empty());
    if let Some(check) = shown {
        let _ = writeln!(text, "  first failing check of the {}:", check.what);
        lines(text, "    ", &check.lines);
    }
    let _ = writeln!(text, "  commits");
    let is_sought = report.sought.is_some();
    let is_shown = |node: &&NodeReport| {
        node.state != NodeState::Untouched || (is_sought && node.posterior >= LIKELY)
    };
    for node in report.nodes.iter().rev().filter(is_shown) {
        row(text, node, is_sought);
    }
    if !report.hidden.is_empty() {
        let names = report.hidden.iter();
        let names: Vec<_> = names.map(|&n| short(&report.nodes[n].name)).collect();
        let _ = writeln!(
            text,
            "  unknown: {}, with {:.1} % of the probability",
            names.join(", "),
            report.hidden_probability * 100.0
        );
    }
    let others = report.nodes.iter().flat_map(|node| &node.others);
    let mut others: Vec<_> = others.map(|other| other.signature.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    for other in others {
        let _ = writeln!(
            text,
            "  another failure, not counted: {other}\n    to bisect it: --signature '{other}'"
        );
    }
    let _ = writeln!(
        text,
        "  cost     {} builds, {} runs, {} runs of earlier searches, {:.0} s",
        report.builds, report.runs, report.reused, report.seconds
    );
    for trailer in &record.trailers {
        let _ = writeln!(text, "  {trailer}");
    }
    let _ = writeln!(text, "  run it   {}", record.rerun);
}

/// Adds a node, with its probability if the search is for a failure.
fn row(text: &mut String, node: &NodeReport, is_sought: bool) {
    let runs = match (node.runs, &node.same_as) {
        (0, Some(_)) => "same kernel".to_owned(),
        (0, None) => state(node.state).to_owned(),
        (runs, _) => format!("{} of {runs} fail", node.failures),
    };
    let mut notes = Vec::new();
    let others: u64 = node.others.iter().map(|other| other.runs).sum();
    for (count, what) in [
        (others, "other failures"),
        (node.unclear, "without an observation"),
    ] {
        if count > 0 {
            notes.push(format!("{count} {what}"));
        }
    }
    if node.same_as.is_some() && node.runs > 0 {
        notes.push("the same kernel as an earlier one".into());
    }
    if !node.why.is_empty() {
        let why = node.why.lines().next().unwrap_or_default();
        notes.push(format!("{}: {why}", state(node.state)));
    }
    let notes = match notes.is_empty() {
        true => String::new(),
        false => format!(" [{}]", notes.join("; ")),
    };
    let posterior = match is_sought {
        true => format!("{:5.1} %  ", node.posterior * 100.0),
        false => String::new(),
    };
    let name = format!("{} {}", short(&node.name), node.title);
    let name = name.trim_end();
    let _ = writeln!(text, "    {posterior}{runs:14}  {name}{notes}");
}
