// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible sweep --chain`: each case is a unit.

use std::{
    io,
    time::{Duration, Instant},
};

use crucible_protocol::EventKind;

use super::{Done, Experiment, Finding, Group, Identity, scenarios};
use crate::{
    abort::Abort,
    scenario::Scenario,
    session::Session,
    stream::Body,
    sweep::{self, Chain},
};

/// Time between two reports of progress.
const PERIOD: Duration = Duration::from_secs(30);

/// A scenario whose cases run as chains.
pub struct ChainExperiment {
    /// The scenario.
    pub scenario: Scenario,
    /// Kind of the events.
    pub kind: EventKind,
    /// Its name.
    pub kind_name: String,
}

impl Experiment for ChainExperiment {
    /// Index of the case.
    type Unit = usize;
    type Detail = Chain;
    type Summary = ();

    fn key(&self, &unit: &usize) -> String {
        self.scenario.cases[unit].name.clone()
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        scenarios::identify(&self.scenario, identity)?;
        identity.add("chain", &self.kind_name);
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        Ok((0..self.scenario.cases.len())
            .map(|case| vec![case])
            .collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[usize],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            let case = &self.scenario.cases[*unit];
            let stream = session.setup().stream;
            let voice = stream.voice(session.number());
            voice.set_unit(Some(&case.name));
            let mut shown = Instant::now();
            let mut tell = |chain: &Chain| {
                if shown.elapsed() >= PERIOD {
                    shown = Instant::now();
                    let text = format!("{} links; {}", chain.links, chain.last);
                    voice.tell(Body::Note { text });
                }
            };
            let (outcome, chain) =
                sweep::chain(session, &self.scenario, case, self.kind, &mut tell);
            done(unit, outcome, Some(chain))?;
        }
        Ok(())
    }

    fn summarise(&self, _: &[Finding<Chain>]) {}
}
