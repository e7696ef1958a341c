// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible torture --adversary`: each seed's attack is a unit.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crucible_protocol::Ended;
use serde::{Deserialize, Serialize};

use super::{Done, Experiment, Finding, Group, Identity, Summary};
use crate::{
    abort::{Abort, Phase},
    adversary::Attack,
    blame::Condition,
    guest::Guest,
    outcome::Outcome,
    session::Session,
};

/// Time limit of an attack. The guest's own limits are shorter.
const LIMIT: Duration = Duration::from_secs(300);

/// Number of attacks of a group: one guest runs them.
const GROUP: usize = 50;

/// The sources of the guest's programs.
const SOURCES: [&str; 11] = [
    "rootfs/adversary/adversary.c",
    "rootfs/adversary/adversary.h",
    "rootfs/adversary/attacks.c",
    "rootfs/adversary/checkpoint.c",
    "rootfs/adversary/forge.c",
    "rootfs/adversary/restart.c",
    "rootfs/adversary/setuid.c",
    "rootfs/adversary/tree.c",
    "rootfs/adversary/victim.c",
    "rootfs/shared/harness.h",
    "rootfs/shared/image.h",
];

/// Builds the programs.
const BUILD: &str = "gcc -O2 -pthread -o victim victim.c && gcc -O1 -o setuid setuid.c && \
    gcc -O2 -Wno-unused-result -pthread -o adversary adversary.c attacks.c checkpoint.c forge.c \
    restart.c tree.c && chmod 777 .";

/// Attacks in the middle of a checkpoint or a restart.
pub struct AdversaryExperiment {
    root: PathBuf,
    seed: u64,
    count: u32,
}

/// The result of an attack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attacked {
    /// The guest's command.
    pub attack: String,
    /// The names of the attackers.
    pub attackers: Vec<String>,
    /// The result of the call: `restarted`, `saved`, `killed`, or an error.
    pub result: String,
}

/// The results of all attacks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AdversarySummary {
    /// Number of attacks by the result of the call.
    pub results: BTreeMap<String, u64>,
    /// Number of attacks of each attacker.
    pub attackers: BTreeMap<String, u64>,
}

impl Summary for AdversarySummary {}

impl AdversaryExperiment {
    /// Returns the experiment of `count` seeds from `seed` on. The programs' sources are below
    /// `root`.
    pub fn new(root: &Path, seed: u64, count: u32) -> Self {
        Self {
            root: root.to_owned(),
            seed,
            count,
        }
    }

    fn sources(&self) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
        let read = |path: &&'static str| {
            let name = path.rsplit('/').next().unwrap_or_default();
            Ok((name, fs::read(self.root.join(path))?))
        };
        SOURCES.iter().map(read).collect()
    }

    fn ready(&self, session: &mut Session<'_>) -> Result<(), Abort> {
        let limit = LIMIT * session.patience();
        let (guest, new) = session.guest().map_err(Abort::session)?;
        if !new {
            return Ok(());
        }
        let before = |error| Abort::guest(Phase::Before, error);
        guest.prepare(None).map_err(before)?;
        let sources = self
            .sources()
            .map_err(|e| Abort::io("cannot read the programs' sources", &e))?;
        for (name, content) in sources {
            guest
                .write_file(&format!("/work/{name}"), 0o644, &content)
                .map_err(before)?;
        }
        let (status, _, lines) = exec(guest, BUILD, limit).map_err(before)?;
        match status {
            Some(0) => Ok(()),
            _ => {
                let why = "the adversary's build failed";
                Err(Abort::new(Condition::BuildFailed, why).with(lines))
            }
        }
    }

    fn attack(
        &self,
        session: &mut Session<'_>,
        attack: &Attack,
    ) -> Result<(Outcome, Attacked), Abort> {
        let patience = session.patience();
        let after = |error| Abort::guest(Phase::After, error);
        let guest = session.running();
        guest.mark_used();
        let command = attack.command(patience);
        let (status, stdout, mut lines) = exec(guest, &command, LIMIT * patience).map_err(after)?;
        guest.settle().map_err(after)?;
        let result = stdout.trim().to_owned();
        let outcome = match (status, lines.first().cloned()) {
            (Some(0), _) => Outcome::passed(result.clone()),
            (Some(1), Some(first)) => {
                lines.push(format!("in the guest: {command}"));
                Outcome {
                    lines,
                    ..Outcome::new(Condition::Diverged, first)
                }
            }
            (_, first) => {
                let why = first.unwrap_or_else(|| "the adversary failed without a message".into());
                lines.push(format!("in the guest: {command}"));
                Outcome {
                    lines,
                    ..Outcome::new(Condition::RequestFailed, why)
                }
            }
        };
        let attackers = attack.attackers.iter().map(|one| one.name.to_owned());
        let attacked = Attacked {
            attack: command,
            attackers: attackers.collect(),
            result,
        };
        Ok((outcome, attacked))
    }
}

/// Runs a command; returns its exit status, its output, and the lines of its errors.
pub(super) fn exec(
    guest: &mut Guest,
    command: &str,
    limit: Duration,
) -> Result<(Option<i32>, String, Vec<String>), crate::guest::GuestError> {
    let argv = ["/bin/sh", "-c", command].map(String::from);
    let run = guest.exec(&argv, &BTreeMap::new(), "/work", limit)?;
    let lines = run.stderr.lines().map(str::to_owned).collect();
    let status = match run.ended {
        Some(Ended::Exited { code }) => Some(code),
        _ => None,
    };
    Ok((status, run.stdout, lines))
}

impl Experiment for AdversaryExperiment {
    /// The seed.
    type Unit = u64;
    type Detail = Attacked;
    type Summary = AdversarySummary;

    fn key(&self, unit: &u64) -> String {
        format!("adversary/{unit}")
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        for (name, content) in self.sources()? {
            identity.add(name, content);
        }
        identity.add("seeds", format!("{} {}", self.seed, self.count));
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let seeds = (0..u64::from(self.count)).map(|number| self.seed.wrapping_add(number));
        let seeds: Vec<_> = seeds.collect();
        Ok(seeds.chunks(GROUP).map(<[u64]>::to_vec).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[u64],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for unit in units {
            self.ready(session)?;
            session.voice().set_unit(Some(&self.key(unit)));
            let attack = Attack::draw(*unit);
            let (outcome, attacked) = self.attack(session, &attack)?;
            // The next attack gets a new guest, so that it is not blamed for leftovers of this one.
            if !outcome.is_pass() {
                session.abandon();
            }
            done(unit, outcome, Some(attacked))?;
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<Attacked>]) -> AdversarySummary {
        let mut summary = AdversarySummary::default();
        for detail in findings.iter().filter_map(|one| one.detail.as_ref()) {
            *summary.results.entry(detail.result.clone()).or_default() += 1;
            for name in &detail.attackers {
                *summary.attackers.entry(name.clone()).or_default() += 1;
            }
        }
        summary
    }
}
