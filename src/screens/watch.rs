// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The screen of `crucible watch`.

use std::fmt::Write as _;

use crucible_protocol::shown;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::widgets::Widget;

/// Width of a bar.
const BAR: u64 = 20;

/// The state of a part of a night.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Neither started nor finished, as far as these files show.
    #[default]
    Waiting,
    /// It has not ended.
    Running,
    /// It has ended.
    Ended,
}

/// A shard, or a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Number of units that are planned.
    pub units: u64,
    /// Number of planned units that are done or left out.
    pub done: u64,
    /// Number of units that fail.
    pub failures: u64,
    /// Seconds until its end, if that is known.
    pub seconds_left: Option<u64>,
}

/// The progress of a night or a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The name of the night or the run.
    pub title: String,
    /// Its parts.
    pub parts: Vec<Part>,
    /// The failures, the oldest first.
    pub failures: Vec<String>,
}

impl Part {
    /// Returns it as a line.
    pub fn line(&self) -> String {
        if self.state == State::Waiting {
            return format!("{}: nothing here yet", self.name);
        }
        let left = self.units.saturating_sub(self.done);
        let mut line = format!(
            "{}: {} of {} done, {left} left, {} failed",
            self.name, self.done, self.units, self.failures
        );
        // Writing to a string cannot fail.
        let _ = match (self.state, self.seconds_left) {
            (State::Ended, _) => write!(line, ", ended"),
            (_, Some(seconds)) if seconds < 60 => write!(line, ", about {seconds} s more"),
            (_, Some(seconds)) => write!(line, ", about {} min more", seconds.div_ceil(60)),
            (_, None) => Ok(()),
        };
        line
    }

    fn bar(&self) -> String {
        let filled = (self.done * BAR)
            .checked_div(self.units)
            .unwrap_or_default();
        let filled = usize::try_from(filled.min(BAR)).unwrap_or_default();
        let empty = usize::try_from(BAR).unwrap_or_default() - filled;
        format!("{}{}", "█".repeat(filled), "░".repeat(empty))
    }
}

impl Progress {
    /// Returns a screen before the first event.
    pub fn new(title: String) -> Self {
        Self {
            title,
            parts: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Returns true when all parts have ended.
    pub fn is_over(&self) -> bool {
        !self.parts.is_empty() && self.parts.iter().all(|part| part.state == State::Ended)
    }

    /// Returns the progress as lines, for output that is not a terminal.
    pub fn lines(&self) -> Vec<String> {
        let parts = self.parts.iter().map(Part::line);
        let failures = self.failures.iter().map(|it| format!("failed  {it}"));
        parts.chain(failures).collect()
    }
}

impl Widget for &Progress {
    fn render(self, area: Rect, buffer: &mut Buffer) {
        let bold = Style::new().add_modifier(Modifier::BOLD);
        let bad = Style::new().fg(Color::Red);
        let mut lines = vec![(self.title.clone(), bold)];
        for part in &self.parts {
            let style = match (part.failures, part.state) {
                (1.., _) => bad,
                (_, State::Ended) => Style::new().fg(Color::Green),
                _ => Style::new(),
            };
            lines.push((format!("{} {}", part.bar(), part.line()), style));
        }
        lines.push((String::new(), Style::new()));
        // Show the last lines, which are new; the very last one names the key to leave.
        let room = usize::from(area.height).saturating_sub(lines.len() + 1);
        let hidden = self.failures.len().saturating_sub(room);
        for failure in &self.failures[hidden..] {
            lines.push((failure.clone(), bad));
        }
        let width = usize::from(area.width);
        for (y, (text, style)) in (area.y..area.bottom()).zip(&lines) {
            buffer.set_stringn(area.x, y, shown(text), width, *style);
        }
        if let Some(y) = area.bottom().checked_sub(1).filter(|_| area.height > 1) {
            let text = match hidden {
                0 => "q ends".to_owned(),
                hidden => format!("q ends; {hidden} earlier failures"),
            };
            let blank = " ".repeat(width);
            buffer.set_stringn(area.x, y, blank, width, Style::new());
            let dim = Style::new().add_modifier(Modifier::DIM);
            buffer.set_stringn(area.x, y, text, width, dim);
        }
    }
}

/// Returns a buffer as text for a terminal in raw mode.
pub fn ansi(buffer: &Buffer) -> String {
    let mut text = String::from("\x1b[H");
    for y in buffer.area.top()..buffer.area.bottom() {
        for x in buffer.area.left()..buffer.area.right() {
            let cell = &buffer[(x, y)];
            let before = (x > buffer.area.left()).then(|| buffer[(x - 1, y)].style());
            if before != Some(cell.style()) {
                text.push_str("\x1b[0m");
                text.push_str(match cell.fg {
                    Color::Red => "\x1b[31m",
                    Color::Green => "\x1b[32m",
                    _ => "",
                });
                for (modifier, code) in [(Modifier::BOLD, "\x1b[1m"), (Modifier::DIM, "\x1b[2m")] {
                    if cell.modifier.contains(modifier) {
                        text.push_str(code);
                    }
                }
            }
            text.push_str(cell.symbol());
        }
        text.push_str(match y + 1 < buffer.area.bottom() {
            true => "\x1b[0m\r\n",
            false => "\x1b[0m",
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn progress() -> Progress {
        Progress {
            title: "night n1".into(),
            parts: vec![
                Part {
                    name: "shard 1".into(),
                    state: State::Running,
                    units: 4,
                    done: 1,
                    failures: 1,
                    seconds_left: Some(130),
                },
                Part {
                    name: "shard 2".into(),
                    ..Part::default()
                },
            ],
            failures: vec!["scenario a: hang\u{1b}[2J".into()],
        }
    }

    fn drawn(progress: &Progress, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let draw = |frame: &mut ratatui::Frame<'_>| frame.render_widget(progress, frame.area());
        terminal.draw(draw).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| {
            let line: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
            line.trim_end().to_owned()
        };
        (0..height).map(line).collect()
    }

    #[test]
    fn the_screen_has_parts_failures_and_the_way_out() {
        let lines = drawn(&progress(), 90, 8);
        assert_eq!(lines[0], "night n1");
        assert_eq!(
            lines[1],
            "█████░░░░░░░░░░░░░░░ shard 1: 1 of 4 done, 3 left, 1 failed, about 3 min more"
        );
        assert_eq!(lines[2], "░░░░░░░░░░░░░░░░░░░░ shard 2: nothing here yet");
        assert_eq!(lines[4], "scenario a: hang\\x1b[2J");
        assert_eq!(lines[7], "q ends");
    }

    #[test]
    fn small_screens_hold_what_is_newest() {
        let mut many = progress();
        many.failures = (0..20).map(|it| format!("failure {it}")).collect();
        let lines = drawn(&many, 30, 7);
        assert_eq!(lines[5], "failure 19");
        assert_eq!(lines[6], "q ends; 18 earlier failures");
        for (width, height) in [(1, 1), (0, 0), (5, 2)] {
            drawn(&many, width, height);
        }
    }

    #[test]
    fn only_our_own_sequences_reach_the_terminal() {
        let area = Rect::new(0, 0, 60, 8);
        let mut buffer = Buffer::empty(area);
        progress().render(area, &mut buffer);
        let text = ansi(&buffer);
        assert!(!text.contains("\x1b[2J"), "{text:?}");
        assert_eq!(text.matches("\r\n").count(), 7);
        assert!(text.contains("\x1b[31m"));
    }
}
