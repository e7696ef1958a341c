// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible matrix`: a table of stops by ways of attaching, then the failures.

use std::fmt::Write;

use crucible_engine::experiment::{Finding, MatrixSummary, Report};
use crucible_engine::record::Record;
use crucible_protocol::matrix::{Cell, Class};

use super::{end, evidence, others};
use crate::context;

/// The marks of a field of the table, with the classes that each counts.
const MARKS: [(&str, &[Class]); 4] = [
    ("+", &[Class::Passed]),
    ("!", &[Class::Failed, Class::Refused, Class::Unknown]),
    ("x", &[Class::Excluded, Class::NoSuchStop]),
    ("~", &[Class::Indistinguishable]),
];

/// Formats a run.
pub fn screen(report: &Report<Cell, MatrixSummary>, record: &Record) -> String {
    let cells: Vec<_> = report
        .findings
        .iter()
        .filter_map(|one| one.detail.clone())
        .collect();
    let mut text = matrix(&cells);
    text.push_str("+ passed   ! failed, refused or unknown   x excluded or no such stop   ~ indistinguishable here\n\n");
    let summary = &report.summary;
    for class in Class::ALL {
        let count = summary.classes.get(&class).copied().unwrap_or_default();
        if count > 0 {
            add(&mut text, format_args!("{count:>7} {}", class.name()));
        }
    }
    for (call, count) in &summary.excluded {
        add(&mut text, format_args!("{count:>7} excluded by {call}"));
    }
    for (reached, count) in &summary.no_such_stop {
        add(
            &mut text,
            format_args!("{count:>7} no such stop: {reached}"),
        );
    }
    add(
        &mut text,
        format_args!("{:>7} s in total", record.ms / 1000),
    );
    for finding in report.findings.iter().filter(|one| !one.outcome.is_pass()) {
        failure(&mut text, finding);
    }
    let refused = report.findings.iter().filter(|one| {
        let class = one.detail.as_ref().map(|cell| cell.class);
        one.outcome.is_pass() && class == Some(Class::Refused)
    });
    let mut refused = refused.peekable();
    if refused.peek().is_some() {
        text.push_str("\nrefused, as permitted by --allow-refused:\n");
    }
    for finding in refused {
        let (key, why) = (&finding.key, &finding.outcome.why);
        add(&mut text, format_args!("  {key}: {why}"));
    }
    others(&mut text, report);
    end(&mut text, record);
    text
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn failure(text: &mut String, finding: &Finding<Cell>) {
    let outcome = &finding.outcome;
    let class = finding
        .detail
        .as_ref()
        .map_or(outcome.condition.name(), |cell| cell.class.name());
    add(
        text,
        format_args!("\n{}: {class}: {}", finding.key, outcome.why),
    );
    match finding
        .detail
        .as_ref()
        .and_then(|cell| cell.differs.as_ref())
    {
        Some([control, other]) => {
            let other_run = match class {
                "unknown" => "2nd control",
                _ => "restarted",
            };
            add(text, format_args!("  control    {control}"));
            add(text, format_args!("  {other_run:<9}  {other}"));
        }
        None => evidence(text, "  ", outcome, usize::MAX),
    }
    add(
        text,
        format_args!(
            "  repeat     {} matrix ptrace --cell {}",
            context::program(),
            finding.key
        ),
    );
}

fn matrix(cells: &[Cell]) -> String {
    let (mut stops, mut ways) = (Vec::new(), Vec::new());
    for cell in cells {
        if !stops.contains(&cell.stop()) {
            stops.push(cell.stop());
        }
        if !ways.contains(&cell.way()) {
            ways.push(cell.way());
        }
    }
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(ways.iter().map(|way| (*way).to_owned()));
    for stop in stops {
        let mut row = vec![stop.to_owned()];
        row.extend(ways.iter().map(|way| {
            let here = |cell: &&Cell| cell.stop() == stop && cell.way() == *way;
            field(cells.iter().filter(here))
        }));
        rows.push(row);
    }
    let width = |column: usize| {
        let widths = rows.iter().map(|row| row[column].chars().count());
        widths.max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let fields = row.iter().zip(&widths);
        let fields: Vec<_> = fields
            .map(|(text, width)| format!("{text:<width$}"))
            .collect();
        fields.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn field<'a>(cells: impl Iterator<Item = &'a Cell>) -> String {
    let cells: Vec<_> = cells.collect();
    let counts = MARKS.iter().filter_map(|(mark, classes)| {
        let count = cells.iter().filter(|cell| classes.contains(&cell.class));
        match count.count() {
            0 => None,
            count => Some(format!("{count}{mark}")),
        }
    });
    counts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_engine::Condition;
    use crucible_engine::outcome::Outcome;

    fn cell(name: &str, class: Class) -> Cell {
        Cell {
            images: Vec::new(),
            kept: Vec::new(),
            image_rules: Default::default(),
            cell: name.to_owned(),
            class,
            why: Some("the observations of the restarted run differ".to_owned()),
            differs: Some(["one".to_owned(), "other".to_owned()]),
            ms: 9,
        }
    }

    #[test]
    fn the_table_counts_cells_by_stop_and_way() {
        let cells = [
            cell("fork/attach/cont/pending/one", Class::Passed),
            cell("fork/seize/cont/pending/one", Class::Failed),
        ];
        assert_eq!(matrix(&cells), "      attach  seize\nfork  1+      1!\n");
    }

    #[test]
    fn a_failure_is_shown_with_the_command_that_reproduces_it() {
        let name = "fork/seize/cont/pending/one";
        let mut text = String::new();
        failure(
            &mut text,
            &Finding {
                key: name.to_owned(),
                outcome: Outcome::new(Condition::Diverged, "why"),
                ms: 9,
                detail: Some(cell(name, Class::Failed)),
            },
        );
        assert!(text.contains("  restarted  other\n"), "{text}");
        assert!(
            text.ends_with(&format!("matrix ptrace --cell {name}\n")),
            "{text}"
        );
    }
}
