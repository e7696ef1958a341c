// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds the kernels of a history, each from its commit, lines or changes.

use std::fs;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use crucible_artefacts::kernel::{self, Flavour};
use crucible_artefacts::{Fingerprint, Sources};
use crucible_bisect::{Built, REVERTED, Stop};
use crucible_engine::Condition;

use super::super::failure::{Failure, failure, stop};
use super::super::history::{Kind, OURS};
use super::Kernels;
use crate::boot_artefacts::{BootArtefacts, GuestArgs};

impl Kernels<'_> {
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

    /// Makes the boot artefacts of a node that builds.
    pub(super) fn boots(&mut self, node: usize, vcpus: u8) -> Result<(), Stop> {
        match self.images(node, vcpus) {
            Ok(_) => Ok(()),
            Err(Failure::Stop(stop)) => Err(stop),
            Err(Failure::Unbuildable(why)) => Err(Stop::new(Condition::RequestFailed, why)),
        }
    }

    /// Returns the image of a node that this search has built.
    pub fn image(&self, node: usize) -> Option<PathBuf> {
        let key = (node, self.guest.machine.vcpus);
        self.made
            .get(&key)
            .map(|images| images.kernel.image.clone())
    }

    /// Returns a hash of all that goes into the kernel of a node; `None` if it has none of its own.
    pub(super) fn planned(&mut self, node: usize) -> Result<Option<String>, Stop> {
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

    /// Builds the kernel of a node.
    pub(super) fn make(&mut self, node: usize) -> Result<Built, Stop> {
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
}
