// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that serves many runs, and is replaced when a run has made it unusable.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crucible_vmm::{Description, Machine};
use thiserror::Error;

use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    experiment::Setup,
    guest::{Guest, GuestError, GuestInfo},
    leaks,
    outcome::SourceLine,
    results::SCRATCH,
    stream::{Body, Voice},
};

/// Time limit for the boot of a guest.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Time that [`Guest::calibrate`] takes in a guest on an idle host, emulated by QEMU on a CPU of
/// 2020. A faster one does not shorten any limit.
const USUAL: Duration = Duration::from_millis(40);

/// Maximum factor for limits. An even slower guest cannot be distinguished from a hung
/// one.
const SLOWEST: u32 = 20;

/// Returns the factor by which a guest's CPU is slower than usual.
fn factor(time: Duration) -> u32 {
    let factor = time.as_nanos().div_ceil(USUAL.as_nanos());
    u32::try_from(factor).unwrap_or(SLOWEST).clamp(1, SLOWEST)
}

/// Creates machines and disks. The CLI implements it, because it has the kernels, disks and
/// emulators.
pub trait Lab {
    /// Starts a machine whose third disk is `scratch` and whose logs go to `dir`.
    fn boot(&self, dir: &Path, scratch: &Path) -> Result<Box<dyn Machine>, LabError>;

    /// Starts a machine for the restart of a run that a first machine has checkpointed.
    fn boot_to_restart(&self, dir: &Path, scratch: &Path) -> Result<Box<dyn Machine>, LabError> {
        self.boot(dir, scratch)
    }

    /// Returns true when the machine for a restart has a different kernel, so that the next run
    /// needs a new guest.
    fn restarts_with_another_kernel(&self) -> bool {
        false
    }

    /// Creates an empty scratch disk.
    fn scratch(&self, path: &Path) -> Result<(), LabError>;

    /// Returns the factor by which operations take longer than usual in this guest.
    fn slowness(&self) -> u32;

    /// Returns the command that opens the memory of a guest that has crashed, which is in this
    /// file.
    fn open_memory(&self, file: &Path) -> String;

    /// Returns the source lines of the addresses in a kernel report, as far as they can be
    /// found; a text without such addresses has no lines.
    fn source_lines(&self, report: &[String]) -> Vec<SourceLine>;

    /// Returns true when the guest's kernel has kmemleak.
    fn finds_leaks(&self) -> bool;

    /// Returns the number of processes that keep the vCPUs of each guest busy.
    fn load(&self) -> u32 {
        0
    }
}

/// A failure of the host to provide a machine's requirements.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct LabError {
    /// The condition of the failure.
    pub condition: Condition,
    /// The complete error message.
    pub message: String,
}

/// The reason why there is no guest.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The host could not provide a machine.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The guest did not boot.
    #[error("the guest did not boot; its console is in {}", console.display())]
    Boot {
        /// Path of the console log.
        console: PathBuf,
        /// The underlying error.
        #[source]
        source: Box<GuestError>,
    },
    /// A results file could not be written.
    #[error("cannot write {}", path.display())]
    Io {
        /// Path of the file.
        path: PathBuf,
        /// The underlying error.
        #[source]
        source: io::Error,
    },
}

/// Description of a booted machine for the record.
#[derive(Clone, Debug)]
pub struct Booted {
    /// The machine and its configuration.
    pub machine: Description,
    /// Information from the guest's agent.
    pub guest: GuestInfo,
    /// Milliseconds from the start of the machine to the agent's first answer.
    pub ready_ms: u64,
}

/// A guest, and the means to boot a new one.
pub struct Session<'a> {
    setup: Setup<'a>,
    number: u32,
    voice: Voice<'a>,
    dir: PathBuf,
    scratch: PathBuf,
    machines: u32,
    guest: Option<Guest>,
    booted: Option<Booted>,
    /// The factor by which this guest's CPU is slower than usual, as measured.
    speed: u32,
    /// True when the guest was booted for a restart with a different kernel.
    another_kernel: bool,
}

impl<'a> Session<'a> {
    /// Returns the session of a run's guest with this number, from 1 on. It keeps its disk and its
    /// logs in the run's directory, or in a subdirectory. The guest is booted on demand.
    pub fn new(setup: Setup<'a>, number: u32) -> Self {
        let dir = match number {
            1 => setup.store.dir().to_owned(),
            number => setup.store.dir().join(format!("guest-{number}")),
        };
        Self {
            setup,
            number,
            voice: setup.stream.voice(number),
            scratch: dir.join(SCRATCH),
            dir,
            machines: 0,
            guest: None,
            booted: None,
            speed: 1,
            another_kernel: false,
        }
    }

    /// Returns the lab, the outputs and the options that the session runs with.
    pub fn setup(&self) -> Setup<'a> {
        self.setup
    }

    /// Returns the number of the guest in its run, from 1 on.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Emits an event about the guest.
    pub fn voice(&self) -> &Voice<'a> {
        &self.voice
    }

    /// Returns the guest, and true if it has just been booted with an empty disk.
    pub fn guest(&mut self) -> Result<(&mut Guest, bool), SessionError> {
        let new = self.guest.is_none();
        if new {
            fs::create_dir_all(&self.dir).map_err(|e| self.io_error(self.dir.clone(), e))?;
            match fs::remove_file(&self.scratch) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io_error(self.scratch.clone(), e));
                }
                _ => self.setup.lab.scratch(&self.scratch)?,
            }
            self.boot(false)?;
        }
        Ok((self.running(), new))
    }

    /// Returns true when a guest is running.
    pub fn is_running(&self) -> bool {
        self.guest.is_some()
    }

    /// Returns the guest that [`Self::guest`] or [`Self::fresh`] has booted.
    ///
    /// # Panics
    /// Panics if no guest is running.
    pub fn running(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("a guest was booted")
    }

    /// Shuts the guest down and boots a new one for the restart, with the same disk and perhaps
    /// a different kernel. Checkpoint/restart counts as used in the new one.
    pub fn fresh(&mut self) -> Result<(), Abort> {
        if let Some(guest) = self.guest.take() {
            guest
                .shutdown()
                .map_err(|error| Abort::guest(Phase::After, error))?;
        }
        self.boot(true).map_err(Abort::session)?;
        self.running().mark_used();
        Ok(())
    }

    /// Returns true when the guest was booted for a restart with a different kernel.
    pub fn has_another_kernel(&self) -> bool {
        self.another_kernel
    }

    /// Ends a guest that was booted for a restart with a different kernel: the next run starts
    /// with the first one. Reports of the kernel until then are in the error.
    pub fn leave_another_kernel(&mut self) -> Result<(), Abort> {
        match self.another_kernel {
            true => self.close(),
            false => Ok(()),
        }
    }

    /// Kills the guest without a shutdown. The next guest starts with an empty disk.
    pub fn abandon(&mut self) {
        self.guest = None;
    }

    /// Returns the description of the first machine.
    pub fn booted(&self) -> Option<&Booted> {
        self.booted.as_ref()
    }

    /// Returns the path of the console log of the current machine.
    pub fn console(&self) -> PathBuf {
        self.machine_dir().join("console.log")
    }

    /// Returns the factor by which a workload takes longer than usual, by the guest's clock. In a
    /// recorded guest that clock counts instructions, at a slow rate.
    pub fn workload_slowness(&mut self) -> u32 {
        let usual = self.setup.lab.slowness();
        let guest = self.guest.as_mut();
        match guest.is_some_and(|guest| guest.machine().recording().is_some()) {
            true => usual * SLOWEST,
            false => usual,
        }
    }

    /// Returns the factor for time limits: the kernel's factor, times the last measured factor of
    /// the guest's CPU.
    pub fn patience(&self) -> u32 {
        self.setup.lab.slowness() * self.speed
    }

    /// Measures the guest's CPU again, when a limit has been reached. Returns true when it has
    /// become slower, so that the limit was too short.
    pub fn has_slowed(&mut self) -> bool {
        let before = self.speed;
        let Some(guest) = &mut self.guest else {
            return false;
        };
        if let Ok(time) = guest.calibrate() {
            self.speed = before.max(factor(time));
            guest.set_slowness(self.setup.lab.slowness() * self.speed);
        }
        self.speed > before
    }

    /// Emits the number of instructions that a recorded guest has executed at the start or
    /// the end of a step.
    pub fn count(&mut self, step: &str, complete: bool) {
        let guest = self.guest.as_mut();
        if let Some(instructions) = guest.and_then(|guest| guest.machine().instructions()) {
            self.voice.tell(Body::Counted {
                step: step.into(),
                complete,
                instructions,
            });
        }
    }

    /// Ends the session: looks for leaks, if the kernel can, and shuts the guest down. Reports of
    /// the kernel until then are in the error.
    pub fn close(&mut self) -> Result<(), Abort> {
        let Some(mut guest) = self.guest.take() else {
            return Ok(());
        };
        if self.setup.lab.finds_leaks() {
            leaks::scan(&mut guest, self.patience())?;
        }
        guest
            .shutdown()
            .map_err(|error| Abort::guest(Phase::After, error))
    }

    fn machine_dir(&self) -> PathBuf {
        self.dir.join(format!("machine-{}", self.machines))
    }

    fn io_error(&self, path: PathBuf, source: io::Error) -> SessionError {
        SessionError::Io { path, source }
    }

    fn boot(&mut self, to_restart: bool) -> Result<(), SessionError> {
        self.voice.tell(Body::MachineStarted);
        self.machines += 1;
        let dir = self.machine_dir();
        fs::create_dir_all(&dir).map_err(|e| self.io_error(dir.clone(), e))?;
        let begun = Instant::now();
        let lab = self.setup.lab;
        let machine = match to_restart {
            true => lab.boot_to_restart(&dir, &self.scratch)?,
            false => lab.boot(&dir, &self.scratch)?,
        };
        self.another_kernel = to_restart && lab.restarts_with_another_kernel();
        let description = machine.describe();
        if let Some(directory) = machine.recording() {
            let directory = self.setup.store.relative(directory);
            self.voice.tell(Body::Recorded { directory });
        }
        let limit = BOOT_LIMIT * self.setup.lab.slowness();
        // Report the file's final path, in the completed results.
        let store = self.setup.store;
        let console = store.finished().join(store.relative(&self.console()));
        let boot = |source| SessionError::Boot {
            console: console.clone(),
            source: Box::new(source),
        };
        let mut guest = Guest::connect(machine, limit).map_err(boot)?;
        let ready_ms = begun.elapsed().as_millis() as u64;
        self.speed = factor(guest.calibrate().map_err(boot)?);
        guest.set_slowness(self.patience());
        if let Some(name) = self.setup.break_switch {
            guest.set_break(name).map_err(boot)?;
        }
        guest.load(lab.load()).map_err(boot)?;
        let booted = Booted {
            machine: description,
            guest: guest.info().clone(),
            ready_ms,
        };
        self.voice.tell(Body::MachineReady {
            ready_ms: booted.ready_ms,
            kernel: booted.guest.kernel.clone(),
            slowness: self.speed,
        });
        self.booted.get_or_insert(booted);
        self.guest = Some(guest);
        Ok(())
    }
}
