// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that lasts for many runs, and is booted anew when one was its last.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crucible_vmm::{Description, Machine};
use thiserror::Error;

use crate::{
    guest::{Guest, GuestError, GuestInfo},
    progress::{Event, Sink},
    results::Store,
};

/// How long a guest may take to boot.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Where machines come from: the face knows kernels, disks and emulators.
pub trait Lab {
    /// Starts a machine whose third disk is `scratch` and whose logs go to `dir`.
    fn boot(&self, dir: &Path, scratch: &Path) -> Result<Box<dyn Machine>, LabError>;

    /// Makes an empty scratch disk.
    fn scratch(&self, path: &Path) -> Result<(), LabError>;

    /// How much longer than usual everything may take in this guest.
    fn slowness(&self) -> u32;
}

/// The host could not make what a machine needs.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct LabError {
    /// All that is known about it.
    pub message: String,
}

/// Why there is no guest.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The host's part.
    #[error("cannot start a machine: {0}")]
    Lab(#[from] LabError),
    /// The guest's part.
    #[error("the guest did not boot; its console is in {}", console.display())]
    Boot {
        /// Where its console went.
        console: PathBuf,
        /// What is known about it.
        #[source]
        source: GuestError,
    },
    /// The files of the results.
    #[error("cannot write {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What is known of the machine for the record.
#[derive(Clone, Debug)]
pub struct Booted {
    /// The machine.
    pub machine: Description,
    /// The guest.
    pub guest: GuestInfo,
    /// Milliseconds from its start to the agent's first answer.
    pub ready_ms: u64,
}

/// A guest and what it takes to get another one.
pub struct Session<'a> {
    lab: &'a dyn Lab,
    sink: Sink<'a>,
    store: &'a Store,
    dir: PathBuf,
    scratch: PathBuf,
    machines: u32,
    guest: Option<Guest>,
    booted: Option<Booted>,
    break_switch: Option<String>,
}

impl<'a> Session<'a> {
    /// A session that keeps its disk and its logs in `store`. It boots when it is needed.
    pub fn new(
        lab: &'a dyn Lab,
        store: &'a Store,
        break_switch: Option<String>,
        sink: Sink<'a>,
    ) -> Self {
        Self::in_dir(lab, store, "", break_switch, sink)
    }

    /// The same, one of several: its disk and its logs are in a directory of `store`.
    pub fn in_dir(
        lab: &'a dyn Lab,
        store: &'a Store,
        name: &str,
        break_switch: Option<String>,
        sink: Sink<'a>,
    ) -> Self {
        let dir = store.dir().join(name);
        Self {
            lab,
            sink,
            store,
            scratch: dir.join("scratch.ext4"),
            dir,
            machines: 0,
            guest: None,
            booted: None,
            break_switch,
        }
    }

    /// The guest, booted if there is none. True: it is a new one, with an empty disk.
    pub fn guest(&mut self) -> Result<(&mut Guest, bool), SessionError> {
        let new = self.guest.is_none();
        if new {
            fs::create_dir_all(&self.dir).map_err(|e| self.io_error(self.dir.clone(), e))?;
            match fs::remove_file(&self.scratch) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io_error(self.scratch.clone(), e));
                }
                _ => self.lab.scratch(&self.scratch)?,
            }
            self.boot()?;
        }
        Ok((self.running(), new))
    }

    /// Whether there is a guest.
    pub fn is_running(&self) -> bool {
        self.guest.is_some()
    }

    /// The guest that [`Self::guest`] or [`Self::fresh`] has booted.
    ///
    /// # Panics
    /// If there is none.
    pub fn running(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("a guest was booted")
    }

    /// Shuts the guest down and boots another one with the same disk.
    pub fn fresh(&mut self) -> Result<(), GuestError> {
        if let Some(guest) = self.guest.take() {
            guest.shutdown()?;
        }
        self.boot().map_err(|error| match error {
            SessionError::Boot { source, .. } => source,
            other => GuestError::Failed(other.to_string()),
        })
    }

    /// Gives the guest up, whatever it is doing. The next one starts with an empty disk.
    pub fn abandon(&mut self) {
        self.guest = None;
    }

    /// What was booted last.
    pub fn booted(&self) -> Option<&Booted> {
        self.booted.as_ref()
    }

    /// Where the console of the machine in use goes.
    pub fn console(&self) -> PathBuf {
        self.machine_dir().join("console.log")
    }

    /// How much longer everything may take.
    pub fn slowness(&self) -> u32 {
        self.lab.slowness()
    }

    /// Tells the listener.
    pub fn tell(&self, event: &Event) {
        (self.sink)(event);
    }

    /// Ends the guest in order.
    pub fn close(mut self) -> Result<(), GuestError> {
        match self.guest.take() {
            Some(guest) => guest.shutdown(),
            None => Ok(()),
        }
    }

    fn machine_dir(&self) -> PathBuf {
        self.dir.join(format!("machine-{}", self.machines))
    }

    fn io_error(&self, path: PathBuf, source: io::Error) -> SessionError {
        SessionError::Io { path, source }
    }

    fn boot(&mut self) -> Result<(), SessionError> {
        self.tell(&Event::Booting);
        self.machines += 1;
        let dir = self.machine_dir();
        fs::create_dir_all(&dir).map_err(|e| self.io_error(dir.clone(), e))?;
        let begun = Instant::now();
        let machine = self.lab.boot(&dir, &self.scratch)?;
        let description = machine.describe();
        let limit = BOOT_LIMIT * self.lab.slowness();
        // Whoever reads this finds it there: the results are finished by then.
        let console = self
            .store
            .finished()
            .join(self.store.relative(&self.console()));
        let boot = |source| SessionError::Boot {
            console: console.clone(),
            source,
        };
        let mut guest = Guest::connect(machine, limit).map_err(boot)?;
        if let Some(name) = &self.break_switch {
            guest.set_break(name).map_err(boot)?;
        }
        let booted = Booted {
            machine: description,
            guest: guest.info().clone(),
            ready_ms: begun.elapsed().as_millis() as u64,
        };
        self.tell(&Event::Booted {
            ready_ms: booted.ready_ms,
            kernel: booted.guest.kernel.clone(),
        });
        self.booted = Some(booted);
        self.guest = Some(guest);
        Ok(())
    }
}
