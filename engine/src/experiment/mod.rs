// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Experiments: the work of a command, in units with keys, findings and one kind of outcome.
//!
//! An [`Experiment`] defines its units and runs one in a guest. [`execute`] does the
//! rest, for all experiments: it owns the guests, hands the units out, finds the unit that kills
//! a guest, keeps the findings in a [`Journal`] and emits each event.

mod adversary;
mod chain;
mod events;
mod executor;
mod fail_nth;
mod fuzz;
mod journal;
pub mod matrix;
pub mod mutate;
mod random;
mod reach;
mod runs;
mod scenarios;
mod sweep;
pub mod torture;
mod trials;

use std::{io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub use self::{
    adversary::{AdversaryExperiment, AdversarySummary, Attacked},
    chain::ChainExperiment,
    events::EventsExperiment,
    executor::{Report, Setup, execute},
    fail_nth::{FailKind, FailNthExperiment, FailNthSummary, Failed, PROGRAMS, Which},
    fuzz::{FileBlocks, FuzzExperiment, FuzzSummary, Fuzzed, ROUND, Search},
    journal::{Identity, Journal, JournalError},
    matrix::{MatrixExperiment, MatrixSummary},
    mutate::{MutateExperiment, Score},
    random::{RandomExperiment, RandomSummary, RandomTree},
    reach::{Reach, ReachExperiment},
    runs::{RunsExperiment, See},
    scenarios::{CaseUnit, ScenarioExperiment, ScenarioSummary},
    sweep::{Choice, PointUnit, SweepExperiment, SweepSummary},
    torture::{TortureExperiment, TortureSummary},
    trials::{TrialsExperiment, TrialsSummary},
};
use crate::{abort::Abort, outcome::Outcome, session::Session};

/// The result of a unit.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Finding<T> {
    /// Key of the unit.
    pub key: String,
    /// The outcome.
    pub outcome: Outcome,
    /// Duration in milliseconds; for a unit of a batch, its share.
    pub ms: u64,
    /// The experiment's own data on the unit; `None` if there is none.
    pub detail: Option<T>,
}

/// Receives the outcome of each unit as soon as it is known.
pub type Done<'a, E> = dyn FnMut(&<E as Experiment>::Unit, Outcome, Option<<E as Experiment>::Detail>) -> Result<(), Abort>
    + 'a;

/// A unit group: units that one guest runs in this order, because they share a prefix.
pub type Group<E> = Vec<<E as Experiment>::Unit>;

/// A summary of all findings of an experiment.
pub trait Summary: Serialize {
    /// Returns outcomes of the run as a whole, which no single unit has.
    fn outcomes(&self) -> Vec<Outcome> {
        Vec::new()
    }

    /// Returns true when the outcomes of the summary replace those of the units.
    fn counts(&self) -> bool {
        false
    }
}

impl Summary for () {}

/// An experiment that a command makes, divided into units.
pub trait Experiment: Sync {
    /// A unit, which any guest can run.
    type Unit: Clone + Send + Sync;
    /// The experiment's own data on a unit, in addition to its outcome.
    type Detail: Clone + Send + Serialize + DeserializeOwned;
    /// The summary of all units.
    type Summary: Summary;

    /// Returns the unit's key, which names it in journals, events and records.
    fn key(&self, unit: &Self::Unit) -> String;

    /// Adds all that findings depend on to the identity of the journal, in addition to the guest.
    ///
    /// # Errors
    /// Fails if a source cannot be read.
    fn identify(&self, identity: &mut Identity) -> io::Result<()>;

    /// Returns the units, in groups. May use a guest to list them.
    ///
    /// # Errors
    /// Fails if nothing can be run.
    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort>
    where
        Self: Sized;

    /// Runs the units of a group in the session's guest, and reports each.
    ///
    /// # Errors
    /// Fails if the guest cannot be used further. The units that were not reported are
    /// then run again, each alone, to find the one that is to blame.
    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[Self::Unit],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort>
    where
        Self: Sized;

    /// Returns the summary of all findings.
    fn summarise(&self, findings: &[Finding<Self::Detail>]) -> Self::Summary;

    /// Returns true when the units of a group are judged together, so that one alone has no
    /// outcome.
    fn judges_groups(&self) -> bool {
        false
    }

    /// Returns the duration of a unit of a batch in milliseconds, if the guest has measured it.
    fn unit_ms(&self, _detail: &Self::Detail) -> Option<u64> {
        None
    }

    /// Returns the record's data on a unit.
    fn recorded(&self, detail: &Self::Detail) -> serde_json::Value {
        serde_json::to_value(detail).unwrap_or_default()
    }

    /// Returns the disk whose copies guests start with, instead of empty disks.
    fn disk(&self) -> Option<&Path> {
        None
    }

    /// Returns true when the memory of a guest that has crashed should be kept on the disk.
    fn keeps_memory(&self) -> bool {
        true
    }

    /// Called once at the end of each guest that has run units, before it shuts down.
    ///
    /// # Errors
    /// Fails if the guest cannot answer.
    fn conclude(&self, _session: &mut Session<'_>) -> Result<(), Abort> {
        Ok(())
    }
}
