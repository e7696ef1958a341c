// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Nights with a program that only writes the events of a run, so that hundreds of nights take
//! seconds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crucible_engine::outcome::Outcome;
use crucible_history::{Change, Judgement, ResultRow, Store, judge};
use crucible_nightly::{
    Basis, Error, Listener, Night, NightReport, Offer, Plan, Ran, Settings, ShardSpec, Step,
    bisect, jobs, plan,
};

/// A program in crucible's place: each unit ends according to the file `$FAKE/<scenario>`: a
/// condition, `die` for a process that is killed, `full` for a host without room, `wait` for a run
/// that continues until it receives SIGTERM. A list has a word for each attempt.
const FAKE: &str = r#"#!/bin/bash
FAKE=@FAKE@
if [ "$2" = bisect ]; then
	echo "$*" >> "$FAKE/log"
	echo '{"why": "the first bad commit is 2222: fs: Break it"}'
	exit 0
fi
case "$*" in *--record*) echo recorded >> "$FAKE/log" ;; esac
run=$(mktemp -d "$CRUCIBLE_RESULTS/run-XXXXXX")
command=$2
shift 2
if [ "$command" = rerun ]; then
	names=$(cat "$1/names")
else
	names=
	while [ $# -gt 0 ]; do
		case $1 in
		--flavour|--machine|--backend|--break|--offset|--every|--event|--seed|--raw|--forged) shift ;;
		--*) ;;
		*) names="$names $1" ;;
		esac
		shift
	done
fi
touch "$run/names"
event() { echo "{\"id\":1,\"time\":\"2026-01-01T00:00:00Z\",\"ms\":1,$1}" >> "$run/events.jsonl"; }
code=0
for name in $names; do
	echo "$command $name" >> "$FAKE/log"
	said=passed
	if [ -f "$FAKE/$name" ]; then
		read -r said rest < "$FAKE/$name"
		[ -z "$rest" ] || echo "$rest" > "$FAKE/$name"
	fi
	event "\"unit\":\"$name/main\",\"event\":\"unit-started\""
	event "\"unit\":\"$name/main\",\"event\":\"step-finished\",\"name\":\"restart 1\",\"step_ms\":7"
	case $said in
	die)  kill -KILL $$ ;;
	full) echo 'crucible: no space left on device' >&2; exit 129 ;;
	wait) trap 'exit 130' TERM; while :; do sleep 0.05; done ;;
	esac
	case $said in
	passed) verdict=pass ;;
	diverged) verdict=diverged; code=1 ;;
	*) verdict=unknown; [ $code = 1 ] || code=125 ;;
	esac
	[ "$verdict" = pass ] || echo "$name" >> "$run/names"
	event "\"unit\":\"$name/main\",\"event\":\"unit-finished\",\"condition\":\"$said\",\"verdict\":\"$verdict\",\"why\":\"stdout\",\"unit_ms\":5"
done
exit $code
"#;

/// A directory with the program, its answers, and results.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(place.path("fake")).unwrap();
        let fake = place.path("fake");
        let program = place.path("crucible");
        fs::write(&program, FAKE.replace("@FAKE@", fake.to_str().unwrap())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Sets the end of a scenario from now on.
    fn set(&self, scenario: &str, said: &str) {
        fs::write(self.path("fake").join(scenario), format!("{said}\n")).unwrap();
    }

    fn settings(&self, night: &str, shard: ShardSpec) -> Settings {
        Settings {
            night: night.into(),
            shard,
            root: self.path(""),
            results: self.path("results"),
            program: self.path("crucible"),
            deadline: None,
            suspects: BTreeSet::new(),
            kernels: BTreeMap::from([("base".into(), "k1".into())]),
            missing: BTreeMap::new(),
            harness: "h1".into(),
            provenance: "{}".into(),
        }
    }

    /// Runs a whole night of the base kernel, and merges it into the history.
    fn night(&self, name: &str, plan: &Plan) -> Vec<Judgement> {
        let mut history = Store::open(&self.path("history.sqlite")).unwrap();
        let mut settings = self.settings(name, ShardSpec::WHOLE);
        settings.suspects = Basis::of(&history.results(None).unwrap()).suspects;
        let mut night = Night::begin(&settings, plan).unwrap();
        assert_eq!(night.run(&mut Silent).unwrap(), Ran::All);
        history.merge(night.file()).unwrap();
        let planned = history.planned(name).unwrap();
        let skipped = history.skipped(name).unwrap();
        judge(name, &planned, &skipped, &history.results(None).unwrap())
    }
}

struct Silent;

impl Listener for Silent {
    fn hear(&mut self, _step: Step<'_>) {}
}

const SCENARIOS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Returns a plan of the scenarios on the base kernel.
fn base(shards: u32) -> Plan {
    let offer = Offer {
        scenarios: SCENARIOS
            .map(|name| (name.to_owned(), vec!["main".to_owned()]))
            .into(),
        machines: vec!["qemu".into()],
        canary: None,
    };
    let basis = Basis::default();
    let mut jobs = jobs(&offer, &basis);
    jobs.retain(|job| {
        job.name.starts_with("scenario") && job.variant.to_string() == "crucible/base/qemu"
    });
    plan(jobs, &basis, shards)
}

fn of<'a>(judged: &'a [Judgement], scenario: &str) -> &'a Judgement {
    let name = format!("scenario {scenario}/main");
    judged
        .iter()
        .find(|it| it.test.name == name)
        .expect(scenario)
}

#[test]
fn a_break_is_a_regression_and_a_flake_is_none() {
    let place = Place::new();
    let plan = base(1);
    for night in 1..=8 {
        let judged = place.night(&format!("n0{night}"), &plan);
        assert!(
            judged.iter().all(|it| it.change == Change::StillPassing),
            "{judged:?}"
        );
    }
    place.set("b", "diverged");
    place.set("d", "diverged passed passed");
    let judged = place.night("n09", &plan);
    let broken = of(&judged, "b");
    assert_eq!(
        (broken.change, broken.runs, broken.failures),
        (Change::Regressed, 5, 5)
    );
    assert_eq!(broken.why, "diverged at stdout");
    assert_eq!(broken.last_good.as_deref(), Some("n08"));
    // A failing test is recorded in one more run, which is not a result.
    let log = fs::read_to_string(place.path("fake/log")).unwrap();
    assert_eq!(log.lines().filter(|line| *line == "recorded").count(), 1);
    // The runs of failing tests are kept.
    assert!(place.path("results").join(&broken.directory).is_dir());
    let flaky = of(&judged, "d");
    assert_eq!(
        (flaky.change, flaky.runs, flaky.failures),
        (Change::TurnedFlaky, 5, 1)
    );
    assert_eq!(of(&judged, "a").change, Change::StillPassing);
    let store = Store::open(&place.path("history.sqlite")).unwrap();
    let row = &store.results(Some("n09")).unwrap()[0];
    assert_eq!((row.kernel.as_str(), row.ms), ("k1", 5));
    assert_eq!(
        (row.metrics[0].name.as_str(), row.metrics[0].value),
        ("restart", 7.0)
    );
    place.set("b", "passed");
    let judged = place.night("n10", &plan);
    // A test that was broken runs as often before it is called fixed.
    let mended = of(&judged, "b");
    assert_eq!((mended.change, mended.runs), (Change::Fixed, 5));
    let mended = of(&judged, "d");
    assert_eq!((mended.change, mended.runs), (Change::StillFlaky, 5));
}

/// A new regression is bisected between the commits of its last good night and its own.
#[test]
fn a_regression_is_bisected_once() {
    let place = Place::new();
    let plan = base(1);
    let night = |name: &str, commit: &str| {
        let mut settings = place.settings(name, ShardSpec::WHOLE);
        let checkout = format!("{{\"commit\": \"{commit}\", \"dirty\": false}}");
        settings.provenance = format!("{{\"base\": {{\"checkout\": {checkout}}}}}");
        let mut night = Night::begin(&settings, &plan).unwrap();
        night.run(&mut Silent).unwrap();
        let mut history = Store::open(&place.path("history.sqlite")).unwrap();
        history.merge(night.file()).unwrap();
        let report = NightReport::of(&history, name, None).unwrap();
        let searches = bisect(&settings, &history, &report, &mut |_| {}).unwrap();
        (searches, NightReport::of(&history, name, None).unwrap())
    };
    for number in 1..=5 {
        assert_eq!(night(&format!("n{number}"), "1111").0, 0);
    }
    place.set("b", "diverged");
    // Two tests that fail in the same way are one bug.
    place.set("c", "diverged");
    let (searches, report) = night("n6", "2222");
    assert_eq!(searches, 1);
    let found = &report.bisections;
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].good.as_str(), found[0].bad.as_str()),
        ("1111", "2222")
    );
    assert!(found[0].answer.contains("fs: Break it"));
    let log = fs::read_to_string(place.path("fake/log")).unwrap();
    let line = log.lines().find(|line| line.contains("bisect")).unwrap();
    assert!(line.contains("bisect b --good 1111 --bad 2222"), "{line}");
    // It is not new in the next night, but still linked.
    let (searches, report) = night("n7", "3333");
    assert_eq!((searches, report.bisections.len()), (0, 1));
}

/// A process that is killed, a full disk, a machine that is lost: 100 of them, in all orders.
#[test]
fn trouble_of_the_host_is_never_the_kernels() {
    let place = Place::new();
    let plan = base(1);
    place.night("n00", &plan);
    let troubles = ["die", "full", "host-killed", "machine-lost", "disk-full"];
    let mut injected = 0;
    for night in 0..20 {
        for (number, scenario) in SCENARIOS[..5].iter().enumerate() {
            place.set(scenario, troubles[(night + number) % troubles.len()]);
            injected += 1;
        }
        let judged = place.night(&format!("n1{night:02}"), &plan);
        assert!(judged.iter().all(|it| !it.change.is_bad()), "{judged:#?}");
        for scenario in &SCENARIOS[..5] {
            let it = of(&judged, scenario);
            assert_eq!(it.change, Change::NotRun, "{it:?}");
            assert!(!it.why.is_empty());
        }
    }
    assert_eq!(injected, 100);
    for scenario in SCENARIOS {
        place.set(scenario, "passed");
    }
    let judged = place.night("n2", &plan);
    assert!(
        judged.iter().all(|it| it.change == Change::StillPassing),
        "{judged:#?}"
    );
}

#[test]
fn a_night_that_is_killed_goes_on() {
    let place = Place::new();
    let plan = base(1);
    let settings = place.settings("n", ShardSpec::WHOLE);
    // After a kill -9 there are some results, but no end.
    place.set("d", "die");
    let mut night = Night::begin(&settings, &plan).unwrap();
    assert!(matches!(Night::begin(&settings, &plan), Err(Error::Busy)));
    night.run(&mut Silent).unwrap();
    drop(night);
    place.set("d", "passed");
    fs::remove_file(place.path("fake/log")).unwrap();
    let mut night = Night::begin(&settings, &plan).unwrap();
    night.run(&mut Silent).unwrap();
    // Only tests without a result are run.
    let log = fs::read_to_string(place.path("fake/log")).unwrap();
    assert_eq!(log, "scenario d\nscenario e\nscenario f\n");
    let store = Store::open(night.file()).unwrap();
    let results = store.results(None).unwrap();
    assert_eq!(results.len(), SCENARIOS.len());
    assert_eq!(store.shards("n").unwrap().len(), 2);
    let other = base(2);
    drop(night);
    assert!(Night::begin(&settings, &other).is_err());
}

/// Returns the results without times and processes.
fn plain(results: Vec<ResultRow>) -> Vec<ResultRow> {
    let plain = results.into_iter().map(|result| ResultRow {
        time: String::new(),
        ms: 0,
        metrics: Vec::new(),
        ..result
    });
    plain.collect()
}

#[test]
fn shards_that_are_merged_are_the_unsharded_night() {
    let place = Place::new();
    place.set("c", "diverged");
    let whole = place.settings("n", ShardSpec::WHOLE);
    let whole_plan = base(1);
    let mut night = Night::begin(&whole, &whole_plan).unwrap();
    night.run(&mut Silent).unwrap();
    let whole = plain(Store::open(night.file()).unwrap().results(None).unwrap());
    drop(night);

    let plan = base(3);
    let mut merged = Store::open(&place.path("merged.sqlite")).unwrap();
    for number in 1..=3 {
        let shard = ShardSpec { number, of: 3 };
        let settings = place.settings("n", shard);
        let victim = plan.of_shard(2).last().unwrap().words[1].clone();
        if number == 2 {
            // The shard is killed in its last job, and started again.
            place.set(&victim, "die");
            let mut night = Night::begin(&settings, &plan).unwrap();
            night.run(&mut Silent).unwrap();
            drop(night);
            let said = if victim == "c" { "diverged" } else { "passed" };
            place.set(&victim, said);
        }
        let mut night = Night::begin(&settings, &plan).unwrap();
        night.run(&mut Silent).unwrap();
        merged.merge(night.file()).unwrap();
    }
    let sharded: Vec<_> = plain(merged.results(None).unwrap());
    let named = |results: Vec<ResultRow>| {
        results
            .into_iter()
            .map(|it| (it.test, it.attempt, it.condition, it.signature, it.kernel))
    };
    assert_eq!(
        named(sharded).collect::<Vec<_>>(),
        named(whole).collect::<Vec<_>>()
    );
    assert_eq!(merged.planned("n").unwrap().len(), SCENARIOS.len());
}

#[test]
fn a_kernel_that_cannot_be_made_is_the_reason_of_its_jobs() {
    let place = Place::new();
    let plan = base(1);
    let mut settings = place.settings("n", ShardSpec::WHOLE);
    let why = "the base kernel cannot be made: make failed";
    settings.missing = BTreeMap::from([("base".into(), why.into())]);
    let mut night = Night::begin(&settings, &plan).unwrap();
    assert_eq!(night.run(&mut Silent).unwrap(), Ran::All);
    let store = Store::open(night.file()).unwrap();
    let report = NightReport::of(&store, "n", None).unwrap();
    assert_eq!(report.why, "nothing ran");
    assert!(report.tests.iter().all(|test| test.why == why));
}

#[test]
fn the_budget_ends_a_night_in_order() {
    let place = Place::new();
    let plan = base(1);
    place.set("c", "wait");
    let mut settings = place.settings("n", ShardSpec::WHOLE);
    settings.deadline = Some(Instant::now() + Duration::from_secs(3));
    let mut night = Night::begin(&settings, &plan).unwrap();
    assert_eq!(night.run(&mut Silent).unwrap(), Ran::Some);
    let store = Store::open(night.file()).unwrap();
    let results = store.results(None).unwrap();
    assert_eq!(results.len(), 2);
    let skipped = store.skipped("n").unwrap();
    assert_eq!(skipped.len(), SCENARIOS.len() - 2);
    assert!(
        skipped.iter().all(|it| it.reason.contains("budget")),
        "{skipped:?}"
    );
    assert!(store.shards("n").unwrap()[0].finished.is_some());
}

#[test]
fn each_result_is_told_at_once() {
    #[derive(Default)]
    struct Ear {
        planned: Option<(u64, u64)>,
        told: Vec<String>,
        store: PathBuf,
    }
    impl Listener for Ear {
        fn hear(&mut self, step: Step<'_>) {
            match step {
                Step::Planned(all, known) => self.planned = Some((all, known)),
                Step::Job(_) => {}
                Step::Result(row, outcome) => {
                    assert_eq!(outcome.condition.name(), row.condition);
                    let _: &Outcome = outcome;
                    // The result is in the file already.
                    let store = Store::open(&self.store).unwrap();
                    assert!(store.results(None).unwrap().contains(row));
                    self.told.push(row.test.name.clone());
                }
            }
        }
    }
    let place = Place::new();
    let plan = base(1);
    let settings = place.settings("n", ShardSpec::WHOLE);
    let mut night = Night::begin(&settings, &plan).unwrap();
    let mut ear = Ear {
        store: night.file().to_owned(),
        ..Ear::default()
    };
    night.run(&mut ear).unwrap();
    assert_eq!(ear.planned, Some((6, 0)));
    assert_eq!(ear.told.len(), 6);
}

#[test]
fn the_program_of_this_test_is_what_it_says() {
    let place = Place::new();
    place.set("x", "diverged");
    let results = place.path("r");
    fs::create_dir(&results).unwrap();
    let run = |scenario: &str| {
        let status = Command::new(place.path("crucible"))
            .args(["--quiet", "scenario", scenario, "--json"])
            .env("CRUCIBLE_RESULTS", &results)
            .stderr(Stdio::null())
            .status();
        status.unwrap().code()
    };
    assert_eq!(run("x"), Some(1));
    assert_eq!(run("y"), Some(0));
    place.set("x", "full");
    assert_eq!(run("x"), Some(129));
    assert!(Path::new(&results).read_dir().unwrap().count() == 3);
}
