// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds and runs the kernels of a history.

mod builds;
mod visits;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use crucible_artefacts::{Checkout, Fingerprint, Sources};
use crucible_bisect::{Built, Observation, Offer, REVERTED, Setting, Stop, Subject, Visit};
use crucible_engine::expected;
use crucible_engine::results::Store;
use crucible_engine::trial::Options;
use crucible_engine::{Backend, Scenario};

use super::history::{History, Kind};
use super::unpacked::Unpacked;
use crate::boot_artefacts::{BootArtefacts, GuestArgs, memory_mib};
use crate::bundle::Bundle;
use crate::context::Context;
use crate::machines::{self, MachineArg};

/// Number of boots that must fail before a kernel is called unbootable.
const BOOTS: u32 = 2;

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
}

impl Subject for Kernels<'_> {
    fn inputs(&mut self, node: usize) -> Result<Option<String>, Stop> {
        self.planned(node)
    }

    fn build(&mut self, node: usize) -> Result<Built, Stop> {
        self.make(node)
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
        self.settings_beside(node, setting)
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
