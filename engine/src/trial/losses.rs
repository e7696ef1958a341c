// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds kernel objects that each restart leaks: compares the kernel's books before and after
//! repeated restarts.

use super::Options;
use crate::{
    abort::Abort,
    backend::Backend,
    blame::Condition,
    books::Books,
    run::{RestartIn, Runner},
};

/// Minimum number of repeated restarts for which losses are searched. In a new guest some counts
/// (dentries, nodes of maple trees) vary by seven, which fewer restarts could mistake for a loss by
/// each.
const LEAST: u32 = 10;

/// Number of times that a loss must repeat.
const AGAIN: u32 = 2;

/// Returns true when a case is repeated often enough, in one guest.
pub(super) fn applies(options: &Options) -> bool {
    options.repeat >= LEAST
        && options.links() == 1
        && options.restart_in == RestartIn::Same
        && options.backend == Backend::Crucible
}

/// Reads the kernel's books.
pub(super) fn read(runner: &mut Runner<'_, '_>) -> Result<Books, Abort> {
    let patience = runner.session.patience();
    Books::read(runner.session.running(), patience)
}

/// Compares the growth of the books by `runs` restarts since `before` with that by the same number
/// of controls.
///
/// # Errors
/// Each restart loses something, or a run fails.
pub(super) fn check(
    runner: &mut Runner<'_, '_>,
    options: &Options,
    before: &Books,
    runs: u32,
) -> Result<(), Abort> {
    let growth = read(runner)?.growth(before);
    let mut usual = controls(runner, runs)?;
    let mut lost = growth.lost(&usual, runs);
    for _ in 0..AGAIN {
        if lost.is_empty() {
            return Ok(());
        }
        let before = read(runner)?;
        for _ in 0..runs {
            runner.restarted(options.restart_in)?.end?;
        }
        let growth = read(runner)?.growth(&before);
        usual = controls(runner, runs)?;
        let again = growth.lost(&usual, runs);
        lost.retain(|line| again.iter().any(|other| name(other) == name(line)));
    }
    match lost.first() {
        None => Ok(()),
        Some(first) => {
            let why = format!("the kernel's books: {first}");
            Err(Abort::new(Condition::Leak, why).with(lost))
        }
    }
}

/// Returns the growth of the books by controls, which neither checkpoint nor restart.
fn controls(runner: &mut Runner<'_, '_>, runs: u32) -> Result<Books, Abort> {
    let before = read(runner)?;
    for _ in 0..runs {
        runner.control()?;
    }
    Ok(read(runner)?.growth(&before))
}

/// Returns the name of the count in a line about a loss.
fn name(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}
