// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The experiment of `crucible mutate`: each mutant is a unit.
//!
//! A mutant is chosen from a run's checkpoint to its end. It is killed by anything that the lab
//! notices then and does not notice in the same run without it. Its cases are those that run its
//! line. A mutant that passes them all is run again between two readings of the kernel's books, and
//! with forged images.

mod late;
mod score;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crucible_mutants::{Equivalent, Mutant, SWITCH};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use score::{EyeScore, FileScore, Score};

use super::{
    Done, Experiment, Finding, Group, Identity,
    reach::{Reach, runner},
    scenarios,
};
use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    blame::{Blame, Condition},
    books::Books,
    compare::RunOutput,
    eye::Eye,
    normalise::Uses,
    outcome::Outcome,
    run::{Frozen, RestartIn},
    scenario::{Case, Scenario},
    session::Session,
    trial::judge,
};

/// Limit for requests that the agent answers immediately. A mutant may keep the only CPU busy
/// forever.
const PROMPT: Duration = Duration::from_secs(20);

/// Time that an answer may take in addition to the guest's own limit.
const GRACE: Duration = Duration::from_secs(5);

/// Limit of a run with a mutant, as a multiple of the duration of one without.
const SLOWER: u64 = 4;

/// Smallest limit of a run with a mutant, in seconds.
const LEAST: u64 = 4;

/// Options of a run of mutants.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Number of mutants to draw; all if `None`.
    pub sample: Option<usize>,
    /// Seed of the draw.
    pub seed: u64,
    /// The part of the drawn mutants to run, from 0 on, and the number of parts.
    pub shard: (u32, u32),
    /// True to continue after the first case that kills a mutant.
    pub all_eyes: bool,
    /// Maximum number of cases to run for each mutant; all if `None`.
    pub cases: Option<usize>,
    /// Names of the mutants to run; all if empty.
    pub only: Vec<String>,
    /// Least share of killed mutants, in percent.
    pub at_least: Option<f64>,
}

/// A case that killed a mutant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kill {
    /// The case: `SCENARIO/CASE`.
    pub case: String,
    /// All eyes that noticed it, in their order: names of checks and conditions.
    pub eyes: Vec<String>,
    /// The condition that ended the run.
    pub condition: Condition,
    /// The first difference, in one line.
    pub why: String,
}

/// The result of a mutant.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MutantDetail {
    /// The mutant.
    #[serde(flatten)]
    pub mutant: Mutant,
    /// The cases that killed it, in order; none if it survived.
    pub kills: Vec<Kill>,
    /// Number of cases that run its line.
    pub cases: usize,
    /// Number of cases that were run with it.
    pub tried: usize,
    /// Cases that noticed the mutant once, and not when they were repeated in a different guest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<String>,
}

/// All mutants of a kernel.
pub struct MutateExperiment {
    scenarios: Vec<Scenario>,
    mutants: Vec<Mutant>,
    equivalents: BTreeMap<String, Equivalent>,
    reach: Reach,
    options: Options,
    disk: PathBuf,
    /// For each case that is known to run: the index of its scenario, and its index in that.
    cases: Vec<(usize, usize)>,
    controls: Mutex<HashMap<usize, Arc<Result<Control, String>>>>,
    /// Growth of the kernel's books by runs without a mutant; the key is the index of the case.
    quiet: Mutex<HashMap<usize, Books>>,
    /// The source of the program whose image is forged.
    forger: Vec<u8>,
    /// The results of forged images without a mutant, by the types of records that are forged.
    forged: Mutex<BTreeMap<&'static str, late::ForgedResults>>,
    /// A scenario whose trees a checkpoint must refuse.
    refusals: Option<Scenario>,
    /// The end of each of its cases without a mutant; `None` if it varies.
    refused: Mutex<BTreeMap<String, Option<String>>>,
    /// Mutants that each guest has had since its boot; the key is the guest's number.
    guests: Mutex<HashMap<u32, Had>>,
}

/// The run without a mutant, with which runs with one are compared.
struct Control {
    point: Frozen,
    output: RunOutput,
    /// Duration of a restarted run without a mutant, in milliseconds.
    ms: u64,
}

/// The mutants that a guest has had.
#[derive(Clone, Copy, Default)]
struct Had {
    last: u32,
    /// True when there were several.
    several: bool,
}

/// The end of a restarted run.
enum Ended {
    Passed,
    Noticed(Kill),
    /// Unknown: the host failed, or the event was not reached.
    Unknown(Outcome),
}

impl MutateExperiment {
    /// Returns the experiment of these mutants. `disk` has the workloads of all scenarios.
    pub fn new(
        scenarios: Vec<Scenario>,
        mutants: Vec<Mutant>,
        equivalents: BTreeMap<String, Equivalent>,
        reach: Reach,
        disk: PathBuf,
        options: Options,
    ) -> Self {
        let find = |of: &super::reach::Reached| {
            let scenario = scenarios.iter().position(|one| one.name == of.scenario)?;
            let cases = &scenarios[scenario].cases;
            Some((scenario, cases.iter().position(|one| one.name == of.case)?))
        };
        let (known, cases) = reach
            .cases
            .into_iter()
            .filter_map(|one| find(&one).map(|at| (one, at)))
            .unzip();
        Self {
            reach: Reach { cases: known },
            cases,
            scenarios,
            mutants,
            equivalents,
            options,
            disk,
            controls: Mutex::default(),
            quiet: Mutex::default(),
            forger: Vec::new(),
            forged: Mutex::default(),
            refusals: None,
            refused: Mutex::default(),
            guests: Mutex::default(),
        }
    }

    /// Forges the image of this program, too.
    #[must_use]
    pub fn with_forger(self, source: Vec<u8>) -> Self {
        Self {
            forger: source,
            ..self
        }
    }

    /// Runs the cases of this scenario, which a checkpoint must refuse, too. Its workload is on
    /// the disk.
    #[must_use]
    pub fn with_refusals(self, scenario: Option<Scenario>) -> Self {
        Self {
            refusals: scenario,
            ..self
        }
    }

    /// Returns the names of mutants that the user has requested and that do not exist.
    pub fn missing(&self) -> Vec<&str> {
        let exists = |id: &&String| self.mutants.iter().any(|one| one.id == **id);
        let missing = self.options.only.iter().filter(|id| !exists(id));
        missing.map(String::as_str).collect()
    }

    /// Returns the mutants that are drawn, as indices: those that some case runs and that are not
    /// known to be equivalent.
    fn drawn(&self) -> Vec<usize> {
        let candidates = 0..self.mutants.len();
        let mut drawn: Vec<_> = candidates
            .filter(|&index| {
                let mutant = &self.mutants[index];
                let only = &self.options.only;
                let asked = only.is_empty() || only.contains(&mutant.id);
                asked
                    && !self.equivalents.contains_key(&mutant.id)
                    && !self.reach.of(mutant).is_empty()
            })
            .collect();
        // The order depends on seed and name alone, so a larger sample contains a smaller one.
        let seed = self.options.seed;
        drawn.sort_by_cached_key(|&index| {
            Sha256::digest(format!("{seed} {}", self.mutants[index].id)).to_vec()
        });
        drawn.truncate(self.options.sample.unwrap_or(usize::MAX));
        drawn
    }

    fn case(&self, index: usize) -> (&Scenario, &Case) {
        let (scenario, case) = self.cases[index];
        let scenario = &self.scenarios[scenario];
        (scenario, &scenario.cases[case])
    }

    fn case_name(&self, index: usize) -> String {
        let (scenario, case) = self.case(index);
        format!("{}/{}", scenario.name, case.name)
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<u32, Had>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quiet(&self) -> MutexGuard<'_, HashMap<usize, Books>> {
        self.quiet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forged(&self) -> MutexGuard<'_, BTreeMap<&'static str, late::ForgedResults>> {
        self.forged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Boots a guest if there is none.
    fn ready(&self, session: &mut Session<'_>) -> Result<(), Abort> {
        let number = session.number();
        let (guest, new) = session.guest().map_err(Abort::session)?;
        if new {
            // The guest works here, so a mutant causes any later failure.
            guest
                .shell(&format!("echo 0 > {SWITCH}"))
                .map_err(|error| Abort::guest(Phase::Before, error))?;
            guest.expect_silence(PROMPT, GRACE);
            guest.mark_used();
            self.guests().insert(number, Had::default());
        }
        Ok(())
    }

    /// Returns the control of a case, and makes sure that the case passes without any mutant. The
    /// inner error is the reason why there is no control.
    fn control(
        &self,
        session: &mut Session<'_>,
        index: usize,
    ) -> Result<Arc<Result<Control, String>>, Abort> {
        let known = || self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(control) = known().get(&index) {
            return Ok(control.clone());
        }
        let mut control = self.try_control(session, index)?;
        if control.is_err() {
            // A busy host may be the reason.
            session.abandon();
            control = self.try_control(session, index)?;
        }
        let control = Arc::new(control);
        known().insert(index, control.clone());
        Ok(control)
    }

    fn try_control(
        &self,
        session: &mut Session<'_>,
        index: usize,
    ) -> Result<Result<Control, String>, Abort> {
        self.ready(session)?;
        let (scenario, case) = self.case(index);
        let mut timings = BTreeMap::new();
        let (point, output) = match runner(session, scenario, case, &mut timings).control() {
            Ok(made) => made,
            Err(stop) => {
                if !stop.guest_usable {
                    session.abandon();
                }
                return match stop.condition.blame() {
                    Some(Blame::Host) => Err(stop),
                    _ => Ok(Err(stop.why)),
                };
            }
        };
        let mut control = Control {
            point,
            output,
            ms: self.reach.cases[index].ms,
        };
        let began = Instant::now();
        Ok(match self.restarted(session, index, &control, 0)? {
            Ended::Passed => {
                control.ms = control.ms.max(began.elapsed().as_millis() as u64);
                Ok(control)
            }
            Ended::Noticed(kill) => Err(kill.why),
            Ended::Unknown(outcome) => Err(outcome.why),
        })
    }

    /// Makes a restarted run with a mutant, or without one if `number` is 0. Abandons the guest if
    /// it cannot be used further.
    fn restarted(
        &self,
        session: &mut Session<'_>,
        index: usize,
        control: &Control,
        number: u32,
    ) -> Result<Ended, Abort> {
        self.ready(session)?;
        let (scenario, case) = self.case(index);
        let mut case = case.clone();
        if number != 0 {
            let usual = (control.ms * SLOWER).div_ceil(1000).max(LEAST);
            case.timeout = case.timeout.min(usual);
            let mut guests = self.guests();
            let had = guests.entry(session.number()).or_default();
            had.several |= had.last != 0 && had.last != number;
            had.last = number;
        }
        let on = (number != 0).then(|| format!("echo {number} > {SWITCH}"));
        session.running().before_checkpoint(on);
        let mut timings = BTreeMap::new();
        let made = runner(session, scenario, &case, &mut timings).restarted(RestartIn::Same);
        let restarted = match made {
            Ok(restarted) => restarted,
            // The event was not reached, and no mutant was chosen.
            Err(stop) => {
                session.abandon();
                return match stop.condition.exit_code() {
                    128.. => Err(stop),
                    _ => Ok(Ended::Unknown(stop.into())),
                };
            }
        };
        let checks = judge::judge(
            &case,
            Backend::Crucible,
            &control.point,
            &control.output,
            &restarted,
            &mut Uses::new(),
        );
        let mut eyes: Vec<_> = checks.iter().filter(|check| !check.ok).collect();
        let mut why = eyes.first().map(|check| check.name.clone());
        let mut names: Vec<_> = eyes.drain(..).map(|check| check.name.clone()).collect();
        let mut condition = Condition::Diverged;
        let mut end = restarted.end.map(|_| ());
        let mut seen_late = None;
        let usable = |end: &Result<(), Abort>| match end {
            Ok(()) => true,
            Err(stop) => stop.guest_usable,
        };
        // A refusal may have caused a kernel report; and no later run may have the mutant.
        if usable(&end) && number != 0 {
            let after = |error| Abort::guest(Phase::After, error);
            let guest = session.running();
            guest.before_checkpoint(None);
            let off = guest.shell(&format!("echo 0 > {SWITCH}"));
            let settled = off.and_then(|()| guest.settle()).map_err(after);
            end = match (end, settled) {
                (Ok(()), settled) => settled,
                (Err(stop), Err(late)) => {
                    seen_late = Some(eye(&late));
                    Err(Abort {
                        guest_usable: late.guest_usable,
                        ..stop
                    })
                }
                (end, Ok(())) => end,
            };
        }
        if !usable(&end) {
            session.abandon();
        }
        if let Err(stop) = end {
            if stop.condition.blame() == Some(Blame::Host) {
                return match stop.condition.exit_code() {
                    128.. => Err(stop),
                    _ => Ok(Ended::Unknown(stop.into())),
                };
            }
            condition = stop.condition;
            names.push(eye(&stop));
            names.extend(seen_late);
            why.get_or_insert(stop.why);
        }
        Ok(match why {
            None => Ended::Passed,
            Some(why) => Ended::Noticed(Kill {
                case: self.case_name(index),
                eyes: names,
                condition,
                why: why.lines().next().unwrap_or_default().to_owned(),
            }),
        })
    }

    /// Tries a mutant in a case. A failure counts if the same guest passes without the mutant, or
    /// if the mutant also fails in a guest that has had no other mutant.
    fn attempt(
        &self,
        session: &mut Session<'_>,
        index: usize,
        control: &Control,
        number: u32,
        unsure: &mut Vec<String>,
    ) -> Result<Ended, Abort> {
        let kill = match self.restarted(session, index, control, number)? {
            Ended::Noticed(kill) => kill,
            Ended::Passed => return Ok(Ended::Passed),
            // The guest was abandoned, so the next one is new.
            Ended::Unknown(_) => {
                return match self.restarted(session, index, control, number)? {
                    Ended::Noticed(kill) => Ok(Ended::Noticed(kill)),
                    other => Ok(other),
                };
            }
        };
        if session.is_running() {
            if let Ended::Passed = self.restarted(session, index, control, 0)? {
                return Ok(Ended::Noticed(kill));
            }
            session.abandon();
        } else {
            let had = self.guests().get(&session.number()).copied();
            if had.is_some_and(|had| !had.several) {
                return Ok(Ended::Noticed(kill));
            }
        }
        let again = self.restarted(session, index, control, number)?;
        // Any failure may have damaged the guest.
        if !matches!(again, Ended::Passed) {
            session.abandon();
        } else {
            unsure.push(kill.case);
        }
        Ok(again)
    }

    /// Runs a mutant's cases until one kills it.
    fn mutant(
        &self,
        session: &mut Session<'_>,
        mutant: &Mutant,
    ) -> Result<(Outcome, MutantDetail), Abort> {
        let cases = self.reach.of(mutant);
        let mut detail = MutantDetail {
            mutant: mutant.clone(),
            kills: Vec::new(),
            cases: cases.len(),
            tried: 0,
            unsure: Vec::new(),
        };
        let mut unknown = None;
        let mut passed = Vec::new();
        for index in cases
            .into_iter()
            .take(self.options.cases.unwrap_or(usize::MAX))
        {
            let control = self.control(session, index)?;
            let Ok(control) = &*control else {
                continue;
            };
            detail.tried += 1;
            match self.attempt(session, index, control, mutant.number, &mut detail.unsure)? {
                Ended::Passed => passed.push(index),
                Ended::Noticed(kill) => {
                    detail.kills.push(kill);
                    if !self.options.all_eyes {
                        break;
                    }
                }
                Ended::Unknown(outcome) => unknown = Some(outcome),
            }
        }
        let closed = session.setup().without;
        let goes_on = |kills: &[Kill]| kills.is_empty() || self.options.all_eyes;
        if !closed.contains(&Eye::Books) {
            passed.truncate(Self::leaky_cases(mutant.kind));
            for index in passed {
                let control = self.control(session, index)?;
                if goes_on(&detail.kills)
                    && let Ok(control) = &*control
                {
                    detail
                        .kills
                        .extend(self.lose(session, index, control, mutant.number)?);
                }
            }
        }
        if !closed.contains(&Eye::ForgedImages) && goes_on(&detail.kills) {
            detail.kills.extend(self.forge(session, mutant)?);
        }
        if !closed.contains(&Eye::Refusals) && goes_on(&detail.kills) {
            detail.kills.extend(self.refuse(session, mutant)?);
        }
        let outcome = match (detail.kills.first(), unknown) {
            (Some(kill), _) => {
                let eye = kill.eyes.first().map_or("", String::as_str);
                Outcome::passed(format!("killed in {} by {eye}", kill.case))
            }
            (None, Some(unknown)) => unknown,
            (None, None) if detail.tried == 0 => Outcome::new(
                Condition::RequestFailed,
                "no case of it passes without a mutant",
            ),
            (None, None) => Outcome::passed(format!("survived {} cases", detail.tried)),
        };
        Ok((outcome, detail))
    }
}

/// Returns the name of the eye that ended a run before its comparison.
fn eye(stop: &Abort) -> String {
    match stop.condition {
        Condition::Refused | Condition::Unsupported => {
            let step = stop.why.split_whitespace().next().unwrap_or_default();
            format!("{step} refuses")
        }
        // The agent cannot carry out a request: tasks are left over, or do not end.
        Condition::RequestFailed => "agent".to_owned(),
        condition => condition.name().to_owned(),
    }
}

impl Experiment for MutateExperiment {
    /// Index of the mutant.
    type Unit = usize;
    type Detail = MutantDetail;
    type Summary = Score;

    fn key(&self, &unit: &usize) -> String {
        let mutant = &self.mutants[unit];
        let name = mutant.file.rsplit('/').next().unwrap_or_default();
        let name = name.strip_suffix(".c").unwrap_or(name);
        format!("{name}/{}/{}", mutant.function, mutant.id)
    }

    fn identify(&self, identity: &mut Identity) -> io::Result<()> {
        let mut scenarios = self.scenarios.iter().chain(&self.refusals);
        scenarios.try_for_each(|scenario| scenarios::identify(scenario, identity))?;
        // A larger sample reuses the results of a smaller one, whatever its part.
        let Options {
            all_eyes, cases, ..
        } = &self.options;
        identity.add("options", format!("{all_eyes} {cases:?}"));
        Ok(())
    }

    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        let (part, parts) = self.options.shard;
        let parts = parts.max(1) as usize;
        let drawn = self.drawn().into_iter().enumerate();
        let ours = drawn.filter(|(place, _)| place % parts == part as usize);
        Ok(ours.map(|(_, index)| vec![index]).collect())
    }

    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[usize],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        for &unit in units {
            session.voice().set_unit(Some(&self.key(&unit)));
            let (outcome, detail) = self.mutant(session, &self.mutants[unit])?;
            done(&unit, outcome, Some(detail))?;
        }
        Ok(())
    }

    fn summarise(&self, findings: &[Finding<MutantDetail>]) -> Score {
        let controls = self.controls.lock().unwrap_or_else(PoisonError::into_inner);
        let useless = controls.iter().filter_map(|(&index, control)| {
            let why = control.as_ref().as_ref().err()?;
            Some((self.case_name(index), why.clone()))
        });
        Score::new(
            &self.mutants,
            &self.equivalents,
            &self.reach,
            &self.options,
            useless.collect(),
            findings,
        )
    }

    fn disk(&self) -> Option<&Path> {
        Some(&self.disk)
    }

    fn keeps_memory(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
