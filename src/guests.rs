// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Machines for the engine, which does not know kernels, disks and emulators.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

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
    context: &'a Context,
    slowness: u32,
    /// True if guests are recorded.
    record: bool,
    lines: Lines,
    /// Where guests were to leave their memory.
    memories: Mutex<Vec<PathBuf>>,
    /// Maximum number of such files.
    most: usize,
    /// The disk that guests start with a copy of, instead of an empty one.
    disk: Option<PathBuf>,
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
            context,
            slowness,
            record,
            lines: images.lines(),
            memories: Mutex::default(),
            most: MOST,
            disk: None,
        }
    }

    /// The same for this experiment.
    pub fn fitting<E: Experiment>(mut self, experiment: &E) -> Self {
        if !experiment.keeps_memory() {
            self.most = 0;
        }
        self.disk = experiment.disk().map(Path::to_owned);
        self
    }
}

impl HostLab<'_> {
    /// Returns the file to which a guest leaves its memory, unless enough others have.
    fn memory(&self, dir: &Path) -> Option<PathBuf> {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        if memories.iter().filter(|path| path.exists()).count() >= self.most {
            return None;
        }
        let path = dir.join(MEMORY);
        memories.push(path.clone());
        Some(path)
    }
}

impl Lab for HostLab<'_> {
    fn boot(&self, dir: &Path, scratch: &Path) -> Result<Box<dyn Machine>, LabError> {
        let mut spec = self.images.machine(scratch, dir);
        match self.record {
            // Its replay has the memory of every instruction.
            true => spec.record = Some(dir.join(recordings::NAME)),
            false => spec.dump = self.memory(dir),
        }
        self.images
            .start(self.context, spec)
            .map_err(|e| lab_error(&e))
    }

    fn scratch(&self, path: &Path) -> Result<(), LabError> {
        let made = match &self.disk {
            Some(disk) => scratch::copy(disk, path).map_err(anyhow::Error::from),
            None => self.images.scratch(self.context, path),
        };
        made.map_err(|e| lab_error(&e))
    }

    fn open_memory(&self, file: &Path) -> String {
        let words = [Path::new("gdb"), &self.images.kernel.image, file];
        let words = words.map(|word| word.to_string_lossy().into_owned());
        // It fails for a NUL only, which no path has.
        shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
    }

    fn source_lines(&self, report: &[String]) -> Vec<SourceLine> {
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
}

fn lab_error(error: &anyhow::Error) -> LabError {
    LabError {
        condition: exit::condition(error),
        message: format!("cannot start a machine: {}", exit::chain(error)),
    }
}
