// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Judges a cell: runs it in each mode and compares the observations.

use std::{fmt::Write, time::Instant};

use anyhow::Result;
use crucible_protocol::matrix::{Cell, Class};

use crate::run::{CellRunner, Mode, Outcome};

/// Number of differences of images that are reported.
const SHOWN: usize = 5;

#[derive(Debug, PartialEq, Eq)]
struct Judgement {
    class: Class,
    why: Option<String>,
    differs: Option<[String; 2]>,
}

impl Judgement {
    fn new(class: Class) -> Self {
        Self {
            class,
            why: None,
            differs: None,
        }
    }

    fn because(class: Class, why: impl Into<String>) -> Self {
        Self {
            why: Some(why.into()),
            ..Self::new(class)
        }
    }
}

/// Runs a cell in each mode that is needed, and returns the result.
pub fn judge(runner: &CellRunner, name: &str) -> Result<Cell> {
    let began = Instant::now();
    runner.second();
    let mut judgement = judgement(runner, name)?;
    let second = runner.second();
    let differences = &second.comparison.differences;
    let mut images: Vec<_> = differences
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    images.extend(second.unreadable);
    if !images.is_empty() && judgement.class == Class::Passed {
        judgement = Judgement::because(Class::Failed, "the second image differs from the first");
    }
    let kept = second.kept.iter().map(|path| path.display().to_string());
    Ok(Cell {
        cell: name.to_owned(),
        class: judgement.class,
        why: judgement.why,
        differs: judgement.differs,
        images,
        kept: kept.collect(),
        image_rules: second.comparison.rules,
        ms: u64::try_from(began.elapsed().as_millis())?,
    })
}

fn judgement(runner: &CellRunner, name: &str) -> Result<Judgement> {
    let alone = match undisturbed(runner, name, Mode::Undisturbed)? {
        Ok(alone) => alone,
        Err(judgement) => return Ok(judgement),
    };
    if let Some(judgement) = not_a_cell(&alone) {
        // Confirm the exclusion with a second run, because a single one may be a coincidence.
        return Ok(match undisturbed(runner, name, Mode::Undisturbed)? {
            Ok(again) if not_a_cell(&again).as_ref() == Some(&judgement) => judgement,
            Ok(_) => Judgement::because(
                Class::Unknown,
                format!(
                    "the first undisturbed run excludes the cell ({}), but the second does not",
                    judgement.why.unwrap_or_default()
                ),
            ),
            Err(judgement) => judgement,
        });
    }
    if steps_by_blocks(name) {
        let without = match undisturbed(runner, name, Mode::Absent)? {
            Ok(without) => without,
            Err(judgement) => return Ok(judgement),
        };
        if without == alone {
            return Ok(Judgement::because(
                Class::Indistinguishable,
                "block steps and single steps have the same effect here",
            ));
        }
    }
    let control = match undisturbed(runner, name, Mode::Control)? {
        Ok(control) => control,
        Err(judgement) => return Ok(judgement),
    };
    if let Some(none) = not_a_cell(&control) {
        let why = none.why.unwrap_or_default();
        let why = format!("the cell is excluded once it is frozen and thawed: {why}");
        return Ok(Judgement::because(Class::Unknown, why));
    }
    let restarted = match runner.run(name, Mode::Restarted)? {
        Outcome::Seen(restarted) => restarted,
        Outcome::Refused(why) => return Ok(Judgement::because(Class::Refused, why)),
        Outcome::SecondRefused(why) => {
            return Ok(Judgement::because(Class::SecondRefused, why));
        }
        Outcome::Failed(why) => return Ok(Judgement::because(Class::Failed, why)),
    };
    let Some(differs) = difference(&control, &restarted) else {
        return Ok(Judgement::new(Class::Passed));
    };
    // If two controls differ, the cell is not deterministic, and a difference after the restart
    // has no meaning.
    let again = match undisturbed(runner, name, Mode::Control)? {
        Ok(again) => again,
        Err(judgement) => return Ok(judgement),
    };
    Ok(match difference(&control, &again) {
        None => Judgement {
            differs: Some(differs),
            ..Judgement::because(
                Class::Failed,
                "the observations of the restarted run differ",
            )
        },
        Some(differs) => Judgement {
            differs: Some(differs),
            ..Judgement::because(Class::Unknown, "two controls differ")
        },
    })
}

/// Returns the observations of a run without a restart, or the judgement that the cell's result is
/// unknown.
fn undisturbed(
    runner: &CellRunner,
    name: &str,
    mode: Mode,
) -> Result<Result<Vec<String>, Judgement>> {
    let unknown = |why: String| Judgement::because(Class::Unknown, format!("{mode:?}: {why}"));
    Ok(match runner.run(name, mode)? {
        Outcome::Seen(seen) => match seen.iter().find(|line| has_failed(line)) {
            Some(line) => Err(unknown(line.clone())),
            None => Ok(seen),
        },
        Outcome::Refused(why) | Outcome::SecondRefused(why) | Outcome::Failed(why) => {
            Err(unknown(why))
        }
    })
}

/// Returns true when the program reports that it could not set up the cell's situation.
fn has_failed(line: &str) -> bool {
    line.contains("cell fails") || line.contains("too many stops")
}

/// Returns the class of a cell that an undisturbed run excludes, or `None` for a usable cell.
fn not_a_cell(seen: &[String]) -> Option<Judgement> {
    let find = |what: &str| {
        let found = seen.iter().find_map(|line| line.strip_prefix(what));
        found.map(|rest| rest.trim().to_owned())
    };
    if let Some(call) = find("tracer sees: tracer excluded ") {
        return Some(Judgement::because(Class::Excluded, call));
    }
    let reached = find("tracer sees: tracer no such stop: ")?;
    Some(Judgement::because(Class::NoSuchStop, reached))
}

/// Returns true when the cell tests block steps.
fn steps_by_blocks(name: &str) -> bool {
    name.split('/').any(|part| part == "block")
}

/// Returns the first line that differs, from both runs.
fn difference(control: &[String], other: &[String]) -> Option<[String; 2]> {
    let line = |lines: &[String], at: usize| {
        let line = lines.get(at).map_or("end of the log", String::as_str);
        line.to_owned()
    };
    (0..control.len().max(other.len()))
        .find(|&at| control.get(at) != other.get(at))
        .map(|at| [line(control, at), line(other, at)])
}

/// Returns the observations of a control and of a restarted run as text.
pub fn logs(runner: &CellRunner, name: &str) -> Result<String> {
    let mut text = String::new();
    for mode in [Mode::Undisturbed, Mode::Control, Mode::Restarted] {
        writeln!(text, "{name} {mode:?}")?;
        match runner.run(name, mode)? {
            Outcome::Seen(seen) => writeln!(text, "{}", seen.join("\n"))?,
            outcome => writeln!(text, "{outcome:?}")?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_log_that_ends_early_differs() {
        let (long, short) = (lines(&["a", "b"]), lines(&["a"]));
        assert_eq!(difference(&long, &long), None);
        let differs = difference(&long, &short).unwrap();
        assert_eq!(differs, ["b".to_owned(), "end of the log".to_owned()]);
    }

    #[test]
    fn only_the_tracer_excludes_a_cell() {
        let excluded = lines(&["tracer sees: tracer excluded listen EIO"]);
        let judgement = not_a_cell(&excluded).unwrap();
        assert_eq!(judgement.class, Class::Excluded);
        assert_eq!(judgement.why.as_deref(), Some("listen EIO"));
        assert!(not_a_cell(&lines(&["tasks see: tracee excluded listen EIO"])).is_none());
    }

    #[test]
    fn block_steps_are_known_by_name() {
        assert!(steps_by_blocks("fork/seize/block/pending/one"));
        assert!(steps_by_blocks("block/seize/cont/pending/one"));
        assert!(!steps_by_blocks("signal-blocked/seize/cont/pending/one"));
    }
}
