// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report of a matrix as text: a table of stops by ways of attaching, then the failures.

use std::fmt::Write;

use crucible_protocol::matrix::{Cell, Class};

use super::report::Report;

/// The marks of a field of the table, with the classes that each counts.
const MARKS: [(&str, &[Class]); 4] = [
    ("+", &[Class::Passed]),
    ("!", &[Class::Failed, Class::Refused, Class::Unknown]),
    ("x", &[Class::Excluded, Class::NoSuchStop]),
    ("~", &[Class::Indistinguishable]),
];

/// Returns the complete report as text.
pub fn render(report: &Report) -> String {
    let mut text = matrix(&report.cells);
    text.push_str("+ passed   ! failed, refused or unknown   x excluded or no such stop   ~ indistinguishable here\n\n");
    for class in Class::ALL {
        let count = report.count(class);
        if count > 0 {
            add(&mut text, format_args!("{count:>7} {}", class.name()));
        }
    }
    for (call, count) in &report.excluded {
        add(&mut text, format_args!("{count:>7} excluded by {call}"));
    }
    for (came, count) in &report.no_such_stop {
        add(&mut text, format_args!("{count:>7} no such stop: {came}"));
    }
    add(&mut text, format_args!("{:>7} s in total", report.seconds));
    // Permitted refusals are listed separately.
    let allowed = |cell: &&Cell| cell.class == Class::Refused && report.allow_refused;
    let bad = |cell: &&Cell| cell.class.is_bad() && !allowed(cell);
    for cell in report.cells.iter().filter(bad) {
        tell(&mut text, cell);
    }
    let mut refused = report.cells.iter().filter(allowed).peekable();
    if refused.peek().is_some() {
        text.push_str("\nrefused, as permitted by --allow-refused:\n");
    }
    for cell in refused {
        let why = cell.why.as_deref().unwrap_or_default();
        add(&mut text, format_args!("  {}: {why}", cell.cell));
    }
    text
}

fn add(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

fn tell(text: &mut String, cell: &Cell) {
    let why = cell.why.as_deref().unwrap_or_default();
    let class = cell.class.name();
    add(text, format_args!("\n{}: {class}: {why}", cell.cell));
    if let Some([control, other]) = &cell.differs {
        let other_run = match cell.class {
            Class::Unknown => "2nd control",
            _ => "restarted",
        };
        add(text, format_args!("  control    {control}"));
        add(text, format_args!("  {other_run:<9}  {other}"));
    }
    add(
        text,
        format_args!("  repeat     crucible matrix ptrace --cell {}", cell.cell),
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
    use std::time::Duration;

    #[test]
    fn a_failure_is_shown_with_the_command_that_reproduces_it() {
        let name = "fork/seize/cont/pending/one";
        let failed = Cell {
            cell: name.to_owned(),
            class: Class::Failed,
            why: Some("the restarted run observed something different".to_owned()),
            differs: Some(["one".to_owned(), "other".to_owned()]),
            ms: 9,
        };
        let passed = Cell {
            cell: "fork/attach/cont/pending/one".to_owned(),
            class: Class::Passed,
            why: None,
            differs: None,
            ms: 9,
        };
        let text = render(&Report::new(vec![passed, failed], false, Duration::ZERO));
        assert!(
            text.starts_with("      attach  seize\nfork  1+      1!\n"),
            "{text}"
        );
        assert!(text.contains("  restarted  other\n"), "{text}");
        assert!(
            text.ends_with(&format!("crucible matrix ptrace --cell {name}\n")),
            "{text}"
        );
    }
}
