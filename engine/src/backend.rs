// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two implementations of checkpoint and restart: crucible's kernel, and CRIU.

use std::time::Duration;

use crucible_protocol::{KEEP_DIR, ToolRun};

use crate::{
    criu,
    guest::{Guest, GuestError, SecondImage},
};

/// An implementation of checkpoint and restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// `checkpoint(2)` and `restart(2)`.
    #[default]
    Crucible,
    /// CRIU, in the same guest and under the same conditions.
    Criu,
}

impl Backend {
    /// Returns the name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crucible => "crucible",
            Self::Criu => "criu",
        }
    }
}

/// A tool that failed or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The step: `checkpoint` or `restart`.
    pub step: &'static str,
    /// Message of the tool.
    pub message: String,
    /// Lines of its log.
    pub log: String,
    /// True when the tool was killed at its time limit.
    pub timed_out: bool,
    /// True when the kernel reported unsupported state.
    pub unsupported: bool,
}

/// Returns the path of the image or of a log in the guest.
fn path(name: &str) -> String {
    format!("{KEEP_DIR}/{name}")
}

impl Backend {
    /// Checkpoints a frozen container. CRIU kills it afterwards.
    pub fn save(
        self,
        guest: &mut Guest,
        run: &str,
        root: i32,
        limit: Duration,
    ) -> Result<Result<ToolRun, Refusal>, GuestError> {
        let (tool, log) = match self {
            Self::Crucible => {
                let log = path("checkpoint.log");
                (guest.checkpoint(run, &path("image"), &log, limit)?, log)
            }
            Self::Criu => (criu::dump(guest, run, root, limit)?, criu::log("dump")),
        };
        let mut saved = self.judge("checkpoint", guest, tool, &log)?;
        if let (Self::Criu, Err(refusal)) = (self, &mut saved) {
            refusal.log = criu::annotate(&refusal.log, &criu::tasks(guest, run)?);
        }
        Ok(saved)
    }

    /// Checkpoints a restarted container once more while it is frozen, and compares the image with
    /// the one that it was restarted from. `None` for CRIU, whose images are not compared.
    pub fn second_image(
        self,
        guest: &mut Guest,
        run: &str,
        limit: Duration,
    ) -> Result<Option<Result<SecondImage, Refusal>>, GuestError> {
        if self == Self::Criu {
            return Ok(None);
        }
        let log = path("second-checkpoint.log");
        let (first, second) = (path("image"), path("second-image"));
        let second = guest.second_image(run, [&first, &second], &log, limit)?;
        let judged = self.judge("second checkpoint", guest, second.tool.clone(), &log)?;
        Ok(Some(judged.map(|_| second)))
    }

    /// Restarts a container, frozen.
    pub fn restore(
        self,
        guest: &mut Guest,
        run: &str,
        limit: Duration,
    ) -> Result<Result<(), Refusal>, GuestError> {
        match self {
            Self::Crucible => {
                let log = path("restart.log");
                match guest.restart(run, &path("image"), &log, limit)? {
                    Ok(_) => Ok(Ok(())),
                    Err(Some(tool)) => Ok(self.judge("restart", guest, tool, &log)?.map(|_| ())),
                    Err(None) => Err(GuestError::Confused("restart")),
                }
            }
            Self::Criu => {
                let tool = criu::restore(guest, run, limit)?;
                if let Err(refusal) = self.judge("restart", guest, tool, &criu::log("restore"))? {
                    guest.adopt(run, None)?;
                    guest.kill(run)?;
                    return Ok(Err(refusal));
                }
                let root = criu::restored(guest)?;
                guest.adopt(run, Some(root))?;
                Ok(Ok(()))
            }
        }
    }

    /// Returns both images: their names on the host, and their paths in the guest.
    pub fn images() -> [(&'static str, String); 2] {
        ["image", "second-image"].map(|name| (name, path(name)))
    }

    /// Returns the files to keep: names on the host, and paths in the guest.
    pub fn files(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Crucible => vec![
                ("image", path("image")),
                ("checkpoint.log", path("checkpoint.log")),
                ("restart.log", path("restart.log")),
            ],
            Self::Criu => vec![
                ("criu-dump.log", criu::log("dump")),
                ("criu-restore.log", criu::log("restore")),
            ],
        }
    }

    /// Returns the version of the tool, if it has one of its own.
    pub fn version(self, guest: &mut Guest) -> Result<Option<String>, GuestError> {
        match self {
            Self::Crucible => Ok(None),
            Self::Criu => criu::version(guest).map(Some),
        }
    }

    fn judge(
        self,
        step: &'static str,
        guest: &mut Guest,
        tool: ToolRun,
        log: &str,
    ) -> Result<Result<ToolRun, Refusal>, GuestError> {
        if tool.success() {
            return Ok(Ok(tool));
        }
        let log = match guest.read_file(log) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // A tool that failed early has written no log.
            Err(GuestError::Failed(_)) => String::new(),
            Err(error) => return Err(error),
        };
        let ended = tool
            .ended
            .map_or("killed at its time limit".to_owned(), |e| e.to_string());
        let (stderr, log) = match self {
            Self::Crucible => (format!("{}{}", tool.stdout, tool.stderr), log),
            // Its only output is the log.
            Self::Criu => (criu::first_error(&log), criu::words(&log)),
        };
        Ok(Err(Refusal {
            step,
            unsupported: self == Self::Crucible && stderr.contains("(EOPNOTSUPP"),
            message: format!("{} ({ended})", stderr.trim()),
            log,
            timed_out: tool.ended.is_none(),
        }))
    }
}
