// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What looks at a mutant that no run of a case has shown: the kernel's books, and images that a
//! restart must refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use crucible_mutants::{Half, Kind, Mutant, SWITCH};
use crucible_protocol::KEEP_DIR;

use super::{Control, Ended, Kill, MutateExperiment};
use crate::abort::{Abort, Phase};
use crate::blame::{Blame, Condition};
use crate::books::Books;
use crate::guest::Guest;
use crate::session::Session;

/// Number of runs between two readings of the books.
const RUNS: u32 = 4;

/// Number of times that a loss must show again.
const AGAIN: u32 = 2;

/// Time limit of all forged images.
const FORGING: Duration = Duration::from_secs(150);

/// Time limit of a compiler.
const BUILD: Duration = Duration::from_secs(60);

/// The name of a count in a line that says what was lost.
fn of(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}

/// What became of each forged image, by its change; or why there is nothing to say.
type Told = Result<BTreeMap<String, String>, String>;

impl MutateExperiment {
    /// Returns in how many cases the books are read before and after: what is left out or taken the
    /// other way may lose something in each way that a line is run.
    pub(super) fn leaky_cases(kind: Kind) -> usize {
        match kind {
            Kind::LeftOut | Kind::Negated => 2,
            Kind::Skewed => 1,
        }
    }

    /// Runs a case several times with a mutant. It is killed by what each run adds to the kernel's
    /// books and runs without it do not.
    pub(super) fn lose(
        &self,
        session: &mut Session<'_>,
        index: usize,
        control: &Control,
        number: u32,
    ) -> Result<Option<Kill>, Abort> {
        let usual = self.quiet().get(&index).cloned();
        let usual = match usual {
            Some(usual) => usual,
            None => {
                let Some(usual) = self.growth(session, index, control, 0)? else {
                    return Ok(None);
                };
                self.quiet().insert(index, usual.clone());
                usual
            }
        };
        let Some(growth) = self.growth(session, index, control, number)? else {
            return Ok(None);
        };
        let mut lost = growth.lost(&usual, RUNS);
        // What a new guest allocates once looks the same, and some caches vary: all readings with the
        // mutant must lose what no reading without it does.
        for _ in 0..AGAIN {
            if lost.is_empty() {
                return Ok(None);
            }
            let Some(usual) = self.growth(session, index, control, 0)? else {
                return Ok(None);
            };
            let Some(again) = self.growth(session, index, control, number)? else {
                return Ok(None);
            };
            let usual = [growth.lost(&usual, RUNS), again.lost(&usual, RUNS)];
            let again = |name: &str| {
                usual
                    .iter()
                    .all(|lines| lines.iter().any(|line| of(line) == name))
            };
            lost.retain(|line| again(of(line)));
        }
        Ok((!lost.is_empty()).then(|| Kill {
            case: self.case_name(index),
            eyes: vec!["kernel's books".to_owned()],
            condition: Condition::Leak,
            why: lost.join(", "),
        }))
    }

    /// Returns what several runs add to the books; `None` if a run does not pass.
    fn growth(
        &self,
        session: &mut Session<'_>,
        index: usize,
        control: &Control,
        number: u32,
    ) -> Result<Option<Books>, Abort> {
        self.ready(session)?;
        let patience = session.patience();
        let guest = session.number();
        let before = Books::read(session.running(), patience)?;
        for _ in 0..RUNS {
            if !matches!(
                self.restarted(session, index, control, number)?,
                Ended::Passed
            ) {
                if session.is_running() {
                    session.abandon();
                }
                return Ok(None);
            }
        }
        if !session.is_running() || session.number() != guest {
            return Ok(None);
        }
        let after = Books::read(session.running(), patience)?;
        Ok(Some(after.growth(&before)))
    }

    /// Restarts forged images with a mutant of the restoring half. It is killed by an image that is
    /// refused in another way than without it, or not at all.
    pub(super) fn forge(
        &self,
        session: &mut Session<'_>,
        mutant: &Mutant,
    ) -> Result<Option<Kill>, Abort> {
        if mutant.half == Half::Saving || self.forger.is_empty() {
            return Ok(None);
        }
        let known = self.forged().clone();
        let good = match known {
            Some(good) => good,
            None => {
                let Ok(good) = self.told(session, 0)? else {
                    return Ok(None);
                };
                self.forged().insert(good).clone()
            }
        };
        let first = self.told(session, mutant.number)?;
        if first.as_ref() == Ok(&good) {
            return Ok(None);
        }
        // Addresses differ from run to run, and so may what a change does.
        let Ok(usual) = self.told(session, 0)? else {
            session.abandon();
            return Ok(None);
        };
        let second = self.told(session, mutant.number)?;
        let why = match (first, second) {
            (Ok(first), Ok(second)) => good.iter().find_map(|(change, good)| {
                let with = first.get(change);
                let differs = with.is_some_and(|with| with != good);
                let steady = usual.get(change) == Some(good) && second.get(change) == with;
                (differs && steady)
                    .then(|| format!("{change}: {good}, then {}", with.map_or("", |with| with)))
            }),
            (Err(why), Err(_)) => Some(why),
            _ => None,
        };
        Ok(why.map(|why| Kill {
            case: "forged images".to_owned(),
            eyes: vec!["forged images".to_owned()],
            condition: Condition::Diverged,
            why: why.lines().next().unwrap_or_default().to_owned(),
        }))
    }

    /// Restarts all forged images with a mutant, or without one if `number` is 0. Abandons the
    /// guest if it cannot be used further.
    fn told(&self, session: &mut Session<'_>, number: u32) -> Result<Told, Abort> {
        self.ready(session)?;
        let patience = session.patience();
        let told = self.forge_in(session.running(), patience, number);
        match told {
            Ok(Ok(told)) => Ok(Ok(told)),
            Ok(Err(why)) => {
                // Tasks may be left.
                session.abandon();
                Ok(Err(why))
            }
            Err(stop) => {
                session.abandon();
                match stop.condition.blame() {
                    Some(Blame::Host) => Err(stop),
                    _ => Ok(Err(stop.why)),
                }
            }
        }
    }

    fn forge_in(&self, guest: &mut Guest, patience: u32, number: u32) -> Result<Told, Abort> {
        let after = |error| Abort::guest(Phase::After, error);
        let kept = format!("{KEEP_DIR}/forger");
        guest.prepare(None).map_err(after)?;
        guest
            .write_file(&format!("{kept}.c"), 0o644, &self.forger)
            .map_err(after)?;
        let command = format!(
            "test -x {kept} || gcc -O2 -pthread -o {kept} {kept}.c || exit 3
             cp {kept} many && chmod 777 . && echo {number} > {SWITCH} || exit 3
             torture --each --at 'syscall 110 1' -- ./many
             status=$?
             echo 0 > {SWITCH}
             exit $status"
        );
        let argv = ["/bin/sh", "-c", &command].map(String::from);
        let run = guest
            .exec(
                &argv,
                &BTreeMap::new(),
                "/work",
                (BUILD + FORGING) * patience,
            )
            .map_err(after)?;
        guest.settle().map_err(after)?;
        if run.success() {
            let told = serde_json::from_str(run.stdout.trim());
            return Ok(told.map_err(|error| format!("torture printed no report: {error}")));
        }
        let said = run.stderr.lines().next().unwrap_or("torture ended");
        Ok(Err(said.to_owned()))
    }
}
