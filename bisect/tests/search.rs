// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Searches with prescribed results of each step: ends, settings, other failures, reverts.

mod common;

use std::collections::{HashMap, HashSet};

use common::{dice::Dice, node, row, runs, signature};
use crucible_bisect::{
    Answer, Built, Graph, Journal, Observation, Offer, Options, REVERTED, Report, Seen, Setting,
    Stop, Subject, Visit, What, bisect, schema,
};
use crucible_engine::Condition;

/// The results of a node's runs, in turn.
type Script = Box<dyn Fn(u64, &Setting) -> Seen>;

struct Scripted {
    of: Vec<Script>,
    usual: Vec<Setting>,
    others: Vec<Setting>,
    images: HashMap<usize, &'static str>,
    unbuildable: Vec<usize>,
    unbootable: Vec<usize>,
    runs: HashMap<(usize, Setting), u64>,
    late: Option<(usize, Seen)>,
    /// The image without the change.
    reverted: &'static str,
}

fn pass() -> Seen {
    Seen::Pass
}

fn fail() -> Seen {
    Seen::Failed(signature("stdout"))
}

fn setting(case: &str, vcpus: u32) -> Setting {
    Setting {
        case: case.into(),
        vcpus,
        ..Setting::default()
    }
}

impl Scripted {
    /// Returns a subject whose nodes fail from `culprit` on.
    fn new(len: usize, culprit: usize) -> Self {
        let script = |node: usize| -> Script {
            Box::new(move |_, _| if node >= culprit { fail() } else { pass() })
        };
        Self {
            of: (0..len).map(script).collect(),
            usual: vec![Setting::default()],
            others: Vec::new(),
            images: HashMap::new(),
            unbuildable: Vec::new(),
            unbootable: Vec::new(),
            runs: HashMap::new(),
            late: None,
            reverted: "reverted",
        }
    }

    fn all(&mut self, script: impl Fn(u64, &Setting) -> Seen + Clone + 'static) {
        for node in 0..self.of.len() {
            self.of[node] = Box::new(script.clone());
        }
    }
}

impl Subject for Scripted {
    fn inputs(&mut self, node: usize) -> Result<Option<String>, Stop> {
        Ok(Some(node.to_string()))
    }

    fn build(&mut self, node: usize) -> Result<Built, Stop> {
        let image = self.images.get(&node).copied();
        Ok(match self.unbuildable.contains(&node) {
            true => Built::Unbuildable {
                why: "no".into(),
                seconds: 9.0,
            },
            false => Built::Image {
                image: image.map_or_else(|| node.to_string(), str::to_owned),
                seconds: 9.0,
            },
        })
    }

    fn run(
        &mut self,
        node: usize,
        setting: &Setting,
        see: &mut dyn FnMut(Observation) -> bool,
    ) -> Result<Visit, Stop> {
        let mut visit = Visit::default();
        if self.unbootable.contains(&node) {
            visit.unbootable = Some("no".into());
            return Ok(visit);
        }
        let made = runs(see, || {
            let count = self.runs.entry((node, setting.clone())).or_default();
            *count += 1;
            Ok(Observation {
                seen: match node {
                    REVERTED => pass(),
                    _ => (self.of[node])(*count, setting),
                },
                seconds: 1.0,
                lines: vec!["- a".into(), "+ b".into()],
            })
        })?;
        if let Some((_, seen_late)) = self.late.take_if(|(at, _)| *at == node) {
            visit.revised.push((made - 1, seen_late));
        }
        Ok(visit)
    }

    fn usual(&self) -> Vec<Setting> {
        self.usual.clone()
    }

    fn amplifies(&self) -> bool {
        !self.others.is_empty()
    }

    fn others(&mut self, _: usize, _: &Setting) -> Result<Offer, Stop> {
        Ok(Offer {
            settings: self.others.clone(),
            ..Offer::default()
        })
    }

    fn revert(&mut self, _: usize) -> Result<Option<Built>, Stop> {
        Ok(Some(Built::Image {
            image: self.reverted.into(),
            seconds: 9.0,
        }))
    }
}

fn search(subject: &mut Scripted, graph: &Graph, options: &Options) -> (Report, Vec<What>) {
    let mut said = Vec::new();
    let mut journal = Journal::in_memory();
    let mut tell = |progress: crucible_bisect::Progress| said.push(progress.what);
    let report = bisect(subject, graph, options, &mut journal, &mut tell);
    (report.unwrap(), said)
}

#[test]
fn the_report_has_the_culprit_its_parent_and_the_revert() {
    let mut subject = Scripted::new(9, 5);
    let (report, _) = search(&mut subject, &row(9), &Options::default());
    assert_eq!(report.answer, Answer::Culprit { node: 5 });
    assert!(report.answer.is_found() && report.probability >= 0.99);
    assert_eq!(report.condition(), Condition::Passed);
    let checks = report.checks.iter();
    let checks: Vec<_> = checks
        .map(|c| (c.what.as_str(), c.node, c.failures > 0))
        .collect();
    let wanted = [
        ("culprit", Some(5), true),
        ("parent", Some(4), false),
        ("reverted", None, false),
    ];
    assert_eq!(checks, wanted);
    assert!(
        report.checks.iter().all(|check| check.runs >= 3),
        "{report:?}"
    );
    assert_eq!(report.checks[0].lines, ["- a", "+ b"]);
    assert_eq!(report.sought.unwrap().at, "stdout");
}

#[test]
fn ends_that_do_not_differ_have_no_culprit() {
    let answer = |subject: &mut Scripted| {
        let options = Options {
            end_runs: 12,
            ..Options::default()
        };
        let (report, _) = search(subject, &row(4), &options);
        assert_eq!(report.condition(), Condition::Undecided);
        assert!(report.checks.is_empty());
        report.answer
    };
    let mut subject = Scripted::new(4, 9);
    assert_eq!(answer(&mut subject), Answer::NotReproduced);
    assert_eq!(subject.runs.values().sum::<u64>(), 12);
    let mut subject = Scripted::new(4, 0);
    assert_eq!(answer(&mut subject), Answer::BothEnds);
    let mut subject = Scripted::new(4, 2);
    subject.images = HashMap::from([(0, "same"), (3, "same")]);
    assert_eq!(answer(&mut subject), Answer::SameKernel);
    assert_eq!(subject.runs.len(), 0);
    let mut subject = Scripted::new(4, 2);
    subject.unbuildable = vec![3];
    assert!(matches!(
        answer(&mut subject),
        Answer::NoEnd { node: 3, .. }
    ));
    let mut subject = Scripted::new(4, 2);
    subject.unbootable = vec![0];
    assert!(matches!(
        answer(&mut subject),
        Answer::NoEnd { node: 0, .. }
    ));
    let mut subject = Scripted::new(4, 2);
    subject.all(|_, _| Seen::Unclear("two undisturbed runs differ".into()));
    assert!(matches!(
        answer(&mut subject),
        Answer::NoEnd { node: 3, .. }
    ));
}

#[test]
fn the_case_that_fails_is_the_one_that_is_run() {
    let mut subject = Scripted::new(6, 3);
    subject.usual = vec![setting("a/x", 1), setting("a/y", 1)];
    for node in 3..6 {
        subject.of[node] = Box::new(|_, setting| match setting.case.as_str() {
            "a/y" => fail(),
            _ => pass(),
        });
    }
    let (report, _) = search(&mut subject, &row(6), &Options::default());
    assert_eq!(report.answer, Answer::Culprit { node: 3 });
    assert_eq!(report.setting, setting("a/y", 1));
    let on_x = subject.runs.iter().filter(|((_, s), _)| s.case == "a/x");
    let on_x: u64 = on_x.map(|(_, runs)| runs).sum();
    assert!(on_x <= 2, "{on_x}");
}

#[test]
fn a_setting_that_shows_a_rare_bug_often_is_used() {
    let mut subject = Scripted::new(6, 3);
    subject.others = vec![setting("", 2), setting("", 4)];
    for node in 3..6 {
        subject.of[node] = Box::new(|count, setting| match setting.vcpus {
            4 => fail(),
            _ if count % 10 == 0 => fail(),
            _ => pass(),
        });
    }
    let (report, said) = search(&mut subject, &row(6), &Options::default());
    assert_eq!(report.answer, Answer::Culprit { node: 3 });
    assert_eq!(report.setting, setting("", 4));
    assert!(report.amplified > 5.0, "{}", report.amplified);
    assert!(reverted(&report) < 10);
    assert!(
        said.iter()
            .any(|what| matches!(what, What::Amplified { .. }))
    );
    // The other runs of the bad end do not count.
    assert!(report.rates.1 > 0.8, "{:?}", report.rates);
}

/// Returns the number of runs of the bad end without the change.
fn reverted(report: &Report) -> u64 {
    let check = report.checks.iter().find(|check| check.what == "reverted");
    check.map_or(0, |check| check.runs)
}

#[test]
fn the_bad_end_without_a_rare_bug_runs_for_longer() {
    let mut subject = Scripted::new(4, 2);
    for node in 2..4 {
        subject.of[node] = Box::new(|count, _| if count % 8 == 0 { fail() } else { pass() });
    }
    let (report, _) = search(&mut subject, &row(4), &Options::default());
    assert_eq!(report.answer, Answer::Culprit { node: 2 });
    assert!(reverted(&report) >= 20, "{}", reverted(&report));
}

#[test]
fn another_failure_counts_neither_way_and_hides_a_commit() {
    let other = || Seen::Failed(signature("fds"));
    let mut subject = Scripted::new(9, 7);
    // An end shows it now and then, a commit always.
    subject.of[8] = Box::new(move |count, _| if count == 1 { other() } else { fail() });
    subject.of[4] = Box::new(move |_, _| other());
    let (report, said) = search(&mut subject, &row(9), &Options::default());
    assert_eq!(report.answer, Answer::Culprit { node: 7 });
    let hidden = said
        .iter()
        .filter(|what| matches!(what, What::Hidden { .. }));
    assert_eq!(hidden.count(), 1);
    assert_eq!(
        report.nodes[4].others[0].signature,
        signature("fds").to_string()
    );
    assert_eq!(
        (report.nodes[4].failures, report.nodes[8].others[0].runs),
        (0, 1)
    );
    // The requested failure is sought, even if it is rare.
    let mut subject = Scripted::new(3, 1);
    for node in 1..3 {
        subject.of[node] = Box::new(move |count, _| if count % 3 == 0 { other() } else { fail() });
    }
    let options = Options {
        signature: Some("fds".into()),
        ..Options::default()
    };
    let (report, _) = search(&mut subject, &row(3), &options);
    assert_eq!(report.sought.unwrap(), signature("fds"));
}

#[test]
fn a_merge_that_breaks_what_its_sides_do_not_is_named_as_one() {
    let parents: [&[usize]; 5] = [&[], &[0], &[0], &[1, 2], &[3]];
    let nodes = parents
        .iter()
        .enumerate()
        .map(|(n, p)| node(n, p))
        .collect();
    let graph = Graph::new(nodes).unwrap();
    let (report, _) = search(&mut Scripted::new(5, 3), &graph, &Options::default());
    assert_eq!(report.answer, Answer::Merge { node: 3 });
    let parents = report.checks.iter().filter(|check| check.what == "parent");
    assert_eq!(parents.count(), 2);
}

#[test]
fn what_a_guest_says_at_its_end_replaces_what_was_seen() {
    let mut subject = Scripted::new(4, 2);
    subject.of[2] = Box::new(|_, _| pass());
    // The only visit of the culprit seems to pass until the guest ends.
    subject.late = Some((3, Seen::Unclear("late".into())));
    let (report, _) = search(&mut subject, &row(4), &Options::default());
    assert_eq!(report.nodes[3].unclear, 1);
    assert_eq!(report.answer, Answer::Culprit { node: 3 });
}

#[test]
fn a_search_that_may_not_go_on_says_so() {
    let mut subject = Scripted::new(40, 20);
    let options = Options {
        runs: 6,
        ..Options::default()
    };
    let (report, _) = search(&mut subject, &row(40), &options);
    assert_eq!(report.answer, Answer::Undecided);
    assert!(report.runs <= 7, "{}", report.runs);
}

/// The same holds if runs give no observation, and if the kernel without the change equals that of
/// a node.
#[test]
fn a_search_that_is_made_again_runs_nothing() {
    let (graph, options) = (row(9), Options::default());
    let mut different = HashSet::new();
    for seed in 0..400_u64 {
        let mut subject = Scripted::new(9, 5);
        subject.reverted = "4";
        for node in 0..9 {
            subject.of[node] = Box::new(move |count, _| {
                let mut draw = Dice::new(seed << 32 | (node as u64) << 16 | count);
                match (draw.below(10), draw.below(10)) {
                    (0, _) => Seen::Unclear("no".into()),
                    (_, rate) if node >= 5 && rate < 3 + seed as usize % 8 => fail(),
                    _ => pass(),
                }
            });
        }
        let mut journal = Journal::in_memory();
        let mut once =
            || bisect(&mut subject, &graph, &options, &mut journal, &mut |_| ()).unwrap();
        let (first, second) = (once(), once());
        assert_eq!(second.answer, first.answer, "{seed}");
        assert_eq!(second.runs, 0, "{seed}: {:?}", second.checks);
        different.insert(reverted(&first));
    }
    assert!(different.len() > 3, "{different:?}");
}

#[test]
fn a_report_is_json_and_has_a_schema() {
    let (report, _) = search(&mut Scripted::new(3, 1), &row(3), &Options::default());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["answer"], "culprit");
    assert_eq!(serde_json::from_value::<Report>(json).unwrap(), report);
    assert!(schema().contains("hidden_probability"));
}
