// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible inspect`

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_protocol::image::{Summary, Task};

use crate::exit;

/// Number of mappings shown per address space without `--maps`.
const MAPPINGS: usize = 4;

/// The options of `crucible inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The checkpoint image
    image: PathBuf,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
    /// Show all mappings
    #[arg(long)]
    maps: bool,
}

/// Shows the contents of an image, task by task.
pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    let path = args.image.display();
    let file = File::open(&args.image)
        .map_err(|error| exit::Usage(format!("cannot open {path}: {error}")))?;
    let summary = Summary::read(BufReader::new(file)).with_context(|| format!("{path}"))?;
    let text = if args.json {
        serde_json::to_string_pretty(&summary)? + "\n"
    } else {
        screen(&path.to_string(), &summary, args.maps)?
    };
    match io::stdout().write_all(text.as_bytes()) {
        // A pager that quits early closes the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written.context("cannot write to standard output")?,
    }
    Ok(exit::PASS.into())
}

fn screen(path: &str, summary: &Summary, all_maps: bool) -> Result<String> {
    let mut out = String::new();
    let count: u64 = summary.records.values().sum();
    writeln!(
        out,
        "{path}: {} tasks, {count} records, {} KiB, written by Linux {}",
        summary.tasks.len(),
        summary.bytes.div_ceil(1024),
        summary.release
    )?;
    for task in &summary.tasks {
        show(&mut out, task, all_maps)?;
    }
    Ok(out)
}

fn show(out: &mut String, task: &Task, all_maps: bool) -> fmt::Result {
    writeln!(out)?;
    let thread = if task.tid == task.pid {
        String::new()
    } else {
        format!(" (thread of {})", task.pid)
    };
    writeln!(
        out,
        "{} {}{thread}: parent {}, group {}, session {}",
        task.tid, task.comm, task.ppid, task.pgid, task.sid
    )?;
    writeln!(out, "  site      {}", task.site)?;
    if let Some(tracer) = task.tracer {
        writeln!(out, "  tracer    {tracer}")?;
    }
    if let Some(code) = task.exit_code {
        writeln!(out, "  exit code {code:#x}")?;
    }
    if let Some(regs) = &task.registers {
        writeln!(
            out,
            "  registers syscall {} ax {} ip {:#x} sp {:#x}",
            regs.syscall, regs.ax, regs.ip, regs.sp
        )?;
    }
    if let Some(restart) = &task.restart {
        writeln!(out, "  continues by {restart}")?;
    }
    if task.blocked != 0 {
        writeln!(out, "  blocked   {:#018x}", task.blocked)?;
    }
    for signal in &task.pending {
        let whose = if signal.shared { "process" } else { "thread" };
        writeln!(out, "  pending   signal {} for the {whose}", signal.number)?;
    }
    if let Some((uid, gid)) = task.ids {
        writeln!(out, "  user      {uid}, group {gid}; in {}", task.cwd)?;
    }
    for file in &task.files {
        writeln!(
            out,
            "  fd {:<6} {} at {}, flags {:#o}",
            file.fd, file.what, file.pos, file.flags
        )?;
    }
    let Some(memory) = &task.memory else {
        return Ok(());
    };
    writeln!(
        out,
        "  memory    <{}> {}: {} mappings, {} pages stored, {} shared copy-on-write",
        memory.object,
        memory.program,
        memory.mappings.len(),
        memory.pages,
        memory.same
    )?;
    let shown = if all_maps {
        memory.mappings.len()
    } else {
        MAPPINGS
    };
    for map in memory.mappings.iter().take(shown) {
        writeln!(
            out,
            "            {:012x}-{:012x} {} {}",
            map.start, map.end, map.access, map.what
        )?;
    }
    if let Some(more @ 1..) = memory.mappings.len().checked_sub(shown) {
        writeln!(out, "            … {more} more; --maps shows all")?;
    }
    Ok(())
}
