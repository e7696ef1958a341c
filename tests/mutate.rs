// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `crucible mutate` with real mutants: one for each eye, one that survives, and an interrupted
//! run.
//!
//! It needs the flavours `coverage` and `instrumented`, which no other test does, so it is run on
//! request: `cargo test --test mutate -- --ignored`.

mod common;

use common::{cli, fixture};
use crucible_artefacts::Silent;
use crucible_artefacts::kernel;
use crucible_mutants::{Kind, Mutant};
use serde_json::Value;

/// Returns the name of a mutant.
fn find(all: &[Mutant], function: &str, kind: Kind, text: &str) -> String {
    let mut found = all
        .iter()
        .filter(|one| one.function == function && one.kind == kind && one.text == text);
    let first = found.next();
    first
        .unwrap_or_else(|| panic!("no {kind:?} {function}(): {text}"))
        .id
        .clone()
}

fn mutate(args: &[&str]) -> Value {
    let ended = cli::run(&[&["-q", "mutate", "--json"][..], args].concat());
    assert_eq!(ended.code(), Some(0), "{}", ended.stderr);
    ended.record()
}

/// Returns the record's data on a mutant.
fn unit<'a>(record: &'a Value, id: &str) -> &'a Value {
    let mut units = record["units"].as_array().unwrap().iter();
    units
        .find(|unit| unit["id"] == id)
        .unwrap_or_else(|| panic!("no unit {id}: {record:#}"))
}

#[test]
#[ignore = "needs two kernels that no other test needs"]
fn each_eye_kills_a_mutant_and_one_survives() {
    use Kind::{LeftOut, Skewed};
    let fixture = fixture();
    let all = kernel::all_mutants(&fixture.cache, &fixture.sources, &Silent).unwrap();
    let all = all.mutants;
    let wanted = [
        // A register of a task that was in the kernel.
        (
            "ckpt_apply_regs",
            LeftOut,
            "regs->r10 = rec->r10;",
            Some("what /proc shows"),
        ),
        (
            "read_pair",
            LeftOut,
            "rec->flags |= CKPT_TTY_PACKET;",
            Some("control: stdout"),
        ),
        (
            "ckpt_write_tree",
            LeftOut,
            "ret = ckpt_write(ctx, CKPT_REC_TREE, 0, tree, len, NULL, 0);",
            Some("restart refuses"),
        ),
        (
            "ckpt_open_pipe",
            LeftOut,
            "file = dentry_open(&end->f_path, rec->flags & ~O_DIRECT, current_cred());",
            Some("kernel-report"),
        ),
        (
            "fill_end",
            LeftOut,
            "spin_unlock_irq(&tty->ctrl.lock);",
            Some("hang"),
        ),
        (
            "is_copied",
            LeftOut,
            "mmap_read_unlock(same);",
            Some("agent"),
        ),
        // No program can notice which allocator the memory comes from.
        ("ckpt_obj_insert", Skewed, "GFP_KERNEL_ACCOUNT", None),
    ];
    let scenarios = ["session", "terminal", "descriptors"];
    let mut args = scenarios.map(str::to_owned).to_vec();
    let ids: Vec<_> = wanted
        .iter()
        .map(|(function, kind, text, _)| find(&all, function, *kind, text))
        .collect();
    args.extend(
        ids.iter()
            .flat_map(|id| ["--mutant".to_owned(), id.clone()]),
    );
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let record = mutate(&args);
    for (id, (function, _, text, eye)) in ids.iter().zip(wanted) {
        let kills = &unit(&record, id)["kills"];
        let seen = kills[0]["eyes"][0].as_str();
        let good = match (seen, eye) {
            (Some(seen), Some(eye)) => seen.contains(eye),
            (seen, eye) => seen == eye,
        };
        assert!(good, "{function}(): {text}: {kills:#}");
    }
}

#[test]
#[ignore = "needs two kernels that no other test needs"]
fn an_interrupted_run_is_resumed() {
    let args = ["-q", "mutate", "hello", "--sample", "6", "--seed", "3"];
    let mut run = cli::start(&args);
    run.wait_event("\"event\":\"unit-finished\"");
    run.signal("-INT");
    let ended = run.end();
    assert_eq!(ended.code(), Some(130), "{}", ended.stderr);
    let results = ended.results.to_str().unwrap();
    let again = cli::program(&[&args[..], &["--resume", "--json"]].concat())
        .env("CRUCIBLE_RESULTS", results)
        .output()
        .unwrap();
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let record: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(record["units"].as_array().unwrap().len(), 6, "{record:#}");
    let planned = cli::events(&ended.results);
    let resumed =
        |line: &&str| line.contains("\"event\":\"planned\"") && !line.contains("\"resumed\":0");
    assert_eq!(planned.lines().filter(resumed).count(), 1, "{planned}");
}
