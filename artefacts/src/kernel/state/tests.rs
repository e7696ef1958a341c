// SPDX-License-Identifier: Apache-2.0 OR MIT
use super::*;
use crate::kernel::Member;

const TEXT: &str = "struct task_struct
source kernel/fork.c

saved CKPT_REC_TASK
  comm[] se.{slice,vlag}

rebuilt kernel/fork.c:copy_process
  pid
  | Each task
  | is created.

refused task.c:check_task
  io_uring
  | One that has a ring.
";

fn list(text: &str) -> List {
    List {
        structs: vec![Struct::parse(text).unwrap()],
        leaves: BTreeMap::new(),
    }
}

fn members(paths: &[&str]) -> Members {
    let members = paths.iter().map(|path| Member {
        path: (*path).to_owned(),
        kind: "int".into(),
    });
    Members {
        flavour: "base".into(),
        structs: BTreeMap::from([("task_struct".into(), members.collect())]),
        tree: "/".into(),
    }
}

fn text(path: &str) -> Option<String> {
    match path {
        "include/uapi/linux/checkpoint.h" => Some("CKPT_REC_TASK = 5,".into()),
        "kernel/fork.c" => Some("int copy_process(void)".into()),
        "kernel/checkpoint/task.c" => Some("static int check_task(void)".into()),
        _ => None,
    }
}

const ALL: [&str; 5] = ["comm[]", "se.slice", "se.vlag", "pid", "io_uring"];

#[test]
fn a_list_with_every_member_once_has_no_problems() {
    let list = list(TEXT);
    assert_eq!(list.structs[0].entries[1].why, "Each task is created.");
    assert_eq!(list.problems(&[members(&ALL)], &text), [""; 0]);
    // A member may exist only under one configuration.
    let (base, debug) = (members(&ALL[..4]), members(&ALL[1..]));
    assert_eq!(list.problems(&[base, debug], &text), [""; 0]);
}

#[test]
fn a_new_member_is_reported() {
    let with = [&ALL[..], &["planted"]].concat();
    assert_eq!(
        list(TEXT).problems(&[members(&ALL), members(&with)], &text),
        ["struct task_struct has a member planted (base flavour) that is not in the list"]
    );
}

#[test]
fn a_removed_member_is_reported() {
    assert_eq!(
        list(TEXT).problems(&[members(&ALL[..4])], &text),
        ["task_struct.io_uring is in the list, but not in the struct of any flavour"]
    );
}

#[test]
fn a_member_with_two_entries_is_reported() {
    let twice = format!("{TEXT}\nlost\n  pid\n  | No.\n");
    assert_eq!(
        list(&twice).problems(&[members(&ALL)], &text),
        ["task_struct.pid is in the list 2 times"]
    );
}

#[test]
fn the_references_of_an_entry_must_exist() {
    for (from, to, problem) in [
        (
            "CKPT_REC_TASK",
            "CKPT_REC_TAS",
            "include/uapi/linux/checkpoint.h does not contain CKPT_REC_TAS",
        ),
        (
            "CKPT_REC_TASK",
            "task.c:check_task",
            "`saved` has no reference to a record",
        ),
        (" CKPT_REC_TASK", "", "`saved` has no reference"),
        (
            "copy_process",
            "process",
            "kernel/fork.c does not contain process",
        ),
        (
            "task.c:",
            "tusk.c:",
            "kernel/checkpoint/tusk.c does not exist",
        ),
        ("  | One that has a ring.\n", "", "`refused` has no reason"),
    ] {
        let problems = list(&TEXT.replace(from, to)).problems(&[members(&ALL)], &text);
        assert!(problems.iter().any(|p| p.contains(problem)), "{problems:?}");
    }
}

#[test]
fn a_leaf_that_no_struct_embeds_is_reported() {
    let mut list = list(TEXT);
    list.leaves = parse_leaves("list_head mutex\n  | Links.\n").unwrap();
    assert_eq!(
        list.problems(&[members(&ALL)], &text),
        [
            "leaves lists list_head, but no struct embeds it",
            "leaves lists mutex, but no struct embeds it"
        ]
    );
}

#[test]
fn malformed_lists_are_errors() {
    for (from, to) in [
        ("struct task_struct", "task_struct"),
        ("source ", ""),
        ("saved", "spared"),
        ("  | is created.", "is created."),
        ("  io_uring\n", ""),
    ] {
        assert!(Struct::parse(&TEXT.replace(from, to)).is_err(), "{to}");
    }
    assert!(parse_leaves("mutex\n").is_err());
    assert!(parse_leaves("mutex\n  | One.\n\nmutex\n  | Two.\n").is_err());
}

#[test]
fn the_table_counts_members() {
    let table = list(TEXT).table();
    assert!(
        table.contains("| `task_struct` | 3 | 1 | 0 | 1 | 0 | 0 |"),
        "{table}"
    );
    assert!(table.contains("| all | 3 | 1 | 0 | 1 | 0 | 0 |"), "{table}");
}
