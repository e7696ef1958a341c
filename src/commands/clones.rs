// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible clones`: start N guests from one snapshot and check that each has its own
//! identity.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use crucible_engine::abort::Abort;
use crucible_engine::experiment::{Done, Experiment, Finding, Group, Identity, Report};
use crucible_engine::guest::{Guest, GuestError};
use crucible_engine::outcome::Outcome;
use crucible_engine::record::Record;
use crucible_engine::session::Session;
use crucible_engine::{Blame, Condition};
use crucible_protocol::Mac;
use crucible_vmm::{Changes, MachineSpec, Start};
use serde::{Deserialize, Serialize};

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::command_line::CommandLine;
use crate::context::Context;
use crate::experiment_run::{self, Command, ExperimentArgs};
use crate::{exit, machines, screens};

/// Limit for an agent's answer.
const LONG: Duration = Duration::from_secs(300);

/// Tolerance for a guest's clock, in seconds: its rate may differ slightly from the host's.
const CLOCK: f64 = 1.0;

/// Prints a guest's name, the address of its interface, random bytes, its boot_id, a uuid and
/// its clock, one per line.
const QUESTION: &str = "
    cat /run/crucible/instance
    cat /sys/class/net/eth0/address
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \\n'; echo
    cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
    date +%s.%N";

/// The options of `crucible clones`.
#[derive(Debug, Args)]
pub struct ClonesArgs {
    /// Number of guests
    #[arg(value_name = "N", default_value_t = 4)]
    count: usize,
    /// Start them from an incremental snapshot of a guest that has run since
    #[arg(long)]
    changes: bool,
    /// Options of the guest
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    experiment: ExperimentArgs,
}

/// The identity of a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    instance: String,
    mac: String,
    random: String,
    drawn: String,
    boot_id: String,
    uuid: String,
    /// Seconds by which its clock is outside the range between the host's times before and after
    /// the query.
    clock: f64,
}

/// Starts clones of one snapshot, all of which run at the same time.
pub fn run(args: &ClonesArgs, context: &Context) -> Result<ExitCode> {
    let reproduce = CommandLine::new("clones")
        .word(&args.count.to_string())
        .flag("--changes", args.changes)
        .guest(&args.guest)
        .text();
    let command = Command {
        name: "clones",
        what: "",
        args: &args.experiment,
        guest: &args.guest,
        break_switch: None,
        reproduce,
        // Clones are only compared with those that run at the same time.
        journal: false,
        record: false,
        restart_kernel: None,
    };
    let images = BootArtefacts::prepare(context, &args.guest)?;
    let make = |_: &BootArtefacts| {
        Ok(Clones {
            args,
            images: &images,
            context,
            begin: None,
            changes: None,
        })
    };
    experiment_run::run(&command, context, make, &screen)
}

struct Clones<'a> {
    args: &'a ClonesArgs,
    images: &'a BootArtefacts,
    context: &'a Context,
    /// The snapshot.
    begin: Option<Start>,
    /// The snapshot's size, if it is incremental.
    changes: Option<Changes>,
}

impl Clones<'_> {
    /// Makes the snapshot from which the clones start, with files in `directory`.
    fn snapshot(&mut self, directory: &Path) -> Result<Start> {
        let spec = self.spec(directory, "first")?;
        let base = self.images.saved(self.context, &spec)?;
        if !self.args.changes {
            return Ok(Start::Saved(base));
        }
        let changes = directory.join("changes");
        make_directory(&changes)?;
        let spec = MachineSpec {
            start: Start::Saved(base.clone()),
            track_changes: true,
            ..spec
        };
        let mut first = Guest::greet(machines::start(self.images.kind(), &spec)?, LONG)?;
        self.changes = Some(first.machine().save_changes(&changes)?);
        first.machine().kill()?;
        Ok(Start::Changed { base, changes })
    }

    /// Describes a machine with its own files.
    fn spec(&self, directory: &Path, name: &str) -> Result<MachineSpec> {
        let own: PathBuf = directory.join(name);
        make_directory(&own)?;
        let scratch = own.join("scratch.ext4");
        self.images.scratch(self.context, &scratch)?;
        Ok(self.images.machine(&scratch, &own))
    }

    /// Starts all clones, and requests the identity of each.
    fn ask_all(&self, directory: &Path, units: &[usize]) -> Result<Vec<Seen>> {
        let begin = self.begin.clone().context("there is no snapshot")?;
        let mut clones = Vec::new();
        for number in units {
            let spec = MachineSpec {
                start: begin.clone(),
                ..self.spec(directory, &format!("clone{number}"))?
            };
            let machine = machines::start(self.images.kind(), &spec)?;
            clones.push(Guest::connect(machine, LONG)?);
        }
        let seen = clones.iter_mut().map(ask).collect::<Result<Vec<_>>>()?;
        // Until here all of them run at the same time.
        for clone in &mut clones {
            if let Some(exit) = clone.machine().try_exit()? {
                return Err(GuestError::Ended {
                    exit: Some(exit),
                    used: false,
                    memory: clone.machine().memory_dump(),
                }
                .into());
            }
        }
        Ok(seen)
    }
}

/// Turns an error into the end of a unit.
fn abort(error: &anyhow::Error) -> Abort {
    let mut stop = Abort::new(exit::condition(error), exit::chain(error));
    stop.guest_usable = false;
    stop
}

impl Experiment for Clones<'_> {
    /// Number of the clone.
    type Unit = usize;
    type Detail = Seen;
    type Summary = ();

    fn key(&self, unit: &usize) -> String {
        format!("clone{unit}")
    }

    fn identify(&self, _: &mut Identity) -> io::Result<()> {
        Ok(())
    }

    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let directory = session.setup().store.dir();
        let begin = self.snapshot(directory).map_err(|error| abort(&error))?;
        self.begin = Some(begin);
        Ok(vec![(0..self.args.count).collect()])
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[usize],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        let directory = session.setup().store.dir();
        let seen = self
            .ask_all(directory, units)
            .map_err(|error| abort(&error))?;
        let faults = faults(&seen);
        for ((unit, seen), faults) in units.iter().zip(seen).zip(faults) {
            let outcome = match faults.first() {
                None => Outcome::passed("has an identity of its own"),
                Some(first) => Outcome {
                    lines: faults.clone(),
                    ..Outcome::new(Condition::SharedIdentity, first.clone())
                },
            };
            done(unit, outcome, Some(seen))?;
        }
        Ok(())
    }

    fn summarise(&self, _: &[Finding<Seen>]) {}
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))
}

fn screen(report: &Report<Seen, ()>, record: &Record) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let Some(seen) = &finding.detail else {
            continue;
        };
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{}: instance {} mac {} random {} boot_id {} clock {:+.3} s",
            finding.key,
            seen.instance,
            seen.mac,
            seen.random.get(..16).unwrap_or(&seen.random),
            seen.boot_id,
            seen.clock
        );
        if !finding.outcome.is_pass() {
            let blame = finding
                .outcome
                .condition
                .blame()
                .map_or("none", Blame::name);
            let _ = writeln!(text, "  [{blame}] {}", finding.outcome.why);
        }
    }
    screens::others(&mut text, report);
    let verdict = record.outcome.verdict().name();
    let _ = writeln!(
        text,
        "{} clones of one snapshot: {verdict}",
        report.findings.len()
    );
    screens::end(&mut text, record);
    text
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Reads the identity of a guest.
fn ask(guest: &mut Guest) -> Result<Seen> {
    let argv = ["/bin/sh", "-ec", QUESTION].map(String::from);
    let before = now();
    let run = guest.exec(&argv, &BTreeMap::new(), "/", LONG)?;
    let after = now();
    if !run.success() {
        bail!("cannot read the identity of a clone: {}", run.stderr);
    }
    let lines: Vec<_> = run
        .stdout
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    let [instance, mac, drawn, boot_id, uuid, time] = lines.as_slice() else {
        bail!("unexpected identity of a clone: {lines:?}");
    };
    let time: f64 = time.parse().context("a clone's clock is not a number")?;
    let reported = guest.identity();
    if reported.instance != *instance
        || reported.mac.map(|mac| mac.to_string()).as_ref() != Some(mac)
    {
        bail!("the agent of a clone reports a different identity: {reported:?}, {instance}, {mac}");
    }
    Ok(Seen {
        random: reported
            .random
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        instance: instance.clone(),
        mac: mac.clone(),
        drawn: drawn.clone(),
        boot_id: boot_id.clone(),
        uuid: uuid.clone(),
        clock: (time - after).max(0.0) + (time - before).min(0.0),
    })
}

/// Lists for each clone the values that it shares with an earlier one, or its faults.
fn faults(all: &[Seen]) -> Vec<Vec<String>> {
    let mut of_all = Vec::new();
    let mut seen = HashSet::new();
    for (number, clone) in all.iter().enumerate() {
        let mut faults = Vec::new();
        let facts = [
            ("instance", &clone.instance),
            ("address", &clone.mac),
            ("random bytes of getrandom", &clone.random),
            ("random bytes of /dev/urandom", &clone.drawn),
            ("boot_id", &clone.boot_id),
            ("uuid", &clone.uuid),
        ];
        for (what, value) in facts {
            if value.is_empty() || !seen.insert((what, value)) {
                faults.push(format!(
                    "clone {number} shares its {what} with another: {value}"
                ));
            }
        }
        let of_ours = clone.mac.parse().is_ok_and(|Mac(bytes)| bytes[0] & 3 == 2);
        if !of_ours {
            faults.push(format!(
                "clone {number} has an address that is not locally administered"
            ));
        }
        if clone.clock.abs() > CLOCK {
            faults.push(format!("clone {number} is {:+.3} s off", clone.clock));
        }
        of_all.push(faults);
    }
    of_all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(number: u8) -> Seen {
        Seen {
            instance: format!("i{number}"),
            mac: Mac::of(&number.to_string()).to_string(),
            random: format!("r{number}"),
            drawn: format!("d{number}"),
            boot_id: format!("b{number}"),
            uuid: format!("u{number}"),
            clock: 0.0,
        }
    }

    #[test]
    fn what_two_share_is_a_fault() {
        let count = |all: &[Seen]| faults(all).concat().len();
        assert_eq!(count(&[seen(1), seen(2)]), 0);
        let twin = Seen {
            drawn: "d1".into(),
            ..seen(2)
        };
        assert_eq!(count(&[seen(1), twin]), 1);
        assert_eq!(count(&[seen(1), seen(1)]), 6);
    }

    #[test]
    fn a_wrong_clock_or_address_is_a_fault() {
        let late = Seen {
            clock: -1.5,
            ..seen(1)
        };
        let group = Seen {
            mac: "03:00:00:00:00:00".into(),
            ..seen(2)
        };
        assert_eq!(faults(&[late, group]).concat().len(), 2);
    }
}
