// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs the units of an experiment in one or several guests.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use super::{Experiment, Finding, Group, Journal, Summary};
use crate::{
    abort::Abort,
    blame::{Blame, Condition},
    eye::Eye,
    interrupt,
    outcome::{Memory, Outcome},
    results::Store,
    session::{Booted, Lab, Session},
    stream::{Body, Stream},
};

/// The lab, the outputs and the options that an experiment runs with.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// Makes machines and disks.
    pub lab: &'a (dyn Lab + Sync),
    /// Directory of the run's results.
    pub store: &'a Store,
    /// Receiver of events.
    pub stream: &'a Stream,
    /// Number of guests.
    pub jobs: u8,
    /// Switch of the debug kernel to set in each guest.
    pub break_switch: Option<&'a str>,
    /// Eyes that are closed.
    pub without: &'a [Eye],
    /// Keys of units that must not be run.
    pub skip: Option<&'a HashSet<String>>,
}

impl Setup<'_> {
    /// Adds to an outcome the lab's evidence of the kernel's faults.
    fn complete(&self, outcome: &mut Outcome) {
        let evidence = &mut outcome.evidence;
        if let Some(Memory::Kept { file, open }) = &mut evidence.memory
            && open.is_empty()
        {
            let path = self.store.relative(Path::new(file));
            *open = self.lab.open_memory(&self.store.finished().join(&path));
            *file = path;
        }
        if outcome.condition.blame() == Some(Blame::Kernel) && evidence.source.is_empty() {
            evidence.source = self.lab.source_lines(&outcome.lines);
        }
    }
}

/// All results of an experiment.
#[derive(Debug)]
pub struct Report<T, S> {
    /// The findings, in the order of the plan.
    pub findings: Vec<Finding<T>>,
    /// The summary of all findings.
    pub summary: S,
    /// Guests that failed in a way that no single unit is to blame for.
    pub guests: Vec<Outcome>,
    /// Number of units that were not run.
    pub left: usize,
    /// The reason why no plan could be made.
    pub unplanned: Option<Outcome>,
    /// True when the command was interrupted.
    pub interrupted: bool,
    /// The first machine.
    pub booted: Option<Booted>,
}

impl<T, S: Summary> Report<T, S> {
    /// Returns the outcome of the whole run: the worst one, with its reason.
    pub fn outcome(&self) -> Outcome {
        let of_all = self.summary.outcomes();
        let units = self.findings.iter().filter(|_| !self.summary.counts());
        let units = units.map(|finding| &finding.outcome);
        let others = self.guests.iter().chain(&self.unplanned);
        let all: Vec<_> = units.chain(&of_all).chain(others).collect();
        let stopped = self.interrupted.then_some(Condition::Interrupted);
        let left = (self.left > 0 && !self.interrupted).then_some(Condition::RequestFailed);
        let conditions = all.iter().map(|outcome| outcome.condition);
        let worst = Condition::of_all(conditions.chain(stopped).chain(left));
        let decides = all.iter().filter(|outcome| outcome.condition == worst);
        let why = match (decides.clone().count(), decides.clone().next()) {
            _ if worst.exit_code() == 0 => format!("{} units passed", self.findings.len()),
            (1, Some(only)) => only.why.clone(),
            (count, Some(first)) => {
                format!("{count} times {}; the first: {}", worst.name(), first.why)
            }
            (_, None) if self.left > 0 => format!("{} units were not run", self.left),
            (_, None) => "nothing was run".to_owned(),
        };
        Outcome::new(worst, why)
    }

    /// Returns the exit code of the whole run.
    pub fn exit_code(&self) -> u8 {
        self.outcome().condition.exit_code()
    }

    /// Returns the number of findings by the name of their condition.
    pub fn counts(&self) -> std::collections::BTreeMap<String, u64> {
        let mut counts = std::collections::BTreeMap::new();
        for finding in &self.findings {
            let name = finding.outcome.condition.name();
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }
}

/// Runs an experiment. Reuses findings of an earlier run that the journal has.
pub fn execute<E: Experiment>(
    experiment: &mut E,
    setup: Setup<'_>,
    journal: Journal<E::Detail>,
) -> Report<E::Detail, E::Summary> {
    let mut session = Session::new(setup, 1);
    let groups = match experiment.plan(&mut session) {
        Ok(groups) => groups,
        Err(stop) => {
            let booted = session.booted().cloned();
            // The reason is known, so the guest's further messages are ignored.
            if stop.guest_usable {
                let _ = session.close();
            }
            let interrupted = stop.condition == Condition::Interrupted;
            let mut unplanned = Outcome::from(stop);
            setup.complete(&mut unplanned);
            return Report {
                interrupted,
                unplanned: Some(unplanned),
                booted,
                findings: Vec::new(),
                summary: experiment.summarise(&[]),
                guests: Vec::new(),
                left: 0,
            };
        }
    };
    let experiment = &*experiment;
    let groups = match setup.skip {
        Some(skip) => without(experiment, groups, skip),
        None => groups,
    };
    let order: Vec<String> = groups.iter().flatten().map(|u| experiment.key(u)).collect();
    let mut board = Board::new(experiment, groups, journal);
    setup.stream.tell(Body::Planned {
        units: order.len() as u64,
        resumed: board.found.len() as u64,
    });
    if let Err(stop) = board.journal.begin() {
        board.fatal.get_or_insert(stop);
    }
    let jobs = usize::from(setup.jobs).min(board.left.len()).max(1);
    let board = Mutex::new(board);
    let mut booted = None;
    thread::scope(|scope| {
        for guest in 2..=jobs {
            let board = &board;
            scope.spawn(move || {
                let session = Session::new(setup, u32::try_from(guest).unwrap_or(u32::MAX));
                Worker {
                    experiment,
                    session,
                    board,
                }
                .work();
            });
        }
        let mut worker = Worker {
            experiment,
            session,
            board: &board,
        };
        worker.work();
        booted = worker.session.booted().cloned();
    });
    let board = board.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut found = board.found;
    let findings: Vec<_> = order.iter().filter_map(|key| found.remove(key)).collect();
    let interrupted = interrupt::requested();
    if interrupted {
        setup.stream.tell(Body::Interrupted);
    }
    let mut guests = board.failures;
    guests.extend(board.fatal.map(Outcome::from));
    Report {
        left: order.len() - findings.len(),
        summary: experiment.summarise(&findings),
        findings,
        guests,
        unplanned: None,
        interrupted,
        booted,
    }
}

/// Returns the groups without these units. A group that is judged as a whole is left out or kept
/// as a whole.
fn without<E: Experiment>(
    experiment: &E,
    mut groups: Vec<Group<E>>,
    skip: &HashSet<String>,
) -> Vec<Group<E>> {
    for group in &mut groups {
        let wanted = |unit: &E::Unit| !skip.contains(&experiment.key(unit));
        if !(experiment.judges_groups() && group.iter().any(wanted)) {
            group.retain(wanted);
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// The state that the workers share.
struct Board<E: Experiment> {
    left: VecDeque<Group<E>>,
    found: HashMap<String, Finding<E::Detail>>,
    journal: Journal<E::Detail>,
    failures: Vec<Outcome>,
    /// A failure after which nothing more is run: findings can no longer be kept, or no machine
    /// can be started.
    fatal: Option<Abort>,
}

impl<E: Experiment> Board<E> {
    fn new(experiment: &E, groups: Vec<Group<E>>, mut journal: Journal<E::Detail>) -> Self {
        let mut found = HashMap::new();
        let mut left = VecDeque::new();
        for mut group in groups {
            group.retain(|unit| {
                let known = journal.take(&experiment.key(unit));
                let keep = known.is_none();
                found.extend(known.map(|finding| (finding.key.clone(), finding)));
                keep
            });
            if !group.is_empty() {
                left.push_back(group);
            }
        }
        Self {
            left,
            found,
            journal,
            failures: Vec::new(),
            fatal: None,
        }
    }

    fn next(&mut self) -> Option<Group<E>> {
        match self.fatal.is_some() || interrupt::requested() {
            true => None,
            false => self.left.pop_front(),
        }
    }

    fn add(&mut self, finding: Finding<E::Detail>) -> Result<(), Abort> {
        let result = self.journal.add(&finding);
        self.found.insert(finding.key.clone(), finding);
        result
    }
}

/// A guest and its current activity.
struct Worker<'a, 'l, E: Experiment> {
    experiment: &'a E,
    session: Session<'l>,
    board: &'a Mutex<Board<E>>,
}

impl<E: Experiment> Worker<'_, '_, E> {
    fn board(&self) -> MutexGuard<'_, Board<E>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs groups until none is left.
    fn work(&mut self) {
        let mut last = None;
        loop {
            let next = self.board().next();
            let Some(group) = next else { break };
            if let Err(stop) = self.group(&group) {
                self.board().fatal.get_or_insert(stop);
                break;
            }
            last = group.last().cloned();
        }
        self.session.voice().set_unit(None);
        if interrupt::requested() {
            self.session.abandon();
            return;
        }
        let mut end = Ok(());
        if self.session.is_running() && last.is_some() {
            end = self.experiment.conclude(&mut self.session);
        }
        let usable = end
            .as_ref()
            .map_or_else(|stop| stop.guest_usable, |()| true);
        if usable {
            end = end.and(self.session.close());
        }
        if let Err(stop) = end {
            self.session.abandon();
            self.late(last.as_ref(), stop);
        }
    }

    /// Runs a group. Fails if no further group can be run.
    fn group(&mut self, group: &[E::Unit]) -> Result<(), Abort> {
        let Err(stop) = self.attempt(group)? else {
            return Ok(());
        };
        self.session.abandon();
        let unfinished = {
            let board = self.board();
            let finished = |unit: &&E::Unit| board.found.contains_key(&self.experiment.key(unit));
            let left = group.iter().filter(|unit| !finished(unit)).cloned();
            left.collect::<Vec<_>>()
        };
        if stop.condition == Condition::Interrupted {
            return Ok(());
        }
        if let [only] = &unfinished[..] {
            return self.report(only, stop.into(), None, 0);
        }
        // Find the unit that killed the guest.
        let mut culprit = false;
        for unit in &unfinished {
            if interrupt::requested() {
                return Ok(());
            }
            if let Err(alone) = self.attempt(std::slice::from_ref(unit))? {
                culprit = true;
                self.session.abandon();
                self.report(unit, alone.into(), None, 0)?;
            }
        }
        if !culprit {
            let outcome = Outcome {
                why: format!(
                    "{}; the units from {} to {} were running, and none of them alone causes it again",
                    stop.why,
                    self.first_key(&unfinished),
                    self.first_key(
                        unfinished
                            .last()
                            .map(std::slice::from_ref)
                            .unwrap_or_default()
                    ),
                ),
                ..stop.into()
            };
            self.failed(outcome);
        }
        Ok(())
    }

    fn first_key(&self, units: &[E::Unit]) -> String {
        units
            .first()
            .map_or_else(String::new, |unit| self.experiment.key(unit))
    }

    /// Runs units together. The outer error is one after which nothing more can be run.
    fn attempt(&mut self, units: &[E::Unit]) -> Result<Result<(), Abort>, Abort> {
        let board = self.board;
        let experiment = self.experiment;
        let mut fatal = None;
        let mut began = Instant::now();
        let voice = self.session.voice();
        voice.set_unit(units.first().map(|unit| experiment.key(unit)).as_deref());
        voice.tell(Body::UnitStarted);
        let setup = self.session.setup();
        let guest = self.session.number();
        let mut done = |unit: &E::Unit, outcome: Outcome, detail: Option<E::Detail>| {
            // Neither failure is the unit's, and the next unit would fail in the same way.
            if outcome.condition.exit_code() >= 128 {
                return Err(Abort {
                    condition: outcome.condition,
                    why: outcome.why,
                    lines: outcome.lines,
                    memory: None,
                    guest_usable: false,
                });
            }
            let measured = detail
                .as_ref()
                .and_then(|detail| experiment.unit_ms(detail));
            let ms = measured.unwrap_or(began.elapsed().as_millis() as u64);
            began = Instant::now();
            let finding = Finding {
                key: experiment.key(unit),
                outcome,
                ms,
                detail,
            };
            finish(board, setup, guest, finding).inspect_err(|stop| fatal = Some(stop.clone()))
        };
        let result = experiment.run(&mut self.session, units, &mut done);
        self.session.voice().set_unit(None);
        match (fatal, result) {
            (Some(stop), _) => Err(stop),
            // Without a machine, further units would fail, too.
            (None, Err(stop)) if stop.condition.exit_code() >= 128 => {
                match stop.condition == Condition::Interrupted {
                    true => Ok(Err(stop)),
                    false => Err(stop),
                }
            }
            (None, result) => Ok(result),
        }
    }

    fn report(
        &mut self,
        unit: &E::Unit,
        outcome: Outcome,
        detail: Option<E::Detail>,
        ms: u64,
    ) -> Result<(), Abort> {
        let finding = Finding {
            key: self.experiment.key(unit),
            outcome,
            ms,
            detail,
        };
        finish(
            self.board,
            self.session.setup(),
            self.session.number(),
            finding,
        )
    }

    /// Takes into account the kernel reports of a guest after its last unit: the unit's outcome
    /// becomes at least as bad as they are. A leak may come from any of the guest's units, so it
    /// counts for the guest.
    fn late(&mut self, last: Option<&E::Unit>, stop: Abort) {
        let of_guest = matches!(stop.condition, Condition::Leak | Condition::LeakScanFailed);
        let Some(unit) = last.filter(|_| !of_guest) else {
            self.failed(stop.into());
            return;
        };
        let key = self.experiment.key(unit);
        let found = self.board().found.get(&key).cloned();
        let Some(found) = found else {
            self.failed(stop.into());
            return;
        };
        let worst = Condition::of_all([found.outcome.condition, stop.condition]);
        if worst == found.outcome.condition {
            return;
        }
        let mut outcome = Outcome::from(stop);
        outcome.why = format!("after its end: {}", outcome.why);
        if let Err(stop) = self.report(unit, outcome, found.detail, found.ms) {
            self.board().fatal.get_or_insert(stop);
        }
    }

    fn failed(&self, mut outcome: Outcome) {
        self.session.setup().complete(&mut outcome);
        self.session.voice().tell(Body::GuestFailed {
            outcome: outcome.clone(),
        });
        self.board().failures.push(outcome);
    }
}

/// Keeps a finding and sends its event.
fn finish<E: Experiment>(
    board: &Mutex<Board<E>>,
    setup: Setup<'_>,
    guest: u32,
    mut finding: Finding<E::Detail>,
) -> Result<(), Abort> {
    setup.complete(&mut finding.outcome);
    let voice = setup.stream.voice(guest);
    voice.set_unit(Some(&finding.key));
    voice.tell(Body::UnitFinished {
        outcome: finding.outcome.clone(),
        unit_ms: finding.ms,
    });
    let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
    board.add(finding)
}

#[cfg(test)]
mod tests;
