// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible replay`

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_engine::results;
use crucible_vmm::qemu::{Recording, Replay, Stop};
use crucible_vmm::{DebuggerAddress, MachineSpec};
use serde::Serialize;

use crate::boot_artefacts::{Debugger, GdbArg, gdb, quoted};
use crate::context::Context;
use crate::exit::{self, Usage};
use crate::recordings::{Mark, Recorded};
use crate::stdout;
use crate::temporary::Temporary;

/// The options of `crucible replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The run, made with `--record`: its directory in results/
    run: PathBuf,
    /// Place at which to stop: the start of a step, such as `checkpoint`, `restart` or `finish`,
    /// of the unit that failed; its end, `failure`; or a number of instructions
    #[arg(long, value_name = "EVENT")]
    until: Option<String>,
    /// Recording to replay: its directory within the run's
    #[arg(long, value_name = "DIR")]
    recording: Option<String>,
    /// Let gdb connect where the replay stops: on a socket for this user alone, on this Unix
    /// socket, or on this TCP port of localhost
    #[arg(long, value_name = "SOCKET|PORT", num_args = 0..=1, default_missing_value = "")]
    gdb: Option<GdbArg>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

/// The result of a replay.
#[derive(Debug, Default, Serialize)]
struct Seen {
    /// Directory of the recording.
    recording: PathBuf,
    /// The place of the replay's first stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<Place>,
    /// True when the recording was replayed to its end.
    complete: bool,
    /// The number of instructions at which the replay stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<u64>,
    /// Number of bytes that the guest wrote to its channel.
    channel_bytes: usize,
    /// Number of bytes that the guest wrote when it was recorded.
    recorded_bytes: usize,
    /// Offset of the first byte that differs from the recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    differs_at: Option<usize>,
}

/// A place in a replay.
#[derive(Debug, Serialize)]
struct Place {
    /// Its name: a number of instructions, or a step and its unit.
    event: String,
    /// Number of instructions since the guest's start.
    instructions: u64,
    /// The CPU's registers.
    registers: Vec<String>,
    /// Number of bytes that the guest has written to its channel up to there.
    channel_bytes: usize,
}

/// Replays a recorded guest.
pub fn run(args: &ReplayArgs, context: &Context) -> Result<ExitCode> {
    let recorded = Recorded::load(&args.run, args.recording.as_deref()).map_err(Usage)?;
    // Runs that end meanwhile must not prune it. Some file systems have no locks.
    let _held = results::hold(&args.run).ok();
    let target = match &args.until {
        Some(event) => Some(recorded.find(event).map_err(Usage)?),
        None if args.gdb.is_some() => None,
        None => recorded.find("failure").ok(),
    };
    let recording = Recording::load(&recorded.directory)?;
    let place = Temporary::with_room("replay", &context.cache()?)?;
    let debugger = Debugger::at(args.gdb.as_ref())?;
    let spec = MachineSpec {
        debugger: debugger.as_ref().map(|debugger| debugger.address.clone()),
        ..MachineSpec::new(recording.kernel(), place.path().join("machine"))
    };
    let mut replay = Replay::start(&recording, place.path(), &spec)?;
    let mut seen = Seen {
        recording: recorded.directory.clone(),
        ..Seen::default()
    };
    let mut stop = Stop::There;
    if let Some(mark) = &target {
        stop = advance(&mut replay, Some(mark), context)?;
        if stop == Stop::There {
            seen.stop = Some(Place {
                event: mark.name.clone(),
                instructions: replay.instructions(),
                registers: replay.registers()?,
                channel_bytes: replay.channel()?.len(),
            });
        }
    }
    seen.complete = match &debugger {
        Some(debugger) if stop == Stop::There => {
            if target.is_none() && replay.back().is_some() {
                replay.run_saving(None, |_| {})?;
            }
            wait_for_gdb(&mut replay, &debugger.address, &recording)?
        }
        _ => {
            if stop == Stop::There && args.until.is_none() {
                stop = advance(&mut replay, None, context)?;
            }
            stop == Stop::End
        }
    };
    seen.stalled = (stop == Stop::Stalled).then(|| replay.instructions());
    compare(&mut seen, &replay.channel()?, &recording.channel()?);
    match args.json {
        true => stdout::json(&serde_json::to_string_pretty(&seen)?)?,
        false => stdout::screen(&screen(&seen))?,
    }
    Ok(code(&seen).into())
}

/// Runs to a mark, or to the end.
fn advance(replay: &mut Replay, mark: Option<&Mark>, context: &Context) -> Result<Stop> {
    let name = mark.map_or("the end", |mark| &mark.name);
    let progress = context.progress();
    progress.begin(&format!("replaying to {name}"));
    let count = mark.map(|mark| mark.instructions);
    let stop = replay
        .run_saving(count, |now| {
            if let Some(count) = count {
                progress.advance(now, count);
            }
        })
        .context("the replay failed");
    progress.end();
    stop
}

/// Lets gdb debug the guest until it, or the recording, ends. Returns false if gdb has ended it.
fn wait_for_gdb(
    replay: &mut Replay,
    address: &DebuggerAddress,
    recording: &Recording,
) -> Result<bool> {
    let count = replay.instructions();
    let mut command = gdb(address, recording.kernel());
    if let Some(back) = replay.back() {
        command = format!("{command} -x {}", quoted(&back.display().to_string()));
    }
    // Printed even with --quiet: without gdb the replay does not continue.
    stdout::message(format_args!(
        "crucible: at instruction {count}; the replay waits for: {command}"
    ));
    replay.wait().context("the replay failed")
}

/// Compares the guest's output on its channel.
fn compare(seen: &mut Seen, now: &[u8], then: &[u8]) {
    seen.channel_bytes = now.len();
    seen.recorded_bytes = then.len();
    let differs = now.iter().zip(then).position(|(a, b)| a != b);
    let common = now.len().min(then.len());
    let longer = now.len() > then.len() || seen.complete && now.len() != then.len();
    seen.differs_at = differs.or(longer.then_some(common));
}

fn code(seen: &Seen) -> u8 {
    match (seen.stalled, seen.differs_at) {
        (_, Some(_)) => exit::DIVERGED,
        (Some(_), None) => exit::UNKNOWN,
        (None, None) => exit::PASS,
    }
}

fn screen(seen: &Seen) -> String {
    let mut text = String::new();
    if let Some(place) = &seen.stop {
        text += &format!(
            "{}: instruction {}, {} bytes on the channel\n",
            place.event, place.instructions, place.channel_bytes
        );
        let pointer = place.registers.iter().find(|line| line.contains("RIP="));
        if let Some(line) = pointer {
            text += &format!("  {line}\n");
        }
    }
    if let Some(count) = seen.stalled {
        text += &format!("the replay stalled at instruction {count}\n");
    }
    let Seen {
        channel_bytes,
        recorded_bytes,
        ..
    } = seen;
    text += &match seen.differs_at {
        Some(at) => format!(
            "the channel differs from the recording's at byte {at} ({channel_bytes} bytes, \
             recorded {recorded_bytes})\n"
        ),
        None if seen.complete => {
            format!("complete: all {channel_bytes} bytes of the channel equal the recording's\n")
        }
        None => format!(
            "the channel's {channel_bytes} bytes equal the first of the recording's \
             {recorded_bytes}\n"
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(complete: bool, now: &[u8], then: &[u8]) -> Seen {
        let mut seen = Seen {
            complete,
            ..Seen::default()
        };
        compare(&mut seen, now, then);
        seen
    }

    #[test]
    fn one_byte_makes_a_replay_bad() {
        assert_eq!(seen(true, b"abc", b"abc").differs_at, None);
        assert_eq!(seen(true, b"abc", b"abd").differs_at, Some(2));
        assert_eq!(seen(true, b"ab", b"abc").differs_at, Some(2));
        assert_eq!(seen(false, b"ab", b"abc").differs_at, None);
        assert_eq!(seen(false, b"abcd", b"abc").differs_at, Some(3));
        assert_eq!(code(&seen(true, b"a", b"b")), exit::DIVERGED);
    }

    #[test]
    fn a_replay_that_stalls_says_where() {
        let mut stalled = seen(false, b"ab", b"abc");
        stalled.stalled = Some(55);
        assert_eq!(code(&stalled), exit::UNKNOWN);
        assert!(screen(&stalled).contains("stalled at instruction 55"));
    }
}
