// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::{io, path::Path, sync::atomic::AtomicU32};

use crucible_vmm::Machine;

use super::*;
use crate::{
    experiment::{Done, Identity},
    outcome::SourceLine,
    session::LabError,
};

/// A lab without machines: the units of these tests need none.
struct NoLab;

impl Lab for NoLab {
    fn boot(&self, _: &Path, _: &Path) -> Result<Box<dyn Machine>, LabError> {
        Err(LabError {
            condition: Condition::HostSetup,
            message: "there are no machines".into(),
        })
    }
    fn scratch(&self, _: &Path) -> Result<(), LabError> {
        Ok(())
    }
    fn open_memory(&self, file: &Path) -> String {
        format!("gdb vmlinux {}", file.display())
    }

    fn source_lines(&self, report: &[String]) -> Vec<SourceLine> {
        let line = report.iter().filter(|line| line.contains("RIP:"));
        line.map(|line| SourceLine {
            place: line.clone(),
            file: "kernel/a.c".into(),
            line: 7,
        })
        .collect()
    }

    fn slowness(&self) -> u32 {
        1
    }
    fn finds_leaks(&self) -> bool {
        false
    }
}

/// Groups of units, each of which ends in this way when it runs alone, or in a group.
#[derive(Default)]
struct Played {
    groups: Vec<Vec<&'static str>>,
    judged: bool,
    runs: AtomicU32,
}

impl Played {
    fn of(groups: &[&[&'static str]]) -> Self {
        Self {
            groups: groups.iter().map(|group| group.to_vec()).collect(),
            judged: false,
            runs: AtomicU32::new(0),
        }
    }
}

impl Experiment for Played {
    type Unit = &'static str;
    type Detail = ();
    type Summary = ();

    fn key(&self, unit: &&'static str) -> String {
        (*unit).to_owned()
    }
    fn identify(&self, _: &mut Identity) -> io::Result<()> {
        Ok(())
    }
    fn plan(&mut self, _: &mut Session<'_>) -> Result<Vec<Group<Self>>, Abort> {
        match self.groups.is_empty() {
            true => Err(Abort::missed("no units")),
            false => Ok(self.groups.clone()),
        }
    }
    fn run(
        &self,
        session: &mut Session<'_>,
        units: &[&'static str],
        done: &mut Done<'_, Self>,
    ) -> Result<(), Abort> {
        self.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let alone = units.len() == 1;
        let crash = |condition| Abort {
            guest_usable: false,
            ..Abort::new(condition, "crash")
        };
        let dumped = |memory| Abort {
            memory: Some(memory),
            ..crash(Condition::GuestPanic).with(vec!["RIP: 0010:f+0x1/0x2".into()])
        };
        let dump = |session: &Session<'_>| session.setup().store.dir().join("machine-1/m.elf");
        for unit in units {
            let kind = unit.split('-').next().unwrap_or_default();
            match kind {
                "dumps" => return Err(dumped(Ok(dump(session)))),
                "undumped" => return Err(dumped(Err("no space".into()))),
                "panics" => return Err(crash(Condition::GuestPanic)),
                "sometimes" if !alone => return Err(crash(Condition::KernelReport)),
                "full" => done(unit, Outcome::new(Condition::DiskFull, "no space"), None)?,
                "differs" => done(unit, Outcome::new(Condition::Diverged, "x"), None)?,
                _ => done(unit, Outcome::passed("ok"), Some(()))?,
            }
        }
        Ok(())
    }
    fn judges_groups(&self) -> bool {
        self.judged
    }
    fn summarise(&self, _: &[Finding<()>]) {}
}

fn run_with(played: &mut Played, jobs: u8, journal: Journal<()>) -> Report<(), ()> {
    run_without(played, jobs, journal, None)
}

fn run_without(
    played: &mut Played,
    jobs: u8,
    journal: Journal<()>,
    skip: Option<&HashSet<String>>,
) -> Report<(), ()> {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::begin(directory.path(), "test").unwrap();
    let stream = Stream::default();
    let setup = Setup {
        lab: &NoLab,
        store: &store,
        stream: &stream,
        jobs,
        break_switch: None,
        without: &[],
        skip,
    };
    execute(played, setup, journal)
}

fn run(groups: &[&[&'static str]], jobs: u8) -> Report<(), ()> {
    run_with(&mut Played::of(groups), jobs, Journal::none())
}

fn conditions(report: &Report<(), ()>) -> Vec<(&str, Condition)> {
    let findings = report.findings.iter();
    findings
        .map(|finding| (finding.key.as_str(), finding.outcome.condition))
        .collect()
}

#[test]
fn what_is_skipped_is_neither_run_nor_left() {
    let skip = ["a", "b", "c"].map(str::to_owned).into();
    let run = |judged| {
        let groups: &[&[&str]] = &[&["a", "b"], &["c", "differs"], &["d"]];
        let mut played = Played {
            judged,
            ..Played::of(groups)
        };
        let report = run_without(&mut played, 1, Journal::none(), Some(&skip));
        assert_eq!(report.left, 0);
        let keys = report.findings.iter().map(|finding| finding.key.clone());
        keys.collect::<Vec<_>>()
    };
    assert_eq!(run(false), ["differs", "d"]);
    // This experiment judges only whole groups.
    assert_eq!(run(true), ["c", "differs", "d"]);
}

#[test]
fn findings_are_in_the_order_of_the_plan_with_any_number_of_guests() {
    let groups: &[&[&str]] = &[&["a", "b"], &["differs"], &["c"], &["d"]];
    for jobs in [1, 3, 9] {
        let report = run(groups, jobs);
        let keys: Vec<_> = report.findings.iter().map(|f| f.key.as_str()).collect();
        assert_eq!(keys, ["a", "b", "differs", "c", "d"]);
        assert_eq!(report.outcome().condition, Condition::Diverged);
        assert_eq!(report.exit_code(), 1);
        assert_eq!(report.counts()["passed"], 4);
    }
}

#[test]
fn the_unit_that_kills_a_guest_is_found() {
    let report = run(&[&["a", "panics", "b"], &["c"]], 1);
    let expected = [
        ("a", Condition::Passed),
        ("panics", Condition::GuestPanic),
        ("b", Condition::Passed),
        ("c", Condition::Passed),
    ];
    assert_eq!(conditions(&report), expected);
    assert!(report.guests.is_empty());
}

#[test]
fn a_crash_that_no_unit_repeats_alone_counts_for_the_guest() {
    let report = run(&[&["a", "sometimes-1", "sometimes-2"]], 1);
    assert!(report.findings.iter().all(|f| f.outcome.is_pass()));
    assert_eq!(report.guests.len(), 1);
    assert!(report.guests[0].why.contains("sometimes-1 to sometimes-2"));
    assert_eq!(report.outcome().condition, Condition::KernelReport);
}

#[test]
fn a_host_that_must_be_mended_ends_the_run_and_blames_no_unit() {
    let report = run(&[&["a"], &["full"], &["b"]], 1);
    assert_eq!(conditions(&report), [("a", Condition::Passed)]);
    assert_eq!(report.left, 2);
    assert_eq!(report.outcome().condition, Condition::DiskFull);
    assert_eq!(report.exit_code(), 129);
}

#[test]
fn a_bad_unit_outweighs_a_host_that_must_be_mended() {
    let report = run(&[&["differs"], &["full"]], 1);
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn without_a_plan_nothing_is_known() {
    let report = run(&[], 1);
    assert_eq!(report.outcome().condition, Condition::Missed);
    assert_eq!(report.outcome().why, "no units");
    assert_eq!(report.exit_code(), 125);
}

#[test]
fn units_of_an_earlier_run_are_not_run_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.jsonl");
    let open = |resume| Journal::open(&path, Identity::new("x"), resume).unwrap();
    let mut first = Played::of(&[&["a"], &["differs"]]);
    run_with(&mut first, 1, open(false));
    let mut second = Played::of(&[&["a"], &["differs"], &["b"]]);
    let report = run_with(&mut second, 1, open(true));
    assert_eq!(report.findings.len(), 3);
    assert_eq!(*second.runs.get_mut(), 1);
}

#[test]
fn a_panic_comes_with_the_memory_and_the_place_in_the_source() {
    let mut played = Played::of(&[&["dumps-1"], &["undumped-1"]]);
    let report = run_with(&mut played, 1, Journal::none());
    let [kept, missing] = &report.findings[..] else {
        panic!("{:?}", report.findings);
    };
    let Some(Memory::Kept { file, open }) = &kept.outcome.evidence.memory else {
        panic!("{:?}", kept.outcome);
    };
    assert_eq!(file, "machine-1/m.elf");
    assert!(open.starts_with("gdb vmlinux /") && open.ends_with("/machine-1/m.elf"));
    assert!(!open.contains(".partial"), "{open}");
    assert_eq!(kept.outcome.evidence.source[0].line, 7);
    // A dump that could not be written changes nothing else.
    let why = "no space".into();
    let memory = Some(Memory::Missing { why });
    assert_eq!(missing.outcome.evidence.memory, memory);
    assert_eq!(missing.outcome.condition, kept.outcome.condition);
    let lines = missing.outcome.evidence.lines();
    assert!(lines[0].contains("kernel/a.c:7"), "{lines:?}");
    assert!(lines[1].contains("not kept: no space"), "{lines:?}");
}
