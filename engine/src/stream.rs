// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The event stream of a run: everything that a person or a program can see of it.
//!
//! All code reports its steps to the [`Stream`], which numbers and dates the event and passes it to
//! its [`Listener`]s: the terminal, the file `events.jsonl`, JUnit, KTAP. Listeners have no other
//! source, and return nothing to that code.

mod file;

use std::{
    cell::RefCell,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::file::{EventFile, FileError, NAME as FILE_NAME};
use crate::{blame::Condition, outcome::Outcome};

/// Version of the events; increased when one loses or renames a field.
pub const SCHEMA: u32 = 1;

/// An event of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Number of the event in its run, from 1 on.
    pub id: u64,
    /// Time of the event, in RFC 3339.
    pub time: String,
    /// Milliseconds since the start of the run.
    pub ms: u64,
    /// The event's guest, counted from 1; absent if the event is about the whole run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<u32>,
    /// Key of the event's unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The body of the event.
    #[serde(flatten)]
    pub body: Body,
}

/// The body of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Body {
    /// The first event.
    RunStarted {
        /// Version of the events.
        schema: u32,
        /// The command: `scenario`, `sweep`, …
        command: String,
        /// The whole command line.
        arguments: Vec<String>,
    },
    /// A step that prepares the run starts: an artefact is built, a program installed.
    PreparationStarted {
        /// Name of the step.
        name: String,
    },
    /// A part of the step that runs now is complete.
    PreparationAdvanced {
        /// Number of parts that are complete.
        done: u64,
        /// Number of all parts.
        total: u64,
    },
    /// The step that runs now is complete.
    PreparationFinished,
    /// A note for the user.
    Note {
        /// The text.
        text: String,
    },
    /// The units of the run are known.
    Planned {
        /// Number of units.
        units: u64,
        /// Number of units with findings of an earlier run in the journal.
        resumed: u64,
    },
    /// A machine starts.
    MachineStarted,
    /// The agent of a machine has answered.
    MachineReady {
        /// Milliseconds since the start of the machine.
        ready_ms: u64,
        /// Release of the guest's kernel (uname -r).
        kernel: String,
        /// Factor by which the guest's CPU is slower than usual, and limits are longer.
        slowness: u32,
    },
    /// The machine is recorded.
    Recorded {
        /// Directory of the recording, in the run's directory.
        directory: String,
    },
    /// Number of instructions that the recorded guest has executed at the start or the end of a
    /// step.
    Counted {
        /// Name of the step.
        step: String,
        /// True when the step is complete.
        complete: bool,
        /// Number of instructions since the guest's start.
        instructions: u64,
    },
    /// A command that builds the workload starts.
    BuildStarted {
        /// The command.
        command: String,
    },
    /// A unit starts.
    UnitStarted,
    /// A step of a unit starts.
    StepStarted {
        /// Name of the step.
        name: String,
    },
    /// A step of a unit is complete.
    StepFinished {
        /// Name of the step.
        name: String,
        /// Duration in milliseconds.
        step_ms: u64,
    },
    /// A unit has an outcome.
    UnitFinished {
        /// The outcome.
        #[serde(flatten)]
        outcome: Outcome,
        /// Duration in milliseconds; for a unit of a batch, its share.
        unit_ms: u64,
    },
    /// A guest has failed, and no single unit is to blame.
    GuestFailed {
        /// The outcome.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A step of a bisection, with its progress.
    Bisected {
        /// Description of the step, in one line.
        text: String,
        /// The node of this step: a commit's hash.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Number of runs of that node that passed or showed the failure.
        node_runs: u64,
        /// Number of runs of that node that showed the failure.
        node_failures: u64,
        /// Number of kernels that were built.
        builds: u64,
        /// Number of runs.
        runs: u64,
        /// Number of nodes that may still be the first bad one.
        left: u64,
        /// The most probable one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        likeliest: Option<String>,
        /// Its probability, in thousandths.
        per_mille: u32,
    },
    /// Ctrl-C or SIGTERM: the run ends.
    Interrupted,
    /// The last event.
    RunFinished {
        /// The condition that decides.
        condition: Condition,
        /// Reason in one line.
        why: String,
        /// The exit code.
        exit_code: u8,
        /// Number of units by condition.
        counts: std::collections::BTreeMap<String, u64>,
        /// Number of units that were not run.
        left: u64,
        /// Path of the record, relative to the directory in which the command was started.
        record: String,
    },
}

/// Returns the JSON Schema of an event, as text.
pub fn schema() -> String {
    let schema = schemars::schema_for!(Event);
    // A schema has text keys only.
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// A receiver of events.
pub trait Listener: Send {
    /// Takes an event. A listener that fails must keep the error for its creator.
    fn hear(&mut self, event: &Event);
}

/// Numbers events and passes them on.
pub struct Stream {
    state: Mutex<State>,
    began: Instant,
}

#[derive(Default)]
struct State {
    last: u64,
    listeners: Vec<Box<dyn Listener>>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            began: Instant::now(),
        }
    }
}

impl Stream {
    /// Adds a listener, which receives the events from now on.
    pub fn add(&self, listener: Box<dyn Listener>) {
        self.lock().listeners.push(listener);
    }

    /// Emits an event about the whole run.
    pub fn tell(&self, body: Body) {
        self.emit(None, None, body);
    }

    /// Emits an event about a unit that no guest of this process runs.
    pub fn tell_of(&self, unit: &str, body: Body) {
        self.emit(None, Some(unit.to_owned()), body);
    }

    /// Returns the voice of a guest. `guest` counts from 1.
    pub fn voice(&self, guest: u32) -> Voice<'_> {
        Voice {
            stream: self,
            guest,
            unit: RefCell::default(),
        }
    }

    fn emit(&self, guest: Option<u32>, unit: Option<String>, body: Body) {
        let mut state = self.lock();
        state.last += 1;
        let event = Event {
            id: state.last,
            time: Timestamp::now().to_string(),
            ms: self.began.elapsed().as_millis() as u64,
            guest,
            unit,
            body,
        };
        for listener in &mut state.listeners {
            listener.hear(&event);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Emits events about one guest and the unit that it runs.
pub struct Voice<'a> {
    stream: &'a Stream,
    guest: u32,
    unit: RefCell<Option<String>>,
}

impl Voice<'_> {
    /// Sets the unit of the following events; `None` for events that are not about a unit.
    pub fn set_unit(&self, key: Option<&str>) {
        self.unit.replace(key.map(str::to_owned));
    }

    /// Emits an event.
    pub fn tell(&self, body: Body) {
        let unit = self.unit.borrow().clone();
        self.stream.emit(Some(self.guest), unit, body);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Ear(Sender<Event>);

    impl Listener for Ear {
        fn hear(&mut self, event: &Event) {
            self.0.send(event.clone()).unwrap();
        }
    }

    #[test]
    fn events_are_numbered_and_name_their_guest_and_unit() {
        let stream = Stream::default();
        let (to, from) = channel();
        stream.add(Box::new(Ear(to)));
        stream.tell(Body::Interrupted);
        let voice = stream.voice(2);
        voice.tell(Body::MachineStarted);
        voice.set_unit(Some("hello/main"));
        voice.tell(Body::UnitStarted);
        let events: Vec<_> = from.try_iter().collect();
        let ids: Vec<_> = events.iter().map(|event| event.id).collect();
        assert_eq!(ids, [1, 2, 3]);
        assert_eq!((events[0].guest, events[1].guest), (None, Some(2)));
        assert_eq!(events[1].unit, None);
        assert_eq!(events[2].unit.as_deref(), Some("hello/main"));
    }

    #[test]
    fn an_event_is_one_object() {
        let event = Event {
            id: 1,
            time: "2026-01-01T00:00:00Z".into(),
            ms: 5,
            guest: Some(1),
            unit: Some("a".into()),
            body: Body::UnitFinished {
                outcome: Outcome::passed("equal"),
                unit_ms: 7,
            },
        };
        let value = serde_json::to_value(&event).unwrap();
        assert_eq!(value["event"], "unit-finished");
        assert_eq!(value["verdict"], "pass");
        assert_eq!(serde_json::from_value::<Event>(value).unwrap(), event);
    }
}
