//! `crucible matrix`

mod report;
mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use crucible_engine::guest::{Guest, GuestError};
use crucible_protocol::matrix::{Cell, Class};

use crate::context::Context;
use crate::exit;
use crate::images::{GuestArgs, Images};
use crate::temporary::Temporary;

use report::Report;

/// How long the agent may take to answer.
const BOOT: Duration = Duration::from_secs(120);

/// How long a cell may take; in the guest it gives up long before.
const PER_CELL: Duration = Duration::from_secs(60);

/// So many cells are run between two words of progress.
const BATCH: usize = 20;

/// A source of the program that a cell is.
macro_rules! source {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../rootfs/matrix/", $name)),
        )
    };
}

/// All of them; in here, so that they are those that this program was built with, wherever
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

/// How they are compiled: addresses are the same in each run, and nothing is random.
const COMPILE: &str = "gcc -O2 -static -no-pie -fno-stack-protector -o cell *.c";

/// Which matrix.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Matrix {
    /// Stops of a tracee × ways of attaching × what its tracer does next × whether the wait
    /// status was collected × threads
    Ptrace,
}

/// The options of `crucible matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// Which matrix
    #[arg(value_enum)]
    matrix: Matrix,
    #[command(flatten)]
    guest: GuestArgs,
    /// Only cells STOP/WAY/NEXT/COLLECTED/THREADS like this one; `*` stands for anything
    #[arg(long, value_name = "PATTERN", default_value = "*")]
    cell: String,
    /// Only every K-th of them
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// At most N of them, spread over all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Cells that checkpoint(2) refuses are listed, but are no failure
    #[arg(long)]
    allow_refused: bool,
    /// Print all cells as JSON
    #[arg(long)]
    json: bool,
    /// Print what the three runs of each cell have seen, and judge nothing
    #[arg(long, conflicts_with = "json")]
    logs: bool,
}

/// Runs cells in a guest. Exit code 1 where one failed.
pub fn run(args: &MatrixArgs, context: &Context) -> Result<ExitCode> {
    let Matrix::Ptrace = args.matrix;
    let began = Instant::now();
    let mut bench = Bench {
        images: Images::prepare(context, &args.guest)?,
        context,
        guest: None,
    };
    let names = chosen(&bench.list()?, args);
    if names.is_empty() {
        bail!("no cell is like {}", args.cell);
    }
    if args.logs {
        let (guest, _) = bench.guest()?;
        print!("{}", exec(guest, &["--logs"], &names)??);
        return Ok(exit::PASS.into());
    }
    let cells = bench.run_all(&names)?;
    bench.shut_down()?;
    let report = Report::new(cells, args.allow_refused, began.elapsed());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table::render(&report));
    }
    Ok(report.exit_code().into())
}

/// The cells that the command line asks for.
fn chosen(all: &[String], args: &MatrixArgs) -> Vec<String> {
    let like = all.iter().filter(|name| is_like(&args.cell, name));
    let mut names: Vec<_> = like.step_by(args.every as usize).cloned().collect();
    if let Some(limit) = args.limit.map(|limit| limit as usize)
        && names.len() > limit
    {
        let all = names.len();
        names = (0..limit).map(|n| names[n * all / limit].clone()).collect();
    }
    names
}

/// Whether a name is like a pattern, in which `*` stands for any text.
fn is_like(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let ends = name.char_indices().map(|(at, _)| at).chain([name.len()]);
            let mut ends = ends;
            ends.any(|at| is_like(rest, &name[at..]))
        }),
    }
}

/// Where cells are run: a guest, and another one where that has died of a cell.
struct Bench<'a> {
    images: Images,
    context: &'a Context,
    guest: Option<(Guest, Temporary)>,
}

impl Bench<'_> {
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

    fn shut_down(mut self) -> Result<()> {
        if let Some((guest, _)) = self.guest.take() {
            guest.shutdown()?;
        }
        Ok(())
    }

    /// The names of all cells.
    fn list(&mut self) -> Result<Vec<String>> {
        let (guest, _) = self.guest()?;
        let mut names = Vec::new();
        // Stop by stop: all of them are more than the agent keeps of what a program prints.
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

    fn run_all(&mut self, names: &[String]) -> Result<Vec<Cell>> {
        let progress = self.context.progress();
        let mut cells = Vec::new();
        progress.begin("running cells");
        for batch in names.chunks(BATCH) {
            match self.run_batch(batch) {
                Ok(done) => {
                    // A run may be long, and be ended before its report.
                    for cell in done.iter().filter(|cell| cell.class.is_bad()) {
                        progress.note(&format!("{}: {}", cell.cell, cell.class.name()));
                    }
                    cells.extend(done);
                }
                Err(error) => {
                    progress.end();
                    return Err(error);
                }
            }
            progress.advance(cells.len() as u64, names.len() as u64);
        }
        progress.end();
        Ok(cells)
    }

    /// Runs some cells; where the guest dies of it, each of them in turn, to find the one.
    fn run_batch(&mut self, names: &[String]) -> Result<Vec<Cell>> {
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
        if let [name] = names {
            let console = console.map(|kept| kept.join("console.log"));
            let console = console.map(|path| path.display().to_string());
            return Ok(vec![Cell {
                cell: name.clone(),
                class: Class::Failed,
                why: Some(format!("{fault}; see {}", console.unwrap_or_default())),
                differs: None,
                ms: u64::try_from(began.elapsed().as_millis())?,
            }]);
        }
        let mut cells = Vec::new();
        for name in names {
            cells.extend(self.run_batch(std::slice::from_ref(name))?);
        }
        Ok(cells)
    }
}

fn parse(output: &str, names: &[String]) -> Result<Vec<Cell>> {
    let cells: Vec<Cell> = output
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("no cell: {line}")))
        .collect::<Result<_>>()?;
    ensure!(
        cells.len() == names.len(),
        "{} cells were run and {} were asked for",
        cells.len(),
        names.len()
    );
    Ok(cells)
}

/// What the guest's `matrix` prints about some cells, or how it failed.
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

/// Compiles the program.
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
    fn a_star_stands_for_anything() {
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
}
