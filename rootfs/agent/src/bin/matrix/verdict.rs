// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What becomes of a cell: its runs, and how they compare.

use std::{fmt::Write, time::Instant};

use anyhow::Result;
use crucible_protocol::matrix::{Cell, Class};

use crate::run::{Bench, Mode, Outcome};

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

/// Runs a cell as often as it takes.
pub fn judge(bench: &Bench, name: &str) -> Result<Cell> {
    let began = Instant::now();
    let judgement = judgement(bench, name)?;
    Ok(Cell {
        cell: name.to_owned(),
        class: judgement.class,
        why: judgement.why,
        differs: judgement.differs,
        ms: u64::try_from(began.elapsed().as_millis())?,
    })
}

fn judgement(bench: &Bench, name: &str) -> Result<Judgement> {
    let alone = match undisturbed(bench, name, Mode::Undisturbed)? {
        Ok(alone) => alone,
        Err(judgement) => return Ok(judgement),
    };
    if let Some(judgement) = not_a_cell(&alone) {
        // What is left out on the word of one run might have been chance.
        return Ok(match undisturbed(bench, name, Mode::Undisturbed)? {
            Ok(again) if not_a_cell(&again).as_ref() == Some(&judgement) => judgement,
            Ok(_) => Judgement::because(
                Class::Unknown,
                format!(
                    "undisturbed it is no cell ({}), and then it is",
                    judgement.why.unwrap_or_default()
                ),
            ),
            Err(judgement) => judgement,
        });
    }
    if steps_by_blocks(name) {
        let without = match undisturbed(bench, name, Mode::Absent)? {
            Ok(without) => without,
            Err(judgement) => return Ok(judgement),
        };
        if without == alone {
            return Ok(Judgement::because(
                Class::Indistinguishable,
                "block steps do here what single steps do",
            ));
        }
    }
    let control = match undisturbed(bench, name, Mode::Control)? {
        Ok(control) => control,
        Err(judgement) => return Ok(judgement),
    };
    if let Some(none) = not_a_cell(&control) {
        let why = none.why.unwrap_or_default();
        let why = format!("frozen and thawed it is no cell any more: {why}");
        return Ok(Judgement::because(Class::Unknown, why));
    }
    let restarted = match bench.run(name, Mode::Restarted)? {
        Outcome::Seen(restarted) => restarted,
        Outcome::Refused(why) => return Ok(Judgement::because(Class::Refused, why)),
        Outcome::Failed(why) => return Ok(Judgement::because(Class::Failed, why)),
    };
    let Some(differs) = difference(&control, &restarted) else {
        return Ok(Judgement::new(Class::Passed));
    };
    // A cell that is not the same twice says nothing about the restart.
    let again = match undisturbed(bench, name, Mode::Control)? {
        Ok(again) => again,
        Err(judgement) => return Ok(judgement),
    };
    Ok(match difference(&control, &again) {
        None => Judgement {
            differs: Some(differs),
            ..Judgement::because(Class::Failed, "the restarted run saw something else")
        },
        Some(differs) => Judgement {
            differs: Some(differs),
            ..Judgement::because(Class::Unknown, "two controls differ")
        },
    })
}

/// What a run saw that nobody has restarted, or why nothing can be said of the cell.
fn undisturbed(bench: &Bench, name: &str, mode: Mode) -> Result<Result<Vec<String>, Judgement>> {
    let unknown = |why: String| Judgement::because(Class::Unknown, format!("{mode:?}: {why}"));
    Ok(match bench.run(name, mode)? {
        Outcome::Seen(seen) => match seen.iter().find(|line| has_failed(line)) {
            Some(line) => Err(unknown(line.clone())),
            None => Ok(seen),
        },
        Outcome::Refused(why) | Outcome::Failed(why) => Err(unknown(why)),
    })
}

/// Whether the program says that it could not do what the cell is about.
fn has_failed(line: &str) -> bool {
    line.contains("cell fails") || line.contains("too many stops")
}

/// The class of a cell that the undisturbed run has shown to be none.
fn not_a_cell(seen: &[String]) -> Option<Judgement> {
    let said = |what: &str| {
        let found = seen.iter().find_map(|line| line.strip_prefix(what));
        found.map(|rest| rest.trim().to_owned())
    };
    if let Some(call) = said("tracer sees: tracer excluded ") {
        return Some(Judgement::because(Class::Excluded, call));
    }
    let came = said("tracer sees: tracer no such stop: ")?;
    Some(Judgement::because(Class::NoSuchStop, came))
}

/// Whether a block step is what the cell is about.
fn steps_by_blocks(name: &str) -> bool {
    name.split('/').any(|part| part == "block")
}

/// The first line that is not the same.
fn difference(control: &[String], other: &[String]) -> Option<[String; 2]> {
    let line = |lines: &[String], at: usize| {
        let line = lines.get(at).map_or("nothing more", String::as_str);
        line.to_owned()
    };
    (0..control.len().max(other.len()))
        .find(|&at| control.get(at) != other.get(at))
        .map(|at| [line(control, at), line(other, at)])
}

/// What a control and a restarted run have seen, for somebody who reads it.
pub fn logs(bench: &Bench, name: &str) -> Result<String> {
    let mut text = String::new();
    for mode in [Mode::Undisturbed, Mode::Control, Mode::Restarted] {
        writeln!(text, "{name} {mode:?}")?;
        match bench.run(name, mode)? {
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
        assert_eq!(differs, ["b".to_owned(), "nothing more".to_owned()]);
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
