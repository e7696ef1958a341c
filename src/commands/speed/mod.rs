// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible speed`

mod contender;
mod footprint;
mod samples;
mod table;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use crucible_artefacts::Step;
use crucible_protocol::Ended;

use self::contender::{Contender, GuestStarter};
use self::samples::{Group, Sample};
use crate::boot_artefacts::{BootArtefacts, GuestArgs, KernelArgs};
use crate::context::Context;
use crate::exit;
use crate::host_qemu;
use crate::machines::{self, MachineArg, MachineArgs};
use crate::outer_linux::{Outer, Size};
use crate::stdout;

/// Time limit for the measurements in one outer Linux.
const LIMIT: Duration = Duration::from_secs(3600);

/// The options of `crucible speed`.
#[derive(Debug, Args)]
pub struct SpeedArgs {
    /// Number of starts of each contender per group
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Number of groups of starts, each in a fresh outer Linux if this host has no KVM
    #[arg(long, value_name = "N", default_value_t = 2)]
    groups: u16,
    /// Number of pairs of starts with little and with much memory
    #[arg(long, value_name = "N", default_value_t = 30)]
    pairs: u16,
    /// Run only this group of starts, once, on this host's KVM
    #[arg(long, value_enum, value_name = "GROUP", hide = true)]
    here: Option<GroupArg>,
    /// Print all measurements as one JSON object
    #[arg(long)]
    json: bool,
}

/// The value of `--measure`; see [`Group`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GroupArg {
    Starts,
    Memory,
}

impl GroupArg {
    fn name(self) -> &'static str {
        match self {
            Self::Starts => "starts",
            Self::Memory => "memory",
        }
    }

    /// Returns the contenders, which are started in turn.
    fn contenders(self) -> &'static [Contender] {
        match self {
            Self::Starts => &Contender::STARTS,
            Self::Memory => &Contender::MEMORY,
        }
    }

    /// Returns the size of the outer Linux, which must have room for the snapshots in memory.
    fn outer(self) -> Size {
        Size {
            memory_mib: match self {
                Self::Starts => 3072,
                Self::Memory => 8192,
            },
            cpus: 1,
        }
    }
}

/// Measures the start times of guests in our own VMM and in QEMU, on the same KVM.
pub fn run(args: &SpeedArgs, context: &Context) -> Result<ExitCode> {
    if let Some(group) = args.here {
        let rounds = match group {
            GroupArg::Starts => args.rounds,
            GroupArg::Memory => args.pairs,
        };
        let group = here(group, rounds, context)?;
        stdout::line(format_args!("{}", serde_json::to_string(&group)?))?;
        return Ok(exit::PASS.into());
    }
    let mut groups = Vec::new();
    let wanted = vec![(GroupArg::Starts, args.rounds); args.groups.into()];
    let nested = !machines::probe(context)?.usable;
    for (group, rounds) in wanted.into_iter().chain([(GroupArg::Memory, args.pairs)]) {
        if rounds == 0 {
            continue;
        }
        groups.push(match nested {
            true => in_outer_linux(group, rounds, context)?,
            false => here(group, rounds, context)?,
        });
    }
    let report = table::Report::of(nested, groups);
    if args.json {
        stdout::line(format_args!("{}", serde_json::to_string_pretty(&report)?))?;
    } else {
        stdout::print(&report.table())?;
    }
    Ok(exit::PASS.into())
}

/// Measures on this host's KVM.
fn here(group: GroupArg, rounds: u16, context: &Context) -> Result<Group> {
    let guest = GuestArgs {
        kernel: KernelArgs::default(),
        gdb: None,
        machine: MachineArgs {
            machine: MachineArg::Kvm,
            vcpus: 1,
            memory: None,
            load: 0,
            cold: false,
        },
    };
    let images = BootArtefacts::prepare(context, &guest)?;
    let mut starter = GuestStarter::new(&images, context)?;
    let contenders = group.contenders();
    for &contender in contenders {
        starter.prepare(contender)?;
    }
    let mut samples: Vec<Sample> = Vec::new();
    let step = Step::begin(context.progress(), "starting guests");
    for round in 0..rounds {
        // Rotate the order, so that no contender always runs first.
        for turn in 0..contenders.len() {
            let contender = contenders[(turn + usize::from(round)) % contenders.len()];
            samples.push(starter.measure(contender)?);
        }
        step.advance(u64::from(round) + 1, rounds.into());
    }
    Ok(Group {
        name: group.name().into(),
        samples,
    })
}

/// Measures in a fresh outer Linux.
fn in_outer_linux(group: GroupArg, rounds: u16, context: &Context) -> Result<Group> {
    let outer = Outer::prepare(context, &KernelArgs::default(), true)?;
    let rounds = rounds.to_string();
    let script = format!(
        "{}\nexec ./crucible -q speed --here {} --rounds {rounds} --pairs {rounds}",
        host_qemu::ENVIRONMENT,
        group.name()
    );
    let what = format!("measuring {} in an outer Linux", group.name());
    let step = Step::begin(context.progress(), &what);
    let run = outer.run(context, group.outer(), &script, &[], LIMIT, None)?;
    drop(step);
    match run.ended {
        Some(Ended::Exited { code: 0 }) => {
            serde_json::from_str(&run.stdout).context("the outer Linux printed malformed samples")
        }
        ended => bail!(
            "measuring in the outer Linux failed ({ended:?}): {}",
            run.stderr.trim_end()
        ),
    }
}
