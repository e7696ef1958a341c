// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The runs of one case: undisturbed, control and restarted.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use crucible_protocol::{
    Ended, EventKind, FileEntry, FileKind, Freeze, Observation, RUN_DIR, Stopped, Trigger,
    WORK_DIR, image::diff::Comparison,
};

use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    compare::{RunOutput, tree},
    event::EventSpec,
    eye::Eye,
    guest::{Guest, GuestError},
    normalise::Uses,
    scenario::{Case, ExpectedTask},
    session::Session,
    stream::Body,
    text,
    trial::judge,
};

/// The place in which a run is restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartIn {
    /// In the guest in which it was checkpointed.
    #[default]
    Same,
    /// In a fresh machine, booted with the same disk.
    Fresh,
}

/// A container that is frozen at its event.
#[derive(Clone, Debug)]
pub struct Frozen {
    /// The cause of the freeze.
    pub freeze: Freeze,
    /// The observed state of its tasks.
    pub tasks: Observation,
    /// The nonce that the workload had drawn by then.
    pub(crate) nonce: Option<String>,
}

/// A run that ended before its event.
pub(crate) struct RunEnd {
    /// The exit status of the workload, if known.
    pub workload: Option<Ended>,
    /// Number of events until the end, if known.
    pub count: Option<u64>,
}

/// The result of a restarted run.
#[derive(Debug)]
pub struct Restarted {
    /// The state before the checkpoint.
    pub before: Frozen,
    /// The state after the restart, while still frozen.
    pub after: Option<Observation>,
    /// The comparison of its second image with the first.
    pub second: Option<Second>,
    /// The links of the run's chain after the first link.
    pub later: Vec<Link>,
    /// The result of the run, or the reason why it did not end.
    pub end: Result<RunOutput, Abort>,
    /// The place of the restart.
    pub place: RestartIn,
}

/// A later link of a chain.
#[derive(Debug)]
pub struct Link {
    /// The state before the checkpoint.
    pub before: Frozen,
    /// The observations after the restart.
    pub seen: Seen,
}

/// Observations of a restarted tree while it is still frozen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The facts from `/proc`; `None` in a run without facts.
    pub tasks: Option<Observation>,
    /// The comparison of its second image with the first; `None` if there is none.
    pub second: Option<Second>,
}

/// The comparison of a restarted tree's second image with the first.
#[derive(Clone, Debug)]
pub struct Second {
    /// The comparison, or the error of an image that cannot be read.
    pub found: Result<Comparison, String>,
    /// The paths of both images in the results directory, if they are kept.
    pub kept: Vec<String>,
}

/// Environment variable with the factor by which operations take longer in this guest, for
/// workloads.
const SLOWNESS: &str = "SLOWNESS";

/// Runs a case in a session.
pub struct Runner<'s, 'l> {
    /// The session whose guest runs the case.
    pub session: &'s mut Session<'l>,
    /// The scenario's name, which is also the name of its built tree.
    pub stash: &'s str,
    /// The case to run.
    pub case: &'s Case,
    /// The backend for checkpoint and restart.
    pub backend: Backend,
    /// Durations in milliseconds, by phase.
    pub timings: &'s mut BTreeMap<String, u64>,
    /// The pid of the container's init in the agent's pid namespace, once it has been started.
    pub root: i32,
    /// Maximum number of retries after an event was missed.
    pub patience: u32,
    /// Number of times that an event was missed.
    pub missed: u32,
    /// Accepts every point, including those before the nonce is drawn.
    pub any_point: bool,
    /// True when an expected result says that the case can be checkpointed at its event.
    pub supported: bool,
    /// Number of times that a run is checkpointed, killed and restarted: at its event, and then at the
    /// next ones of any kind.
    pub links: u32,
}

impl Runner<'_, '_> {
    pub(crate) fn limit(&self) -> Duration {
        Duration::from_secs(self.case.timeout) * self.session.patience()
    }

    pub(crate) fn guest(&mut self) -> &mut Guest {
        self.session.running()
    }

    /// Runs one step, records its duration, and reports its begin and end.
    fn step<T>(&mut self, name: &str, work: impl FnOnce(&mut Self) -> T) -> T {
        let tell = |session: &Session<'_>, body| session.voice().tell(body);
        tell(self.session, Body::StepStarted { name: name.into() });
        self.session.count(name, false);
        let begun = Instant::now();
        let result = work(self);
        self.session.count(name, true);
        let ms = begun.elapsed().as_millis() as u64;
        *self
            .timings
            .entry(name.replace(' ', "_") + "_ms")
            .or_default() += ms;
        let name = name.into();
        tell(self.session, Body::StepFinished { name, step_ms: ms });
        result
    }

    /// Makes a run without a freeze.
    pub fn undisturbed(&mut self, number: u32) -> Result<RunOutput, Abort> {
        self.step(&format!("undisturbed {number}"), |r| {
            let run = format!("undisturbed-{number}");
            r.start(&run, None)
                .map_err(|e| Abort::guest(Phase::Before, e))?;
            r.finish(&run, Phase::Before, None)
        })
    }

    /// Makes a run whose events are listed by a trigger that never fires.
    pub fn listed(&mut self, trigger: &Trigger) -> Result<RunOutput, Abort> {
        self.step("listed", |r| {
            let run = "listed";
            r.start(run, Some(trigger))
                .map_err(|e| Abort::guest(Phase::Before, e))?;
            r.finish(run, Phase::Before, None)
        })
    }

    /// Makes a run that is frozen at the event and thawed; of a chain, as often as there are links.
    pub fn control(&mut self) -> Result<(Frozen, RunOutput), Abort> {
        const RUN: &str = "control";
        self.step(RUN, |r| {
            let frozen = r.reach_event(RUN)?;
            let mut nonce = frozen.nonce.clone();
            let mut is_frozen = true;
            for _ in 1..r.links {
                is_frozen = r.next_event(RUN)?.is_some();
                if !is_frozen {
                    break;
                }
                let drawn = r.nonce();
                nonce = drawn.map_err(|e| Abort::guest(Phase::After, e))?;
            }
            if is_frozen {
                let thawed = r.guest().thaw(RUN);
                thawed.map_err(|e| Abort::guest(Phase::After, e))?;
            }
            let output = r.finish(RUN, Phase::After, nonce)?;
            Ok((frozen, output))
        })
    }

    /// Makes a run that is checkpointed at the event, killed, and restarted; of a chain, as often as
    /// there are links. A tree that differs after its restart ends the chain.
    pub fn restarted(&mut self, place: RestartIn) -> Result<Restarted, Abort> {
        const RUN: &str = "restarted";
        let before = self.step("to the event", |r| r.reach_event(RUN))?;
        let mut restarted = Restarted {
            before,
            after: None,
            second: None,
            later: Vec::new(),
            end: Err(Abort::failed("the run has not ended")),
            place,
        };
        restarted.end = self.links(RUN, &mut restarted);
        Ok(restarted)
    }

    /// Checkpoints, kills and restarts a frozen run, and lets it end.
    fn links(&mut self, run: &str, restarted: &mut Restarted) -> Result<RunOutput, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let place = restarted.place;
        let seen = self.around(run, place)?;
        (restarted.after, restarted.second) = (seen.tasks, seen.second);
        let mut nonce = restarted.before.nonce.clone();
        for _ in 1..self.links {
            let checks = judge::around(self.backend, restarted, &mut Uses::new());
            if checks.iter().any(|check| !check.ok) {
                break;
            }
            let Some(freeze) = self.step("to the event", |r| r.next_event(run))? else {
                return self.step("finish", |r| r.finish(run, Phase::After, nonce));
            };
            nonce = self.nonce().map_err(after)?;
            restarted.later.push(Link {
                before: Frozen {
                    freeze,
                    tasks: self.guest().observe(run).map_err(after)?,
                    nonce: nonce.clone(),
                },
                seen: Seen::default(),
            });
            let seen = self.around(run, place)?;
            if let Some(link) = restarted.later.last_mut() {
                link.seen = seen;
            }
        }
        self.step("finish", |r| {
            r.guest().thaw(run).map_err(after)?;
            r.finish(run, Phase::After, nonce)
        })
    }

    /// Lets a frozen run continue to its next event of any kind. Returns `None` if it ends before.
    fn next_event(&mut self, run: &str) -> Result<Option<Freeze>, Abort> {
        let next = EventSpec::next(EventKind::All);
        self.go_on(run, &next)
    }

    /// Lets a frozen run continue to this event. Returns `None` if it ends before.
    pub(crate) fn go_on(&mut self, run: &str, at: &EventSpec) -> Result<Option<Freeze>, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        self.guest().arm(run, at.trigger()).map_err(after)?;
        self.guest().thaw(run).map_err(after)?;
        Ok(self.frozen_or_ended(run, Phase::After)?.ok())
    }

    /// Checkpoints, kills and restarts the frozen tree of a run, and observes the restarted tree,
    /// which is still frozen.
    pub(crate) fn around(&mut self, run: &str, place: RestartIn) -> Result<Seen, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let (backend, limit) = (self.backend, self.limit());
        let root = self.root;
        let saved = self
            .step("checkpoint", |r| backend.save(r.guest(), run, root, limit))
            .map_err(after)?;
        if let Err(refusal) = saved {
            return Err(self.after_refusal(run, Abort::refused(refusal, self.supported)));
        }
        self.step("kill", |r| r.guest().kill(run)).map_err(after)?;
        if place == RestartIn::Fresh {
            self.step("fresh machine", |r| r.session.fresh())?;
        }
        let restored = self
            .step("restart", |r| backend.restore(r.guest(), run, limit))
            .map_err(after)?;
        match restored {
            Ok(()) => self.look(run),
            Err(refusal) => Err(Abort::refused(refusal, self.supported)),
        }
    }

    /// Observes a restarted tree, which is still frozen.
    fn look(&mut self, run: &str) -> Result<Seen, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let mut seen = Seen::default();
        let without = self.session.setup().without;
        if !without.contains(&Eye::Facts) {
            seen.tasks = Some(self.guest().observe(run).map_err(after)?);
        }
        // The restarting kernel would write the second image, so it shows nothing about the
        // checkpointing one.
        let same_kernel = !self.session.has_another_kernel();
        if same_kernel && !without.contains(&Eye::SecondImage) {
            seen.second = self.step("second image", |r| r.second_image(run))?;
        }
        Ok(seen)
    }

    /// Checkpoints a restarted tree once more and compares the images. Keeps both if they differ.
    fn second_image(&mut self, run: &str) -> Result<Option<Second>, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let (backend, limit) = (self.backend, self.limit());
        let second = match backend
            .second_image(self.guest(), run, limit)
            .map_err(after)?
        {
            None => return Ok(None),
            Some(Ok(second)) => second,
            Some(Err(refusal)) => {
                let stop = Abort::second_refused(refusal);
                if stop.guest_usable {
                    self.guest().kill(run).map_err(after)?;
                }
                return Err(stop);
            }
        };
        let found = second
            .comparison
            .ok_or_else(|| second.unreadable.unwrap_or_else(|| "no image".into()));
        let kept = match &found {
            Ok(comparison) if comparison.is_equal() => Vec::new(),
            _ => self.keep_images()?,
        };
        Ok(Some(Second { found, kept }))
    }

    /// Copies both images to the results directory. Returns their paths there.
    fn keep_images(&mut self) -> Result<Vec<String>, Abort> {
        let store = self.session.setup().store;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let at = self.case.at.to_string().replace(|c| !plain(c), "-");
        let dir = Path::new("images")
            .join(self.stash)
            .join(&self.case.name)
            .join(at);
        let mut kept = Vec::new();
        for (name, path) in Backend::images() {
            let content = self.guest().read_file(&path);
            let content = content.map_err(|e| Abort::guest(Phase::After, e))?;
            let path = dir.join(name);
            let written = store.write(&path, &content);
            written.map_err(|e| Abort::io("cannot write the results", &e))?;
            kept.push(path.to_string_lossy().into_owned());
        }
        Ok(kept)
    }

    /// Thaws the tree after a refused checkpoint and checks that it completes its work: the
    /// refusal must leave the tree unchanged.
    fn after_refusal(&mut self, run: &str, mut refused: Abort) -> Abort {
        if !refused.guest_usable {
            return refused;
        }
        let limit = self.limit();
        let status = self.case.status;
        let ended = self.guest().thaw(run).and_then(|()| {
            let stopped = self.guest().wait(run, limit)?;
            self.guest().kill(run)?;
            Ok(stopped)
        });
        refused.lines.push(match ended {
            Ok(Stopped::Exited {
                workload: Some(Ended::Exited { code }),
                ..
            }) if code == status => "the tree was thawed and completed its work".into(),
            Ok(stopped) => format!("the tree was thawed, then: {stopped:?}"),
            Err(error) => {
                refused.guest_usable = false;
                format!("the tree could not be thawed: {error}")
            }
        });
        refused
    }

    pub(crate) fn start(
        &mut self,
        run: &str,
        trigger: Option<&Trigger>,
    ) -> Result<i32, GuestError> {
        let (stash, case) = (self.stash, self.case);
        let mut env = case.env.clone();
        env.insert(
            SLOWNESS.into(),
            self.session.workload_slowness().to_string(),
        );
        let guest = self.guest();
        guest.prepare(Some(stash))?;
        guest.start(run, &case.argv, &env, &case.cwd, trigger)
    }

    /// Starts a run and waits until it is frozen at its event. Retries missed events.
    fn reach_event(&mut self, run: &str) -> Result<Frozen, Abort> {
        loop {
            match self.try_event(run)? {
                Err(_) if self.missed < self.patience => self.missed += 1,
                result => return result,
            }
        }
    }

    /// Tries once to freeze a run at its event. The inner error reports a miss: the event
    /// happened, but the tasks moved on before they were frozen.
    fn try_event(&mut self, run: &str) -> Result<Result<Frozen, Abort>, Abort> {
        let before = |e| Abort::guest(Phase::Before, e);
        let at = self.case.at.clone();
        self.root = self.start(run, Some(at.trigger())).map_err(before)?;
        let freeze = match self.frozen_or_ended(run, Phase::Before)? {
            Ok(freeze) => freeze,
            Err(ended) => {
                self.guest().kill(run).map_err(before)?;
                let end = ended
                    .workload
                    .map_or("unknown exit status".into(), |e| e.to_string());
                return Err(Abort::missed(never(&at, ended.count, &end)));
            }
        };
        let after = |e| Abort::guest(Phase::After, e);
        let tasks = self.guest().observe(run).map_err(after)?;
        if let Some(missed) = missed(self.case, &freeze, &tasks) {
            self.guest().kill(run).map_err(after)?;
            let lines = tree(&tasks).lines().map(str::to_owned).collect();
            return Ok(Err(Abort::missed(missed).with(lines)));
        }
        let nonce = self.nonce().map_err(after)?;
        if self.case.nonce.is_some() && nonce.is_none() && !self.any_point {
            self.guest().kill(run).map_err(after)?;
            return Err(Abort::missed(format!(
                "at {at} the workload had not yet drawn its nonce: choose a later event"
            )));
        }
        Ok(Ok(Frozen {
            freeze,
            tasks,
            nonce,
        }))
    }

    /// Waits for a run to freeze or to end. The limit is scaled to the last measured speed of
    /// the CPU, so the function measures again at the limit.
    fn wait(&mut self, run: &str, phase: Phase) -> Result<Stopped, Abort> {
        loop {
            let limit = self.limit();
            let stopped = self.guest().wait(run, limit);
            match stopped.map_err(|e| Abort::guest(phase, e))? {
                Stopped::Timeout { .. } if self.session.has_slowed() => {}
                stopped => return Ok(stopped),
            }
        }
    }

    /// Waits until a run is frozen at the case's event, or has ended before.
    pub(crate) fn frozen_or_ended(
        &mut self,
        run: &str,
        phase: Phase,
    ) -> Result<Result<Freeze, RunEnd>, Abort> {
        match self.wait(run, phase)? {
            Stopped::Frozen(freeze) => Ok(Ok(freeze)),
            Stopped::Exited {
                workload, count, ..
            } => Ok(Err(RunEnd { workload, count })),
            Stopped::Timeout {
                fired: true, stuck, ..
            } => {
                let why = "the trigger fired, but the tasks could not be frozen";
                let mut stop = self.stuck(run, Phase::After, why);
                stop.lines.splice(0..0, stuck);
                Err(stop)
            }
            Stopped::Timeout { count, .. } => {
                let why = format!(
                    "the event {} did not happen within the time limit; its count is {}",
                    self.case.at,
                    count.unwrap_or(0)
                );
                Err(self.stuck(run, phase, &why))
            }
        }
    }

    /// Returns the line of the nonce's file if it is complete.
    pub(crate) fn nonce(&mut self) -> Result<Option<String>, GuestError> {
        let Some(name) = &self.case.nonce else {
            return Ok(None);
        };
        let path = format!("{WORK_DIR}/{name}");
        match self.guest().read_file(&path) {
            Ok(bytes) => {
                let text = text::exact(&bytes);
                Ok(text.strip_suffix('\n').map(str::to_owned))
            }
            Err(GuestError::Failed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of a run and collects its output and files.
    pub(crate) fn finish(
        &mut self,
        run: &str,
        phase: Phase,
        drawn: Option<String>,
    ) -> Result<RunOutput, Abort> {
        let fail = |e| Abort::guest(phase, e);
        let Stopped::Exited { root, workload, .. } = self.wait(run, phase)? else {
            let why = "the workload did not end within the time limit";
            return Err(self.stuck(run, phase, why));
        };
        let at_end = self.nonce().map_err(fail)?;
        let guest = self.session.running();
        guest.kill(run).map_err(fail)?;
        guest.settle().map_err(fail)?;
        let read = |guest: &mut Guest, name: &str| -> Result<String, GuestError> {
            let bytes = guest.read_file(&format!("{RUN_DIR}/{name}"))?;
            Ok(text::exact(&bytes))
        };
        let mut output = RunOutput {
            root,
            workload,
            stdout: read(guest, "stdout").map_err(fail)?,
            stderr: read(guest, "stderr").map_err(fail)?,
            files: guest.list(WORK_DIR, &[".crucible"]).map_err(fail)?,
            logs: Vec::new(),
            nonce: drawn.or(at_end),
        };
        self.hide_nonce_file(&mut output);
        self.take_logs(&mut output).map_err(fail)?;
        Ok(output)
    }

    /// Hides the content of the file that holds the nonce, because it differs between runs. A
    /// separate check covers the nonce.
    fn hide_nonce_file(&self, output: &mut RunOutput) {
        for file in &mut output.files {
            if Some(&file.path) == self.case.nonce.as_ref()
                && let FileKind::File { sha256, .. } = &mut file.kind
            {
                *sha256 = "<nonce>".into();
            }
        }
    }

    /// Moves the logs from the files to the list of logs, as text.
    fn take_logs(&mut self, output: &mut RunOutput) -> Result<(), GuestError> {
        let case = self.case;
        let (logs, files): (Vec<FileEntry>, _) = std::mem::take(&mut output.files)
            .into_iter()
            .partition(|file| case.is_log(&file.path));
        output.files = files;
        for file in logs {
            let bytes = self
                .guest()
                .read_file(&format!("{WORK_DIR}/{}", file.path))?;
            let text = text::exact(&bytes);
            output.logs.push((file.path, text));
        }
        Ok(())
    }

    /// Handles a run that does not proceed: collects the states of its tasks, and marks the guest
    /// as unusable.
    fn stuck(&mut self, run: &str, phase: Phase, why: &str) -> Abort {
        let tasks = self.guest().observe(run);
        let states = match self.guest().task_states() {
            Ok(states) => states,
            Err(error) => return Abort::guest(phase, error),
        };
        let mut stop = Abort::hang(phase, why.to_owned(), states);
        stop.guest_usable = false;
        if let Ok(tasks) = tasks {
            let found = tree(&tasks);
            stop.lines.splice(0..0, found.lines().map(str::to_owned));
        }
        stop
    }
}

/// Returns the message for a run that ended before its event.
fn never(at: &EventSpec, count: Option<u64>, end: &str) -> String {
    match count {
        None => format!("the workload ended ({end}) before {at}: choose a shorter time"),
        Some(0) => format!(
            "the event {at} never happened: the workload ended ({end}) without any such event; \
             choose a different one"
        ),
        Some(count) => format!(
            "the event {at} never happened: the workload ended ({end}) after {count} such events; \
             choose a count up to {count}"
        ),
    }
}

/// Returns the difference of the point from the requested one, or `None` if there is none.
fn missed(case: &Case, freeze: &Freeze, tasks: &Observation) -> Option<String> {
    let at = &case.at;
    if matches!(at.trigger(), Trigger::Count { .. }) {
        let Some(task) = tasks.tasks.iter().find(|t| t.tid == freeze.tid) else {
            return Some(format!(
                "missed {at}: the triggering task {} has ended",
                freeze.tid
            ));
        };
        if !at.is_at(&task.site) {
            return Some(format!(
                "missed {at}: {} ({}) is at site `{}`, not `{}`",
                task.comm,
                task.tid,
                task.site,
                at.sites().unwrap_or(&["any"]).join("` or `")
            ));
        }
    }
    case.tasks.iter().find_map(|expected| {
        let found = count(expected, tasks);
        let good = expected.count.map_or(found > 0, |n| found == n);
        (!good).then(|| {
            format!(
                "missed {at}: expected {} `{}` at site `{}`, found {found}",
                expected.count.map_or("a".to_owned(), |n| n.to_string()),
                expected.comm,
                expected.site
            )
        })
    })
}

fn count(expected: &ExpectedTask, tasks: &Observation) -> usize {
    let parent_is =
        |ppid: i32, comm: &str| tasks.tasks.iter().any(|t| t.pid == ppid && t.comm == comm);
    tasks
        .tasks
        .iter()
        .filter(|t| t.comm == expected.comm && t.site.starts_with(&expected.site))
        .filter(|t| {
            expected
                .parent
                .as_ref()
                .is_none_or(|p| parent_is(t.ppid, p))
        })
        .count()
}
