// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible matrix`: each cell is a unit.

use std::{collections::BTreeMap, io, path::Path, time::Duration};

use crucible_protocol::matrix::{Cell, Class};
use serde::Serialize;

use super::{Done, Experiment, Finding, Group, Identity, Summary};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    eye::Eye,
    guest::Guest,
    outcome::Outcome,
    session::Session,
};

/// Number of cells that run together, between two messages of the agent.
const BATCH: usize = 20;

/// Time limit for an answer of the agent.
const LIMIT: Duration = Duration::from_secs(120);

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

/// The cells of a matrix.
#[derive(Clone, Debug)]
pub struct MatrixExperiment {
    /// Pattern of the cells to run; `*` stands for any text.
    pub pattern: String,
    /// Run only every Kth of them.
    pub every: usize,
    /// Number of cells to leave out before the first.
    pub offset: usize,
    /// Run at most this many, spread evenly.
    pub limit: Option<usize>,
    /// True when cells that checkpoint(2) refuses are not failures.
    pub allow_refused: bool,
}

/// The results of a matrix.
#[derive(Clone, Debug, Serialize)]
pub struct MatrixSummary {
    /// Number of cells by class.
    pub classes: BTreeMap<Class, u64>,
    /// Number of excluded cells by the ptrace(2) request that failed and its errno.
    pub excluded: BTreeMap<String, u64>,
    /// Number of cells whose tracee did not reach the intended stop, by the state that it reached
    /// instead.
    pub no_such_stop: BTreeMap<String, u64>,
}

impl Summary for MatrixSummary {}

impl MatrixExperiment {
    /// Returns the requested cells.
    fn chosen(&self, all: &[String]) -> Vec<String> {
        let like = all.iter().filter(|name| is_like(&self.pattern, name));
        let like = like.skip(self.offset);
        let names: Vec<_> = like.step_by(self.every).cloned().collect();
        match self.limit {
            Some(limit) if names.len() > limit => (0..limit)
                .map(|n| names[n * names.len() / limit].clone())
                .collect(),
            _ => names,
        }
    }

    fn outcome(&self, cell: &Cell) -> Outcome {
        let condition = match cell.class {
            Class::Passed => Condition::Passed,
            Class::Refused if !self.allow_refused => Condition::Refused,
            Class::Refused | Class::Excluded | Class::NoSuchStop | Class::Indistinguishable => {
                Condition::NotApplicable
            }
            Class::SecondRefused => Condition::SecondRefused,
            Class::Failed => Condition::Diverged,
            Class::Unknown => Condition::Unstable,
        };
        let why = cell.why.clone().unwrap_or_else(|| match cell.class {
            Class::Passed => "the tracer sees the same".to_owned(),
            class => class.name().to_owned(),
        });
        let mut lines = match &cell.differs {
            Some([control, other]) => vec![format!("- {control}"), format!("+ {other}")],
            None => Vec::new(),
        };
        lines.extend(cell.images.iter().cloned());
        if let [first, second] = &cell.kept[..] {
            lines.push(format!("crucible diff {first} {second}"));
        }
        Outcome {
            lines,
            ..Outcome::new(condition, why)
        }
    }

    /// Returns the observations of all cells' runs as text, without comparing them.
    ///
    /// # Errors
    /// Fails like [`Experiment::plan`].
    pub fn logs(&self, session: &mut Session<'_>) -> Result<String, Abort> {
        let names = self.chosen(&list(ready(session)?)?);
        let patience = session.patience();
        exec(session.running(), &["--logs"], &names, patience)
    }
}

/// Returns the session's guest with the cell program.
fn ready<'g>(session: &'g mut Session<'_>) -> Result<&'g mut Guest, Abort> {
    let patience = session.patience();
    let (guest, new) = session.guest().map_err(Abort::session)?;
    if new {
        let before = |error| Abort::guest(Phase::Before, error);
        guest.prepare(None).map_err(before)?;
        for (name, content) in SOURCES {
            guest
                .write_file(&format!("/work/{name}"), 0o644, content.as_bytes())
                .map_err(before)?;
        }
        let run = guest
            .exec(&sh(COMPILE), &BTreeMap::new(), "/work", LIMIT * patience)
            .map_err(before)?;
        if !run.success() {
            let why = "the cell program's build failed";
            let lines = run.stderr.lines().map(str::to_owned).collect();
            return Err(Abort::new(Condition::BuildFailed, why).with(lines));
        }
    }
    Ok(guest)
}

/// Returns the names of all cells.
fn list(guest: &mut Guest) -> Result<Vec<String>, Abort> {
    let mut names = Vec::new();
    // Lists the cells of one stop at a time, because the agent limits the captured output of a
    // program, and the whole list is longer.
    for stop in 0.. {
        let list = sh(&format!("./cell --list {stop}"));
        let run = guest
            .exec(&list, &BTreeMap::new(), "/work", LIMIT)
            .map_err(|error| Abort::guest(Phase::Before, error))?;
        if !run.success() {
            let why = format!("cannot list the cells: {}", run.stderr);
            return Err(Abort::failed(why));
        }
        if run.stdout.is_empty() {
            break;
        }
        names.extend(run.stdout.lines().map(str::to_owned));
    }
    Ok(names)
}

/// Runs the guest's `matrix` on some cells and returns its output.
fn exec(
    guest: &mut Guest,
    options: &[&str],
    names: &[String],
    patience: u32,
) -> Result<String, Abort> {
    let mut command = ["matrix", "--program", "/work/cell"]
        .map(String::from)
        .to_vec();
    command.extend(options.iter().map(|&option| option.to_owned()));
    command.push(format!("--patience={patience}"));
    command.extend_from_slice(names);
    let cells = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let limit = (LIMIT + PER_CELL * cells) * patience;
    let after = |error| Abort::guest(Phase::After, error);
    guest.mark_used();
    let run = guest
        .exec(&command, &BTreeMap::new(), "/work", limit)
        .map_err(after)?;
    guest.settle().map_err(after)?;
    match run.success() {
        true => Ok(run.stdout),
        false => Err(Abort::failed(run.stderr.trim_end())),
    }
}

/// Copies the images of a cell to the results directory, if they differ.
fn keep(session: &mut Session<'_>, cell: &mut Cell) -> Result<(), Abort> {
    let store = session.setup().store;
    let dir = Path::new("images").join(cell.cell.replace('/', "."));
    for path in &mut cell.kept {
        let content = session.running().read_file(path);
        let content = content.map_err(|error| Abort::guest(Phase::After, error))?;
        let name = Path::new(path.as_str()).file_name().unwrap_or_default();
        let to = dir.join(name);
        let written = store.write(&to, &content);
        written.map_err(|error| Abort::io("cannot write the results", &error))?;
        *path = to.to_string_lossy().into_owned();
    }
    Ok(())
}

fn parse(output: &str, names: &[String]) -> Result<Vec<Cell>, Abort> {
    let cells: Vec<Cell> = output
        .lines()
        .map(|line| {
            serde_json::from_str(line)
                .map_err(|_| Abort::failed(format!("malformed line for a cell: {line}")))
        })
        .collect::<Result<_, _>>()?;
    if cells.len() != names.len() {
        let (run, asked) = (cells.len(), names.len());
        let why = format!("{run} cells were run, but {asked} were requested");
        return Err(Abort::failed(why));
    }
    Ok(cells)
}

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

/// Returns true when a name matches a pattern, in which `*` stands for any text.
fn is_like(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let mut ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            ends.any(|at| is_like(rest, &name[at..]))
        }),
    }
}

impl Experiment for MatrixExperiment {
    /// Name of the cell.
    type Unit = String;
    type Detail = Cell;
    type Summary = MatrixSummary;

    fn key(&self, unit: &String) -> String {
        unit.clone()
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        for (name, content) in SOURCES {
            identity.add(name, content);
        }
        identity.add("allow refused", self.allow_refused.to_string());
        Ok(())
    }

    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let names = self.chosen(&list(ready(session)?)?);
        if names.is_empty() {
            let why = format!("no cell matches {}", self.pattern);
            return Err(Abort::missed(why));
        }
        Ok(names.chunks(BATCH).map(<[String]>::to_vec).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[String],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        ready(session)?;
        let patience = session.patience();
        let options: &[&str] = match session.setup().without.contains(&Eye::SecondImage) {
            true => &["--no-second-image"],
            false => &[],
        };
        let output = exec(session.running(), options, units, patience)?;
        for (unit, mut cell) in units.iter().zip(parse(&output, units)?) {
            keep(session, &mut cell)?;
            done(unit, self.outcome(&cell), Some(cell))?;
        }
        Ok(())
    }

    fn unit_ms(&self, cell: &Cell) -> Option<u64> {
        Some(cell.ms)
    }

    fn summarise(&self, findings: &[Finding<Cell>]) -> MatrixSummary {
        let mut classes: BTreeMap<_, _> = Class::ALL.map(|class| (class, 0)).into();
        let (mut excluded, mut no_such_stop) = (BTreeMap::new(), BTreeMap::new());
        for cell in findings
            .iter()
            .filter_map(|finding| finding.detail.as_ref())
        {
            *classes.entry(cell.class).or_default() += 1;
            let reasons = match cell.class {
                Class::Excluded => &mut excluded,
                Class::NoSuchStop => &mut no_such_stop,
                _ => continue,
            };
            let why = cell.why.clone().unwrap_or_default();
            *reasons.entry(why).or_default() += 1;
        }
        MatrixSummary {
            classes,
            excluded,
            no_such_stop,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_matches_any_text() {
        assert!(is_like("*", "fork/seize/cont/pending/one"));
        assert!(is_like("fork/*/pending/*", "fork/seize/cont/pending/one"));
        assert!(is_like("*fork*", "newborn-fork/seize"));
        assert!(!is_like("fork/*", "vfork/seize"));
        assert!(!is_like("fork", "fork/seize"));
    }

    #[test]
    fn a_batch_has_a_line_for_each_cell() {
        let line = r#"{"cell":"a/b/c/d/e","class":"no-such-stop","why":"0x5 came","ms":3}"#;
        let names = ["a/b/c/d/e".to_owned(), "f".to_owned()];
        assert!(parse(line, &names).is_err());
        let cells = parse(line, &names[..1]).unwrap();
        assert_eq!(cells[0].class, Class::NoSuchStop);
    }

    #[test]
    fn a_limit_spreads_the_cells_evenly() {
        let all: Vec<_> = (0..10).map(|n| n.to_string()).collect();
        let matrix = MatrixExperiment {
            pattern: "*".into(),
            every: 2,
            offset: 0,
            limit: Some(2),
            allow_refused: false,
        };
        assert_eq!(matrix.chosen(&all), ["0", "4"]);
        let other = MatrixExperiment {
            offset: 1,
            limit: None,
            ..matrix
        };
        assert_eq!(other.chosen(&all), ["1", "3", "5", "7", "9"]);
    }
}
