// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The progress of a run on standard error: a moving line on a terminal, occasional lines
//! elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use crucible_engine::outcome::Outcome;
use crucible_engine::stream::{Body, Event, Listener};
use indicatif::{ProgressBar, ProgressStyle};

use crate::bisection::short;
use crate::stdout::message;

/// Time between two lines of a step, if standard error is not a terminal.
const PERIOD: Duration = Duration::from_secs(30);

/// The end of a step shorter than this is not reported.
const SHORT: Duration = Duration::from_secs(1);

/// Shows events on standard error.
pub struct Terminal {
    mode: Mode,
    step: Option<Step>,
    units: Option<Units>,
    /// True when every unit and step is shown: for a run of a few long units.
    detailed: bool,
    /// True when the units are runs of a bisection, whose lines have more details.
    bisects: bool,
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
    shown: Instant,
    bar: Option<ProgressBar>,
}

/// The units of the run.
struct Units {
    total: u64,
    resumed: u64,
    done: u64,
    began: Instant,
    shown: Instant,
}

impl Units {
    /// Returns the number of finished units, and the estimated time for the rest.
    fn text(&self) -> String {
        let left = self.total.saturating_sub(self.resumed + self.done);
        let rest = (self.began.elapsed().as_secs() * left).checked_div(self.done);
        let rest = match rest {
            Some(seconds) if left > 0 => format!(", about {} left", duration(seconds)),
            _ => String::new(),
        };
        format!("{} of {} units{rest}", self.resumed + self.done, self.total)
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{}:{:02} h", seconds / 3600, seconds % 3600 / 60),
    }
}

impl Terminal {
    /// Creates the listener, which shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let mode = match (quiet, stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Bar,
            (false, false) => Mode::Lines,
        };
        Self {
            mode,
            step: None,
            units: None,
            detailed: false,
            bisects: false,
        }
    }

    fn begin(&mut self, name: &str) {
        self.end();
        let bar = (self.mode == Mode::Bar).then(|| {
            let bar = ProgressBar::new_spinner().with_message(name.to_owned());
            bar.set_style(style("{spinner} {msg} {elapsed:.dim}"));
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        if bar.is_none() {
            message(format_args!("crucible: {name} …"));
        }
        let now = Instant::now();
        self.step = Some(Step {
            name: name.to_owned(),
            began: now,
            shown: now,
            bar,
        });
    }

    fn advance(&mut self, done: u64, total: u64) {
        let Some(step) = &mut self.step else { return };
        if let Some(bar) = &step.bar {
            if bar.length().is_none() {
                bar.set_style(style(
                    "{spinner} {msg} {wide_bar} {percent:>3} % {elapsed:.dim}, {eta} left",
                ));
            }
            bar.set_length(total);
            bar.set_position(done);
        } else if step.shown.elapsed() >= PERIOD {
            step.shown = Instant::now();
            let percent = (done * 100).checked_div(total).unwrap_or_default();
            let elapsed = step.began.elapsed().as_secs();
            let left = (elapsed * total.saturating_sub(done)).checked_div(done);
            let left = left.map_or(String::new(), |left| format!(", {left} s left"));
            message(format_args!("crucible: {}: {percent} %{left}", step.name));
        }
    }

    fn end(&mut self) {
        let Some(step) = self.step.take() else { return };
        let elapsed = step.began.elapsed();
        if let Some(bar) = step.bar {
            bar.finish_and_clear();
        }
        if elapsed >= SHORT {
            message(format_args!(
                "crucible: {}: {} s",
                step.name,
                elapsed.as_secs()
            ));
        }
    }

    fn note(&self, text: &str) {
        match &self.step {
            Some(Step { bar: Some(bar), .. }) => {
                bar.suspend(|| message(format_args!("crucible: {text}")));
            }
            _ => message(format_args!("crucible: {text}")),
        }
    }

    /// Counts a finished unit. Shows it if it did not pass or if all are shown, and now and then
    /// the progress of the run.
    fn unit(&mut self, key: &str, outcome: &Outcome) {
        let result = format!("{key}: {} ({})", outcome.condition.name(), outcome.why);
        if self.detailed || !outcome.is_pass() {
            self.note(&result);
        }
        let Some(units) = &mut self.units else { return };
        units.done += 1;
        if self.detailed {
            return;
        }
        let text = units.text();
        match &self.step {
            Some(Step { bar: Some(bar), .. }) => bar.set_message(text),
            _ if units.shown.elapsed() >= PERIOD => {
                units.shown = Instant::now();
                message(format_args!("crucible: {text}"));
            }
            _ => {}
        }
    }

    fn planned(&mut self, total: u64, resumed: u64) {
        let now = Instant::now();
        let units = Units {
            total,
            resumed,
            done: 0,
            began: now,
            shown: now,
        };
        if resumed > 0 || !self.detailed {
            self.note(&units.text());
        }
        self.units = Some(units);
        if self.mode == Mode::Bar && !self.detailed {
            self.begin("running units");
        }
    }
}

impl Listener for Terminal {
    fn hear(&mut self, event: &Event) {
        if self.mode == Mode::Quiet {
            return;
        }
        let unit = event.unit.as_deref().unwrap_or_default();
        // With several guests, whose steps mix, only results are shown.
        let steps = self.detailed && event.guest == Some(1);
        match &event.body {
            Body::RunStarted { command, .. } => {
                self.detailed = command == "scenario";
                self.bisects = command == "bisect";
            }
            Body::Planned { .. } | Body::UnitFinished { .. } if self.bisects => {}
            Body::Bisected {
                text,
                left,
                likeliest,
                per_mille,
                ..
            } => {
                let likeliest = likeliest.as_ref().map_or_else(String::new, |node| {
                    let node = short(node);
                    format!("; {left} left, {node} with {} %", per_mille / 10)
                });
                self.note(&format!("{text}{likeliest}"));
            }
            Body::PreparationStarted { name } => self.begin(name),
            Body::PreparationAdvanced { done, total } => self.advance(*done, *total),
            Body::PreparationFinished => self.end(),
            Body::Note { text } if unit.is_empty() => self.note(text),
            Body::Note { text } => self.note(&format!("{unit}: {text}")),
            Body::Planned { units, resumed } => self.planned(*units, *resumed),
            Body::MachineReady {
                ready_ms,
                kernel,
                slowness,
            } if steps => {
                let slow = match slowness {
                    1 => String::new(),
                    factor => format!("; its CPU is {factor} times slower than usual"),
                };
                self.note(&format!(
                    "Linux {kernel} is ready after {ready_ms} ms{slow}"
                ));
            }
            Body::BuildStarted { command } if steps => self.note(&format!("building: {command}")),
            Body::StepStarted { name } if steps => self.begin(&format!("{unit}: {name}")),
            Body::StepFinished { .. } if steps => self.end(),
            Body::UnitFinished { outcome, .. } => self.unit(unit, outcome),
            Body::GuestFailed { outcome } => {
                let condition = outcome.condition.name();
                self.note(&format!("a guest: {condition} ({})", outcome.why));
            }
            Body::Interrupted => {
                self.end();
                self.note("interrupted; a second Ctrl-C ends immediately");
            }
            Body::RunFinished { .. } => self.end(),
            _ => {}
        }
    }
}

/// Parses a template; falls back to the default of indicatif.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_is_told_in_units_of_time_that_fit() {
        assert_eq!(duration(89), "89 s");
        assert_eq!(duration(90), "2 min");
        assert_eq!(duration(5400), "1:30 h");
    }

    #[test]
    fn units_of_an_earlier_run_count_as_done() {
        let units = Units {
            total: 10,
            resumed: 4,
            done: 0,
            began: Instant::now(),
            shown: Instant::now(),
        };
        assert_eq!(units.text(), "4 of 10 units");
    }
}
