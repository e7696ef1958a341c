// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The comparisons that decide the verdict of a case.

use crucible_protocol::{Ended, Observation};

use crate::{
    backend::Backend,
    compare::{self, Check, RunOutput},
    diff,
    normalise::{self, Uses},
    run::{Frozen, Link, RestartIn, Restarted, Second},
    scenario::Case,
};

/// Compares the restarted run with the control, and with its own state before the checkpoint.
pub(crate) fn judge(
    case: &Case,
    backend: Backend,
    control_point: &Frozen,
    control: &RunOutput,
    restarted: &Restarted,
    uses: &mut Uses,
) -> Vec<Check> {
    let mut checks = Vec::new();
    if !case.any_task {
        checks.push(same_point(control_point, &restarted.before));
    }
    checks.extend(around(backend, restarted, uses));
    if let Ok(output) = &restarted.end {
        checks.extend(end(case, "restarted = control", output, control, uses));
    }
    checks
}

/// Compares the tree after each restart with the tree before the checkpoint.
pub(crate) fn around(backend: Backend, restarted: &Restarted, uses: &mut Uses) -> Vec<Check> {
    let links = 0..=restarted.later.len();
    links
        .flat_map(|number| link(backend, restarted, number, uses))
        .collect()
}

/// Compares the tree after the last restart so far with the tree before its checkpoint. While a
/// chain runs, its earlier links have been compared.
pub(crate) fn last_link(backend: Backend, restarted: &Restarted, uses: &mut Uses) -> Vec<Check> {
    link(backend, restarted, restarted.later.len(), uses)
}

/// Compares a link of a chain, from 0 on.
fn link(backend: Backend, restarted: &Restarted, number: usize, uses: &mut Uses) -> Vec<Check> {
    let (before, after, second) = match number.checked_sub(1) {
        None => (
            &restarted.before,
            restarted.after.as_ref(),
            restarted.second.as_ref(),
        ),
        Some(later) => {
            let Link { before, seen } = &restarted.later[later];
            (before, seen.tasks.as_ref(), seen.second.as_ref())
        }
    };
    let trees = after.map(|after| trees(backend, restarted.place, before, after, uses));
    let mut checks = trees.unwrap_or_default();
    checks.extend(second.map(second_image));
    checks
}

/// Number of differences of images that a check shows.
const SHOWN: usize = 5;

/// Judges the comparison of the second image with the first.
pub(crate) fn second_image(second: &Second) -> Check {
    const NAME: &str = "second image = first image";
    let mut lines = match &second.found {
        Ok(comparison) if comparison.is_equal() => return Check::good(NAME),
        Ok(comparison) => {
            let all = comparison.differences.iter();
            let mut lines: Vec<_> = all.take(SHOWN).map(ToString::to_string).collect();
            let rest = comparison.differences.len().saturating_sub(SHOWN) as u64;
            if let more @ 1.. = rest + comparison.more {
                lines.push(format!("and {more} more differences"));
            }
            lines
        }
        Err(unreadable) => vec![unreadable.clone()],
    };
    if let [first, second] = &second.kept[..] {
        lines.push(format!("crucible diff {first} {second}"));
    }
    Check::bad(NAME, lines.join("\n"))
}

/// Compares a tree after its restart in this place with the tree before its checkpoint.
pub(crate) fn trees(
    backend: Backend,
    place: RestartIn,
    before: &Frozen,
    after: &Observation,
    uses: &mut Uses,
) -> Vec<Check> {
    let (mut before, mut after) = (before.tasks.clone(), after.clone());
    for observation in [&mut before, &mut after] {
        normalise::observation(observation, uses);
        if backend == Backend::Criu {
            normalise::criu(observation, uses);
        }
        if backend == Backend::Criu || place == RestartIn::Fresh {
            normalise::start_times(observation, uses);
        }
    }
    normalise::timers(&before, &mut after, uses);
    normalise::counters(&before, &mut after, uses);
    let mut checks = vec![vfork_waits(&before, &after)];
    checks.extend(compare::observations(
        "restarted = checkpoint",
        &after,
        &before,
    ));
    checks
}

/// Compares the end of the restarted run with the expected end.
pub(crate) fn end(
    case: &Case,
    pair: &str,
    output: &RunOutput,
    reference: &RunOutput,
    uses: &mut Uses,
) -> Vec<Check> {
    let mut checks = compare::outputs(pair, output, reference, &case.normalise, uses);
    checks.extend(nonce_kept(case, "restarted", output));
    checks
}

/// Checks that both runs were stopped by the same task at the same site.
fn same_point(control: &Frozen, restarted: &Frozen) -> Check {
    const NAME: &str = "restarted = control: triggering task";
    let show = |frozen: &Frozen| {
        let task = frozen
            .tasks
            .tasks
            .iter()
            .find(|t| t.tid == frozen.freeze.tid);
        task.map_or("a timer".to_owned(), |t| {
            format!("{} ({}) at {}", t.comm, t.tid, t.site)
        })
    };
    match diff::first(&show(control), &show(restarted)) {
        None => Check::good(NAME),
        Some(difference) => Check::bad(NAME, difference),
    }
}

/// Checks that each task that waited for a vfork child before the checkpoint waits for it after
/// the restart.
fn vfork_waits(before: &Observation, after: &Observation) -> Check {
    const NAME: &str = "restarted = checkpoint: vfork waits";
    let lost = before
        .tasks
        .iter()
        .filter(|task| task.site.starts_with("vfork"))
        .find_map(|task| {
            let now = after.tasks.iter().find(|t| t.tid == task.tid);
            let site = now.map_or("gone", |t| t.site.as_str());
            (site != task.site).then(|| {
                format!(
                    "{} ({}) waited for its vfork child (`{}`); after the restart it is at `{site}`: \
                     its wait was lost",
                    task.comm, task.tid, task.site
                )
            })
        });
    match lost {
        None => Check::good(NAME),
        Some(lost) => Check::bad(NAME, lost),
    }
}

pub(crate) fn expected(case: &Case, run: &str, output: &RunOutput) -> Vec<Check> {
    let name = format!("{run}: ends with status {}", case.status);
    let wanted = Ended::Exited { code: case.status };
    let mut checks = vec![match output.workload {
        Some(ended) if ended == wanted => Check::good(name),
        Some(ended) => Check::bad(name, format!("{ended}; standard error:\n{}", output.stderr)),
        None => Check::bad(name, "its exit status is unknown"),
    }];
    checks.extend(nonce_kept(case, run, output));
    checks
}

/// Checks that the output contains the nonce that was drawn before the checkpoint, which shows
/// that the run that ended is the run that was started.
pub(super) fn nonce_kept(case: &Case, run: &str, output: &RunOutput) -> Option<Check> {
    case.nonce.as_ref()?;
    let name = format!("{run}: prints the nonce that it drew");
    Some(match &output.nonce {
        Some(nonce) if output.stdout.contains(nonce.as_str()) => Check::good(name),
        Some(nonce) => Check::bad(name, format!("{nonce} was drawn but is not in the output")),
        None => Check::bad(name, "the workload drew no nonce"),
    })
}

#[cfg(test)]
mod tests;
