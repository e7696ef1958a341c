// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible clones`: start N guests from one snapshot and check that each has its own
//! identity.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use crucible_artefacts::Step;
use crucible_engine::guest::Guest;
use crucible_protocol::Mac;
use crucible_vmm::{MachineSpec, Start};

use crate::boot_artefacts::{BootArtefacts, GuestArgs};
use crate::context::Context;
use crate::machines;
use crate::temporary::Temporary;

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
    /// Which guest
    #[command(flatten)]
    guest: GuestArgs,
}

/// The identity of a guest.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    instance: String,
    mac: String,
    random: String,
    drawn: String,
    boot_id: String,
    uuid: String,
    /// Seconds by which its clock is outside of the host's times before and after.
    clock: f64,
}

/// Starts clones of one snapshot, all of which run at the same time. Exits with 1 unless each
/// has its own identity.
pub fn run(args: &ClonesArgs, context: &Context) -> Result<ExitCode> {
    let images = BootArtefacts::prepare(context, &args.guest)?;
    let directory = Temporary::new("clones")?;
    let begin = begin(args, &images, context, &directory)?;
    let step = Step::begin(context.progress(), "starting the clones");
    let mut clones = Vec::new();
    for number in 0..args.count {
        let spec = spec(&images, context, &directory, &format!("clone{number}"))?;
        let machine = machines::start(
            images.kind(),
            &MachineSpec {
                start: begin.clone(),
                ..spec
            },
        )?;
        clones.push(Guest::connect(machine, LONG)?);
    }
    drop(step);
    let step = Step::begin(context.progress(), "asking the clones");
    let seen = clones.iter_mut().map(ask).collect::<Result<Vec<_>>>()?;
    drop(step);
    // Until here all of them run at the same time.
    for clone in &mut clones {
        if let Some(exit) = clone.machine().try_exit()? {
            bail!("a clone has ended: {exit:?}");
        }
    }
    drop(clones);
    for (number, seen) in seen.iter().enumerate() {
        println!(
            "clone {number}: instance {} mac {} random {} boot_id {} clock {:+.3} s",
            seen.instance,
            seen.mac,
            seen.random.get(..16).unwrap_or(&seen.random),
            seen.boot_id,
            seen.clock
        );
    }
    let faults = faults(&seen);
    for fault in &faults {
        println!("  {fault}");
    }
    let verdict = if faults.is_empty() { "pass" } else { "fail" };
    println!("{} clones of one snapshot: {verdict}", seen.len());
    Ok(ExitCode::from(u8::from(!faults.is_empty())))
}

/// Makes the snapshot that the clones start from.
fn begin(
    args: &ClonesArgs,
    images: &BootArtefacts,
    context: &Context,
    directory: &Temporary,
) -> Result<Start> {
    let spec = spec(images, context, directory, "first")?;
    let base = images.saved(context, &spec)?;
    if !args.changes {
        return Ok(Start::Saved(base));
    }
    let changes = directory.path().join("changes");
    make_directory(&changes)?;
    let spec = MachineSpec {
        start: Start::Saved(base.clone()),
        track_changes: true,
        ..spec
    };
    let mut first = Guest::greet(machines::start(images.kind(), &spec)?, LONG)?;
    let saved = first.machine().save_changes(&changes)?;
    first.machine().kill()?;
    println!("{} of {} pages have changed", saved.pages, saved.of);
    Ok(Start::Changed { base, changes })
}

fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))
}

/// Describes a machine with its own files.
fn spec(
    images: &BootArtefacts,
    context: &Context,
    directory: &Temporary,
    name: &str,
) -> Result<MachineSpec> {
    let own: PathBuf = directory.path().join(name);
    make_directory(&own)?;
    let scratch = own.join("scratch.ext4");
    images.scratch(context, &scratch)?;
    Ok(images.machine(&scratch, &own))
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
    let told = guest.identity();
    if told.instance != *instance || told.mac.map(|mac| mac.to_string()).as_ref() != Some(mac) {
        bail!("the agent of a clone reports another identity: {told:?}, {instance}, {mac}");
    }
    Ok(Seen {
        random: told
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

/// Lists what two clones share, or what is wrong in one.
fn faults(all: &[Seen]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = HashSet::new();
    for (number, clone) in all.iter().enumerate() {
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
    }
    faults
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
        assert_eq!(faults(&[seen(1), seen(2)]), Vec::<String>::new());
        let twin = Seen {
            drawn: "d1".into(),
            ..seen(2)
        };
        assert_eq!(faults(&[seen(1), twin]).len(), 1);
        assert_eq!(faults(&[seen(1), seen(1)]).len(), 6);
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
        assert_eq!(faults(&[late, group]).len(), 2);
    }
}
