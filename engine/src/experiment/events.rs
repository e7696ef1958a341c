// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The events of a case that `crucible bisect` tries: a few of those that a sweep would.

use std::io;

use crucible_protocol::EventKind;

use super::{Done, Experiment, Finding, Group, Identity, scenarios};
use crate::{abort::Abort, event::EventSpec, scenario::Scenario, session::Session, sweep};

/// The kind of events that are listed.
const KIND: EventKind = EventKind::All;

/// Lists the events of a case. It has no units.
pub struct EventsExperiment<'a> {
    scenario: &'a Scenario,
    case: usize,
    most: usize,
    events: Vec<EventSpec>,
}

impl<'a> EventsExperiment<'a> {
    /// Returns the experiment that finds at most `most` events of a case.
    pub fn new(scenario: &'a Scenario, case: usize, most: usize) -> Self {
        Self {
            scenario,
            case,
            most,
            events: Vec::new(),
        }
    }

    /// Returns the events, which are spread over the run.
    pub fn events(&self) -> &[EventSpec] {
        &self.events
    }
}

impl Experiment for EventsExperiment<'_> {
    type Unit = ();
    type Detail = ();
    type Summary = ();

    fn key(&self, (): &()) -> String {
        String::new()
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        scenarios::identify(self.scenario, identity)
    }

    fn plan(&mut self, session: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let case = &self.scenario.cases[self.case];
        let baseline = sweep::baseline(session, self.scenario, case, KIND)?;
        let points = sweep::spread_out(&baseline.listing.points, self.most);
        self.events = points.iter().map(|point| point.spec(KIND)).collect();
        Ok(Vec::new())
    }

    fn run(&self, _: &mut Session<'_>, _: &[()], _: &mut Done<'_, Self>) -> Result<(), Abort> {
        Ok(())
    }

    fn summarise(&self, _: &[Finding<()>]) {}
}
