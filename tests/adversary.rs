// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attacks on checkpoint(2) and restart(2) in the middle of a call, drawn from a seed.

mod common;

use common::cli;

/// Attacks on both calls; in some, the caller's cgroup is killed while the image stalls.
#[test]
fn an_attacker_gains_nothing_and_leaves_nothing() {
    common::fixture();
    let ended = cli::run(&[
        "-q",
        "torture",
        "--adversary",
        "--seed",
        "81",
        "--count",
        "24",
        "--json",
    ]);
    assert_eq!(ended.code(), Some(0), "{}{}", ended.stdout, ended.stderr);
    let record = ended.record();
    assert_eq!(record["counts"]["passed"], 24, "{record:#}");
    let results = &record["summary"]["results"];
    for result in ["restarted", "saved, restarted", "killed"] {
        assert!(results[result].as_u64() > Some(0), "{result}: {results:#}");
    }
}
