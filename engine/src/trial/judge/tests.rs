// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use crate::abort::Abort;
use crate::normalise::Rule;
use crate::run::Seen;
use crucible_protocol::image::diff::{Comparison, Difference, Value};
use crucible_protocol::{Freeze, TaskFacts};

fn task(tid: i32, site: &str) -> TaskFacts {
    TaskFacts {
        pid: tid,
        tid,
        comm: "make".into(),
        state: 'S',
        site: site.into(),
        ..TaskFacts::default()
    }
}

fn tree(tasks: &[TaskFacts]) -> Observation {
    Observation {
        tasks: tasks.to_vec(),
    }
}

fn frozen(tid: i32, tasks: &[TaskFacts]) -> Frozen {
    Frozen {
        freeze: Freeze { tid, count: 1 },
        tasks: tree(tasks),
        nonce: None,
    }
}

fn restarted(tid: i32, tasks: &[TaskFacts], stdout: &str) -> Restarted {
    Restarted {
        before: frozen(tid, tasks),
        after: Some(tree(tasks)),
        second: None,
        later: Vec::new(),
        end: Ok(RunOutput::example(stdout)),
        place: RestartIn::Same,
    }
}

fn names(checks: &[Check]) -> Vec<&str> {
    checks.iter().map(|check| check.name.as_str()).collect()
}

fn bad(checks: &[Check]) -> Vec<&str> {
    let bad = checks.iter().filter(|check| !check.ok);
    bad.map(|check| check.name.as_str()).collect()
}

const POINT: &str = "restarted = control: triggering task";
const WAITS: &str = "restarted = checkpoint: vfork waits";
const TREE: &str = "restarted = checkpoint: process tree";
const FACTS: &str = "restarted = checkpoint: what /proc shows";

fn judged(case: &Case, control: &Frozen, restarted: &Restarted) -> Vec<Check> {
    let output = RunOutput::example("x\n");
    let uses = &mut Uses::new();
    judge(case, Backend::Crucible, control, &output, restarted, uses)
}

#[test]
fn an_equal_run_passes_point_tree_and_end() {
    let tasks = [task(1, "freezer"), task(2, "vfork")];
    let run = restarted(2, &tasks, "x\n");
    let checks = judged(&Case::example(), &frozen(2, &tasks), &run);
    assert_eq!(bad(&checks), [""; 0], "{checks:?}");
    assert_eq!(names(&checks)[..4], [POINT, WAITS, TREE, FACTS]);
    assert_eq!(checks.len(), 9);
}

#[test]
fn the_second_image_is_judged_after_what_proc_shows() {
    let tasks = [task(1, "freezer"), task(2, "vfork")];
    let mut run = restarted(2, &tasks, "x\n");
    let difference = |field: &str| Difference {
        record: "Regs".into(),
        field: field.into(),
        first: Value::Unsigned(1),
        second: Value::Unsigned(2),
        ..Difference::default()
    };
    let mut found = Comparison::default();
    let second = |found: &Comparison, kept: &[&str]| Second {
        found: Ok(found.clone()),
        kept: kept.iter().map(|&path| path.to_owned()).collect(),
    };
    run.second = Some(second(&found, &[]));
    let checks = judged(&Case::example(), &frozen(2, &tasks), &run);
    assert_eq!(names(&checks)[3..5], [FACTS, "second image = first image"]);
    assert_eq!(bad(&checks), [""; 0]);
    found.differences = (0..7).map(|n| difference(&format!("r{n}"))).collect();
    found.more = 3;
    run.second = Some(second(&found, &["a", "b"]));
    let checks = judged(&Case::example(), &frozen(2, &tasks), &run);
    assert_eq!(bad(&checks), ["second image = first image"]);
    let lines = checks[4].lines();
    assert_eq!(lines[0], "Regs r0: 1, then 2");
    assert_eq!(lines[5..], ["and 5 more differences", "crucible diff a b"]);
    run.second = Some(Second {
        found: Err("the second image: it is truncated".into()),
        kept: Vec::new(),
    });
    let checks = judged(&Case::example(), &frozen(2, &tasks), &run);
    assert_eq!(checks[4].lines(), ["the second image: it is truncated"]);
}

#[test]
fn each_link_of_a_chain_is_judged() {
    let tasks = [task(1, "freezer"), task(2, "vfork")];
    let mut run = restarted(2, &tasks, "x\n");
    let once = judged(&Case::example(), &frozen(2, &tasks), &run).len();
    let tree = tree(&tasks);
    for tid in [1, 2] {
        run.later.push(Link {
            before: frozen(tid, &tasks),
            seen: Seen {
                tasks: Some(tree.clone()),
                second: None,
            },
        });
    }
    // The event of a later link varies.
    let checks = judged(&Case::example(), &frozen(2, &tasks), &run);
    assert_eq!((checks.len(), bad(&checks)), (once + 2 * 3, vec![]));
    let after = run.later[1].seen.tasks.as_mut().unwrap();
    after.tasks[0].facts.insert("stat.nice".into(), "1".into());
    let checks = judged(&Case::example(), &frozen(2, &tasks), &run);
    assert_eq!(bad(&checks), [FACTS]);
}

#[test]
fn while_a_chain_runs_each_link_is_compared_once() {
    let tasks = [task(1, "freezer")];
    let mut run = restarted(1, &tasks, "x\n");
    // A difference of an earlier link would have ended the chain.
    let other = run.after.as_mut().unwrap();
    other.tasks[0].facts.insert("stat.nice".into(), "1".into());
    let mut count = 0;
    for later in 1..=3 {
        let tasks = Some(tree(&tasks));
        run.later.push(Link {
            before: frozen(1, &[task(1, "freezer")]),
            seen: Seen {
                tasks,
                second: None,
            },
        });
        let checks = last_link(Backend::Crucible, &run, &mut Uses::new());
        assert_eq!(names(&checks), [WAITS, TREE, FACTS]);
        assert_eq!(bad(&checks), [""; 0], "link {later}");
        count += checks.len();
    }
    let all = around(Backend::Crucible, &run, &mut Uses::new());
    assert_eq!((all.len(), bad(&all)), (3 + count, vec![FACTS]));
}

#[test]
fn each_part_can_fail_alone() {
    let case = Case::example();
    let tasks = [task(1, "freezer"), task(2, "vfork")];
    let control = frozen(2, &tasks);
    let run = restarted(1, &tasks, "x\n");
    assert_eq!(bad(&judged(&case, &control, &run)), [POINT]);
    let any = Case {
        any_task: true,
        ..case.clone()
    };
    let checks = judged(&any, &control, &run);
    assert_eq!(names(&checks)[0], WAITS);
    assert_eq!(bad(&checks), [""; 0]);
    let run = restarted(2, &tasks, "y\n");
    assert_eq!(
        bad(&judged(&case, &control, &run)),
        ["restarted = control: stdout"]
    );
    let mut run = restarted(2, &tasks, "x\n");
    let after = run.after.as_mut().unwrap();
    after.tasks[0].facts.insert("stat.nice".into(), "1".into());
    assert_eq!(bad(&judged(&case, &control, &run)), [FACTS]);
}

#[test]
fn a_run_that_did_not_end_is_judged_by_its_tree_alone() {
    let tasks = [task(1, "freezer")];
    let mut run = restarted(1, &tasks, "");
    run.end = Err(Abort::missed("gone"));
    let checks = judged(&Case::example(), &frozen(1, &tasks), &run);
    assert_eq!(names(&checks), [POINT, WAITS, TREE, FACTS]);
    run.after = None;
    let checks = judged(&Case::example(), &frozen(1, &tasks), &run);
    assert_eq!(names(&checks), [POINT]);
}

#[test]
fn the_triggering_task_is_named_with_its_site() {
    let tasks = [task(1, "freezer"), task(2, "vfork")];
    let check = same_point(&frozen(1, &tasks), &frozen(2, &tasks));
    let lines = check.lines();
    assert_eq!(
        lines,
        [
            "differs from line 1",
            "  - make (1) at freezer",
            "  + make (2) at vfork"
        ]
    );
    let check = same_point(&frozen(0, &tasks), &frozen(2, &tasks));
    assert_eq!(check.lines()[1], "  - a timer");
    assert!(same_point(&frozen(0, &tasks), &frozen(0, &tasks)).ok);
}

#[test]
fn a_lost_vfork_wait_is_said_so() {
    let before = tree(&[task(1, "freezer"), task(2, "vfork pid=3")]);
    let lost = |after: &[TaskFacts]| vfork_waits(&before, &tree(after)).lines();
    assert_eq!(lost(&[task(2, "vfork pid=3")]), [""; 0]);
    assert_eq!(
        lost(&[task(1, "vfork pid=3"), task(2, "freezer")]),
        [
            "make (2) waited for its vfork child (`vfork pid=3`); after the restart it is at \
          `freezer`: its wait was lost"
        ]
    );
    assert!(lost(&[task(1, "freezer")])[0].contains("at `gone`"));
    // Tasks may leave other sites: only a wait for a vfork child is kept by the kernel alone.
    let before = tree(&[task(1, "freezer")]);
    assert!(vfork_waits(&before, &tree(&[task(1, "exiting")])).ok);
}

#[test]
fn start_times_count_unless_another_machine_or_criu_made_the_tasks() {
    let began = |time: &str| {
        let mut task = task(1, "freezer");
        task.facts.insert("stat.starttime".into(), time.into());
        task.facts.insert("syscall".into(), time.into());
        [task]
    };
    let tried = |backend, place| {
        let mut uses = Uses::new();
        let before = frozen(1, &began("1"));
        let checks = trees(backend, place, &before, &tree(&began("2")), &mut uses);
        let facts = checks.last().unwrap().lines().join("\n");
        let differ = ["stat.starttime", "syscall"].map(|fact| facts.contains(fact));
        (differ, uses.into_keys().collect::<Vec<_>>())
    };
    use {Backend::*, RestartIn::*};
    let (differ, uses) = tried(Crucible, Same);
    assert_eq!((differ, uses), ([true, true], vec![]));
    let (differ, uses) = tried(Crucible, Fresh);
    assert_eq!((differ, uses), ([false, true], vec![Rule::StartTimes]));
    for place in [Same, Fresh] {
        let (differ, uses) = tried(Criu, place);
        assert_eq!(differ, [false, false]);
        assert_eq!(uses, [Rule::CriuSystemCall, Rule::StartTimes]);
    }
}

#[test]
fn signals_of_expired_timers_are_no_difference() {
    let pends = |mask: &str| {
        let mut task = task(1, "freezer");
        task.facts.insert("status.SigPnd".into(), mask.into());
        [task]
    };
    let mut uses = Uses::new();
    let before = frozen(1, &pends("0000000000000000"));
    let after = tree(&pends("0000000000002000"));
    let checks = trees(
        Backend::Crucible,
        RestartIn::Same,
        &before,
        &after,
        &mut uses,
    );
    assert_eq!(bad(&checks), [""; 0], "{checks:?}");
    assert_eq!(uses, Uses::from([(Rule::ExpiredTimers, 1)]));
}

#[test]
fn the_expected_end_is_that_of_the_case() {
    let case = Case {
        status: 3,
        ..Case::example()
    };
    let mut output = RunOutput::example("");
    output.stderr = "no such file".into();
    output.workload = Some(Ended::Exited { code: 3 });
    let checks = expected(&case, "control", &output);
    assert_eq!(names(&checks), ["control: ends with status 3"]);
    assert_eq!(bad(&checks), [""; 0]);
    output.workload = Some(Ended::Exited { code: 0 });
    let checks = expected(&case, "control", &output);
    assert_eq!(bad(&checks).len(), 1);
    assert_eq!(checks[0].lines()[1], "no such file");
    output.workload = None;
    let checks = expected(&case, "control", &output);
    assert_eq!(checks[0].lines(), ["its exit status is unknown"]);
}

#[test]
fn the_run_that_ends_must_print_the_nonce_that_it_drew() {
    let case = Case {
        nonce: Some("nonce".into()),
        ..Case::example()
    };
    let mut output = RunOutput::example("n 77\n");
    let kept = |output: &RunOutput| nonce_kept(&case, "restarted", output).unwrap();
    assert_eq!(kept(&output).lines(), ["the workload drew no nonce"]);
    output.nonce = Some("77".into());
    assert_eq!(
        kept(&output),
        Check::good("restarted: prints the nonce that it drew")
    );
    output.nonce = Some("78".into());
    assert_eq!(
        kept(&output).lines(),
        ["78 was drawn but is not in the output"]
    );
    assert_eq!(nonce_kept(&Case::example(), "restarted", &output), None);
    // Both comparisons of a run's end contain it.
    let uses = &mut Uses::new();
    let ends = end(&case, "restarted = control", &output, &output, uses);
    assert_eq!(bad(&ends), ["restarted: prints the nonce that it drew"]);
    assert_eq!(bad(&expected(&case, "restarted", &output)).len(), 1);
}
