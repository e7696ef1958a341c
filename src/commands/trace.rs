// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible trace`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use crucible_engine::stream::{self, Body, Event};
use serde_json::{Value, json};

use crate::context::Context;
use crate::exit::{self, Usage};
use crate::stdout;

/// Width of the bars, in columns.
const WIDTH: u64 = 40;

/// Files with the kernel's messages about a checkpoint and a restart.
const LOGS: [(&str, &str); 2] = [("checkpoint", "checkpoint.log"), ("restart", "restart.log")];

/// The options of `crucible trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The run: its directory in results/
    run: PathBuf,
    /// Write the timeline to this file as JSON that Perfetto (ui.perfetto.dev) and Chrome open,
    /// instead of printing it
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
}

/// Something that took time.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    /// Number of the guest; 0 for the whole run.
    guest: u32,
    unit: String,
    name: String,
    /// Milliseconds since the start of the run.
    from: u64,
    to: u64,
    /// Number of the guest's instructions, if they were counted.
    instructions: Option<u64>,
    /// The kernel's messages about the step.
    messages: Vec<String>,
}

/// Shows the timeline of a run.
pub fn run(args: &TraceArgs, _: &Context) -> Result<ExitCode> {
    let path = args.run.join(stream::FILE_NAME);
    let text = fs::read_to_string(&path)
        .map_err(|error| Usage(format!("cannot read {}: {error}", path.display())))?;
    let mut spans = spans(&text);
    if spans.is_empty() {
        let why = format!("{} has no step that is complete", path.display());
        return Err(Usage(why).into());
    }
    for span in &mut spans {
        span.messages = messages(&args.run, span);
    }
    match &args.perfetto {
        Some(file) => fs::write(file, perfetto(&spans).to_string())
            .with_context(|| format!("cannot write {}", file.display()))?,
        None => stdout::screen(&screen(&spans))?,
    }
    Ok(exit::PASS.into())
}

/// Returns the kernel's messages of a step of the last restarted run of a case.
fn messages(run: &Path, span: &Span) -> Vec<String> {
    let log = LOGS.iter().find(|(step, _)| *step == span.name);
    let Some((_, file)) = log else {
        return Vec::new();
    };
    // The key of a unit is `SCENARIO/CASE`; other keys have no file.
    let path = run.join("cases").join(&span.unit).join(file);
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Returns the spans of a run in the order of their starts.
fn spans(text: &str) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut begun: BTreeMap<(u32, &str), (u64, String)> = BTreeMap::new();
    let mut counts: BTreeMap<(u32, String), u64> = BTreeMap::new();
    let mut counted = None;
    // The last line of a run that was killed may be cut off.
    let events = text
        .lines()
        .map_while(|line| serde_json::from_str(line).ok());
    for Event {
        ms,
        guest,
        unit,
        body,
        ..
    } in events
    {
        let guest = guest.unwrap_or_default();
        let unit = unit.unwrap_or_default();
        let span = |name: String, from, instructions| Span {
            guest,
            unit: unit.clone(),
            name,
            from,
            to: ms,
            instructions,
            messages: Vec::new(),
        };
        match body {
            Body::PreparationStarted { name } => {
                begun.insert((guest, "preparation"), (ms, name));
            }
            Body::PreparationFinished => {
                if let Some((from, name)) = begun.remove(&(guest, "preparation")) {
                    spans.push(span(name, from, None));
                }
            }
            Body::MachineStarted => {
                begun.insert((guest, "machine"), (ms, "boot".into()));
            }
            Body::MachineReady { .. } => {
                if let Some((from, name)) = begun.remove(&(guest, "machine")) {
                    spans.push(span(name, from, None));
                }
            }
            Body::Counted {
                step,
                complete: false,
                instructions,
            } => {
                counts.insert((guest, step), instructions);
            }
            Body::Counted {
                step,
                complete: true,
                instructions,
            } => {
                let before = counts.remove(&(guest, step));
                counted = before.map(|before| instructions.saturating_sub(before));
            }
            Body::StepFinished { name, step_ms } => {
                let from = ms.saturating_sub(step_ms);
                spans.push(span(name, from, counted.take()));
            }
            _ => {}
        }
    }
    spans.sort_by_key(|span| (span.from, span.to));
    spans
}

/// Returns the timeline as Chrome's trace events: a process for each guest.
fn perfetto(spans: &[Span]) -> Value {
    let mut events = Vec::new();
    let mut guests: Vec<_> = spans.iter().map(|span| span.guest).collect();
    guests.sort_unstable();
    guests.dedup();
    for guest in guests {
        let name = match guest {
            0 => "crucible".to_owned(),
            guest => format!("guest {guest}"),
        };
        events.push(json!({
            "ph": "M", "name": "process_name", "pid": guest, "tid": 1, "args": { "name": name },
        }));
    }
    for span in spans {
        let mut args = json!({ "unit": span.unit });
        if let Some(count) = span.instructions {
            args["instructions"] = count.into();
        }
        if !span.messages.is_empty() {
            args["kernel"] = span.messages.join("\n").into();
        }
        events.push(json!({
            "ph": "X", "name": span.name, "cat": "step", "pid": span.guest, "tid": 1,
            "ts": span.from * 1000, "dur": (span.to - span.from) * 1000, "args": args,
        }));
    }
    json!({ "traceEvents": events, "displayTimeUnit": "ms" })
}

fn screen(spans: &[Span]) -> String {
    let end = spans.iter().map(|span| span.to).max().unwrap_or(1).max(1);
    let column = |ms: u64| (ms * WIDTH / end) as usize;
    let mut text = String::new();
    let mut last = None;
    for span in spans {
        let head = (span.guest, span.unit.as_str());
        if last != Some(head) {
            last = Some(head);
            let name = match head {
                (0, "") => "crucible".to_owned(),
                (guest, "") => format!("guest {guest}"),
                (guest, unit) => format!("guest {guest}: {unit}"),
            };
            let _ = writeln!(text, "{name}");
        }
        let from = column(span.from).min(WIDTH as usize - 1);
        let length = column(span.to).saturating_sub(from).max(1);
        let bar = format!("{}{}", " ".repeat(from), "#".repeat(length));
        let count = span.instructions.map_or(String::new(), |count| {
            format!(" {:>9.1} M instructions", count as f64 / 1e6)
        });
        let _ = writeln!(
            text,
            "  {:<24.24} {:>8} ms {:>7} ms |{bar:<40}|{count}",
            span.name,
            span.from,
            span.to - span.from
        );
        for line in &span.messages {
            let _ = writeln!(text, "      {line}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = r#"{"id":1,"time":"t","ms":0,"event":"preparation-started","name":"building"}
{"id":2,"time":"t","ms":100,"event":"preparation-finished"}
{"id":3,"time":"t","ms":100,"guest":1,"event":"machine-started"}
{"id":4,"time":"t","ms":400,"guest":1,"event":"machine-ready","ready_ms":300,"kernel":"6","slowness":1}
{"id":5,"time":"t","ms":400,"guest":1,"unit":"a/x","event":"counted","step":"restart","complete":false,"instructions":5000000}
{"id":6,"time":"t","ms":450,"guest":1,"unit":"a/x","event":"counted","step":"restart","complete":true,"instructions":7000000}
{"id":7,"time":"t","ms":450,"guest":1,"unit":"a/x","event":"step-finished","name":"restart","step_ms":50}
{"id":8,"time":"t","ms":500,"gu"#;

    #[test]
    fn a_timeline_has_every_step_in_order() {
        let spans = spans(EVENTS);
        let short: Vec<_> = spans
            .iter()
            .map(|span| (span.name.as_str(), span.guest, span.from, span.to))
            .collect();
        assert_eq!(
            short,
            [
                ("building", 0, 0, 100),
                ("boot", 1, 100, 400),
                ("restart", 1, 400, 450)
            ]
        );
        assert_eq!(spans[2].instructions, Some(2_000_000));
        let text = screen(&spans);
        assert!(text.contains("2.0 M instructions"), "{text}");
        assert!(text.lines().all(|line| line.len() < 120), "{text}");
    }

    #[test]
    fn perfetto_gets_microseconds_and_what_the_kernel_said() {
        let mut spans = spans(EVENTS);
        spans[2].messages = vec!["pid 2: no (-EINVAL)".into()];
        let value = perfetto(&spans);
        let events = value["traceEvents"].as_array().unwrap();
        let restart = events.last().unwrap();
        assert_eq!(restart["ts"], 400_000);
        assert_eq!(restart["dur"], 50_000);
        assert_eq!(restart["args"]["kernel"], "pid 2: no (-EINVAL)");
        assert!(events.iter().any(|it| it["args"]["name"] == "guest 1"));
    }
}
