// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The two ways to save and bring back a container: crucible's kernel, and CRIU.

use std::{collections::BTreeMap, time::Duration};

use crucible_protocol::{KEEP_DIR, ToolRun};

use crate::guest::{Guest, GuestError};

/// Who checkpoints and restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Engine {
    /// `checkpoint(2)` and `restart(2)`.
    #[default]
    Crucible,
    /// CRIU, in the same guest and under the same conditions.
    Criu,
}

/// A tool that said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which step.
    pub step: &'static str,
    /// Its message, first line first.
    pub message: String,
    /// Its log.
    pub log: String,
    /// It was ended at its limit.
    pub timed_out: bool,
}

/// Where the image and the logs lie in the guest.
fn path(name: &str) -> String {
    format!("{KEEP_DIR}/{name}")
}

const CRIU_DIR: &str = "/scratch/keep/criu";

impl Engine {
    /// Saves a frozen container; it may be gone afterwards.
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
            Self::Criu => {
                shell(
                    guest,
                    &format!("rm -rf {CRIU_DIR} && mkdir -p {CRIU_DIR}"),
                    limit,
                )?;
                let command = format!(
                    "exec criu dump --tree {root} --images-dir {CRIU_DIR} --log-file dump.log -v2 \
                     --freeze-cgroup /sys/fs/cgroup/crucible/{run} --manage-cgroups=ignore \
                     --external 'mnt[]'"
                );
                (
                    shell(guest, &command, limit)?,
                    format!("{CRIU_DIR}/dump.log"),
                )
            }
        };
        judge("checkpoint", guest, tool, &log)
    }

    /// Brings a container back. True: it is still frozen.
    pub fn restore(
        self,
        guest: &mut Guest,
        run: &str,
        limit: Duration,
    ) -> Result<Result<bool, Refusal>, GuestError> {
        match self {
            Self::Crucible => {
                let log = path("restart.log");
                match guest.restart(run, &path("image"), &log, limit)? {
                    Ok(_) => Ok(Ok(true)),
                    Err(Some(tool)) => Ok(judge("restart", guest, tool, &log)?.map(|_| true)),
                    Err(None) => Err(GuestError::Confused("restart")),
                }
            }
            Self::Criu => {
                guest.cgroup(run)?;
                let command = format!(
                    "echo $$ > /sys/fs/cgroup/crucible/{run}/cgroup.procs; \
                     exec criu restore --images-dir {CRIU_DIR} --log-file restore.log -v2 \
                     --restore-detached --pidfile {CRIU_DIR}/pid --manage-cgroups=ignore \
                     --external 'mnt[]'"
                );
                let tool = shell(guest, &command, limit)?;
                let log = format!("{CRIU_DIR}/restore.log");
                if let Err(refusal) = judge("restart", guest, tool, &log)? {
                    return Ok(Err(refusal));
                }
                let pid = guest.read_file(&format!("{CRIU_DIR}/pid"))?;
                let pid = String::from_utf8_lossy(&pid).trim().parse();
                guest.adopt(
                    run,
                    pid.map_err(|_| GuestError::Confused("criu's pid file"))?,
                )?;
                Ok(Ok(false))
            }
        }
    }

    /// The files that are worth keeping: names for the host, paths in the guest.
    pub fn files(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Crucible => vec![
                ("image", path("image")),
                ("checkpoint.log", path("checkpoint.log")),
                ("restart.log", path("restart.log")),
            ],
            Self::Criu => vec![
                ("criu-dump.log", format!("{CRIU_DIR}/dump.log")),
                ("criu-restore.log", format!("{CRIU_DIR}/restore.log")),
            ],
        }
    }

    /// The tool's own version, where it has one.
    pub fn version(self, guest: &mut Guest) -> Result<Option<String>, GuestError> {
        if self == Self::Crucible {
            return Ok(None);
        }
        let run = shell(guest, "exec criu --version", Duration::from_secs(60))?;
        Ok(Some(run.stdout.trim().replace('\n', ", ")))
    }
}

fn shell(guest: &mut Guest, command: &str, limit: Duration) -> Result<ToolRun, GuestError> {
    let argv = ["/bin/sh", "-c", command].map(String::from);
    guest.exec(&argv, &BTreeMap::new(), "/", limit)
}

fn judge(
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
        // A tool that failed early wrote none.
        Err(GuestError::Failed(_)) => String::new(),
        Err(error) => return Err(error),
    };
    let ended = tool
        .ended
        .map_or("it was ended at its limit".to_owned(), |e| e.to_string());
    let said = format!("{}{}", tool.stdout, tool.stderr);
    Ok(Err(Refusal {
        step,
        message: format!("{} ({ended})", said.trim()),
        log,
        timed_out: tool.ended.is_none(),
    }))
}
