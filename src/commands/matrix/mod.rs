// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible matrix`

mod guest_pool;
mod report;
mod table;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use crucible_protocol::matrix::Cell;

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::context::Context;
use crate::exit;
use guest_pool::GuestPool;
use report::Report;

/// Number of cells that run between two reports of progress.
const BATCH: usize = 20;

/// A matrix of cells.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Matrix {
    /// Kind of stop × way of attaching × the tracer's next request × wait status collected or
    /// not × number of threads
    Ptrace,
}

/// The options of `crucible matrix`.
#[derive(Debug, Args)]
pub struct MatrixArgs {
    /// The matrix to run
    #[arg(value_enum)]
    matrix: Matrix,
    #[command(flatten)]
    guest: GuestArgs,
    /// Run only cells STOP/WAY/NEXT/COLLECTED/THREADS that match; `*` matches anything
    #[arg(
        long,
        help_heading = "Cells",
        value_name = "PATTERN",
        default_value = "*"
    )]
    cell: String,
    /// Run only every Kth cell
    #[arg(long, help_heading = "Cells", value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,
    /// Run at most N cells, spread evenly
    #[arg(long, help_heading = "Cells", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Number of guests to run in parallel
    #[arg(long, help_heading = "Cells", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=32))]
    jobs: u8,
    /// Do not count cells that checkpoint(2) refuses as failures
    #[arg(long, help_heading = "Output")]
    allow_refused: bool,
    /// Print all cells as JSON
    #[arg(long, help_heading = "Output")]
    json: bool,
    /// Print what each cell's three runs observed, without comparing them
    #[arg(long, help_heading = "Output", conflicts_with = "json")]
    logs: bool,
}

/// Runs cells in guests. Exits with code 1 if a cell failed.
pub fn run(args: &MatrixArgs, context: &Context) -> Result<ExitCode> {
    let Matrix::Ptrace = args.matrix;
    let began = Instant::now();
    let images = BootArtefacts::prepare(context, &args.guest)?;
    let mut bench = GuestPool::new(&images, context);
    let names = chosen(&bench.list()?, args);
    if names.is_empty() {
        bail!("no cell matches {}", args.cell);
    }
    if args.logs {
        print!("{}", bench.logs(&names)?);
        return Ok(exit::PASS.into());
    }
    let others = (1..args.jobs).map(|_| GuestPool::new(&images, context));
    let cells = run_all([bench].into_iter().chain(others), &names, context)?;
    let report = Report::new(cells, args.allow_refused, began.elapsed());
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", table::render(&report));
    }
    Ok(report.exit_code().into())
}

/// Returns the cells that the command line selects.
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

/// The next batch of cells, and the results of the earlier batches.
struct Queue<'a> {
    left: std::slice::Chunks<'a, String>,
    done: Vec<Cell>,
    failed: Option<anyhow::Error>,
}

/// Runs all cells, on all runners in parallel. Returns the results in the order of the cells.
fn run_all<'a>(
    benches: impl Iterator<Item = GuestPool<'a>>,
    names: &[String],
    context: &Context,
) -> Result<Vec<Cell>> {
    let queue = Mutex::new(Queue {
        left: names.chunks(BATCH),
        done: Vec::new(),
        failed: None,
    });
    context.progress().begin("running cells");
    thread::scope(|scope| {
        for bench in benches {
            scope.spawn(|| work(bench, &queue, names.len(), context));
        }
    });
    context.progress().end();
    let queue = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = queue.failed {
        return Err(error);
    }
    let mut cells = queue.done;
    let place: HashMap<_, _> = names.iter().zip(0..).collect();
    cells.sort_by_key(|cell| place.get(&cell.cell).copied().unwrap_or(usize::MAX));
    Ok(cells)
}

/// Runs batches until none is left, or one could not be run.
fn work(mut bench: GuestPool<'_>, queue: &Mutex<Queue<'_>>, all: usize, context: &Context) {
    let locked = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || {
        let mut queue = locked();
        match queue.failed {
            Some(_) => None,
            None => queue.left.next(),
        }
    };
    let mut run = || -> Result<()> {
        while let Some(batch) = next() {
            let done = bench.run_batch(batch)?;
            // Report failed cells at once, because a long run may be interrupted before its final
            // report.
            for cell in done.iter().filter(|cell| cell.class.is_bad()) {
                let told = format!("{}: {}", cell.cell, cell.class.name());
                context.progress().note(&told);
            }
            let mut queue = locked();
            queue.done.extend(done);
            let done = queue.done.len() as u64;
            drop(queue);
            context.progress().advance(done, all as u64);
        }
        Ok(())
    };
    let result = run().and_then(|()| bench.shut_down());
    if let Err(error) = result {
        locked().failed.get_or_insert(error);
    }
}

/// Returns true when a name matches a pattern, in which `*` stands for any text.
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
}
