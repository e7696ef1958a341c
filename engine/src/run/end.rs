// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The end of a run: its output, files and logs.

use crucible_protocol::{FileEntry, FileKind, RUN_DIR, Stopped, WORK_DIR};

use super::Runner;
use crate::{
    abort::{Abort, Phase},
    compare::RunOutput,
    guest::{Guest, GuestError},
    text,
};

impl Runner<'_, '_> {
    /// Returns the line of the nonce's file if it is complete.
    pub(crate) fn nonce(&mut self) -> Result<Option<String>, GuestError> {
        let Some(name) = &self.case.nonce else {
            return Ok(None);
        };
        let path = format!("{WORK_DIR}/{name}");
        match self.guest().read_file(&path) {
            Ok(bytes) => {
                let text = text::exact(&bytes);
                Ok(text.strip_suffix('\n').map(str::to_owned))
            }
            Err(GuestError::Failed(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits for the end of a run and collects its output and files.
    pub(crate) fn finish(
        &mut self,
        run: &str,
        phase: Phase,
        drawn: Option<String>,
    ) -> Result<RunOutput, Abort> {
        let fail = |e| Abort::guest(phase, e);
        let Stopped::Exited { root, workload, .. } = self.wait(run, phase)? else {
            let why = "the workload did not end within the time limit";
            return Err(self.stuck(run, phase, why));
        };
        let at_end = self.nonce().map_err(fail)?;
        let guest = self.session.running();
        guest.kill(run).map_err(fail)?;
        guest.settle().map_err(fail)?;
        let read = |guest: &mut Guest, name: &str| -> Result<String, GuestError> {
            let bytes = guest.read_file(&format!("{RUN_DIR}/{name}"))?;
            Ok(text::exact(&bytes))
        };
        let mut output = RunOutput {
            root,
            workload,
            stdout: read(guest, "stdout").map_err(fail)?,
            stderr: read(guest, "stderr").map_err(fail)?,
            files: guest.list(WORK_DIR, &[".crucible"]).map_err(fail)?,
            logs: Vec::new(),
            nonce: drawn.or(at_end),
        };
        self.hide_nonce_file(&mut output);
        self.take_logs(&mut output).map_err(fail)?;
        Ok(output)
    }

    /// Hides the content of the file that holds the nonce, because it differs between runs. A
    /// separate check covers the nonce.
    fn hide_nonce_file(&self, output: &mut RunOutput) {
        for file in &mut output.files {
            if Some(&file.path) == self.case.nonce.as_ref()
                && let FileKind::File { sha256, .. } = &mut file.kind
            {
                *sha256 = "<nonce>".into();
            }
        }
    }

    /// Moves the logs from the files to the list of logs, as text.
    fn take_logs(&mut self, output: &mut RunOutput) -> Result<(), GuestError> {
        let case = self.case;
        let (logs, files): (Vec<FileEntry>, _) = std::mem::take(&mut output.files)
            .into_iter()
            .partition(|file| case.is_log(&file.path));
        output.files = files;
        for file in logs {
            let bytes = self
                .guest()
                .read_file(&format!("{WORK_DIR}/{}", file.path))?;
            let text = text::exact(&bytes);
            output.logs.push((file.path, text));
        }
        Ok(())
    }
}
