// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Simulated bisections: the share of right answers, and the cost. The table is in
//! `docs/design/bisect.md`.

mod common;

use std::{fmt::Write as _, fs, path::Path};

use common::{BUILD, COMMITS, Cost, ENTER, History, RUN, Simulated, git};
use crucible_bisect::{Answer, Journal, Options, Report, bisect};

fn options() -> Options {
    Options {
        build_seconds: BUILD,
        enter_seconds: ENTER,
        run_seconds: RUN,
        ..Options::default()
    }
}

fn ours(history: &History, seed: u64) -> (Report, Cost) {
    let mut subject = Simulated::new(history, seed);
    let mut journal = Journal::in_memory();
    let report = bisect(
        &mut subject,
        &history.graph,
        &options(),
        &mut journal,
        &mut |_| (),
    );
    let cost = Cost {
        steps: subject.steps(),
        runs: subject.runs,
        seconds: subject.seconds,
    };
    (report.unwrap(), cost)
}

/// A row of the table.
struct Row {
    right: f64,
    /// The mean of the stated probabilities.
    stated: f64,
    steps: f64,
    steps_95: usize,
    runs: f64,
    minutes: f64,
}

fn row(seeds: u64, mut one: impl FnMut(u64) -> (bool, f64, Cost)) -> Row {
    let (mut right, mut stated, mut runs, mut seconds) = (0.0, 0.0, 0.0, 0.0);
    let mut steps = Vec::new();
    for seed in 0..seeds {
        let (is_right, probability, cost) = one(seed);
        right += f64::from(u8::from(is_right));
        stated += probability;
        runs += cost.runs as f64;
        seconds += cost.seconds;
        steps.push(cost.steps);
    }
    steps.sort_unstable();
    let all = seeds as f64;
    Row {
        right: right / all,
        stated: stated / all,
        steps: steps.iter().sum::<usize>() as f64 / all,
        steps_95: steps[(steps.len() * 95).div_ceil(100) - 1],
        runs: runs / all,
        minutes: seconds / all / 60.0,
    }
}

fn by_bisect(rate: f64, seeds: u64) -> Row {
    row(seeds, |seed| {
        let history = History::new(seed, rate);
        let (report, cost) = ours(&history, seed);
        let is_right = report.answer.nodes() == history.truth();
        (is_right, report.probability, cost)
    })
}

fn by_git(rate: f64, seeds: u64, tries: u32) -> Row {
    row(seeds, |seed| {
        let history = History::new(seed, rate);
        let (named, cost) = git(&history, tries, seed);
        (named == history.truth(), 1.0, cost)
    })
}

const BEGIN: &str = "<!-- simulation: begin -->\n";
const END: &str = "<!-- simulation: end -->";

#[test]
fn the_right_commit_is_found_in_few_builds_and_the_page_says_how_often() {
    let mut table = String::from(
        "| failures | by | right | commits built, mean | 95th percentile | runs | minutes |\n\
         |---|---|---|---|---|---|---|\n",
    );
    let mut rows = Vec::new();
    for (rate, seeds) in [(1.0, 20), (0.3, 300), (0.1, 300)] {
        let found = [
            ("`crucible bisect`", by_bisect(rate, seeds)),
            ("`git bisect run`, one run", by_git(rate, seeds, 1)),
            ("`git bisect run`, ten runs", by_git(rate, seeds, 10)),
        ];
        for (name, row) in &found {
            let _ = writeln!(
                table,
                "| {:.0} % | {name} | {:.1} % | {:.1} | {} | {:.0} | {:.1} |",
                rate * 100.0,
                row.right * 100.0,
                row.steps,
                row.steps_95,
                row.runs,
                row.minutes
            );
        }
        let [(_, first), ..] = found;
        rows.push(first);
    }
    println!("{table}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/design/bisect.md");
    let text = fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("CRUCIBLE_UPDATE").is_some() {
        fs::write(&page, wanted).unwrap();
    } else {
        assert_eq!(text, wanted, "CRUCIBLE_UPDATE=1 writes the page");
    }
    let [always, often, seldom] = &rows[..] else {
        panic!("three rates");
    };
    assert_eq!(always.right, 1.0);
    assert!(always.steps_95 <= 7, "{}", always.steps_95);
    assert!(often.right >= 0.97, "{}", often.right);
    assert!(often.steps_95 <= 9, "{}", often.steps_95);
    assert!(seldom.right >= 0.95, "{}", seldom.right);
    assert!(seldom.steps_95 <= 12, "{}", seldom.steps_95);
}

#[test]
fn what_an_answer_states_is_how_often_it_is_right() {
    const RATES: [f64; 6] = [1.0, 0.5, 0.3, 0.2, 0.1, 0.07];
    let mut rates = RATES.iter().cycle();
    let row = row(500, |seed| {
        let history = History::new(1000 + seed, *rates.next().unwrap());
        let (report, cost) = ours(&history, seed);
        let is_right = report.answer.nodes() == history.truth();
        (is_right, report.probability, cost)
    });
    println!("stated {:.4}, right {:.4}", row.stated, row.right);
    assert!(
        (row.stated - row.right).abs() < 0.03,
        "{} {}",
        row.stated,
        row.right
    );
}

#[test]
fn a_kill_at_any_moment_loses_nothing_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("observations.jsonl");
    let mut all = 0;
    for seed in 0..24 {
        let history = History::new(seed, 1.0);
        let (whole, _) = ours(&history, seed);
        let _ = fs::remove_file(&path);
        let (mut kills, mut runs, mut builds) = (0, 0, 0);
        let report = loop {
            let mut subject = Simulated::new(&history, seed);
            subject.fuse = Some(1 + kills * 7 % 13);
            let mut journal = Journal::open(&path).unwrap();
            let result = bisect(
                &mut subject,
                &history.graph,
                &options(),
                &mut journal,
                &mut |_| (),
            );
            runs += subject.runs;
            builds += subject.built.len();
            match result {
                Ok(report) => break report,
                Err(stop) => assert_eq!(stop.why, "killed"),
            }
            drop(journal);
            // The torn line of a kill.
            let mut text = fs::read(&path).unwrap_or_default();
            text.extend(b"{\"what\":\"ran\",\"ima");
            fs::write(&path, text).unwrap();
            kills += 1;
            assert!(kills < 500, "it does not go on");
        };
        assert_eq!(report.answer, whole.answer, "{seed}");
        // Each run counts once, for the kernel that two nodes may share.
        let nodes = report.nodes.iter().filter(|node| node.same_as.is_none());
        let of = |node: &crucible_bisect::NodeReport| {
            node.runs + node.others.iter().map(|other| other.runs).sum::<u64>()
        };
        assert_eq!(nodes.map(of).sum::<u64>(), runs, "{seed}");
        println!("{kills} kills, {runs} runs, {builds} builds");
        // A second search runs only the ends.
        let mut subject = Simulated::new(&history, seed);
        let mut journal = Journal::open(&path).unwrap();
        let again = bisect(
            &mut subject,
            &history.graph,
            &options(),
            &mut journal,
            &mut |_| (),
        );
        let again = again.unwrap();
        assert_eq!(again.answer, whole.answer);
        assert_eq!((again.runs, subject.runs), (0, 0));
        assert_eq!(again.reused, runs);
        all += kills;
    }
    assert!(all >= 200, "{all} kills");
}

#[test]
fn the_hidden_neighbour_is_named_with_the_culprit() {
    let history = (0..100)
        .step_by(2)
        .map(|seed| History::new(seed, 1.0))
        .find(|history| history.truth().len() == 2)
        .unwrap();
    let (report, _) = ours(&history, 7);
    let nodes = history.truth();
    assert_eq!(report.answer, Answer::NotSeparable { candidates: nodes });
    assert_eq!(report.hidden, [history.truth()[0]]);
    assert!(report.hidden_probability > 0.3);
    assert!(!report.answer.is_found());
    assert!(report.nodes.len() == COMMITS + 1);
    // The candidates of the answer stay in the report's list of nodes, too.
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}
