// SPDX-License-Identifier: Apache-2.0 OR MIT
use std::collections::{BTreeMap, BTreeSet};

use crucible_mutants::{Half, Kind};

use super::*;
use crate::{
    coverage::Executed,
    experiment::{Summary, reach::Reached},
};

fn mutant(number: u32, line: u32) -> Mutant {
    Mutant {
        id: format!("id{number}"),
        number,
        file: "kernel/checkpoint/a.c".into(),
        function: "f".into(),
        half: Half::Both,
        kind: Kind::Negated,
        line,
        statement: (line, line),
        text: "a".into(),
    }
}

/// Lines 1 to 8 are run, line 9 is not.
fn experiment(options: Options) -> MutateExperiment {
    let scenario = Scenario {
        name: "s".into(),
        dir: PathBuf::new(),
        summary: String::new(),
        shared: Vec::new(),
        build: Vec::new(),
        cases: vec![Case::example()],
    };
    let executed = Executed {
        ran: (1..9).collect(),
        idle: BTreeSet::from([9]),
    };
    let reached = Reached {
        scenario: "s".into(),
        case: scenario.cases[0].name.clone(),
        ms: 10,
        lines: BTreeMap::from([("kernel/checkpoint/a.c".to_owned(), executed)]),
    };
    let equivalent = Equivalent {
        id: "id3".into(),
        what: "a".into(),
        why: "b".into(),
    };
    MutateExperiment::new(
        vec![scenario],
        (1..=9).map(|number| mutant(number, number)).collect(),
        BTreeMap::from([("id3".to_owned(), equivalent)]),
        Reach {
            cases: vec![reached],
        },
        PathBuf::new(),
        options,
    )
}

fn finding(number: u32, condition: Condition, eyes: &[&[&str]]) -> Finding<MutantDetail> {
    let kill = |eyes: &&[&str]| Kill {
        case: "s/main".into(),
        eyes: eyes.iter().map(|&eye| eye.to_owned()).collect(),
        condition: Condition::Diverged,
        why: String::new(),
    };
    Finding {
        key: number.to_string(),
        outcome: Outcome::new(condition, ""),
        ms: 1,
        detail: Some(MutantDetail {
            mutant: mutant(number, number),
            kills: eyes.iter().map(kill).collect(),
            cases: 1,
            tried: 1,
            unsure: Vec::new(),
        }),
    }
}

#[test]
fn a_sample_is_drawn_by_its_seed_from_what_is_run() {
    let drawn = |seed, sample| {
        experiment(Options {
            seed,
            sample,
            ..Options::default()
        })
        .drawn()
    };
    let all = drawn(1, None);
    // The equivalent mutant and the one on the line that is never run are left out.
    assert_eq!(
        all.iter().copied().collect::<BTreeSet<_>>(),
        BTreeSet::from([0, 1, 3, 4, 5, 6, 7])
    );
    assert_eq!(drawn(1, Some(3)), all[..3]);
    assert_ne!(drawn(2, None), all);
}

#[test]
fn single_mutants_can_be_asked_for() {
    let experiment = experiment(Options {
        only: vec!["id2".into(), "id99".into()],
        ..Options::default()
    });
    assert_eq!(experiment.drawn(), [1]);
    assert_eq!(experiment.missing(), ["id99"]);
}

#[test]
fn parts_share_a_sample() {
    let all = experiment(Options::default()).drawn();
    let mut parts: Vec<_> = (0..3)
        .flat_map(|part| {
            let experiment = experiment(Options::default());
            let drawn = experiment.drawn().into_iter().enumerate();
            drawn
                .filter(move |(place, _)| place % 3 == part)
                .map(|(_, index)| index)
        })
        .collect();
    parts.sort_unstable();
    let mut sorted = all;
    sorted.sort_unstable();
    assert_eq!(parts, sorted);
}

#[test]
fn a_score_counts_by_file_and_by_eye() {
    let experiment = experiment(Options::default());
    let score = experiment.summarise(&[
        finding(1, Condition::Passed, &[&["facts", "hang"], &["stdout"]]),
        finding(2, Condition::Passed, &[&["stdout"]]),
        finding(4, Condition::Passed, &[]),
        finding(5, Condition::HostKilled, &[]),
    ]);
    let of_file = score.files["kernel/checkpoint/a.c"];
    let expected = FileScore {
        killed: 2,
        survived: 1,
        unknown: 1,
        never_run: 1,
        equivalent: 1,
    };
    assert_eq!((of_file, score.sum), (expected, expected));
    assert_eq!((score.mutants, score.reached), (9, 7));
    assert_eq!(score.survivors, [mutant(4, 4)]);
    let eye = |name: &str| (score.eyes[name].first, score.eyes[name].all);
    assert_eq!(
        (eye("facts"), eye("hang"), eye("stdout")),
        ((1, 1), (0, 1), (1, 2))
    );
    assert!((score.percent - 66.7).abs() < 0.1);
}

#[test]
fn the_exit_code_is_that_of_what_was_asked_for() {
    let code = |at_least, findings: &[Finding<MutantDetail>]| {
        let experiment = experiment(Options {
            at_least,
            ..Options::default()
        });
        experiment.summarise(findings).outcomes()[0]
            .condition
            .exit_code()
    };
    let killed = || finding(1, Condition::Passed, &[&["stdout"]]);
    let survived = || finding(2, Condition::Passed, &[]);
    let unknown = || finding(4, Condition::HostKilled, &[]);
    assert_eq!(code(None, &[killed(), survived()]), 0);
    assert_eq!(code(Some(50.0), &[killed(), survived()]), 0);
    assert_eq!(code(Some(51.0), &[killed(), survived()]), 1);
    // The unknown mutant may be killed or not.
    assert_eq!(code(Some(50.0), &[killed(), survived(), unknown()]), 125);
    assert_eq!(code(Some(70.0), &[killed(), survived(), unknown()]), 1);
    assert_eq!(code(None, &[unknown()]), 125);
}

#[test]
fn what_ends_a_run_is_an_eye() {
    let stop = |condition, why: &str| eye(&Abort::new(condition, why));
    assert_eq!(
        stop(Condition::Refused, "restart refused: x"),
        "restart refuses"
    );
    assert_eq!(
        stop(Condition::Unsupported, "checkpoint refused: x"),
        "checkpoint refuses"
    );
    assert_eq!(stop(Condition::RequestFailed, "tasks are left"), "agent");
    assert_eq!(stop(Condition::Hang, "x"), "hang");
    assert_eq!(stop(Condition::KernelReport, "x"), "kernel-report");
}
