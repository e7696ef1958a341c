// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the cases of a scenario in a guest.

mod case;
pub(crate) mod judge;
mod losses;

use std::{collections::BTreeMap, time::Duration};

use crucible_protocol::WORK_DIR;

pub use self::case::case;
use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    blame::Condition,
    event::EventSpec,
    run::RestartIn,
    scenario::Scenario,
    session::Session,
    stream::Body,
};

/// Time limit for each command that builds a workload.
const BUILD_LIMIT: Duration = Duration::from_secs(300);

/// Options for running scenarios.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of restarted runs of each case.
    pub repeat: u32,
    /// Overrides the scenario's event.
    pub at: Option<EventSpec>,
    /// The place to restart in.
    pub restart_in: RestartIn,
    /// Number of times that each restarted run is checkpointed, killed and restarted: at its event,
    /// and then at the next ones. 0 is the same as 1.
    pub chain: u32,
    /// Overrides the scenario's time limit, in seconds.
    pub timeout: Option<u64>,
    /// The backend for checkpoint and restart.
    pub backend: Backend,
    /// Number of CPUs of each guest.
    pub vcpus: u8,
    /// If all cases of a scenario pass, stores the result as the scenario's expected result.
    pub accept: bool,
}

impl Options {
    /// Returns the number of links of each restarted run.
    pub fn links(&self) -> u32 {
        self.chain.max(1)
    }

    /// Returns true when the scenario's expected result applies to such a run: it is frozen once,
    /// at the scenario's own event.
    pub fn is_expected(&self) -> bool {
        self.at.is_none() && self.links() == 1
    }
}

/// Builds a scenario's workload in the guest and keeps the built tree, so that each run starts
/// from the same files.
pub fn build(session: &mut Session<'_>, scenario: &Scenario) -> Result<(), Abort> {
    let sources = scenario
        .sources()
        .map_err(|e| Abort::io("cannot read the scenario's sources", &e))?;
    let limit = BUILD_LIMIT * session.patience();
    let before = |e| Abort::guest(Phase::Before, e);
    let guest = session.guest().map_err(Abort::session)?.0;
    guest.prepare(None).map_err(before)?;
    for source in &sources {
        let path = format!("{WORK_DIR}/{}", source.path);
        guest
            .write_file(&path, source.mode, &source.content)
            .map_err(before)?;
    }
    for command in &scenario.build {
        session.voice().tell(Body::BuildStarted {
            command: command.clone(),
        });
        let argv = ["/bin/sh", "-ec", command].map(String::from);
        let run = session
            .running()
            .exec(&argv, &BTreeMap::new(), WORK_DIR, limit)
            .map_err(before)?;
        if !run.success() {
            let lines = format!("{}{}", run.stdout, run.stderr);
            let lines = lines.lines().map(str::to_owned).collect();
            let why = format!("the workload's build failed: {command}");
            return Err(Abort::new(Condition::BuildFailed, why).with(lines));
        }
    }
    session.running().stash(&scenario.name).map_err(before)
}
