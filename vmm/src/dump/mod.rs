// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory of a guest that has crashed, as an ELF core file for gdb.
//!
//! A machine that is to leave a dump does not let its process exit when the guest has ended. A
//! thread determines the kind of end, writes the dump if it was not an orderly shutdown, and
//! releases the process. A watcher of the process therefore notices the end of the guest a little
//! later.
//!
//! The pages of a file that are all zero take no space on the host's disk. Other pages are not
//! written if that would leave the disk with less than a reserve: the run that the guest belongs to
//! must not fail for want of space, and a missing dump changes no verdict.

mod elf;
mod sparse;
mod tables;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

pub use self::elf::{Status, begin};
pub use self::sparse::Sparse;
pub use self::tables::Cpu;
use crate::console::Ending;
use crate::{Error, Result};

/// The path of a dump, or the reason why there is none.
pub type MemoryDump = Result<PathBuf, String>;

/// The end of a guest, as its process reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// By a shutdown.
    Shutdown,
    /// By a reset; the console shows whether the guest announced it.
    Reset,
    /// By a panic or a triple fault.
    Crash,
    /// The machine failed; no dump is needed.
    Failed,
}

/// The part of a backend that deals with the end of the guest. It is used by a thread of its own.
pub trait Dumper: Send + Sync {
    /// Waits until the guest has ended. Returns `None` if the process has exited first.
    fn wait_stopped(&self) -> Option<Stopped>;

    /// Writes the memory and the CPUs' registers of the guest, which has ended. Returns the address
    /// of each CPU's page tables.
    fn write(&self, to: &mut Sparse) -> Result<Vec<Cpu>>;

    /// Lets the process exit.
    fn release(&self);
}

/// The thread that writes the dump.
pub struct DumpThread(JoinHandle<Option<MemoryDump>>);

impl DumpThread {
    /// Starts the thread. The dump goes to the file `path`, if the guest does not end in order.
    pub fn start(dumper: Arc<dyn Dumper>, console: Ending, path: PathBuf) -> Result<Self> {
        thread::Builder::new()
            .name("dump".into())
            .spawn(move || {
                let stopped = dumper.wait_stopped()?;
                let crashed = match stopped {
                    Stopped::Crash => true,
                    Stopped::Reset => !console.is_in_order(),
                    Stopped::Shutdown | Stopped::Failed => false,
                };
                let dump = crashed.then(|| write(dumper.as_ref(), &path));
                dumper.release();
                dump
            })
            .map(Self)
            .map_err(|source| Error::Io {
                what: "start the thread for a dump of the guest's memory",
                source,
            })
    }

    /// Returns the dump, once the process has ended.
    pub fn join(self) -> Option<MemoryDump> {
        self.0
            .join()
            .unwrap_or_else(|_| Some(Err("its thread panicked".into())))
    }
}

/// Writes the dump; on an error, no file is left.
fn write(dumper: &dyn Dumper, path: &Path) -> MemoryDump {
    match try_write(dumper, path) {
        Ok(()) => Ok(path.to_owned()),
        Err(error) => {
            // Remove an incomplete dump. A failure to remove it is ignored: the run's directory
            // is gone, or keeps the file.
            let _ = fs::remove_file(path);
            Err(chain(&error))
        }
    }
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn try_write(dumper: &dyn Dumper, path: &Path) -> Result<()> {
    let error = |source| Error::File {
        path: path.to_owned(),
        source,
    };
    // The memory of the guest's tasks is readable by this user only.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(error)?;
    let mut file = Sparse::new(file);
    let cpus = dumper.write(&mut file)?;
    elf::add_virtual(&mut file, &cpus).map_err(error)
}

/// Returns the error for a file that cannot be written.
pub fn failed(source: std::io::Error) -> Error {
    Error::Io {
        what: "write the dump of the guest's memory",
        source,
    }
}
