// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Further checks of a mutant that no run of a case has killed: the kernel's books, images that a
//! restart must refuse, and trees that a checkpoint must refuse.

use std::collections::BTreeMap;
use std::time::Duration;

use crucible_mutants::{Half, Kind, Mutant, SWITCH};
use crucible_protocol::KEEP_DIR;

use super::{Control, Ended, Kill, MutateExperiment, runner};
use crate::abort::{Abort, Phase};
use crate::blame::{Blame, Condition};
use crate::books::Books;
use crate::eye::Eye;
use crate::guest::Guest;
use crate::run::RestartIn;
use crate::scenario::{Case, Scenario};
use crate::session::Session;

/// Number of runs between two readings of the books.
const RUNS: u32 = 4;

/// Number of times that a loss must repeat.
const AGAIN: u32 = 2;

/// Minimum growth of a count that is a loss, in objects: the counts of caches vary by a few.
const REFUSALS: u32 = 16;

/// Time limit for all forged images together.
const FORGING: Duration = Duration::from_secs(150);

/// Time limit of a compiler.
const BUILD: Duration = Duration::from_secs(60);

/// Returns the name of the count in a line about a loss.
fn of(line: &str) -> &str {
    line.split(':').next().unwrap_or_default()
}

/// The results of forged images.
#[derive(Clone)]
pub(super) struct ForgedResults {
    /// The outcome of each image, by its change.
    outcomes: BTreeMap<String, String>,
    /// The growth of the kernel's books by all images together.
    growth: Books,
}

impl ForgedResults {
    /// Returns the growth of a count that is a loss, in objects: one for each tenth image.
    fn losing(&self) -> u32 {
        (self.outcomes.len() as u32 / 10).max(REFUSALS)
    }
}

/// Keeps only the losses that are in all other lists, too.
fn retain_common(lost: &mut Vec<String>, others: &[Vec<String>]) {
    let in_all = |name: &str| {
        let mut others = others.iter();
        others.all(|lines| lines.iter().any(|line| of(line) == name))
    };
    lost.retain(|line| in_all(of(line)));
}

/// Returns the types of records that a source reads, separated by commas.
fn records(file: &str) -> &'static str {
    let name = file.rsplit('/').next().unwrap_or(file);
    if file.starts_with("arch/") {
        return "Regs,Debugregs,Xstate";
    }
    match name.strip_suffix(".c").unwrap_or(name) {
        "cred" => "Cred",
        "fs" => "Fs",
        "files" | "procfs" => "File",
        "fdtable" => "Files,Rlimits",
        "inode" | "linked" => "Inode,Data",
        "pipe" => "Pipe,PipeBuf",
        "owner" => "Pipe,Inode",
        "mm" => "Mm",
        "vma" => "Vma",
        "pages" => "Pages,Same",
        "signal" => "Signal,Siginfo,Sighand",
        "timers" => "Timers,Task",
        "posix_timers" => "PosixTimer",
        "task" | "sched" | "exec" | "vfork" | "stop" => "Task",
        "ptrace" => "Ptrace",
        "anon" => "Eventfd,Signalfd",
        "timerfd" => "Timerfd",
        "epoll" => "Epoll",
        "tty" | "tty_files" => "Tty",
        "seccomp" => "Seccomp",
        "socket" | "socket_end" | "socket_option" | "socket_name" => "Sockets",
        "message" => "Message",
        "inotify" => "Inotify,Watch,InotifyEvent",
        "relink" => "Tree",
        "image" | "section" | "restart" | "ns" => "Header,Schema,Trailer,Tree",
        _ => "",
    }
}

impl MutateExperiment {
    /// Returns the number of cases in which the books are read before and after: code that is left
    /// out or negated may lose an object on each path through a line.
    pub(super) fn leaky_cases(kind: Kind) -> usize {
        match kind {
            Kind::LeftOut | Kind::Negated => 2,
            Kind::Skewed => 1,
        }
    }

    /// Runs a case several times with a mutant. It is killed if each run adds to the kernel's
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
        // One-time allocations of a new guest look like losses, too, and some caches vary: a loss
        // counts if all readings with the mutant have it and none without.
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
            retain_common(&mut lost, &usual);
        }
        Ok((!lost.is_empty()).then(|| Kill {
            case: self.case_name(index),
            eyes: vec!["kernel's books".to_owned()],
            condition: Condition::Leak,
            why: lost.join(", "),
        }))
    }

    /// Returns the growth of the books by several runs; `None` if a run does not pass.
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

    /// Restarts forged images with a mutant of the restoring half. It is killed by an image that
    /// is refused with a different error than without it, or not at all, or if refusals add to the
    /// kernel's books. The second list of images is about the records that the mutant's source
    /// reads.
    pub(super) fn forge(
        &self,
        session: &mut Session<'_>,
        mutant: &Mutant,
    ) -> Result<Option<Kill>, Abort> {
        if mutant.half == Half::Saving || self.forger.is_empty() {
            return Ok(None);
        }
        if let Some(kill) = self.forge_of(session, mutant.number, "")? {
            return Ok(Some(kill));
        }
        match records(&mutant.file) {
            "" => Ok(None),
            records => self.forge_of(session, mutant.number, records),
        }
    }

    /// Restarts the images in which records of these types are forged, or of all types if
    /// `records` is empty.
    fn forge_of(
        &self,
        session: &mut Session<'_>,
        number: u32,
        records: &'static str,
    ) -> Result<Option<Kill>, Abort> {
        let known = self.forged().get(records).cloned();
        let good = match known {
            Some(good) => good,
            None => {
                let Ok(good) = self.restart_forged(session, 0, records)? else {
                    return Ok(None);
                };
                self.forged().entry(records).or_insert(good).clone()
            }
        };
        let kill = |eye: &str, condition, why: &str| Kill {
            case: "forged images".to_owned(),
            eyes: vec![eye.to_owned()],
            condition,
            why: why.lines().next().unwrap_or_default().to_owned(),
        };
        let first = self.restart_forged(session, number, records)?;
        if let Ok(first) = &first
            && first.outcomes == good.outcomes
        {
            let mut lost = self.lost(session, first, &good);
            for _ in 0..AGAIN {
                if lost.is_empty() {
                    return Ok(None);
                }
                let (Ok(usual), Ok(again)) = (
                    self.restart_forged(session, 0, records)?,
                    self.restart_forged(session, number, records)?,
                ) else {
                    return Ok(None);
                };
                let usual = [
                    self.lost(session, first, &usual),
                    self.lost(session, &again, &usual),
                ];
                retain_common(&mut lost, &usual);
            }
            return Ok((!lost.is_empty())
                .then(|| kill("kernel's books", Condition::Leak, &lost.join(", "))));
        }
        // Addresses differ from run to run, and so may the effect of a change.
        let Ok(usual) = self.restart_forged(session, 0, records)? else {
            session.abandon();
            return Ok(None);
        };
        let second = self.restart_forged(session, number, records)?;
        let why = match (first, second) {
            (Ok(first), Ok(second)) => good.outcomes.iter().find_map(|(change, good)| {
                let with = first.outcomes.get(change);
                let differs = with.is_some_and(|with| with != good);
                let usual = usual.outcomes.get(change);
                let steady = usual == Some(good) && second.outcomes.get(change) == with;
                (differs && steady)
                    .then(|| format!("{change}: {good}, then {}", with.map_or("", |with| with)))
            }),
            (Err(why), Err(_)) => Some(why),
            _ => None,
        };
        Ok(why.map(|why| kill("forged images", Condition::Diverged, &why)))
    }

    /// Returns the growth of the kernel's books by refusals, beyond the usual growth.
    fn lost(
        &self,
        session: &Session<'_>,
        results: &ForgedResults,
        usual: &ForgedResults,
    ) -> Vec<String> {
        match session.setup().without.contains(&Eye::Books) {
            true => Vec::new(),
            false => results.growth.lost(&usual.growth, results.losing()),
        }
    }

    /// Restarts forged images with a mutant, or without one if `number` is 0. Abandons the guest
    /// if it cannot be used further. The inner error is the reason why there is no answer.
    fn restart_forged(
        &self,
        session: &mut Session<'_>,
        number: u32,
        records: &str,
    ) -> Result<Result<ForgedResults, String>, Abort> {
        self.ready(session)?;
        let patience = session.patience();
        let results = self.forge_in(session.running(), patience, number, records);
        match results {
            Ok(Ok(results)) => Ok(Ok(results)),
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

    fn forge_in(
        &self,
        guest: &mut Guest,
        patience: u32,
        number: u32,
        records: &str,
    ) -> Result<Result<ForgedResults, String>, Abort> {
        let after = |error| Abort::guest(Phase::After, error);
        let kept = format!("{KEEP_DIR}/forger");
        guest.prepare(None).map_err(after)?;
        guest
            .write_file(&format!("{kept}.c"), 0o644, &self.forger)
            .map_err(after)?;
        let of = match records {
            "" => String::new(),
            records => format!("--of {records}"),
        };
        let before = Books::read(guest, patience)?;
        let command = format!(
            "test -x {kept} || gcc -O2 -pthread -o {kept} {kept}.c || exit 3
             cp {kept} many && chmod 777 . && echo {number} > {SWITCH} || exit 3
             torture --each {of} --at 'syscall 110 1' -- ./many
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
            let growth = Books::read(guest, patience)?.growth(&before);
            let results = serde_json::from_str(run.stdout.trim());
            let results = results.map(|outcomes| ForgedResults { outcomes, growth });
            return Ok(results.map_err(|error| format!("torture printed no report: {error}")));
        }
        let error = run.stderr.lines().next().unwrap_or("torture ended");
        Ok(Err(error.to_owned()))
    }

    /// Checkpoints trees that must be refused, with a mutant of the saving half. It is killed by
    /// a tree that is refused with a different error than without it, or not at all.
    pub(super) fn refuse(
        &self,
        session: &mut Session<'_>,
        mutant: &Mutant,
    ) -> Result<Option<Kill>, Abort> {
        let Some(scenario) = &self.refusals else {
            return Ok(None);
        };
        if mutant.half == Half::Restoring {
            return Ok(None);
        }
        for case in &scenario.cases {
            let known = self.refused().get(&case.name).cloned();
            let usual = match known {
                Some(usual) => usual,
                None => {
                    let first = self.refusal(session, scenario, case, 0)?;
                    let second = self.refusal(session, scenario, case, 0)?;
                    // A refusal without a result is tried again with the next mutant.
                    let (Some(first), Some(second)) = (first, second) else {
                        continue;
                    };
                    let usual = (first == second).then_some(first);
                    self.refused().insert(case.name.clone(), usual.clone());
                    usual
                }
            };
            let Some(usual) = usual else {
                continue;
            };
            let with = self.refusal(session, scenario, case, mutant.number)?;
            let Some(with) = with.filter(|with| *with != usual) else {
                continue;
            };
            if self.refusal(session, scenario, case, 0)?.as_ref() == Some(&usual)
                && self.refusal(session, scenario, case, mutant.number)? == Some(with.clone())
            {
                let text = format!("{usual}, then {with}");
                return Ok(Some(Kill {
                    case: format!("{}/{}", scenario.name, case.name),
                    eyes: vec!["refusals".to_owned()],
                    condition: Condition::Diverged,
                    why: text.replace('\n', "; "),
                }));
            }
        }
        Ok(None)
    }

    /// Runs a case to its checkpoint with a mutant, or without one if `number` is 0. Returns its
    /// end in words, without numbers; `None` if the kernel is not the cause.
    fn refusal(
        &self,
        session: &mut Session<'_>,
        scenario: &Scenario,
        case: &Case,
        number: u32,
    ) -> Result<Option<String>, Abort> {
        self.ready(session)?;
        let on = (number != 0).then(|| format!("echo {number} > {SWITCH}"));
        session.running().before_checkpoint(on);
        let mut timings = BTreeMap::new();
        let made = runner(session, scenario, case, &mut timings).restarted(RestartIn::Same);
        let end = match made {
            Ok(restarted) => restarted.end.map(|_| ()),
            Err(stop) if stop.condition.exit_code() >= 128 => return Err(stop),
            Err(_) => {
                session.abandon();
                return Ok(None);
            }
        };
        let ended = match &end {
            Ok(()) => "not refused".to_owned(),
            Err(stop) if stop.condition.blame() == Some(Blame::Host) => {
                session.abandon();
                return Ok(None);
            }
            Err(stop) => {
                let lines = [&stop.why].into_iter().chain(&stop.lines);
                without_numbers(lines)
            }
        };
        let usable = match end {
            Ok(()) => true,
            Err(stop) => stop.guest_usable,
        };
        let settled = usable && {
            let guest = session.running();
            guest.before_checkpoint(None);
            let off = guest.shell(&format!("echo 0 > {SWITCH}"));
            off.and_then(|()| guest.settle()).is_ok()
        };
        if !settled {
            session.abandon();
        }
        Ok(Some(ended))
    }
}

/// Returns lines with `N` for every number: addresses and inode numbers differ from run to run.
fn without_numbers<'a>(lines: impl Iterator<Item = &'a String>) -> String {
    let word = |word: &str| match word.contains(|c: char| c.is_ascii_digit()) {
        true => "N".to_owned(),
        false => word.to_owned(),
    };
    let line = |line: &String| {
        let words: Vec<_> = line.split_whitespace().map(word).collect();
        words.join(" ")
    };
    lines.map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use crucible_protocol::image::Kind;

    use super::*;

    #[test]
    fn the_records_of_each_source_exist() {
        let root = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../guest-kernel/src/kernel/checkpoint"
        );
        let mut named = 0;
        for entry in std::fs::read_dir(root).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            for record in records(&format!("kernel/checkpoint/{name}")).split(',') {
                let mut known = Kind::ALL.iter().map(|(kind, _)| format!("{kind:?}"));
                assert!(
                    record.is_empty() || known.any(|kind| kind == record),
                    "{record}"
                );
                named += usize::from(!record.is_empty());
            }
        }
        assert!(named > 40, "{named}");
        assert_eq!(
            records("arch/x86/kernel/checkpoint.c"),
            "Regs,Debugregs,Xstate"
        );
    }

    #[test]
    fn numbers_of_a_refusal_do_not_count() {
        let lines = |number: u32| {
            let lines = [
                format!("pid 3: pipe:[{number}]: locked"),
                "refused".to_owned(),
            ];
            without_numbers(lines.iter())
        };
        assert_eq!(lines(7), "pid N N locked\nrefused");
        assert_eq!(lines(7), lines(812));
    }

    #[test]
    fn only_what_every_reading_loses_is_lost() {
        let line = |name: &str, count: u32| format!("{name}: {count} more after 4 runs");
        let mut lost = vec![line("mounts", 4), line("open files", 4)];
        retain_common(
            &mut lost,
            &[vec![line("open files", 5)], vec![line("open files", 4)]],
        );
        assert_eq!(lost, [line("open files", 4)]);
        retain_common(&mut lost, &[vec![line("open files", 5)], Vec::new()]);
        assert!(lost.is_empty());
    }
}
