// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The links of a chain: a run is checkpointed, killed and restarted several times.

use crucible_protocol::{EventKind, Freeze};

use super::{Frozen, Link, Restarted, Runner, Seen};
use crate::{
    abort::{Abort, Phase},
    blame::Condition,
    compare::RunOutput,
    event::EventSpec,
    normalise::Uses,
    trial::judge,
};

impl Runner<'_, '_> {
    /// Checkpoints, kills and restarts a frozen run, and lets it end.
    pub(super) fn links(
        &mut self,
        run: &str,
        restarted: &mut Restarted,
    ) -> Result<RunOutput, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let seen = self.around(run, restarted.place);
        let seen = seen.map_err(|stop| self.at_link(1, stop))?;
        (restarted.after, restarted.second) = (seen.tasks, seen.second);
        let mut nonce = restarted.before.nonce.clone();
        let mut is_frozen = true;
        let mut link = 1;
        while is_frozen && link < self.links {
            let checks = judge::last_link(self.backend, restarted, &mut Uses::new());
            if checks.iter().any(|check| !check.ok) {
                break;
            }
            let next = self.next_link(run, restarted);
            is_frozen = next.map_err(|stop| self.at_link(link + 1, stop))?;
            if let (true, Some(last)) = (is_frozen, restarted.later.last()) {
                nonce.clone_from(&last.before.nonce);
                link += 1;
            }
        }
        let end = self.step("finish", |r| {
            if is_frozen {
                r.guest().thaw(run).map_err(after)?;
            }
            r.finish(run, Phase::After, nonce)
        });
        end.map_err(|stop| self.at_link(link, stop))
    }

    /// Lets a frozen run continue to its next event, and checkpoints, kills and restarts it there.
    /// Returns false if it ends before.
    fn next_link(&mut self, run: &str, restarted: &mut Restarted) -> Result<bool, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        let Some(freeze) = self.step("to the event", |r| r.next_event(run))? else {
            return Ok(false);
        };
        let nonce = self.nonce().map_err(after)?;
        let tasks = self.guest().observe(run).map_err(after)?;
        restarted.later.push(Link {
            before: Frozen {
                freeze,
                tasks,
                nonce,
            },
            seen: Seen::default(),
        });
        let seen = self.around(run, restarted.place)?;
        if let Some(link) = restarted.later.last_mut() {
            link.seen = seen;
        }
        Ok(true)
    }

    /// Adds to the reason of a hang the link of the chain at which it is. Other reasons are the
    /// same for each link, since a bisection recognises a failure by its reason.
    pub(super) fn at_link(&self, link: u32, mut stop: Abort) -> Abort {
        let is_hang = matches!(stop.condition, Condition::Hang | Condition::EarlyHang);
        if self.links > 1 && is_hang {
            let place = format!("link {link} of {}: ", self.links);
            stop.why.insert_str(0, &place);
        }
        stop
    }

    /// Lets a frozen run continue to its next event of any kind. Returns `None` if it ends before.
    pub(super) fn next_event(&mut self, run: &str) -> Result<Option<Freeze>, Abort> {
        let next = EventSpec::next(EventKind::All);
        self.go_on(run, &next)
    }

    /// Lets a frozen run continue to this event. Returns `None` if it ends before.
    pub(crate) fn go_on(&mut self, run: &str, at: &EventSpec) -> Result<Option<Freeze>, Abort> {
        let after = |e| Abort::guest(Phase::After, e);
        self.guest().arm(run, at.trigger()).map_err(after)?;
        self.guest().thaw(run).map_err(after)?;
        Ok(self.frozen_or_ended(run, at, Phase::After)?.ok())
    }
}
