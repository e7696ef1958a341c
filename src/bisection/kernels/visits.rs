// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs a case on a kernel in a setting, and finds other settings.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crucible_bisect::{Observation, Offer, Seen, Setting, Signature, Stop, Visit};
use crucible_engine::abort;
use crucible_engine::experiment::{self, EventsExperiment, Journal, RunsExperiment, Setup};
use crucible_engine::results::Store;
use crucible_engine::trial::Options;
use crucible_engine::{Backend, Blame, Condition, EventSpec, Outcome, RestartIn, Scenario};

use super::super::history::Kind;
use super::super::short;
use super::Kernels;
use crate::guests::HostLab;

/// Maximum number of runs in a guest.
const MOST: u64 = 500;

/// Number of consecutive runs that fail because of the host after which the search stops.
const SPOILT: u32 = 3;

/// Number of vCPUs of the setting that shows races between CPUs.
const RACES: u32 = 2;

/// Number of busy processes in the setting that changes when tasks run. They run in the guest, so
/// that the setting is the same on every host and does not disturb other guests.
const LOAD: u32 = 2;

/// Number of links in the setting for failures that few restarts show.
const CHAIN: u32 = 4;

/// Number of events that are tried.
const EVENTS: usize = 4;

impl<'a> Kernels<'a> {
    fn scenario(&self, setting: &Setting) -> Option<(&'a Scenario, usize)> {
        let (name, case) = setting.case.split_once('/')?;
        let scenario = self.scenarios.iter().find(|it| it.name == name)?;
        let case = scenario.cases.iter().position(|it| it.name == case)?;
        Some((scenario, case))
    }

    /// Returns a few events of a case, of those that a sweep of this node would try. There are none
    /// if the workload has none, or if they could not be listed this time.
    fn events(&mut self, node: usize, setting: &Setting) -> Result<Vec<EventSpec>, Stop> {
        let Some((scenario, case)) = self.scenario(setting) else {
            return Ok(Vec::new());
        };
        let store = &self.step(&format!("{}-events", self.name(node)))?;
        let vcpus = self.guest.machine.vcpus;
        self.boots(node, vcpus)?;
        let lab = HostLab::new(&self.made[&(node, vcpus)], self.context, false);
        let mut listing = EventsExperiment::new(scenario, case, EVENTS);
        let setup = self.setup(&lab, store);
        let report = experiment::execute(&mut listing, setup, Journal::none());
        store.remove_disks().map_err(|error| files(store, &error))?;
        if report.interrupted {
            return Err(Stop::new(Condition::Interrupted, "interrupted"));
        }
        let ended = report.unplanned.iter().chain(&report.guests);
        for outcome in ended {
            if outcome.condition.blame() == Some(Blame::Host) {
                return Err(Stop::new(outcome.condition, outcome.why.clone()));
            }
        }
        Ok(listing.events().to_vec())
    }

    /// Returns a node's name, for the name of a directory.
    fn name(&self, node: usize) -> String {
        match self.history.commits.get(node) {
            Some(commit) => short(commit).replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
            None => "reverted".into(),
        }
    }

    /// Makes the directory of the next guest.
    fn step(&mut self, what: &str) -> Result<Store, Stop> {
        self.visits += 1;
        let step = format!("steps/{:03}-{what}", self.visits);
        self.store.part(&step).map_err(|error| {
            Stop::new(
                abort::of_io(&error),
                format!("cannot write {step}: {error}"),
            )
        })
    }

    fn setup<'b>(&'b self, lab: &'b HostLab<'_>, store: &'b Store) -> Setup<'b> {
        Setup {
            lab,
            store,
            stream: self.context.stream(),
            jobs: 1,
            break_switch: None,
            without: &[],
            skip: None,
        }
    }

    /// Runs a case in a guest, as long as `see` returns true. With a restarter, that node's kernel
    /// restarts the images of this node's.
    pub(super) fn visit(
        &mut self,
        node: usize,
        restarter: Option<usize>,
        setting: &Setting,
        see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Result<Visit, String>, Stop> {
        let vcpus = u8::try_from(setting.vcpus).unwrap_or(u8::MAX);
        let (scenario, case) = self
            .scenario(setting)
            .ok_or_else(|| Stop::new(Condition::RequestFailed, format!("no case {setting}")))?;
        let what = match restarter {
            Some(restarter) => {
                let (node, restarter) = (self.name(node), self.name(restarter));
                format!("{node}-restarted-by-{restarter}")
            }
            None => self.name(node),
        };
        let store = &self.step(&what)?;
        let at = match self.history.kind {
            Kind::Event => self.history.commits[node].parse().ok(),
            _ => setting.at.as_ref().and_then(|at| at.parse().ok()),
        };
        let options = Options {
            at,
            timeout: setting.timeout,
            vcpus,
            // In a longer chain, the other kernel would make the later checkpoints.
            chain: match restarter {
                Some(_) => 1,
                None => setting.chain,
            },
            restart_in: match restarter {
                Some(_) => RestartIn::Fresh,
                None => self.options.restart_in,
            },
            ..self.options.clone()
        };
        for node in [Some(node), restarter].into_iter().flatten() {
            self.boots(node, vcpus)?;
        }
        let images = &self.made[&(node, vcpus)];
        let restart = restarter.map(|node| &self.made[&(node, vcpus)]);
        let lab = HostLab::new(images, self.context, false)
            .restarting_in(restart)
            .loaded(setting.load);
        let setup = self.setup(&lab, store);
        let began = Instant::now();
        let unread = |error: io::Error| Stop::new(abort::of_io(&error), error.to_string());
        let (to_us, from_guest) = mpsc::channel::<(u64, Outcome, f64)>();
        let (to_guest, from_us) = mpsc::channel::<bool>();
        // The number of finished runs, and the observations reported for them.
        let mut told: Vec<(u64, Seen)> = Vec::new();
        let mut seconds = 0.0;
        let name = &scenario.cases[case].name;
        let report = thread::scope(|scope| {
            let guest = scope.spawn(move || {
                let mut spoilt = 0;
                let mut report = move |run: u64, outcome: &Outcome, seconds: f64| {
                    if outcome.condition.blame() == Some(Blame::Host) {
                        spoilt += 1;
                        return spoilt < SPOILT;
                    }
                    spoilt = 0;
                    let sent = to_us.send((run, outcome.clone(), seconds)).is_ok();
                    sent && from_us.recv().unwrap_or(false)
                };
                let mut runs = RunsExperiment::new(scenario, case, options, MOST, &mut report)?;
                Ok(experiment::execute(&mut runs, setup, Journal::none()))
            });
            for (run, outcome, took) in from_guest {
                let seen = seen(&scenario.name, name, &outcome);
                told.push((run, seen.clone()));
                seconds += took;
                let more = see(Observation {
                    seen,
                    seconds: took,
                    lines: [vec![outcome.why], outcome.lines].concat(),
                });
                if to_guest.send(more).is_err() {
                    break;
                }
            }
            let report = guest.join();
            report.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let report = report.map_err(unread)?;
        store.remove_disks().map_err(|error| files(store, &error))?;
        if report.interrupted {
            return Err(Stop::new(Condition::Interrupted, "interrupted"));
        }
        if let Some(outcome) = report.unplanned {
            return match outcome.condition.blame() {
                Some(Blame::Host) => Err(Stop::new(outcome.condition, outcome.why)),
                _ => Ok(Err(outcome.why)),
            };
        }
        let mut visit = Visit {
            enter: (began.elapsed().as_secs_f64() - seconds).max(0.0),
            ..Visit::default()
        };
        for outcome in &report.guests {
            if outcome.condition.exit_code() >= 128 {
                return Err(Stop::new(outcome.condition, outcome.why.clone()));
            }
            // A leak is found only at the end of the guest.
            if outcome.condition.is_bad()
                && let Some(last) = told.len().checked_sub(1)
            {
                let seen = seen(&scenario.name, name, outcome);
                visit.revised.push((last, seen));
            }
        }
        for finding in &report.findings {
            let number = finding.key.rsplit(' ').next().and_then(|n| n.parse().ok());
            let at = told.iter().position(|(run, _)| Some(*run) == number);
            let now = seen(&scenario.name, name, &finding.outcome);
            if let Some(at) = at
                && told[at].1 != now
            {
                visit.revised.push((at, now));
            }
        }
        if told.is_empty() {
            let spoilt = report.findings.last().map(|finding| &finding.outcome);
            if let Some(outcome) = spoilt.filter(|o| o.condition.blame() == Some(Blame::Host)) {
                return Err(Stop::new(outcome.condition, outcome.why.clone()));
            }
        }
        Ok(Ok(visit))
    }

    /// Returns the settings that differ from this one in one respect.
    pub(super) fn settings_beside(
        &mut self,
        node: usize,
        setting: &Setting,
    ) -> Result<Offer, Stop> {
        let began = Instant::now();
        // With several CPUs, the events of a task have no fixed number.
        let is_of_task = setting.at.as_ref().is_some_and(|at| at.contains('@'));
        let mut settings = Vec::new();
        // A chain that begins at an event restarts at later ones as well.
        let is_event = self.history.kind == Kind::Event;
        if setting.chain == 1 && !is_event && self.options.backend == Backend::Crucible {
            settings.push(Setting {
                chain: CHAIN,
                ..setting.clone()
            });
        }
        if setting.vcpus == 1 && !is_of_task {
            settings.push(Setting {
                vcpus: RACES,
                ..setting.clone()
            });
        }
        if setting.load == 0 {
            settings.push(Setting {
                load: LOAD,
                ..setting.clone()
            });
        }
        let has_own = setting.at.is_some() || is_event;
        let mut is_partial = false;
        if setting.vcpus == 1 && !has_own {
            let events = self.events(node, setting)?;
            // One guest that fails says nothing about the next one.
            is_partial = events.is_empty();
            settings.extend(events.iter().map(|event| Setting {
                at: Some(event.to_string()),
                ..setting.clone()
            }));
        }
        Ok(Offer {
            settings,
            seconds: began.elapsed().as_secs_f64(),
            is_partial,
        })
    }
}

fn files(store: &Store, error: &io::Error) -> Stop {
    let shown = store.dir().display();
    Stop::new(
        abort::of_io(error),
        format!("cannot write {shown}: {error}"),
    )
}

/// Returns the observation that an outcome gives of the kernel.
fn seen(scenario: &str, case: &str, outcome: &Outcome) -> Seen {
    match Signature::of(scenario, case, outcome) {
        Some(signature) => Seen::Failed(signature),
        None if outcome.is_pass() => Seen::Pass,
        None => Seen::Unclear(format!("{}: {}", outcome.condition.name(), outcome.why)),
    }
}
