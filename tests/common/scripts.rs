// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests that run a script as root in a guest of its own, and go by what it says.

use std::collections::BTreeMap;

use super::{LONG, boot};

/// What all scripts use.
const TOOLS: &str = include_str!("tools.sh");

/// What a script says that must succeed.
pub fn said_by(script: &str) -> String {
    let (_directory, mut guest) = boot();
    guest.prepare(None).expect("an empty guest");
    let words = ["/bin/bash", "-c", &format!("{TOOLS}{script}")].map(String::from);
    let env = BTreeMap::from([(
        "PATH".to_owned(),
        "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
    )]);
    let run = guest.exec(&words, &env, "/", LONG).expect("its end");
    assert!(run.success(), "{run:#?}");
    // Fails where the kernel has said anything that it should not.
    guest.shutdown().expect("shutdown");
    run.stdout
}

/// It says as many lines, and each has these words.
pub fn assert_lines(said: &str, lines: &[&str]) {
    let told: Vec<&str> = said.lines().collect();
    assert_eq!(told.len(), lines.len(), "{said}");
    for (told, line) in told.iter().zip(lines) {
        assert!(told.contains(line), "no `{line}` in `{told}`: {said}");
    }
}
