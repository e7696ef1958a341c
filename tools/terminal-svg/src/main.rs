// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records a command's output as an animated SVG of a terminal: each line appears when it was
//! printed, with the whole run scaled to a few seconds, and the text scrolls.
//!
//!     cargo run --manifest-path tools/terminal-svg/Cargo.toml -- OUT.svg COMMAND...

use std::env;
use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Duration of the animation, in seconds.
const DURATION: f64 = 8.0;
/// Width of a character and height of a line, in pixels, of a monospaced font of 13 pixels.
const CHARACTER: f64 = 7.83;
const LINE: usize = 18;
const MARGIN: usize = 16;
/// Size of the terminal, in characters.
const COLUMNS: usize = 104;
const ROWS: usize = 25;

/// A line of output, and the time of its printing, in seconds from the start.
struct Line {
    text: String,
    at: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [out, command @ ..] = &arguments[..] else {
        return Err("usage: terminal-svg OUT.svg COMMAND...".into());
    };
    if command.is_empty() {
        return Err("no command".into());
    }
    let lines = record(command)?;
    fs::write(out, svg(&command.join(" "), &lines))?;
    Ok(())
}

/// Runs the command, with its standard error joined to its standard output.
fn record(command: &[String]) -> Result<Vec<Line>, Box<dyn Error>> {
    let start = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", "exec \"$@\" 2>&1", "sh"])
        .args(command)
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().ok_or("no output")?;
    let mut lines = Vec::new();
    for text in BufReader::new(output).lines() {
        let text = text?;
        eprintln!("{text}");
        let at = start.elapsed().as_secs_f64();
        lines.push(Line { text, at });
    }
    let status = child.wait()?;
    if !status.success() {
        return Err(format!("the command failed: {status}").into());
    }
    Ok(lines)
}

fn svg(command: &str, lines: &[Line]) -> String {
    let width = (COLUMNS as f64 * CHARACTER) as usize + 2 * MARGIN;
    let height = ROWS * LINE + 2 * MARGIN;
    let end = lines.last().map_or(1.0, |line| line.at.max(0.001));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"Output of {label}\">\n\
         <style>\n\
         rect {{ fill: #f6f8fa; stroke: #d0d7de }}\n\
         text {{ font: 13px ui-monospace, 'DejaVu Sans Mono', monospace; fill: #1f2328; \
         white-space: pre }}\n\
         .line {{ animation: show 0.01s both }}\n\
         .screen {{ animation: scroll {DURATION}s step-end both }}\n\
         @keyframes show {{ from {{ opacity: 0 }} to {{ opacity: 1 }} }}\n\
         @keyframes scroll {{ {scroll} }}\n\
         @media (prefers-color-scheme: dark) {{ rect {{ fill: #161b22; stroke: #30363d }} \
         text {{ fill: #e6edf3 }} }}\n\
         @media (prefers-reduced-motion) {{ .line {{ animation: none }} \
         .screen {{ animation: none; transform: translateY(-{last}px) }} }}\n\
         </style>\n\
         <clipPath id=\"window\"><rect y=\"{MARGIN}\" width=\"{width}\" height=\"{inside}\"/>\
         </clipPath>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"6\"/>\n\
         <g clip-path=\"url(#window)\"><g class=\"screen\">\n",
        label = escaped(command),
        scroll = scroll(lines, end),
        last = hidden(lines.len()) * LINE,
        inside = ROWS * LINE,
    );
    let mut add = |number: usize, line: &str, attributes: &str| {
        let y = MARGIN + LINE * number + 13;
        let _ = writeln!(
            text,
            "<text x=\"{MARGIN}\" y=\"{y}\"{attributes} xml:space=\"preserve\">{}</text>",
            escaped(&shortened(line))
        );
    };
    add(0, &format!("$ {command}"), "");
    for (index, line) in lines.iter().enumerate() {
        let delay = line.at / end * DURATION;
        let style = format!(" class=\"line\" style=\"animation-delay: {delay:.2}s\"");
        add(index + 1, &line.text, &style);
    }
    text + "</g></g>\n</svg>\n"
}

/// Returns the number of rows that have scrolled away when `printed` lines follow the prompt.
fn hidden(printed: usize) -> usize {
    (printed + 1).saturating_sub(ROWS)
}

/// Returns the steps by which the text scrolls, as the body of a `@keyframes` rule.
fn scroll(lines: &[Line], end: f64) -> String {
    let mut steps = "0% { transform: none }".to_owned();
    for (index, line) in lines.iter().enumerate() {
        let rows = hidden(index + 1);
        if rows > 0 {
            let percent = line.at / end * 100.0;
            let _ = write!(
                steps,
                " {percent:.2}% {{ transform: translateY(-{}px) }}",
                rows * LINE
            );
        }
    }
    steps
}

/// Returns a line as far as the terminal is wide.
fn shortened(line: &str) -> String {
    match line.chars().count() > COLUMNS {
        true => line.chars().take(COLUMNS - 1).chain(['…']).collect(),
        false => line.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .collect::<String>()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_appear_in_their_order() {
        let line = |text: &str, at| Line {
            text: text.into(),
            at,
        };
        let text = svg("x", &[line("a <b>", 1.0), line("c", 2.0)]);
        assert!(text.contains("delay: 4.00s") && text.contains("delay: 8.00s"));
        assert!(text.contains("a &lt;b&gt;"));
    }

    #[test]
    fn what_does_not_fit_scrolls() {
        let lines: Vec<_> = (0..ROWS + 1)
            .map(|n| Line {
                text: "x".repeat(COLUMNS + 1),
                at: n as f64,
            })
            .collect();
        assert_eq!(hidden(ROWS - 1), 0);
        let text = svg("x", &lines);
        assert!(text.contains("translateY(-18px)") && text.contains("translateY(-36px)"));
        assert!(!text.contains("translateY(-54px)") && text.contains("x…<"));
    }
}
