// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A fixed sample of the matrix of ptrace stops. Each cell that the ptrace API permits must behave
//! the same after a restart, and the sample contains each kind of stop and each way of attaching.

mod common;

use std::collections::BTreeSet;

use common::cli;
use serde_json::Value;

/// Sampling step, chosen so that each value of each dimension has a cell that is not excluded.
const EVERY: &str = "101";

/// The acceptable classes of a cell.
const FINE: [&str; 4] = ["passed", "excluded", "no-such-stop", "indistinguishable"];

fn text<'a>(cell: &'a Value, field: &str) -> &'a str {
    cell[field].as_str().unwrap_or_default()
}

#[test]
fn a_sample_of_the_matrix_is_the_same_after_a_restart() {
    let ended = cli::run(&["-q", "matrix", "ptrace", "--json", "--every", EVERY]);
    let report = ended.record();
    let cells = report["units"].as_array().expect("an array of cells");
    let bad: Vec<_> = cells
        .iter()
        .filter(|cell| !FINE.contains(&text(cell, "class")))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert_eq!(ended.code(), Some(0), "{}", report["summary"]["classes"]);

    // The absence of failures means little if no cell was actually tested.
    for class in ["passed", "excluded", "no-such-stop"] {
        let count = report["summary"]["classes"][class]
            .as_u64()
            .unwrap_or_default();
        assert!(
            count > 0,
            "no cell is {class}: {}",
            report["summary"]["classes"]
        );
    }
    let passed = report["summary"]["classes"]["passed"]
        .as_u64()
        .unwrap_or_default();
    assert!(passed > 150, "{}", report["summary"]["classes"]);
    for cell in cells
        .iter()
        .filter(|cell| text(cell, "class") == "excluded")
    {
        let why = text(cell, "why");
        let errno = why.rsplit(' ').next().unwrap_or_default();
        assert!(errno.starts_with('E'), "excluded without an errno: {cell}");
    }

    let part = |cell: &Value, nth: usize| {
        let part = text(cell, "cell").split('/').nth(nth).map(str::to_owned);
        part.expect("five parts in the cell's name")
    };
    for nth in 0..5 {
        let all: BTreeSet<_> = cells.iter().map(|cell| part(cell, nth)).collect();
        let tried: BTreeSet<_> = cells
            .iter()
            .filter(|cell| ["passed", "indistinguishable"].contains(&text(cell, "class")))
            .map(|cell| part(cell, nth))
            .collect();
        assert_eq!(all, tried, "some values have only excluded cells");
    }
}
