// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Durations and instruction counts of a unit's steps.

use std::collections::BTreeMap;

use crucible_engine::stream::Body;
use crucible_history::{INSTRUCTIONS, Metric};

/// Steps that are measured.
const MEASURED: [&str; 4] = ["control", "checkpoint", "kill", "restart"];

/// The measured steps of a unit. The values of a repeated step are added up.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    /// Milliseconds.
    durations: BTreeMap<&'static str, u64>,
    /// Instructions of the guest, if it is recorded.
    instructions: BTreeMap<&'static str, u64>,
    /// The number of instructions at the start of the step that runs.
    start: u64,
}

impl Steps {
    /// Adds the measurements of an event of the unit.
    pub(crate) fn hear(&mut self, body: &Body) {
        match body {
            Body::StepFinished { name, step_ms } => {
                if let Some(step) = measured(name) {
                    *self.durations.entry(step).or_default() += step_ms;
                }
            }
            Body::Counted {
                complete: false,
                instructions,
                ..
            } => self.start = *instructions,
            Body::Counted {
                step, instructions, ..
            } => {
                if let Some(step) = measured(step) {
                    let taken = instructions.saturating_sub(self.start);
                    *self.instructions.entry(step).or_default() += taken;
                }
            }
            _ => {}
        }
    }

    /// Returns the metrics: the instructions if they were counted, else the durations, which
    /// recording would distort.
    pub(crate) fn metrics(self) -> Vec<Metric> {
        let (steps, unit) = match self.instructions.is_empty() {
            true => (self.durations, "ms"),
            false => (self.instructions, INSTRUCTIONS),
        };
        let metric = |(name, value): (&str, u64)| Metric {
            name: name.into(),
            value: value as f64,
            unit: unit.into(),
        };
        steps.into_iter().map(metric).collect()
    }
}

/// Returns the measured step of this name, which may be followed by a number.
fn measured(name: &str) -> Option<&'static str> {
    let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == ' ');
    MEASURED.into_iter().find(|&step| step == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(step: &str, complete: bool, instructions: u64) -> Body {
        Body::Counted {
            step: step.into(),
            complete,
            instructions,
        }
    }

    fn finished(name: &str, step_ms: u64) -> Body {
        Body::StepFinished {
            name: name.into(),
            step_ms,
        }
    }

    fn metrics(events: &[Body]) -> Vec<(String, f64, String)> {
        let mut steps = Steps::default();
        for event in events {
            steps.hear(event);
        }
        let metrics = steps.metrics().into_iter();
        metrics.map(|it| (it.name, it.value, it.unit)).collect()
    }

    #[test]
    fn the_repetitions_of_a_step_are_added() {
        let events = [
            finished("to the event", 9),
            finished("restart 1", 2),
            finished("restart 2", 3),
        ];
        let expected = [("restart".into(), 5.0, "ms".into())];
        assert_eq!(metrics(&events), expected);
    }

    #[test]
    fn instructions_count_before_durations() {
        let events = [
            counted("checkpoint", false, 100),
            counted("checkpoint", true, 130),
            finished("checkpoint", 2),
            counted("second image", false, 140),
            counted("second image", true, 150),
            counted("checkpoint", false, 150),
            counted("checkpoint", true, 157),
        ];
        let expected = [("checkpoint".into(), 37.0, "instructions".into())];
        assert_eq!(metrics(&events), expected);
    }
}
