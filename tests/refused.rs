// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Unsupported state is refused with pid, object and reason before the checkpoint disturbs
//! anything, and the tree completes its work normally.

mod common;

use common::cli;

/// Cases of `tests/scenarios/refused`, and texts that the log must contain for each.
const REFUSALS: &[(&str, &str, &[&str])] = &[
    (
        "listening",
        "EOPNOTSUPP",
        &[
            "pid 3: a listening socket",
            "pid 3: refused: fd 3 cannot be saved",
        ],
    ),
    (
        "internet",
        "EOPNOTSUPP",
        &["pid 3: a socket of address family 2"],
    ),
    (
        "waiting",
        "EOPNOTSUPP",
        &[
            "pid 3: a listening socket",
            "pid 3: a file in flight on a socket cannot be saved",
        ],
    ),
    (
        "flying",
        "EOPNOTSUPP",
        &["an epoll file in flight on a socket"],
    ),
    (
        "watched",
        "EBUSY",
        &[
            "pid 3: inotify watches inode",
            "which has no path",
            "fd 3 cannot be saved",
        ],
    ),
    (
        "lock",
        "EOPNOTSUPP",
        &["pid 3: locked: file locks", "fd 3 cannot be saved"],
    ),
    (
        "fifo",
        "EOPNOTSUPP",
        &["pid 3: fifo: a named pipe", "fd 3 cannot be saved"],
    ),
    (
        "timer",
        "EOPNOTSUPP",
        &["pid 3: refused: POSIX timer 0 on clock"],
    ),
    (
        "mlock",
        "EOPNOTSUPP",
        &["pid 3: mapping ", "locked memory (mlock)"],
    ),
    (
        "semaphore",
        "EOPNOTSUPP",
        &["pid 3: refused: System V semaphore undo"],
    ),
    (
        "vmsplice",
        "EOPNOTSUPP",
        &["pid 3: pipe:[", "holds pages of a program's memory"],
    ),
    (
        "spliced",
        "EOPNOTSUPP",
        &[
            "pid 3: pipe:[",
            "holds pages of a program's memory or of a file",
        ],
    ),
    (
        "symlink",
        "EOPNOTSUPP",
        &["pid 3: link: a symbolic link that is itself open"],
    ),
    (
        "owner",
        "EOPNOTSUPP",
        &["pid 3: pipe:[", "]: F_SETOWN or O_ASYNC"],
    ),
    (
        "no-owner",
        "EOPNOTSUPP",
        &["pid 3: pipe:[", "]: F_SETOWN or O_ASYNC"],
    ),
    ("pidfd", "EOPNOTSUPP", &["pid 3: anon_inode:[pidfd]: "]),
    (
        "hung-up",
        "EOPNOTSUPP",
        &["a terminal whose other end was closed"],
    ),
    (
        "attributes",
        "EOPNOTSUPP",
        &["pid 3: attributes: has no name, but extended attributes"],
    ),
    (
        "overmounted",
        "EBUSY",
        &["pid 3: /work/under: the name leads to a different file"],
    ),
    (
        "namespace",
        "EOPNOTSUPP",
        &["pid 3: refused: its uts namespace is not the caller's"],
    ),
    (
        "children",
        "EOPNOTSUPP",
        &["pid 3: refused: its children's time namespace is not the caller's"],
    ),
    (
        "option",
        "EOPNOTSUPP",
        &[
            "pid 3: a socket with options that are not saved",
            "fd 4 cannot be saved",
        ],
    ),
    (
        "segment",
        "EOPNOTSUPP",
        &["pid 3: refused: System V shared memory that it has created"],
    ),
    ("ports", "EOPNOTSUPP", &["pid 3: refused: I/O port access"]),
    (
        "directory",
        "EOPNOTSUPP",
        &["pid 3: noticed: F_SETOWN or O_ASYNC"],
    ),
    (
        "step",
        "EOPNOTSUPP",
        &["pid 4: refused: a single step that a dead tracer has left"],
    ),
];

#[test]
fn unsupported_state_is_refused_and_the_tree_continues() {
    let ended = cli::run(&["-q", "scenario", "tests/scenarios/refused", "--json"]);
    assert_eq!(ended.code(), Some(1), "{ended:?}");
    let record = ended.record();
    assert_eq!(record["verdict"], "refused", "{record:#}");
    let cases = record["units"].as_array().expect("an array of cases");
    assert_eq!(cases.len(), REFUSALS.len());
    for (name, errno, texts) in REFUSALS {
        let case = cases.iter().find(|case| case["name"] == *name);
        let case = case.unwrap_or_else(|| panic!("no case {name}: {record:#}"));
        // The record distinguishes unsupported state from refusals for other reasons.
        let verdict = match *errno {
            "EOPNOTSUPP" => "unsupported",
            _ => "refused",
        };
        assert_eq!(case["verdict"], verdict, "{case:#}");
        let why = case["why"].as_str().expect("a text");
        assert!(why.contains("checkpoint refused: "), "{case:#}");
        assert!(why.contains(errno), "{case:#}");
        let lines = case["lines"].to_string();
        for text in *texts {
            assert!(lines.contains(text), "no `{text}`: {case:#}");
        }
        assert!(
            lines.contains("the tree was thawed and completed its work"),
            "{case:#}"
        );
    }
}
