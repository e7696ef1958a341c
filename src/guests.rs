// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Machines for the engine, which does not depend on kernels, disks and emulators.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crucible_artefacts::kernel::{self, Flavour, Lines};
use crucible_artefacts::scratch;
use crucible_engine::experiment::Experiment;
use crucible_engine::outcome::SourceLine;
use crucible_engine::{Lab, LabError};
use crucible_vmm::Machine;

use crate::boot_artefacts::BootArtefacts;
use crate::context::Context;
use crate::exit;
use crate::recordings;

/// Factor for time limits with the debug kernel.
const DEBUG_SLOWNESS: u32 = 6;

/// Name of the file with the memory of a guest that has crashed, in its machine's directory.
const MEMORY: &str = "guest-memory.elf";

/// Maximum number of such files that a run leaves. A sweep may crash a guest at each of a thousand
/// points, all in the same way.
const MOST: usize = 4;

/// Starts machines on this host.
pub struct HostLab<'a> {
    images: &'a BootArtefacts,
    /// The artefacts of machines that restart with a different kernel.
    restart: Option<&'a BootArtefacts>,
    context: &'a Context,
    slowness: u32,
    /// True when guests are recorded.
    record: bool,
    lines: Lines<'a>,
    /// Paths of guests' memory dumps, with the image of their kernel.
    memories: Mutex<Vec<(PathBuf, PathBuf)>>,
    /// Maximum number of such files.
    most: usize,
    /// The disk whose copies guests start with, instead of empty disks.
    disk: Option<PathBuf>,
    /// Number of processes that keep the vCPUs of each guest busy.
    load: u32,
}

impl<'a> HostLab<'a> {
    /// Creates a lab whose machines boot these images.
    pub fn new(images: &'a BootArtefacts, context: &'a Context, record: bool) -> Self {
        let slowness = match images.flavour() {
            Flavour::Debug => DEBUG_SLOWNESS,
            _ => 1,
        };
        Self {
            images,
            restart: None,
            context,
            slowness,
            record,
            lines: images.lines(context),
            memories: Mutex::default(),
            most: MOST,
            disk: None,
            load: 0,
        }
    }

    /// Returns the lab with the memory dumps and the disk that this experiment needs.
    pub fn fitting<E: Experiment>(mut self, experiment: &E) -> Self {
        if !experiment.keeps_memory() {
            self.most = 0;
        }
        self.disk = experiment.disk().map(Path::to_owned);
        self
    }
}

impl<'a> HostLab<'a> {
    /// Lets the kernel of these images restart images that the other kernel has written.
    pub fn restarting_in(mut self, images: Option<&'a BootArtefacts>) -> Self {
        self.restart = images;
        self
    }

    /// Keeps the vCPUs of each guest busy with this number of processes.
    pub fn loaded(mut self, processes: u32) -> Self {
        self.load = processes;
        self
    }

    fn start(
        &self,
        images: &BootArtefacts,
        dir: &Path,
        scratch: &Path,
    ) -> Result<Box<dyn Machine>, LabError> {
        let mut spec = images.machine(scratch, dir);
        match self.record {
            // A replay can show the memory at every instruction.
            true => spec.record = Some(dir.join(recordings::NAME)),
            false => spec.dump = self.memory(dir, &images.kernel.image),
        }
        let machine = images.start(self.context, spec);
        machine.map_err(|e| lab_error(&e))
    }

    /// Returns the file for a guest's memory, unless the run already has enough such files.
    fn memory(&self, dir: &Path, kernel: &Path) -> Option<PathBuf> {
        let mut memories = self.memories();
        if memories.iter().filter(|(path, _)| path.exists()).count() >= self.most {
            return None;
        }
        let path = dir.join(MEMORY);
        memories.push((path.clone(), kernel.to_owned()));
        Some(path)
    }

    fn memories(&self) -> MutexGuard<'_, Vec<(PathBuf, PathBuf)>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lab for HostLab<'_> {
    fn boot(&self, dir: &Path, scratch: &Path) -> Result<Box<dyn Machine>, LabError> {
        self.start(self.images, dir, scratch)
    }

    fn boot_to_restart(&self, dir: &Path, scratch: &Path) -> Result<Box<dyn Machine>, LabError> {
        self.start(self.restart.unwrap_or(self.images), dir, scratch)
    }

    fn restarts_with_another_kernel(&self) -> bool {
        self.restart.is_some()
    }

    fn scratch(&self, path: &Path) -> Result<(), LabError> {
        let made = match &self.disk {
            Some(disk) => scratch::copy(disk, path).map_err(anyhow::Error::from),
            None => self.images.scratch(self.context, path),
        };
        made.map_err(|e| lab_error(&e))
    }

    fn open_memory(&self, file: &Path) -> String {
        let memories = self.memories();
        // The run's directory has been renamed since the guest was started.
        let of = memories.iter().find(|(path, _)| ends_alike(path, file));
        let kernel = of.map_or(&self.images.kernel.image, |(_, kernel)| kernel);
        let words = [Path::new("gdb"), kernel, file];
        let words = words.map(|word| word.to_string_lossy().into_owned());
        // It fails only for a NUL, which no path has.
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }

    fn source_lines(&self, report: &[String]) -> Vec<SourceLine> {
        // A report does not show which of two kernels has printed it.
        if self.restart.is_some() {
            return Vec::new();
        }
        let places = kernel::places(report);
        let found = places.iter().filter_map(|place| {
            let kernel::Line { file, line } = self.lines.find(place)?;
            Some(SourceLine {
                place: place.to_string(),
                file,
                line,
            })
        });
        found.collect()
    }

    fn slowness(&self) -> u32 {
        self.slowness
    }

    fn finds_leaks(&self) -> bool {
        self.images.flavour() == Flavour::Debug
    }

    fn load(&self) -> u32 {
        self.load
    }
}

/// Returns true when both paths are those of the same machine's file.
fn ends_alike(one: &Path, other: &Path) -> bool {
    let parts =
        |path: &Path| -> Vec<_> { path.iter().rev().take(2).map(OsStr::to_owned).collect() };
    parts(one) == parts(other)
}

fn lab_error(error: &anyhow::Error) -> LabError {
    LabError {
        condition: exit::condition(error),
        message: format!("cannot start a machine: {}", exit::chain(error)),
    }
}
