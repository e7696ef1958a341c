// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Progress of long steps on standard error: a moving line on a terminal, occasional lines
//! elsewhere.

use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crucible_artefacts::Progress;
use crucible_protocol::shown_lines;
use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines of a step, if standard error is not a terminal.
const PERIOD: Duration = Duration::from_secs(30);

/// The end of a step shorter than this is not reported.
const SHORT: Duration = Duration::from_secs(1);

/// Progress on standard error.
pub struct Terminal {
    mode: Mode,
    step: Mutex<Option<Step>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bar,
}

struct Step {
    name: String,
    began: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// Creates it; reports nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Bar,
            (false, false) => Mode::Lines,
        };
        Self {
            mode,
            step: Mutex::new(None),
        }
    }

    fn with_step(&self, f: impl FnOnce(&mut Option<Step>)) {
        f(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Progress for Terminal {
    fn begin(&self, name: &str) {
        if self.mode == Mode::Quiet {
            return;
        }
        let bar = (self.mode == Mode::Bar).then(|| {
            let bar = ProgressBar::new_spinner().with_message(name.to_owned());
            bar.set_style(style("{spinner} {msg} {elapsed:.dim}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            eprintln!("crucible: {name} …");
        }
        let now = Instant::now();
        self.with_step(|step| {
            *step = Some(Step {
                name: name.to_owned(),
                began: now,
                told: now,
                bar,
            });
        });
    }

    fn advance(&self, done: u64, total: u64) {
        self.with_step(|step| {
            let Some(step) = step else { return };
            if let Some(bar) = &step.bar {
                if bar.length().is_none() {
                    bar.set_style(style(
                        "{spinner} {msg} {wide_bar} {percent:>3} % {elapsed:.dim}, {eta} left",
                    ));
                }
                bar.set_length(total);
                bar.set_position(done);
            } else if step.told.elapsed() >= PERIOD {
                step.told = Instant::now();
                let percent = (done * 100).checked_div(total).unwrap_or_default();
                let elapsed = step.began.elapsed().as_secs();
                let left = (elapsed * total.saturating_sub(done)).checked_div(done);
                let left = left.map_or(String::new(), |left| format!(", {left} s left"));
                eprintln!("crucible: {}: {percent} %{left}", step.name);
            }
        });
    }

    fn end(&self) {
        self.with_step(|step| {
            let Some(step) = step.take() else { return };
            let elapsed = step.began.elapsed();
            if let Some(bar) = step.bar {
                bar.finish_and_clear();
            }
            if elapsed >= SHORT {
                eprintln!("crucible: {}: {} s", step.name, elapsed.as_secs());
            }
        });
    }

    fn note(&self, text: &str) {
        let text = shown_lines(text);
        match self.mode {
            Mode::Quiet => {}
            Mode::Lines => eprintln!("crucible: {text}"),
            Mode::Bar => self.with_step(|step| match step {
                Some(Step { bar: Some(bar), .. }) => {
                    bar.suspend(|| eprintln!("crucible: {text}"));
                }
                _ => eprintln!("crucible: {text}"),
            }),
        }
    }
}

/// Parses a template; falls back to the default of indicatif.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
