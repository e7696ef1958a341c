// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs cells in a guest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use crucible_engine::guest::{Guest, GuestError};
use crucible_protocol::matrix::{Cell, Class};

use crate::boot_artefacts::BootArtefacts;
use crate::context::Context;
use crate::temporary::Temporary;

/// Time limit for an answer of the agent.
const BOOT: Duration = Duration::from_secs(120);

/// Time limit per cell. It only bounds a hung guest, because the guest's own limits are much
/// shorter.
const PER_CELL: Duration = Duration::from_secs(60);

/// Embeds a source file of the cell program.
macro_rules! source {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../rootfs/matrix/", $name)),
        )
    };
}

/// All sources of the cell program, embedded so that they match this build of crucible, wherever
/// it runs.
const SOURCES: [(&str, &str); 7] = [
    source!("cell.h"),
    source!("lead.c"),
    source!("look.c"),
    source!("main.c"),
    source!("table.c"),
    source!("tracee.c"),
    source!("tracer.c"),
];

/// The compiler command. A static, non-PIE program has the same addresses in each run, without
/// random canaries.
const COMPILE: &str = "gcc -O2 -static -no-pie -fno-stack-protector -o cell *.c";

/// Runs cells in a guest, and boots a new guest after a cell has crashed one.
pub struct GuestPool<'a> {
    images: &'a BootArtefacts,
    context: &'a Context,
    guest: Option<(Guest, Temporary)>,
}

impl<'a> GuestPool<'a> {
    /// Returns a runner that boots its guest on demand.
    pub fn new(images: &'a BootArtefacts, context: &'a Context) -> Self {
        Self {
            images,
            context,
            guest: None,
        }
    }

    fn guest(&mut self) -> Result<(&mut Guest, &Temporary)> {
        if self.guest.is_none() {
            let directory = Temporary::new("matrix")?;
            let mut guest = self.images.boot(self.context, directory.path(), BOOT)?;
            prepare(&mut guest)?;
            self.guest = Some((guest, directory));
        }
        let (guest, directory) = self.guest.as_mut().context("it was just booted")?;
        Ok((guest, directory))
    }

    /// Shuts its guest down.
    pub fn shut_down(mut self) -> Result<()> {
        if let Some((guest, _)) = self.guest.take() {
            guest.shutdown()?;
        }
        Ok(())
    }

    /// Returns the names of all cells.
    pub fn list(&mut self) -> Result<Vec<String>> {
        let (guest, _) = self.guest()?;
        let mut names = Vec::new();
        // Lists the cells of one stop at a time, because the agent limits the captured output of a
        // program, and the whole list is longer.
        for stop in 0.. {
            let list = sh(&format!("./cell --list {stop}"));
            let run = guest.exec(&list, &BTreeMap::new(), "/work", BOOT)?;
            ensure!(run.success(), "cannot list the cells: {}", run.stderr);
            if run.stdout.is_empty() {
                break;
            }
            names.extend(run.stdout.lines().map(str::to_owned));
        }
        Ok(names)
    }

    /// Returns the observations of each cell's runs as text.
    pub fn logs(&mut self, names: &[String]) -> Result<String> {
        let (guest, _) = self.guest()?;
        exec(guest, &["--logs"], names)?
    }

    /// Runs a batch of cells. If the guest crashes, runs each cell on its own to find the culprit.
    /// If none of them crashes the guest again, the result of every cell is unknown.
    pub fn run_batch(&mut self, names: &[String]) -> Result<Vec<Cell>> {
        let began = Instant::now();
        let (guest, _) = self.guest()?;
        let fault = match exec(guest, &[], names) {
            Ok(output) => return parse(&output?, names),
            Err(error) => error,
        };
        if !matches!(
            fault,
            GuestError::Alert(_) | GuestError::Silent { .. } | GuestError::Ended(_)
        ) {
            return Err(fault.into());
        }
        let console = self.guest.take().map(|(_, directory)| directory.keep());
        let console = console.map(|kept| kept.join("console.log").display().to_string());
        let why = format!("{fault}; see {}", console.unwrap_or_default());
        if let [name] = names {
            return Ok(vec![Cell {
                cell: name.clone(),
                class: Class::Failed,
                why: Some(why),
                differs: None,
                ms: u64::try_from(began.elapsed().as_millis())?,
            }]);
        }
        let mut cells = Vec::new();
        let mut dies_again = false;
        for name in names {
            cells.extend(self.run_batch(std::slice::from_ref(name))?);
            dies_again |= self.guest.is_none();
        }
        if !dies_again {
            not_again(&mut cells, &why);
        }
        Ok(cells)
    }
}

/// Marks cells that passed on their own as unknown, because the guest crashed while, or just
/// after, they ran in one batch.
fn not_again(cells: &mut [Cell], fault: &str) {
    for cell in cells.iter_mut().filter(|cell| !cell.class.is_bad()) {
        cell.class = Class::Unknown;
        cell.why = Some(format!(
            "in a batch with other cells, or just after it: {fault}"
        ));
    }
}

fn parse(output: &str, names: &[String]) -> Result<Vec<Cell>> {
    let cells: Vec<Cell> = output
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("malformed line for a cell: {line}"))
        })
        .collect::<Result<_>>()?;
    ensure!(
        cells.len() == names.len(),
        "{} cells were run, but {} were requested",
        cells.len(),
        names.len()
    );
    Ok(cells)
}

/// Runs the guest's `matrix` on some cells and returns its output. The inner error is a failure of
/// `matrix`.
fn exec(
    guest: &mut Guest,
    options: &[&str],
    names: &[String],
) -> Result<Result<String>, GuestError> {
    let mut command = ["matrix", "--program", "/work/cell"]
        .map(String::from)
        .to_vec();
    command.extend(options.iter().map(|&option| option.to_owned()));
    command.extend_from_slice(names);
    let limit = BOOT + PER_CELL * names.len() as u32;
    let run = guest.exec(&command, &BTreeMap::new(), "/work", limit)?;
    guest.check_alerts()?;
    Ok(match run.success() {
        true => Ok(run.stdout),
        false => Err(anyhow::anyhow!("{}", run.stderr.trim_end())),
    })
}

/// Copies and compiles the cell program.
fn prepare(guest: &mut Guest) -> Result<()> {
    guest.prepare(None)?;
    for (name, content) in SOURCES {
        guest.write_file(&format!("/work/{name}"), 0o644, content.as_bytes())?;
    }
    let run = guest.exec(&sh(COMPILE), &BTreeMap::new(), "/work", BOOT)?;
    ensure!(run.success(), "cannot build the cells: {}", run.stderr);
    Ok(())
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_a_line_for_each_cell() {
        let line = r#"{"cell":"a/b/c/d/e","class":"no-such-stop","why":"0x5 came","ms":3}"#;
        let names = ["a/b/c/d/e".to_owned(), "f".to_owned()];
        assert!(parse(line, &names).is_err());
        let cells = parse(line, &names[..1]).unwrap();
        assert_eq!(cells[0].class, Class::NoSuchStop);
    }

    #[test]
    fn a_fault_that_does_not_recur_is_reported() {
        let lines = concat!(
            r#"{"cell":"a/b/c/d/e","class":"passed","ms":3}"#,
            "\n",
            r#"{"cell":"f/b/c/d/e","class":"failed","why":"it differs","ms":3}"#
        );
        let names = ["a/b/c/d/e".to_owned(), "f/b/c/d/e".to_owned()];
        let mut cells = parse(lines, &names).unwrap();
        not_again(&mut cells, "Oops");
        assert_eq!(cells[0].class, Class::Unknown);
        assert!(cells[0].why.as_ref().unwrap().ends_with("Oops"));
        assert_eq!(cells[1].class, Class::Failed);
        assert_eq!(cells[1].why.as_deref(), Some("it differs"));
    }
}
