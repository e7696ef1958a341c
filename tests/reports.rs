// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reports of five of the debug kernel's checkers, caused by lkdtm: they are the kernel's,
//! and have a place in its source.

mod common;

use common::cli;

/// The sources of lkdtm.
const LKDTM: &str = "drivers/misc/lkdtm/";

/// The cases of `tests/scenarios/reports`, a text that each report contains, and the source that it
/// names a line of.
const REPORTS: [(&str, &str, &str); 5] = [
    ("kasan", "KASAN: slab-use-after-free", LKDTM),
    (
        "ubsan",
        "UBSAN: array-index-out-of-bounds in drivers/misc/",
        LKDTM,
    ),
    // The first report depends on whether a different task is waiting for the CPU.
    ("lockdep", "(lock_me_up)", LKDTM),
    // The task's stack has the level INFO, which the console does not show. The console shows the
    // lock that the task holds.
    ("hung-task", "blocked for more than", "fs/read_write.c"),
    ("list", "list_add corruption", LKDTM),
];

#[test]
#[ignore = "builds a kernel of its own, and boots it once for each report"]
fn reports_of_the_debug_kernels_checkers_are_the_kernels_and_have_lines() {
    common::fixture();
    let scenario = ["-q", "scenario", "tests/scenarios/reports", "--json"];
    let config = "tests/scenarios/reports/checkers.config";
    let kernel = ["--flavour", "debug", "--config", config];
    let ended = cli::run(&[&scenario[..], &kernel].concat());
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    let record = ended.record();
    let units = record["units"].as_array().expect("units");
    for (case, says, path) in REPORTS {
        let unit = units.iter().find(|unit| unit["name"] == case).expect(case);
        assert_eq!(unit["blame"], "kernel", "{unit:#}");
        assert_eq!(unit["condition"], "kernel-report", "{unit:#}");
        assert!(unit.to_string().contains(says), "{unit:#}");
        let source = unit["source"].as_array().map(Vec::as_slice);
        let place = source.unwrap_or_default().iter().find(|line| {
            let file = line["file"].as_str().unwrap_or_default();
            file.starts_with(path) && line["line"].as_u64() > Some(1)
        });
        assert!(place.is_some(), "{unit:#}");
    }
}
