// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Helpers for tests that run a script as root in a guest of its own, and check its output.

use std::collections::BTreeMap;

use super::{LONG, boot};

/// Shell functions that all scripts use.
const TOOLS: &str = include_str!("tools.sh");

/// Runs a script that must succeed, and returns its output.
pub fn run_script(script: &str) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let argv = ["/bin/bash", "-c", &format!("{TOOLS}{script}")].map(String::from);
    let env = BTreeMap::from([(
        "PATH".to_owned(),
        "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    )]);
    let run = guest
        .exec(&argv, &env, "/", LONG)
        .expect("the script to end");
    assert!(run.success(), "{run:#?}");
    // Fails if the kernel has reported a fault.
    guest.shutdown().expect("shutdown");
    run.stdout
}

/// Checks that the output has as many lines as `lines`, and that each contains the expected text.
pub fn assert_lines(output: &str, lines: &[&str]) {
    let found: Vec<&str> = output.lines().collect();
    assert_eq!(found.len(), lines.len(), "{output}");
    for (line, expected) in found.iter().zip(lines) {
        assert!(
            line.contains(expected),
            "no `{expected}` in `{line}`: {output}"
        );
    }
}
