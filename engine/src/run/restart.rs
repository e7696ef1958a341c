// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One checkpoint, kill and restart of a frozen run, and what is seen of the restarted tree.

use std::path::Path;

use crucible_protocol::{Ended, Stopped};

use super::{RestartIn, Runner, Second, Seen};
use crate::{
    abort::{Abort, Phase},
    backend::Backend,
    eye::Eye,
};

impl Runner<'_, '_> {
    /// Checkpoints, kills and restarts the frozen tree of a run, and observes the restarted tree,
    /// which is still frozen.
    pub(crate) fn around(&mut self, run: &str, place: RestartIn) -> Result<Seen, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let (backend, limit) = (self.backend, self.limit());
        let root = self.root;
        let saved = self
            .step("checkpoint", |r| backend.save(r.guest(), run, root, limit))
            .map_err(after)?;
        if let Err(refusal) = saved {
            return Err(self.after_refusal(run, Abort::refused(refusal, self.supported)));
        }
        self.step("kill", |r| r.guest().kill(run)).map_err(after)?;
        if place == RestartIn::Fresh {
            self.step("fresh machine", |r| r.session.fresh())?;
        }
        let restored = self
            .step("restart", |r| backend.restore(r.guest(), run, limit))
            .map_err(after)?;
        match restored {
            Ok(()) => self.look(run),
            Err(refusal) => Err(Abort::refused(refusal, self.supported)),
        }
    }

    /// Observes a restarted tree, which is still frozen.
    fn look(&mut self, run: &str) -> Result<Seen, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let mut seen = Seen::default();
        let without = self.session.setup().without;
        if !without.contains(&Eye::Facts) {
            seen.tasks = Some(self.guest().observe(run).map_err(after)?);
        }
        // The restarting kernel would write the second image, so it shows nothing about the
        // checkpointing one.
        let same_kernel = !self.session.has_another_kernel();
        if same_kernel && !without.contains(&Eye::SecondImage) {
            seen.second = self.step("second image", |r| r.second_image(run))?;
        }
        Ok(seen)
    }

    /// Checkpoints a restarted tree once more and compares the images. Keeps both if they differ.
    fn second_image(&mut self, run: &str) -> Result<Option<Second>, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let (backend, limit) = (self.backend, self.limit());
        let second = match backend
            .second_image(self.guest(), run, limit)
            .map_err(after)?
        {
            None => return Ok(None),
            Some(Ok(second)) => second,
            Some(Err(refusal)) => {
                let stop = Abort::second_refused(refusal);
                if stop.guest_usable {
                    self.guest().kill(run).map_err(after)?;
                }
                return Err(stop);
            }
        };
        let found = second
            .comparison
            .ok_or_else(|| second.unreadable.unwrap_or_else(|| "no image".into()));
        let kept = match &found {
            Ok(comparison) if comparison.is_equal() => Vec::new(),
            _ => self.keep_images()?,
        };
        Ok(Some(Second { found, kept }))
    }

    /// Copies both images to the results directory. Returns their paths there.
    fn keep_images(&mut self) -> Result<Vec<String>, Abort> {
        let store = self.session.setup().store;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let at = self.case.at.to_string().replace(|c| !plain(c), "-");
        let dir = Path::new("images")
            .join(self.stash)
            .join(&self.case.name)
            .join(at);
        let mut kept = Vec::new();
        for (name, path) in Backend::images() {
            let content = self.guest().read_file(&path);
            let content = content.map_err(|e| Abort::guest(Phase::After, e))?;
            let path = dir.join(name);
            let written = store.write(&path, &content);
            written.map_err(|e| Abort::io("cannot write the results", &e))?;
            kept.push(path.to_string_lossy().into_owned());
        }
        Ok(kept)
    }

    /// Thaws the tree after a refused checkpoint and checks that it completes its work: the
    /// refusal must leave the tree unchanged.
    fn after_refusal(&mut self, run: &str, mut refused: Abort) -> Abort {
        if !refused.guest_usable {
            return refused;
        }
        let limit = self.limit();
        let status = self.case.status;
        let ended = self.guest().thaw(run).and_then(|()| {
            let stopped = self.guest().wait(run, limit)?;
            self.guest().kill(run)?;
            Ok(stopped)
        });
        refused.lines.push(match ended {
            Ok(Stopped::Exited {
                workload: Some(Ended::Exited { code }),
                ..
            }) if code == status => "the tree was thawed and completed its work".into(),
            Ok(stopped) => format!("the tree was thawed, then: {stopped:?}"),
            Err(error) => {
                refused.guest_usable = false;
                format!("the tree could not be thawed: {error}")
            }
        });
        refused
    }
}
