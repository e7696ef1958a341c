// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The victim and the intruder of `tests/intruders/`, in a guest.

use std::collections::BTreeMap;

use crucible_engine::guest::Guest;
use crucible_protocol::{EventKind, KEEP_DIR, Stopped, Trigger};

use super::LONG;

/// The trigger for getppid(2), which the victim calls when its state is complete.
const EVENT: Trigger = Trigger::Count {
    kind: EventKind::Syscall { number: Some(110) },
    task: None,
    nth: 1,
};

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(String::from).to_vec()
}

/// Runs a script that must succeed, and returns its output.
pub fn run(guest: &mut Guest, script: &str) -> String {
    let run = guest.exec(&sh(script), &BTreeMap::new(), "/work", LONG);
    let run = run.expect("an answer");
    assert!(run.success(), "{script}: {run:#?}");
    run.stdout
}

/// Prepares a guest with both programs and checkpoints the victim. Returns the path of the image
/// and the number of its records.
pub fn image(guest: &mut Guest, argv: &[&str]) -> (String, usize) {
    let sources = [
        (
            "victim.c",
            &include_bytes!("../../rootfs/adversary/victim.c")[..],
        ),
        ("intruder.h", include_bytes!("../intruders/intruder.h")),
        ("intruder.c", include_bytes!("../intruders/intruder.c")),
        ("doors.c", include_bytes!("../intruders/doors.c")),
        ("ends.c", include_bytes!("../intruders/ends.c")),
    ];
    guest.prepare(None).unwrap();
    for (name, content) in sources {
        guest
            .write_file(&format!("/work/{name}"), 0o644, content)
            .unwrap();
    }
    run(
        guest,
        "gcc -O2 -Wall -Werror -pthread -o victim victim.c && \
         gcc -O2 -Wall -Werror -Wno-unused-result -pthread -o intruder \
             intruder.c doors.c ends.c",
    );
    let (image, log) = (format!("{KEEP_DIR}/image"), format!("{KEEP_DIR}/log"));
    guest
        .start(
            "victim",
            &argv.iter().map(ToString::to_string).collect::<Vec<_>>(),
            &BTreeMap::new(),
            "/work",
            Some(&EVENT),
        )
        .unwrap();
    let stopped = guest.wait("victim", LONG).unwrap();
    assert!(matches!(stopped, Stopped::Frozen(_)), "{stopped:?}");
    let saved = guest.checkpoint("victim", &image, &log, LONG).unwrap();
    assert!(saved.success(), "{saved:#?}");
    guest.kill("victim").unwrap();
    let records = run(guest, &format!("./intruder list {image}"));
    (image, records.trim().parse().unwrap())
}

/// Runs the intruder in a new cgroup, and returns its complaints.
pub fn intrude(guest: &mut Guest, image: &str, what: &str, record: usize, how: &str) -> String {
    let script = format!(
        "cg=/sys/fs/cgroup/intruder; mkdir $cg && ./intruder {what} {image} $cg {record} {how} 2>&1; \
         echo status $?; rmdir $cg"
    );
    run(guest, &script)
}
