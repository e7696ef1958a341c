// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds and runs the kernels of a history.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use crucible_artefacts::kernel::{self, Flavour};
use crucible_artefacts::{Checkout, Fingerprint, Sources};
use crucible_bisect::{
    Built, Observation, Offer, REVERTED, Seen, Setting, Signature, Stop, Subject, Visit,
};
use crucible_engine::abort;
use crucible_engine::expected;
use crucible_engine::experiment::{self, EventsExperiment, Journal, RunsExperiment, Setup};
use crucible_engine::results::Store;
use crucible_engine::trial::Options;
use crucible_engine::{Backend, Blame, Condition, EventSpec, Outcome, RestartIn, Scenario};

use super::failure::{Failure, failure, stop};
use super::history::{History, Kind, OURS};
use super::unpacked::Unpacked;
use crate::boot_artefacts::{BootArtefacts, GuestArgs, memory_mib};
use crate::bundle::Bundle;
use crate::context::Context;
use crate::guests::HostLab;
use crate::machines::{self, MachineArg};

/// Maximum number of runs in a guest.
const MOST: u64 = 500;

/// Number of consecutive runs that fail because of the host after which the search stops.
const SPOILT: u32 = 3;

/// Number of boots that must fail before a kernel is called unbootable.
const BOOTS: u32 = 2;

/// Number of vCPUs of the setting that shows races between CPUs.
const RACES: u32 = 2;

/// Number of busy processes in the setting that changes when tasks run. They run in the guest, so
/// that the setting is the same on every host and does not disturb other guests.
const LOAD: u32 = 2;

/// Number of links in the setting for failures that few restarts show.
const CHAIN: u32 = 4;

/// Number of events that are tried.
const EVENTS: usize = 4;

/// The kernels of a history, and the guests and cases that run on them.
pub struct Kernels<'a> {
    context: &'a Context,
    guest: GuestArgs,
    history: &'a History,
    sources: Sources,
    scenarios: &'a [Scenario],
    options: Options,
    store: &'a Store,
    /// `guest-kernel` of each commit of our own history.
    ours: Unpacked<'a>,
    checkout: Option<Checkout>,
    /// The disks with the agent and the userland, which are the same for all kernels.
    beside: [PathBuf; 2],
    /// Hash of everything that a run uses except the kernel, by scenario.
    harness: HashMap<String, String>,
    /// Boot artefacts of the nodes that were built, by node and number of vCPUs.
    made: HashMap<(usize, u8), BootArtefacts>,
    /// The commit whose change the reverted kernel lacks.
    reverted: Option<usize>,
    /// Number of guests so far.
    visits: u32,
    /// Git's names for the trees of the commits, and a hash of the other inputs of their builds.
    trees: Option<(HashMap<String, String>, String)>,
}

impl<'a> Kernels<'a> {
    /// Prepares to build the kernels of this history.
    ///
    /// # Errors
    /// The host lacks something.
    pub fn new(
        context: &'a Context,
        mut guest: GuestArgs,
        history: &'a History,
        scenarios: &'a [Scenario],
        options: Options,
        store: &'a Store,
    ) -> Result<Self> {
        if Bundle::of_this_program()?.is_some() {
            bail!("a bundle builds no kernels");
        }
        context.host()?;
        // Print this once, not for each kernel.
        guest.machine.machine = match machines::choose(context, guest.machine.machine)? {
            machines::Kind::Kvm => MachineArg::Kvm,
            machines::Kind::Qemu => MachineArg::Qemu,
        };
        let sources = context.sources()?;
        let cache = context.cache()?;
        let checkout = match history.kind {
            Kind::Ours | Kind::Config | Kind::Event | Kind::Series => None,
            Kind::Tree => Some(Checkout::open(
                &cache,
                &history.repository,
                context.progress(),
            )?),
        };
        Ok(Self {
            ours: Unpacked::new(history)?,
            harness: HashMap::new(),
            beside: [PathBuf::new(), PathBuf::new()],
            made: HashMap::new(),
            reverted: None,
            visits: 0,
            trees: None,
            context,
            guest,
            history,
            sources,
            scenarios,
            options,
            store,
            checkout,
        })
    }

    /// Builds and hashes everything that a run uses except the kernels. This precedes all kernels,
    /// so that a failure of our own parts is not attributed to one of them.
    ///
    /// # Errors
    /// The agent or the userland cannot be made.
    pub fn identify(&mut self) -> Result<()> {
        let cache = self.context.cache()?;
        let progress = self.context.progress();
        let agent = crucible_artefacts::rootfs::agent(&cache, &self.sources, progress)?;
        let debian = crucible_artefacts::rootfs::debian(&cache, &self.sources, progress)?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let machine = format!(
            "{:?} {}",
            self.guest.machine.machine,
            memory_mib(&self.guest)
        );
        for scenario in self.scenarios {
            let mut hash = Fingerprint::new("bisect 1")
                .add("program", crucible_artefacts::content_hash(&program)?)
                .add("agent", crucible_artefacts::content_hash(&agent)?)
                .add("debian", crucible_artefacts::content_hash(&debian)?)
                .add("machine", machine.clone())
                .add("toml", fs::read(scenario.dir.join("scenario.toml"))?);
            if let Some(text) = expected::text(scenario)? {
                hash = hash.add("expected result", text);
            }
            for source in scenario.sources()? {
                hash = hash.add(&source.path, &source.content);
            }
            self.harness.insert(scenario.name.clone(), hash.finish());
        }
        self.beside = [agent, debian];
        Ok(())
    }

    /// Builds a node, and returns its boot artefacts with this many vCPUs.
    fn images(&mut self, node: usize, vcpus: u8) -> Result<&BootArtefacts, Failure> {
        let key = (node, vcpus);
        if !self.made.contains_key(&key) {
            let images = self.prepare(node, vcpus).map_err(|error| failure(&error))?;
            if self.beside != [images.agent.clone(), images.debian.clone()] {
                let why = "the sources of the agent or of the userland have changed meanwhile; \
                           run the same command again";
                return Err(Failure::Stop(Stop::new(Condition::RequestFailed, why)));
            }
            self.made.insert(key, images);
        }
        Ok(&self.made[&key])
    }

    fn prepare(&self, node: usize, vcpus: u8) -> Result<BootArtefacts> {
        let mut guest = self.guest.clone();
        guest.machine.vcpus = vcpus;
        let bad = self.history.graph.bad();
        let prepare =
            |guest: &GuestArgs, sources| BootArtefacts::prepare_from(self.context, guest, sources);
        match self.history.kind {
            Kind::Config => {
                guest.kernel.config = self.fragment(node)?;
                return prepare(&guest, &self.sources);
            }
            Kind::Event => return prepare(&guest, &self.sources),
            Kind::Series => return prepare(&guest, &self.series(node)?),
            Kind::Ours | Kind::Tree => {}
        }
        let Some(checkout) = &self.checkout else {
            let ours = match (node, self.reverted) {
                (REVERTED, Some(change)) => self
                    .ours
                    .without(change)?
                    .ok_or_else(|| anyhow!("it cannot be reverted"))?,
                _ => self.ours.of(node)?,
            };
            // Early commits have a different layout. The host is not to blame for that.
            let sources = self.sources.with_guest_kernel(&ours);
            let sources = sources.map_err(|_| anyhow!("its {OURS} has no kernel.lock"))?;
            return prepare(&guest, &sources);
        };
        let commits = &self.history.commits;
        let tree = match (node, self.reverted) {
            (REVERTED, Some(change)) => checkout
                .without(&commits[bad], &commits[change])?
                .ok_or_else(|| anyhow!("it cannot be reverted"))?,
            _ => checkout.at(&commits[node])?,
        };
        guest.kernel.kernel_src = Some(tree.join(&self.history.prefix));
        // Our configuration may name symbols that later commits add.
        guest.kernel.lenient = true;
        prepare(&guest, &self.sources)
    }

    /// Returns the sources with a node's series: the changes up to its own. The reverted one has all
    /// but one.
    fn series(&self, node: usize) -> Result<Sources> {
        let Some(versions) = &self.history.versions else {
            bail!("there are no two versions of the series");
        };
        let directory = match (node, self.reverted) {
            (REVERTED, Some(change)) => versions.without(change)?,
            _ => versions.up_to(node)?,
        };
        Ok(self.sources.with_guest_kernel(&directory)?)
    }

    /// Writes the configuration fragment of a node: the lines up to its own. The reverted one has
    /// all but one.
    fn fragment(&self, node: usize) -> Result<Option<PathBuf>> {
        let lines = self.history.commits.iter().enumerate().skip(1);
        let is_in = |(number, _): &(usize, &String)| match node {
            REVERTED => self.reverted != Some(*number),
            node => *number <= node,
        };
        let lines: Vec<_> = lines.filter(is_in).map(|(_, line)| line.as_str()).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let path = self.ours.path().join("fragment.config");
        fs::write(&path, lines.join("\n") + "\n").context("cannot write a fragment")?;
        Ok(Some(path))
    }

    fn scenario(&self, setting: &Setting) -> Option<(&'a Scenario, usize)> {
        let (name, case) = setting.case.split_once('/')?;
        let scenario = self.scenarios.iter().find(|it| it.name == name)?;
        let case = scenario.cases.iter().position(|it| it.name == case)?;
        Some((scenario, case))
    }

    /// Returns a few of the events of a case that a sweep of this node would try; none if the
    /// events cannot be listed.
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
            Some(commit) => super::short(commit).replace(|c: char| !c.is_ascii_alphanumeric(), "-"),
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

    /// Makes the boot artefacts of a node that builds.
    fn boots(&mut self, node: usize, vcpus: u8) -> Result<(), Stop> {
        match self.images(node, vcpus) {
            Ok(_) => Ok(()),
            Err(Failure::Stop(stop)) => Err(stop),
            Err(Failure::Unbuildable(why)) => Err(Stop::new(Condition::RequestFailed, why)),
        }
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

    /// Returns the image of a node that this search has built.
    pub fn image(&self, node: usize) -> Option<PathBuf> {
        let key = (node, self.guest.machine.vcpus);
        self.made
            .get(&key)
            .map(|images| images.kernel.image.clone())
    }

    /// Runs a case in a guest, as long as `see` returns true. With a restarter, that node's kernel
    /// restarts the images of this node's.
    fn visit(
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
}

impl Subject for Kernels<'_> {
    fn inputs(&mut self, node: usize) -> Result<Option<String>, Stop> {
        let flavour = Flavour::from(self.guest.kernel.flavour);
        let custom = self.guest.kernel.custom().map_err(|error| stop(&error))?;
        let planned = match self.history.kind {
            Kind::Ours => self
                .ours
                .of(node)
                .map_err(|error| stop(&error))
                .map(|ours| self.sources.with_guest_kernel(&ours).ok())?
                .map(|sources| kernel::planned(&sources, None, flavour, &custom)),
            Kind::Config => {
                let mut guest = self.guest.clone();
                guest.kernel.config = self.fragment(node).map_err(|error| stop(&error))?;
                let custom = guest.kernel.custom().map_err(|error| stop(&error))?;
                Some(kernel::planned(&self.sources, None, flavour, &custom))
            }
            Kind::Series => {
                let sources = self.series(node).map_err(|error| stop(&error))?;
                Some(kernel::planned(&sources, None, flavour, &custom))
            }
            // All events have a single kernel, so the nodes are not kernels.
            Kind::Event => None,
            Kind::Tree => {
                if self.trees.is_none() {
                    let all = self.history.trees();
                    let recipe = kernel::planned(&self.sources, Some(""), flavour, &custom);
                    self.trees = Some((all, recipe.map_err(|error| stop(&error.into()))?));
                }
                let (all, recipe) = self.trees.as_ref().map(|(a, r)| (a, r.as_str())).unzip();
                let known = all.and_then(|all| all.get(&self.history.commits[node]).cloned());
                let tree = known.or_else(|| self.history.tree(node));
                tree.map(|tree| {
                    let recipe = recipe.unwrap_or_default();
                    Ok(Fingerprint::new(recipe).add("git", tree).finish())
                })
            }
        };
        // A malformed series of a commit is reported when the commit is built.
        Ok(planned.and_then(Result::ok))
    }

    fn build(&mut self, node: usize) -> Result<Built, Stop> {
        let (began, now) = (Instant::now(), SystemTime::now());
        let vcpus = self.guest.machine.vcpus;
        let image = match self.images(node, vcpus) {
            Ok(images) => {
                let path = images.kernel.image.clone();
                let hash = images.content_hash(&path).map_err(|error| stop(&error))?;
                let made = path.metadata().and_then(|it| it.modified());
                let hash = match self.history.kind {
                    Kind::Event => format!("{hash} at {}", self.history.commits[node]),
                    _ => hash,
                };
                Ok((hash, made.is_ok_and(|made| made >= now)))
            }
            Err(Failure::Stop(stop)) => return Err(stop),
            Err(Failure::Unbuildable(why)) => Err(why),
        };
        let seconds = began.elapsed().as_secs_f64();
        Ok(match image {
            Ok((image, made)) => Built::Image {
                image,
                seconds: if made { seconds } else { 0.0 },
            },
            Err(why) => Built::Unbuildable { why, seconds },
        })
    }

    fn run(
        &mut self,
        node: usize,
        setting: &Setting,
        see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Visit, Stop> {
        let mut attempt = 1;
        loop {
            match self.visit(node, None, setting, see)? {
                Ok(visit) => return Ok(visit),
                Err(_) if attempt < BOOTS => attempt += 1,
                Err(why) => {
                    return Ok(Visit {
                        unbootable: Some(why),
                        ..Visit::default()
                    });
                }
            }
        }
    }

    fn usual(&self) -> Vec<Setting> {
        let of = |scenario: &Scenario| {
            let cases = scenario.cases.iter();
            let names = cases.map(|case| format!("{}/{}", scenario.name, case.name));
            names.collect::<Vec<_>>()
        };
        let cases = self.scenarios.iter().flat_map(of);
        cases
            .map(|case| Setting {
                case,
                at: self.options.at.as_ref().map(ToString::to_string),
                vcpus: self.guest.machine.vcpus.into(),
                chain: self.options.links(),
                load: self.guest.machine.load,
                timeout: self.options.timeout,
            })
            .collect()
    }

    fn amplifies(&self) -> bool {
        true
    }

    fn others(&mut self, node: usize, setting: &Setting) -> Result<Offer, Stop> {
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
        if setting.vcpus == 1 && !has_own {
            let events = self.events(node, setting)?;
            settings.extend(events.iter().map(|event| Setting {
                at: Some(event.to_string()),
                ..setting.clone()
            }));
        }
        Ok(Offer {
            settings,
            seconds: began.elapsed().as_secs_f64(),
        })
    }

    fn harness(&self, setting: &Setting) -> Option<String> {
        let (name, _) = setting.case.split_once('/')?;
        self.harness.get(name).cloned()
    }

    fn cross(
        &mut self,
        checkpointer: usize,
        restarter: usize,
        setting: &Setting,
        see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Option<Visit>, Stop> {
        // All events have the same kernel, and the kernel has no part in CRIU's checkpoint and
        // restart.
        if self.history.kind == Kind::Event || self.options.backend != Backend::Crucible {
            return Ok(None);
        }
        for node in [checkpointer, restarter] {
            if let Built::Unbuildable { .. } = self.build(node)? {
                return Ok(None);
            }
        }
        let visit = self.visit(checkpointer, Some(restarter), setting, see)?;
        // A kernel that does not boot would have failed in its own runs, so the disk is to blame.
        Ok(visit.ok())
    }

    fn revert(&mut self, node: usize) -> Result<Option<Built>, Stop> {
        // The changes of a merge cannot be reverted by one patch.
        let merge = self.history.graph.nodes()[node].merge;
        if merge || self.history.kind == Kind::Event {
            return Ok(None);
        }
        self.reverted = Some(node);
        // The result may be equal to the kernel of another node.
        self.made.retain(|(made, _), _| *made != REVERTED);
        match self.build(REVERTED)? {
            Built::Unbuildable { .. } => Ok(None),
            built @ Built::Image { .. } => Ok(Some(built)),
        }
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
