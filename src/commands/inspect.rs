// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible inspect`

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_protocol::image::{Descriptor, ImageError, Memory, Reader, Summary, Task, diff};
use crucible_protocol::{shown, shown_json};

use crate::exit;
use crate::images;

/// Number of mappings shown per address space without `--maps`.
const MAPPINGS: usize = 4;

/// Number of characters of a file's name that are shown when the name is repeated.
const BEGINNING: usize = 100;

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
    /// Show each record with its fields instead, named as `crucible diff` names them
    #[arg(long, conflicts_with_all = ["json", "maps"])]
    fields: bool,
}

/// Shows the contents of an image, task by task.
pub fn run(args: &InspectArgs) -> Result<ExitCode> {
    let path = args.image.display();
    let image = images::open(&args.image)?;
    let unreadable = |error| images::unreadable(&args.image, error);
    if args.fields {
        return fields(image, &mut io::stdout().lock()).map_err(unreadable);
    }
    let summary = Summary::read(image).map_err(unreadable)?;
    let text = if args.json {
        json(&summary)?
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

/// Prints each record with its fields. If the reader of the output has closed it, that is not a
/// failure.
fn fields(image: impl Read, out: &mut impl Write) -> Result<ExitCode, ImageError> {
    let mut reader = Reader::new(image);
    let mut out = BufWriter::new(out);
    while let Some(record) = reader.next_record()? {
        let mut text = format!("{} {:?}", record.number, record.kind);
        if record.objref != 0 {
            let _ = write!(text, " <{}>", record.objref);
        }
        text.push('\n');
        for field in diff::fields(&record) {
            let line = format!("{} {}", field.name, field.value);
            let _ = writeln!(text, "  {}", shown(&line));
        }
        match out.write_all(text.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written.map_err(ImageError::Io)?,
        }
    }
    match out.flush() {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(ImageError::Io(error)),
        _ => Ok(exit::PASS.into()),
    }
}

fn json(summary: &Summary) -> Result<String> {
    let json = serde_json::to_string_pretty(summary)?;
    Ok(shown_json(&json).into_owned() + "\n")
}

fn screen(path: &str, summary: &Summary, all_maps: bool) -> Result<String> {
    let mut out = String::new();
    let count: u64 = summary.records.values().sum();
    writeln!(
        out,
        "{}: {} tasks, {count} records, {} KiB, written by Linux {}",
        shown(path),
        summary.tasks.len(),
        summary.bytes.div_ceil(1024),
        shown(&summary.release)
    )?;
    let mut seen = Seen::default();
    for task in &summary.tasks {
        show(&mut out, summary, task, &mut seen, all_maps)?;
    }
    Ok(out)
}

/// The objects that have been shown, by their numbers, with the task for which each was shown: an
/// object that tasks share is shown once.
#[derive(Default)]
struct Seen {
    tables: BTreeMap<u32, i32>,
    files: BTreeSet<u32>,
    memories: BTreeMap<u32, i32>,
}

fn show(
    out: &mut String,
    summary: &Summary,
    task: &Task,
    seen: &mut Seen,
    all_maps: bool,
) -> fmt::Result {
    writeln!(out)?;
    let thread = if task.tid == task.pid {
        String::new()
    } else {
        format!(" (thread of {})", task.pid)
    };
    writeln!(
        out,
        "{} {}{thread}: parent {}, group {}, session {}",
        task.tid,
        shown(&task.comm),
        task.ppid,
        task.pgid,
        task.sid
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
        let cwd = shown(&task.cwd);
        writeln!(out, "  user      {uid}, group {gid}; in {cwd}")?;
    }
    if let Some((object, files)) = find(task.files, &summary.tables) {
        match seen.tables.get(&object) {
            Some(tid) => writeln!(out, "  files     <{object}> are those of {tid}")?,
            None => {
                seen.tables.insert(object, task.tid);
                show_files(out, summary, files, seen)?;
            }
        }
    }
    if let Some((object, memory)) = find(task.memory, &summary.memories) {
        match seen.memories.get(&object) {
            Some(tid) => writeln!(out, "  memory    <{object}> is that of {tid}")?,
            None => {
                seen.memories.insert(object, task.tid);
                show_memory(out, object, memory, all_maps)?;
            }
        }
    }
    Ok(())
}

/// Finds an object. Returns it with its number.
fn find<T>(object: Option<u32>, objects: &BTreeMap<u32, T>) -> Option<(u32, &T)> {
    let object = object?;
    Some((object, objects.get(&object)?))
}

fn show_files(
    out: &mut String,
    summary: &Summary,
    files: &[Descriptor],
    seen: &mut Seen,
) -> fmt::Result {
    for Descriptor { fd, object } in files {
        let Some(file) = summary.files.get(object) else {
            writeln!(out, "  fd {fd:<6} <{object}>, which is not in the image")?;
            continue;
        };
        let what = match seen.files.insert(*object) {
            true => shown(&file.what),
            // A long name is not repeated for each descriptor.
            false => shown(beginning(&file.what)),
        };
        writeln!(
            out,
            "  fd {fd:<6} {what} at {}, flags {:#o}",
            file.pos, file.flags
        )?;
    }
    Ok(())
}

/// Returns the beginning of a text: all of it unless it is long.
fn beginning(text: &str) -> &str {
    match text.char_indices().nth(BEGINNING) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

fn show_memory(out: &mut String, object: u32, memory: &Memory, all_maps: bool) -> fmt::Result {
    writeln!(
        out,
        "  memory    <{object}> {}: {} mappings, {} pages stored, {} shared copy-on-write",
        shown(&memory.program),
        memory.mappings.len(),
        memory.pages,
        memory.same
    )?;
    let count = if all_maps {
        memory.mappings.len()
    } else {
        MAPPINGS
    };
    for map in memory.mappings.iter().take(count) {
        writeln!(
            out,
            "            {:012x}-{:012x} {} {}",
            map.start,
            map.end,
            map.access,
            shown(&map.what)
        )?;
    }
    if let Some(more @ 1..) = memory.mappings.len().checked_sub(count) {
        writeln!(out, "            … {more} more; --maps shows all")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crucible_protocol::image::samples;

    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        let summary = Summary::read(samples::escape().as_slice()).unwrap();
        assert!(summary.tasks[0].comm.contains('\x1b'));
        let text = screen("a\x1bb", &summary, true).unwrap();
        for text in [&text, &json(&summary).unwrap()] {
            assert!(
                !text.contains(|c: char| c.is_control() && c != '\n'),
                "{text:?}"
            );
            assert!(text.contains("[31mpwn"), "{text}");
        }
        assert!(
            text.contains(r"fd 0      \x1b]0;owned\x07\x1b[2J"),
            "{text}"
        );
        assert!(text.starts_with(r"a\x1bb: 1 tasks"), "{text}");
    }

    #[test]
    fn what_tasks_share_is_shown_once() {
        let image = samples::shared(500, 20_000, 1 << 16);
        let summary = Summary::read(image.as_slice()).unwrap();
        let text = screen("image", &summary, true).unwrap();
        assert_eq!(text.matches("  fd ").count(), 20_000);
        assert_eq!(text.matches("files     <3> are those of 2\n").count(), 499);
        assert_eq!(text.matches("memory    <1> is that of 2\n").count(), 499);
        let json = json(&summary).unwrap();
        assert_eq!(json.matches("\"fd\":").count(), 20_000);
    }

    #[test]
    fn each_field_is_shown_by_its_name() {
        let mut out = Vec::new();
        fields(samples::escape().as_slice(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            !text.contains(|c: char| c.is_control() && c != '\n'),
            "{text:?}"
        );
        for line in ["0 Header", "  page_size 4096", "  task[2].pgid 2", "Mm <1>"] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.contains("  exe_file <2>\n"), "{text}");
    }

    #[test]
    fn numbers_that_overflow_are_shown() {
        let summary = Summary::read(samples::overflow().as_slice()).unwrap();
        let text = screen("image", &summary, false).unwrap();
        assert!(text.contains("18446744073709551615 pages stored"), "{text}");
    }
}
