// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The jobs of a night: runs of crucible, each with the tests that it is expected to have.

use std::fmt;

use crucible_engine::experiment::PROGRAMS;
use crucible_history::TestId;
use serde::{Deserialize, Serialize};

use crate::basis::Basis;

/// Parts into which the points of a sweep and the cells of the matrix are divided: each night runs
/// one of them.
const PARTS: u64 = 50;

/// Images of each kind that torture makes in a night.
const IMAGES: u64 = 200;

/// Number of mutants that a night draws, and maximum number of cases of each.
const MUTANTS: [u64; 2] = [40, 40];

/// Random trees of processes that a night draws.
const TREES: u64 = 40;

/// Attacks that a night draws.
const ATTACKS: u64 = 40;

/// Duration of a night's fuzzing, in minutes.
const FUZZ_MINUTES: u64 = 10;

/// The cases of scenarios whose steps are counted in instructions: one with little state, and one
/// with much.
const COUNTED: [(&str, &str); 2] = [("hello", "main"), ("descriptors", "high")];

/// Number of restarts of such a case: the number of instructions varies a little between them.
const COUNTS: u64 = 5;

/// The configuration that a job runs in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Variant {
    /// Backend of checkpoint and restart.
    pub backend: String,
    /// Flavour of the kernel.
    pub flavour: String,
    /// Machine backend.
    pub machine: String,
}

impl Variant {
    fn new(backend: &str, flavour: &str, machine: &str) -> Self {
        Self {
            backend: backend.into(),
            flavour: flavour.into(),
            machine: machine.into(),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.backend, self.flavour, self.machine)
    }
}

/// The meaning of a job's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The canary must fail: if it passes, the lab does not notice failures.
    Canary,
    /// Its units are the same in each night.
    Scenario,
    /// Each night has a different part of its units.
    Part,
}

/// A run of crucible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Its name: `scenario vfork`.
    pub name: String,
    /// The configuration that it runs in.
    pub variant: Variant,
    /// The meaning of its results.
    pub kind: Kind,
    /// The command line, without the program and the options of the variant.
    pub words: Vec<String>,
    /// The tests that are known beforehand.
    pub tests: Vec<TestId>,
    /// Importance: jobs with a smaller number run first.
    pub rank: u32,
}

impl Job {
    /// Returns the name of the job with its variant.
    pub fn key(&self) -> String {
        format!("{} [{}]", self.name, self.variant)
    }

    /// Returns the test of one of its units.
    pub fn test(&self, unit: &str) -> TestId {
        let command = self.words.first().map_or("", String::as_str);
        // The backend is a part of the variant.
        let unit = unit.strip_suffix("@criu").unwrap_or(unit);
        let name = match self.kind {
            Kind::Canary => self.name.clone(),
            Kind::Scenario => format!("{command} {unit}"),
            Kind::Part => format!("{}/{unit}", self.name),
        };
        TestId {
            name,
            variant: self.variant.to_string(),
        }
    }

    /// Returns the arguments of the job's run.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = self.words.clone();
        let options = [
            ("--flavour", &self.variant.flavour, "base"),
            ("--machine", &self.variant.machine, ""),
        ];
        for (option, value, usual) in options {
            if value != usual {
                words.extend([option.to_owned(), value.clone()]);
            }
        }
        if self.variant.backend != "crucible" {
            words.extend(["--backend".into(), self.variant.backend.clone()]);
        }
        words
    }
}

/// The scenarios of this checkout, and the machine backends of this host.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// The scenarios, with the names of their cases.
    pub scenarios: Vec<(String, Vec<String>)>,
    /// The machine backends that can be used, the preferred one first.
    pub machines: Vec<String>,
    /// Directory of the scenario whose comparison must fail.
    pub canary: Option<String>,
}

/// Returns all jobs of a night, the most important first.
pub fn jobs(offer: &Offer, basis: &Basis) -> Vec<Job> {
    let mut jobs = Vec::new();
    let Some(usual) = offer.machines.first() else {
        return jobs;
    };
    if let Some(scenario) = &offer.canary {
        let mut canary = Job {
            name: "canary".into(),
            variant: Variant::new("crucible", "base", usual),
            kind: Kind::Canary,
            words: vec!["scenario".into(), scenario.clone()],
            tests: Vec::new(),
            rank: 0,
        };
        canary.tests = vec![canary.test("")];
        jobs.push(canary);
    }
    let mut variants = vec![(1, Variant::new("crucible", "base", usual))];
    let others = offer.machines.iter().skip(1);
    variants.extend(others.map(|machine| (2, Variant::new("crucible", "base", machine))));
    variants.push((3, Variant::new("crucible", "debug", usual)));
    variants.push((7, Variant::new("criu", "base", usual)));
    for (rank, variant) in &variants {
        for (scenario, cases) in &offer.scenarios {
            let mut job = Job {
                name: format!("scenario {scenario}"),
                variant: variant.clone(),
                kind: Kind::Scenario,
                words: vec!["scenario".into(), scenario.clone()],
                tests: Vec::new(),
                rank: *rank,
            };
            let units = cases.iter().map(|case| format!("{scenario}/{case}"));
            job.tests = units.map(|unit| job.test(&unit)).collect();
            jobs.push(job);
        }
    }
    let base = &variants[0].1;
    let debug = &Variant::new("crucible", "debug", usual);
    let mut part = |name: String, variant: &Variant, words: &[&str], rank: u32| {
        let mut job = Job {
            name,
            variant: variant.clone(),
            kind: Kind::Part,
            words: words.iter().map(|&word| word.to_owned()).collect(),
            tests: Vec::new(),
            rank,
        };
        let turn = basis.turns.get(&job.key()).copied().unwrap_or_default();
        let number = match words[0] {
            "torture" if words.contains(&"--fail-nth") => {
                let program = PROGRAMS[turn as usize % PROGRAMS.len()];
                ["--program".into(), program.into()]
            }
            // Attacks that no night before has drawn.
            "torture" if words.contains(&"--adversary") => {
                ["--seed".into(), (turn * ATTACKS + 1).to_string()]
            }
            "torture" | "mutate" | "fuzz" => ["--seed".into(), (turn + 1).to_string()],
            // The same job in each night, for comparison.
            "scenario" if words.contains(&"--record") => return jobs.push(job),
            // Trees that no night before has drawn.
            "scenario" => {
                let first = turn * TREES + 1;
                let last = first + TREES - 1;
                ["--random".into(), format!("{first}..{last}")]
            }
            _ => ["--offset".into(), (turn % PARTS).to_string()],
        };
        job.words.extend(number);
        jobs.push(job);
    };
    // Only QEMU counts instructions.
    if offer.machines.iter().any(|machine| machine == "qemu") {
        let counted = &Variant::new("crucible", "base", "qemu");
        let counts = COUNTS.to_string();
        let has = |scenario: &str, case: &str| {
            let of = |(name, cases): &(String, Vec<String>)| {
                name == scenario && cases.iter().any(|one| one == case)
            };
            offer.scenarios.iter().any(of)
        };
        for (scenario, case) in COUNTED.into_iter().filter(|&(name, case)| has(name, case)) {
            let words = ["scenario", scenario, "--case", case, "--record", "--repeat"];
            let words = [&words[..], &[&counts]].concat();
            part(format!("instructions {scenario}"), counted, &words, 3);
        }
    }
    let every = PARTS.to_string();
    part(
        "matrix ptrace".into(),
        base,
        &["matrix", "ptrace", "--every", &every],
        4,
    );
    let images = IMAGES.to_string();
    let torture = ["torture", "--raw", &images, "--forged", &images];
    part("torture".into(), base, &torture, 5);
    let attacks = ATTACKS.to_string();
    let adversary = ["torture", "--adversary", "--count", &attacks];
    part("adversary".into(), base, &adversary, 5);
    let minutes = FUZZ_MINUTES.to_string();
    part("fuzz".into(), debug, &["fuzz", "--minutes", &minutes], 7);
    part(
        "fail-nth".into(),
        base,
        &["torture", "--fail-nth", "all"],
        8,
    );
    part("trees".into(), base, &["scenario"], 5);
    let [mutants, cases] = MUTANTS.map(|number| number.to_string());
    let mutate = ["mutate", "--sample", &mutants, "--cases", &cases];
    part("mutate".into(), base, &mutate, 8);
    for (scenario, _) in &offer.scenarios {
        let words = ["sweep", scenario, "--event", "all", "--every", &every];
        part(format!("sweep {scenario}"), base, &words, 6);
    }
    // Among equal ranks, first the jobs that have waited longest, or never ran.
    let last = |job: &Job| basis.last.get(&job.key()).cloned().unwrap_or_default();
    jobs.sort_by_cached_key(|job| (job.rank, last(job), job.key()));
    jobs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        let cases = |cases: &[&str]| cases.iter().map(|&case| case.to_owned()).collect();
        Offer {
            scenarios: vec![
                ("hello".into(), cases(&["main"])),
                ("vfork".into(), cases(&["one", "two"])),
            ],
            machines: vec!["qemu".into()],
            canary: Some("shared/canary".into()),
        }
    }

    #[test]
    fn a_night_has_every_scenario_in_every_variant() {
        let jobs = jobs(&offer(), &Basis::default());
        assert_eq!(jobs[0].name, "canary");
        let of = |variant: &str| {
            let jobs = jobs
                .iter()
                .filter(|job| job.kind == Kind::Scenario && job.variant.to_string() == variant);
            jobs.map(|job| job.name.clone()).collect::<Vec<_>>()
        };
        for variant in [
            "crucible/base/qemu",
            "crucible/debug/qemu",
            "criu/base/qemu",
        ] {
            assert_eq!(
                of(variant),
                ["scenario hello", "scenario vfork"],
                "{variant}"
            );
        }
        let kvm = Offer {
            machines: vec!["kvm".into(), "qemu".into()],
            ..offer()
        };
        let kvm = super::jobs(&kvm, &Basis::default());
        assert!(
            kvm.iter()
                .any(|job| job.variant.to_string() == "crucible/base/qemu")
        );
        assert!(super::jobs(&Offer::default(), &Basis::default()).is_empty());
    }

    #[test]
    fn the_options_say_the_variant() {
        let jobs = jobs(&offer(), &Basis::default());
        let find = |key: &str| {
            let job = jobs.iter().find(|job| job.key() == key).expect(key);
            job.arguments().join(" ")
        };
        let base = find("scenario vfork [crucible/base/qemu]");
        assert_eq!(base, "scenario vfork --machine qemu");
        let criu = find("scenario vfork [criu/base/qemu]");
        assert_eq!(criu, "scenario vfork --machine qemu --backend criu");
        let debug = find("scenario vfork [crucible/debug/qemu]");
        assert_eq!(debug, "scenario vfork --flavour debug --machine qemu");
        let canary = find("canary [crucible/base/qemu]");
        assert_eq!(canary, "scenario shared/canary --machine qemu");
        let job = jobs
            .iter()
            .find(|job| job.variant.backend == "criu")
            .unwrap();
        assert_eq!(job.test("hello/main@criu").name, "scenario hello/main");
    }

    #[test]
    fn parts_move_on_from_night_to_night() {
        let mut basis = Basis::default();
        let key = "sweep hello [crucible/base/qemu]";
        let part = |basis: &Basis| {
            let jobs = jobs(&offer(), basis);
            let job = jobs.iter().find(|job| job.key() == key).unwrap();
            job.words.last().unwrap().clone()
        };
        let mut seen = Vec::new();
        for turn in 0..PARTS {
            basis.turns.insert(key.into(), turn);
            seen.push(part(&basis));
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len() as u64, PARTS);
        basis.turns.insert(key.into(), PARTS);
        assert_eq!(part(&basis), "0");
    }

    #[test]
    fn a_night_draws_mutants_of_its_own() {
        let mut basis = Basis::default();
        let words = |basis: &Basis| {
            let jobs = jobs(&offer(), basis);
            let job = jobs.iter().find(|job| job.name == "mutate").unwrap();
            assert_eq!(job.test("a/b/c").name, "mutate/a/b/c");
            job.arguments().join(" ")
        };
        let first = "mutate --sample 40 --cases 40 --seed 1 --machine qemu";
        assert_eq!(words(&basis), first);
        basis.turns.insert("mutate [crucible/base/qemu]".into(), 6);
        assert!(words(&basis).contains("--seed 7"));
    }

    #[test]
    fn programs_take_turns_to_have_failures() {
        let mut basis = Basis::default();
        let words = |basis: &Basis| {
            let jobs = jobs(&offer(), basis);
            let job = jobs.iter().find(|job| job.name == "fail-nth").unwrap();
            job.arguments().join(" ")
        };
        let first = "torture --fail-nth all --program tree --machine qemu";
        assert_eq!(words(&basis), first);
        basis
            .turns
            .insert("fail-nth [crucible/base/qemu]".into(), 8);
        assert!(words(&basis).contains("--program threads"));
    }

    #[test]
    fn a_night_attacks_and_fuzzes_as_no_night_before() {
        let mut basis = Basis::default();
        let words = |name: &str, basis: &Basis| {
            let jobs = jobs(&offer(), basis);
            let job = jobs.iter().find(|job| job.name == name).unwrap();
            job.arguments().join(" ")
        };
        assert_eq!(
            words("adversary", &basis),
            "torture --adversary --count 40 --seed 1 --machine qemu"
        );
        assert_eq!(
            words("fuzz", &basis),
            "fuzz --minutes 10 --seed 1 --flavour debug --machine qemu"
        );
        for (key, turn) in [
            ("adversary [crucible/base/qemu]", 2),
            ("fuzz [crucible/debug/qemu]", 3),
        ] {
            basis.turns.insert(key.into(), turn);
        }
        assert!(words("adversary", &basis).contains("--seed 81 "));
        assert!(words("fuzz", &basis).contains("--seed 4 "));
    }

    #[test]
    fn instructions_are_counted_of_the_same_in_each_night() {
        let mut basis = Basis::default();
        let words = |machines: &[&str], basis: &Basis| {
            let machines = machines.iter().map(|&machine| machine.to_owned());
            let offer = Offer {
                machines: machines.collect(),
                ..offer()
            };
            let jobs = jobs(&offer, basis);
            let counted = jobs.iter().filter(|job| job.name.starts_with("instr"));
            let words = counted.map(|job| (job.name.clone(), job.arguments().join(" ")));
            words.collect::<Vec<_>>()
        };
        let name = "instructions hello";
        let line = "scenario hello --case main --record --repeat 5 --machine qemu";
        let expected = [(name.to_owned(), line.to_owned())];
        assert_eq!(words(&["kvm", "qemu"], &basis), expected);
        let key = format!("{name} [crucible/base/qemu]");
        basis.turns.insert(key, 4);
        assert_eq!(words(&["qemu"], &basis), expected);
        assert_eq!(words(&["kvm"], &basis), []);
    }

    #[test]
    fn what_has_waited_longest_comes_first() {
        let mut basis = Basis::default();
        let key = |name: &str| format!("{name} [crucible/base/qemu]");
        basis.last.insert(key("sweep hello"), "2026-01-02".into());
        basis.last.insert(key("sweep vfork"), "2026-01-01".into());
        let jobs = jobs(&offer(), &basis);
        let sweeps: Vec<_> = jobs
            .iter()
            .filter(|job| job.name.starts_with("sweep"))
            .collect();
        assert_eq!(sweeps[0].name, "sweep vfork");
    }
}
