//! `crucible inspect`

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_protocol::image::{Summary, Task};

use crate::exit;

/// Mappings shown of each address space, unless all are asked for.
const MAPPINGS: usize = 4;

/// The options of `crucible inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// A checkpoint image
    image: PathBuf,
    /// Print everything as one JSON object
    #[arg(long)]
    json: bool,
    /// Show every mapping
    #[arg(long)]
    maps: bool,
}

/// Shows what is in an image, task by task.
pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    let path = args.image.display();
    let file = File::open(&args.image).with_context(|| format!("cannot open {path}"))?;
    let summary = Summary::read(BufReader::new(file)).with_context(|| format!("{path}"))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(exit::PASS.into());
    }
    let count: u64 = summary.records.values().sum();
    println!(
        "{path}: {} tasks, {count} records, {} KiB, written by Linux {}",
        summary.tasks.len(),
        summary.bytes.div_ceil(1024),
        summary.release
    );
    for task in &summary.tasks {
        show(task, args.maps);
    }
    Ok(exit::PASS.into())
}

fn show(task: &Task, all_maps: bool) {
    println!();
    let thread = if task.tid == task.pid {
        String::new()
    } else {
        format!(" (thread of {})", task.pid)
    };
    println!(
        "{} {}{thread}: parent {}, group {}, session {}",
        task.tid, task.comm, task.ppid, task.pgid, task.sid
    );
    println!("  site      {}", task.site);
    if let Some(code) = task.exit_code {
        println!("  exit code {code:#x}");
    }
    if let Some(regs) = &task.registers {
        println!(
            "  registers syscall {} ax {} ip {:#x} sp {:#x}",
            regs.syscall, regs.ax, regs.ip, regs.sp
        );
    }
    if let Some(restart) = &task.restart {
        println!("  goes on   with {restart}");
    }
    if task.blocked != 0 {
        println!("  blocked   {:#018x}", task.blocked);
    }
    for signal in &task.pending {
        let whose = if signal.shared { "process" } else { "thread" };
        println!("  pending   signal {} for the {whose}", signal.number);
    }
    if let Some((uid, gid)) = task.ids {
        println!("  user      {uid}, group {gid}; in {}", task.cwd);
    }
    for file in &task.files {
        println!(
            "  fd {:<6} {} at {}, flags {:#o}",
            file.fd, file.what, file.pos, file.flags
        );
    }
    let Some(memory) = &task.memory else { return };
    println!(
        "  memory    <{}> {}: {} mappings, {} pages stored, {} shared copy-on-write",
        memory.object,
        memory.program,
        memory.mappings.len(),
        memory.pages,
        memory.same
    );
    let shown = if all_maps {
        memory.mappings.len()
    } else {
        MAPPINGS
    };
    for map in memory.mappings.iter().take(shown) {
        println!(
            "            {:012x}-{:012x} {} {}",
            map.start, map.end, map.access, map.what
        );
    }
    if let Some(more @ 1..) = memory.mappings.len().checked_sub(shown) {
        println!("            … {more} more, with --maps");
    }
}
